"""Figures on many networks in one: slices of a life are shorter lives, shares are counted right, claims can fail."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from perdure import tree
from perdure.experiments import figures
from perdure.experiments.execution import prepare
from perdure.experiments.experiment import Experiment
from perdure.experiments.figures import bytes as cost
from perdure.experiments.figures import recognise, transfer
from perdure.experiments.figures.lab import Lab, Numbers
from perdure.fold import Moment, Setting
from perdure.methods.supsup import Supermasks, SupSup
from perdure.ops.superpose import bind, one_shot
from perdure.rng import fold, permutation
from perdure.streams.stream import Stream

TASKS, IMAGES = 3, 12
OPTIONS = {"fit.steps": 8, "fit.batch": 64, "fit.lr": 0.003, "method.outputs": 30, "stream.scale": "standard"}
EXPERIMENT = Experiment(
    "permuted-digits",
    "supsup",
    tasks=TASKS,
    scenario="gnu",
    net="mlp:30-20",
    options=OPTIONS,
    setting=Setting(device="cpu", exam_rows="last", exam_examples=1),
)


@pytest.fixture(scope="module")
def lives() -> tuple[SupSup, Stream, list[Supermasks]]:
    """The method, the stream, and the states after 1, 2 and 3 tasks."""
    method, stream = prepare(EXPERIMENT)
    key, states = fold(0, "learner"), []
    state = method.init(fold(key, "init"))
    for call, task in enumerate(stream):
        state, _ = method.learn(state, task, fold(key, "learn", call))
        states.append(state)
    return method, stream, states


def test_the_first_masks_are_what_a_shorter_life_knows(lives: tuple[SupSup, Stream, list[Supermasks]]) -> None:
    *_, states = lives
    for k, state in enumerate(states, 1):
        assert tree.equal(recognise.only(states[-1], range(k)), state)


def test_shares_are_those_of_single_images_counted_one_by_one(lives: tuple[SupSup, Stream, list[Supermasks]]) -> None:
    method, stream, states = lives
    numbers = recognise.recognised(method, stream, states[-1], range(1, TASKS + 1), IMAGES, timed=True)
    given = []
    for k, state in enumerate(states, 1):
        stack, places, truth = method.ready(state).stack, [], []
        given.append([])
        for task in range(k):
            examples = stream.exams[task].examples
            x, y, _ = examples.take(permutation(fold(0, "images", task), len(examples))[:IMAGES])
            for told in recognise.TOLD:
                objective = method.with_(told=told).objective(state.ids)
                found = torch.cat([one_shot(method.wide, stack, one, objective) for one in x.split(1)])
                places.append((told, found == task))
            logits = torch.func.functional_call(method.wide, bind(stack, task), (x,))[:, :10]
            truth.append(state.ids[task].classes[logits.argmax(1)] == y)
            given[-1].append(truth[-1].double().mean())
        assert numbers["given"][k - 1] == pytest.approx(np.mean(given[-1]), abs=1e-5)
        for told in recognise.TOLD:
            hits = torch.stack([hit for name, hit in places if name == told])
            assert numbers[told]["task"][k - 1] == pytest.approx(float(hits.double().mean()), abs=1e-5)
            both = (hits & torch.stack(truth)).double().mean()
            assert numbers[told]["label"][k - 1] == pytest.approx(float(both), abs=1e-5)
    assert numbers["entropy"]["task"][0] == numbers["surplus"]["task"][0] == 1  # there is one task to choose from
    assert numbers["entropy"]["task"][-1] < 1
    assert len(numbers["alone"]) == len(numbers["batch"]) == TASKS
    assert numbers["bytes"] == tree.nbytes((states[-1].masks, states[-1].heads))


def test_a_life_that_was_broken_off_goes_on_where_it_was(
    lives: tuple[SupSup, Stream, list[Supermasks]], tmp_path: Path
) -> None:
    seen: list[int] = []

    def watch(_: str, moment: Moment) -> None:
        if moment.doing == "learned":
            seen.append(moment.call)
            if seen == [1, 2]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recognise.life(EXPERIMENT, tmp_path, Lab(watch=watch))
    _, _, state = recognise.life(EXPERIMENT, tmp_path, Lab(watch=watch))
    assert seen == [1, 2, 2, 3]
    assert tree.equal(state, lives[2][-1])
    other = replace(EXPERIMENT, tasks=1)
    assert len(recognise.life(other, tmp_path, Lab())[2].ids) == 1  # a life of its own


def test_lives_are_kept_while_they_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "gettempdir", lambda: str(tmp_path))

    def begin() -> None:
        with recognise.kept(Lab()) as home:
            (home / "life").mkdir(parents=True, exist_ok=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    with recognise.kept(Lab()) as home:
        assert (home / "life").is_dir()
    assert list(tmp_path.iterdir()) == []


def _line(task: list[float], given: float) -> Numbers:
    told = {"task": task, "label": [given * share for share in task]}
    return {"masks": [5, 10], "bytes": 1000, "given": [given, given], "entropy": told, "surplus": told}


@pytest.mark.parametrize(
    ("main", "wide", "fast", "alone", "holds"),
    [
        (0.95, 0.97, 0.6, 1.5, [True, True, True, True]),
        (0.85, 0.97, 0.6, 1.5, [False, True, True, True]),
        (0.95, 0.7, 0.6, 1.5, [True, False, True, True]),
        (0.95, 0.97, 0.96, 1.5, [True, True, False, True]),
        (0.95, 0.97, 0.6, 2.5, [True, True, True, False]),
    ],
)
def test_claims_on_recognition_can_fail_each_alone(
    main: float, wide: float, fast: float, alone: float, holds: list[bool]
) -> None:
    numbers = {
        "rates": [1e-4, 1e-3],
        "images": 30,
        "outputs 25": _line([0.9, 0.8], 0.9),
        "outputs 100": _line([0.99, main], 0.9) | {"alone": [1.0, alone], "batch": [0.1, 0.15]},
        "outputs 200": _line([0.99, wide], 0.9),
        "fast": _line([0.9, fast], 0.95),
    }
    assert [finding.holds for finding in recognise.findings(numbers)] == holds
    assert ("of 10 tasks" in recognise.title(numbers)) == all(holds)
    assert len(figures.drawn("recognise", numbers).axes) == 4


def test_steps_to_a_level_lie_on_straight_lines_over_the_logarithm() -> None:
    steps, accuracies = [10, 40, 160], np.array([0.5, 0.7, 0.8])
    assert transfer.needed(steps, accuracies, 0.6) == pytest.approx(20)
    assert transfer.needed(steps, accuracies, 0.75) == pytest.approx(80)
    assert transfer.needed(steps, accuracies, 0.7) == pytest.approx(40)
    assert transfer.needed(steps, accuracies, 0.4) == 10
    assert transfer.needed(steps, accuracies, 0.9) == np.inf


def test_a_start_that_gets_there_later_or_never_is_said_to() -> None:
    anew, better, worse = [[0.5, 0.7, 0.8]], [[0.6, 0.8, 0.85]], [[0.2, 0.3, 0.79]]
    rules = {rule: {"none": anew, "scores": better, "masks": worse} for rule in transfer.RULES}
    numbers = {"tasks": 6, "steps": [10, 40, 160], **rules}
    assert [finding.holds for finding in transfer.findings(numbers)] == [True, False]
    assert "40 so" in transfer.findings(numbers)[0].measured
    assert "not so" in transfer.findings(numbers)[1].measured
    one = numbers | {"largest": {"none": anew, "scores": anew, "masks": better}}
    assert [finding.holds for finding in transfer.findings(one)] == [False, False]  # one rule does not make it true
    for axes, rule in zip(figures.drawn("transfer", numbers).axes, transfer.RULES, strict=True):
        for line, start in zip(axes.lines, transfer.STARTS, strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.stack([[10, 40, 160], numbers[rule][start][0]], 1))


def _costs(**changes: tuple[float, int]) -> Numbers:
    budgets = {"supsup e 2": (0.8, 20_000), "supsup e 6": (0.9, 40_000), "supsup e 18": (0.95, 60_000)}
    bounds = {"finetune": (0.5, 200_000), "independent": (0.97, 2_000_000), "hopsupsup": (0.5, 30_000_000)}
    points = {**dict.fromkeys(cost.RUNS, (0.9, 300_000)), **budgets, **bounds, **changes}
    return {"tasks": 10, "acc": {n: a for n, (a, _) in points.items()}, "bytes": {n: b for n, (_, b) in points.items()}}


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True, True]),
        ({"independent": (0.99, 2_000_000)}, [False, True, True, True]),
        ({"finetune": (0.5, 50_000)}, [False, True, True, True]),
        ({"supsup e 6": (0.79, 40_000)}, [True, False, True, True]),
        ({"heads": (0.55, 300_000)}, [True, True, False, True]),
        ({"cpg": (0.985, 300_000)}, [True, True, False, True]),
        ({"hopsupsup": (0.96, 30_000_000)}, [True, True, True, False]),
        ({"hopsupsup": (0.5, 300_000)}, [True, True, True, False]),
    ],
)
def test_claims_on_bytes_can_fail(changes: dict[str, tuple[float, int]], holds: list[bool]) -> None:
    numbers = _costs(**changes)
    assert [finding.holds for finding in cost.findings(numbers)] == holds
    assert ("the bytes of one" in cost.title(numbers)) == all(holds)


def test_every_run_is_a_point_with_its_name_and_no_two_names_meet() -> None:
    numbers = _costs(heads=(0.7, 250_000), psp=(0.94, 230_000), hat=(0.93, 250_000), packnet=(0.935, 300_000))
    figure = figures.drawn("bytes", numbers)
    (axes,) = figure.axes
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert points == {(numbers["bytes"][name], numbers["acc"][name]) for name in cost.RUNS}
    assert sorted(text.get_text() for text in axes.texts) == sorted(cost.RUNS)
    figure.draw_without_rendering()
    boxes = [text.get_tightbbox() for text in axes.texts if not text.arrow_patch]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
