"""Streams by name: every kind, and every name or option that nothing has."""

import os
import re
from inspect import signature
from pathlib import Path

import pytest
import torch

from perdure.contract import Refused, Scenario
from perdure.streams import ASKED, STREAMS, build, kind


@pytest.mark.parametrize(
    ("name", "tasks", "scenario"),
    [
        ("permuted-digits", 5, Scenario.GNS),
        ("rotated-digits", 5, Scenario.GNS),
        ("split-digits", 5, Scenario.GNU),
        ("noisy-digits", 2, Scenario.GNS),
        ("drifting-digits", 5, Scenario.GNS),
    ],
)
def test_each_kind_has_its_own_number_of_tasks_and_scenario(name, tasks, scenario):
    stream = build(name)
    assert (stream.name, len(stream), stream.scenario, stream.shape) == (name, tasks, scenario, (8, 8))
    assert stream.scale == (0.0, 1 / 16)
    assert stream.background is None


def test_what_is_given_reaches_the_kind():
    stream = build("split-digits", tasks=2, scenario="task", examples_per_task=9, options={"seed": 3, "scale": "none"})
    assert (len(stream), stream.scenario, len(stream[0].examples), stream.scale.factor) == (2, Scenario.GG, 9, 1.0)
    same = kind("split")
    assert "class_order" in signature(same).parameters


def test_every_option_of_every_kind_is_described():
    for name in STREAMS:
        text = kind(name).__doc__ or ""
        for option in signature(kind(name)).parameters:
            assert f"\n        {option}: " in text, f"{name} does not describe {option}"
        assert set(ASKED) & set(signature(kind(name)).parameters) >= {"tasks", "scenario", "examples_per_task"}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "permutd-digits",
            {},
            "unknown kind of stream 'permutd'; did you mean permuted? "
            "There are: permuted, rotated, split, noisy, drifting, arrays",
        ),
        ("permuted-digit", {}, "unknown base 'digit'; did you mean digits? There are: digits, mnist"),
        ("permuted", {}, "'permuted' is a kind of stream; name a base after it: permuted-digits"),
        ("arrays-digits", {}, "'arrays-digits' is a kind of stream; name the path of an .npz file"),
        ("permuted-digits", {"tasks": 0}, "tasks is 0; it must be at least 1"),
        ("permuted-digits", {"examples_per_task": -3}, "examples_per_task is -3; it must be at least 1"),
        (
            "permuted-digits",
            {"examples_per_task": 5000},
            "examples_per_task is 5000, but task 1 has 1438; use at most that",
        ),
        ("permuted-digits", {"scenario": "nnu"}, "scenario nnu does not exist"),
        (
            "permuted-digits",
            {"options": {"center": 3}},
            "unknown option 'stream.center'; did you mean stream.centre? There are: stream.seed, stream.centre, "
            "stream.identity_first, stream.scale, stream.chunk, stream.passes",
        ),
        ("permuted-digits", {"options": {"base": 3}}, "unknown option 'stream.base'"),
        (
            "permuted-digits",
            {"options": {"scale": "best"}},
            "stream.scale is 'best'; it must be one of unit, standard, none",
        ),
    ],
)
def test_what_nothing_has_is_refused(name, given, message):
    with pytest.raises(Refused, match=re.escape(message)):
        build(name, **given)


def test_options_are_checked_before_any_data_is_looked_for():
    with pytest.raises(Refused, match=r"unknown option 'stream.angel'; did you mean stream.angles\?"):
        build("rotated-nothing", options={"angel": "0"})


MNIST = any(
    any(Path(root, "mnist").glob("train-images*")) for root in os.environ.get("PERDURE_DATA", "").split(os.pathsep)
)


@pytest.mark.data
@pytest.mark.skipif(not MNIST, reason="$PERDURE_DATA holds no mnist")
def test_mnist_is_what_everyone_means_by_it():
    stream = build("permuted-mnist", options={"scale": "standard", "identity_first": True})
    assert stream.scale.shift / 255 == pytest.approx(0.1307, abs=5e-5)
    assert 1 / stream.scale.factor / 255 == pytest.approx(0.3081, abs=5e-5)
    first, asked = stream[0].examples, stream.exams[0].examples
    assert first.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert asked.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert (len(first), len(asked), stream.shape) == (60_000, 10_000, (28, 28))
    assert first.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    second = stream[1].examples
    rows = torch.tensor([0, 59_999])
    assert torch.equal(second.raw(rows).flatten(1).sort().values, first.raw(rows).flatten(1).sort().values)
    assert not torch.equal(second.raw(rows), first.raw(rows))
