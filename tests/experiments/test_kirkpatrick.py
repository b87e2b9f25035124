"""Kirkpatrick's experiment and the overlap of Fishers: closed forms, independent loops, and figures that draw them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from perdure.experiments import figures
from perdure.experiments.execution import prepare
from perdure.experiments.figures import overlap as overlapping
from perdure.experiments.figures import permutations
from perdure.experiments.figures.lab import FIT, Lab, Numbers
from perdure.experiments.figures.overlap import layers, overlap
from perdure.rng import fold, normal

P = 40


def drawn(key: int) -> Tensor:
    return normal(fold(6, key), P).square()


def by_definition(F: Tensor, G: Tensor) -> float:
    """1 - 1/2 tr(F + G - 2 (F G)^1/2) of whole matrices of unit trace, not known to be diagonal."""
    F, G = F / F.trace(), G / G.trace()
    values, vectors = torch.linalg.eigh(F)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ G @ root).clamp(min=0).sqrt().sum()  # tr (F^1/2 G F^1/2)^1/2
    return float(1 - (F.trace() + G.trace() - 2 * inner) / 2)


def test_what_is_alike_overlaps_wholly_and_what_is_apart_not_at_all() -> None:
    F, half = drawn(1), torch.arange(P) < P // 2
    assert overlap(F, F) == pytest.approx(1)
    assert overlap(F * half, F * ~half) == 0
    even = torch.ones(P, dtype=torch.float64)
    for part in (1, 10, 30):  # even over part of what the other is even over: the root of the share
        assert overlap(even, even * (torch.arange(P) < part)) == pytest.approx((part / P) ** 0.5)


@pytest.mark.parametrize("key", range(5))
def test_it_is_symmetric_free_of_scale_and_between_0_and_1(key: int) -> None:
    F, G = drawn(key), drawn(key + 10)
    assert overlap(F, G) == pytest.approx(overlap(G, F))
    assert overlap(1e-6 * F, 1e6 * G) == pytest.approx(overlap(F, G))
    order = normal(key, P).argsort()
    assert overlap(F[order], G[order]) == pytest.approx(overlap(F, G))
    assert 0 < overlap(F, G) < 1


@pytest.mark.parametrize("key", range(3))
def test_it_is_one_less_the_frechet_distance_of_gaussians(key: int) -> None:
    """That of Gaussians with these covariances, in its general form; and half the squared distance of the roots."""
    F, G = drawn(key), drawn(key + 10)
    assert overlap(F, G) == pytest.approx(by_definition(F.diag(), G.diag()))
    one, other = (part / part.sum() for part in (F, G))
    assert overlap(F, G) == pytest.approx(1 - float((one.sqrt() - other.sqrt()).square().sum()) / 2)


def test_a_fisher_that_is_zero_has_no_overlap_to_speak_of() -> None:
    assert np.isnan(overlap(torch.zeros(P), drawn(1)))


def test_a_layer_is_its_weight_and_its_bias() -> None:
    named = {"1.weight": torch.ones(3, 2), "1.bias": torch.full((3,), 2.0), "10.weight": torch.full((1, 3), 3.0)}
    assert [part.tolist() for part in layers(named)] == [[1.0] * 6 + [2.0] * 3, [3.0] * 3]


def test_smoke_of_the_overlap_permutes_only_squares_of_the_second_task() -> None:
    numbers = overlapping.measure(Lab(smoke=True))
    assert numbers["squares"] == {"small": 2, "large": 7}
    for name, side in numbers["squares"].items():
        assert np.shape(numbers[name]["overlap"]) == (1, 7)  # six hidden layers and the output
        options = FIT | {"stream.centre": side, "stream.identity_first": True}
        first, second = _stream(options)
        x, y = (task.examples.raw(torch.arange(20)).view(20, 8, 8) for task in (first, second))
        outside = torch.ones(8, 8, dtype=torch.bool)
        start = (8 - side) // 2
        outside[start : start + side, start : start + side] = False
        assert torch.equal(x[:, outside], y[:, outside])
        assert not torch.equal(x, y)


def _stream(options: dict[str, object]) -> list:
    experiment = Lab().experiment("permuted", "finetune", options, tasks=2, net="mlp:10")
    return list(prepare(experiment)[1])


def test_curves_are_those_of_a_walk_that_is_broken_off() -> None:
    """After a whole task they are R; within a task they are what so many steps alone come to."""
    lab = Lab()
    options = FIT | {"fit.steps": 12, "method.lam": 50.0}
    method, stream = prepare(lab.experiment("permuted", "ewc", options, tasks=2, net="mlp:10"))
    curves = np.array(permutations._curves(method, stream, (5, 12), fold(0, "learner")))
    R = lab.run("permuted", "ewc", options, tasks=2, net="mlp:10").R
    np.testing.assert_allclose(curves[:, [0, 2, 4]], R.T)
    short = lab.run("permuted", "ewc", options | {"fit.steps": 5}, tasks=1, net="mlp:10").R
    assert curves[0, 1] == pytest.approx(short[1, 0])


def _perms(ewc: float, plain: float, dropout: float) -> Numbers:
    points, few, tasks = 2, 3, 4
    learning = {
        name: [[[0.1, *[0.9] * points, *[end] * (points * (few - 1))]] * few] * 2
        for name, end in (("ewc", ewc), ("l2", ewc), ("finetune", plain))
    }
    ends = {"ewc": ewc, "l2": 0.71 if ewc == 0.7 else ewc - 0.05, "finetune": plain, "dropout": dropout}
    mean = {line: [[0.95, 0.9, 0.9, end]] * 2 for line, end in ends.items()}
    return {"tasks": tasks, "marks": [5, 10], "learning": learning, "mean": mean}


@pytest.mark.parametrize(
    ("ewc", "plain", "dropout", "holds"),
    [
        (0.85, 0.4, 0.3, [True, True, True, True]),
        (0.6, 0.4, 0.3, [False, True, True, True]),
        (0.85, 0.4, 0.8, [True, False, True, False]),
        (0.7, 0.1, 0.1, [True, True, False, True]),
    ],
)
def test_claims_about_permutations_are_seen_only_where_they_hold(
    ewc: float, plain: float, dropout: float, holds: list[bool]
) -> None:
    numbers = _perms(ewc, plain, dropout)
    assert [finding.holds for finding in figures.findings("permutations", numbers)] == holds
    assert ("keeps" in permutations.title(numbers)) == all(holds)


def test_permutations_draw_every_line_and_the_single_task() -> None:
    numbers = _perms(0.85, 0.4, 0.3)
    last, *panels = sorted(figures.drawn("permutations", numbers).axes, key=_title)
    assert len(panels) == 3
    for task, axes in enumerate(panels):
        for line, name in zip(_marked(axes), ("ewc", "l2", "finetune"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.mean(numbers["learning"][name], axis=0)[task])
            np.testing.assert_allclose(line.get_xdata(), [0, 0.5, 1, 1.5, 2, 2.5, 3])
    for line, name in zip(_marked(last), ("ewc", "l2", "finetune", "dropout"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.mean(numbers["mean"][name], axis=0))
    (single,) = [line for line in last.lines if line.get_marker() != "o"]
    assert set(single.get_ydata()) == {0.95}


def _title(axes) -> str:
    title: str = axes.get_title("left")
    return title.replace("mean", "")  # the one of means first


def _marked(axes) -> list:
    return [line for line in axes.lines if line.get_marker() == "o"]


def _overlaps(large: list[float]) -> Numbers:
    small = {"overlap": [[0.95] * 7] * 2, "accuracy": [[0.9, 0.9]] * 2}
    return {"squares": {"small": 2, "large": 7}, "small": small, "large": {**small, "overlap": [large] * 2}}


@pytest.mark.parametrize(
    ("large", "holds"),
    [
        ([0.7, 0.5, 0.7, 0.8, 0.9, 0.9, 0.93], [True, True, True]),
        ([0.97, 0.5, 0.7, 0.8, 0.9, 0.9, 0.93], [False, False, True]),
        ([0.7, 0.5, 0.7, 0.8, 0.6, 0.6, 0.6], [True, False, False]),
    ],
)
def test_claims_about_overlap_are_seen_only_where_they_hold(large: list[float], holds: list[bool]) -> None:
    numbers = _overlaps(large)
    assert [finding.holds for finding in figures.findings("overlap", numbers)] == holds
    (axes,) = figures.drawn("overlap", numbers).axes
    for line, mean in zip(_marked(axes), ([0.95] * 7, large), strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([np.arange(1, 8), mean], 1))
