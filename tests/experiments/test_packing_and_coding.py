"""What networks still find room for, and what masks cost beside earlier ones: counted again another way."""

from dataclasses import replace
from math import comb, lgamma, log, log2

import numpy as np
import pytest
import torch

from perdure.evaluate import examine
from perdure.experiments import figures
from perdure.experiments.execution import prepare
from perdure.experiments.experiment import Experiment
from perdure.experiments.figures import coding, packing
from perdure.experiments.figures.lab import Lab, Numbers
from perdure.ops.codec import encode, unpack
from perdure.rng import bits, fold, permutation

OPTIONS = {"fit.steps": 20, "fit.lr": 0.003, "method.outputs": 10, "method.rule": "largest", "method.density": 0.2}


def drawn_masks(tasks: int, n: int) -> torch.Tensor:
    return (bits(7, tasks * n) & 3 == 0).view(tasks, n)


# ------------------------------------------------------------------------------------------------------------ packing


def test_packing_measures_each_task_right_after_it_was_learned() -> None:
    numbers = packing.measure(Lab(smoke=True))
    for method, options in packing.METHODS.items():
        shared = numbers["fit"] | {"fit.steps": 3, "stream.seed": 0} | options
        experiment = Experiment("split-digits", method, tasks=2, scenario="gg", net=packing.NET, options=shared)
        made, stream = prepare(experiment)
        state, rows = made.init(fold(0, "learner", "init")), []
        for call, task in enumerate(stream):
            state, _ = made.learn(state, task, fold(0, "learner", "learn", call))
            rows.append(examine(made, made.ready(state), stream.exams[call], stream.scenario).asked)
        assert numbers["split"][method] == [pytest.approx(rows, abs=1e-5)]


def _room(packnet: list[float], cpg: float) -> Numbers:
    rows = {"independent": [[0.97] * 10], "packnet": [packnet], "cpg": [[cpg] * 10]}
    return {"permuted": rows, "split": rows, "bytes": {"permuted": dict.fromkeys(packing.METHODS, 1000)}}


@pytest.mark.parametrize(
    ("packnet", "cpg", "holds"),
    [
        ([0.97] * 7 + [0.9] * 3, 0.95, [True, True]),
        ([0.9] * 3 + [0.97] * 7, 0.95, [False, True]),
        ([0.9] * 10, 0.95, [False, True]),
        ([0.97] * 7 + [0.9] * 3, 0.91, [True, False]),
    ],
)
def test_claims_on_packing_can_fail_each_alone(packnet: list[float], cpg: float, holds: list[bool]) -> None:
    numbers = _room(packnet, cpg)
    assert [finding.holds for finding in packing.findings(numbers)] == holds
    assert ("runs out" in packing.title(numbers)) == all(holds)


def test_one_task_far_behind_is_too_far() -> None:
    numbers = _room([0.97] * 7 + [0.9] * 3, 0.96)
    numbers["permuted"]["cpg"][0][4] = 0.9
    assert not packing.findings(numbers)[1].holds


def test_with_labels_enough_ten_split_tasks_are_judged_alone() -> None:
    assert packing.streams(10) == {"permuted": 10, "split": 5}
    assert packing.streams(100) == {"split": 10}
    numbers = _room([0.97] * 7 + [0.9] * 3, 0.95)
    alone = {"split": numbers["split"], "bytes": {"split": numbers["bytes"]["permuted"]}}
    assert [finding.holds for finding in packing.findings(alone)] == [True, True]
    assert packing.findings(alone)[0].claim.startswith("on split tasks")


def test_packing_draws_every_method_over_its_tasks() -> None:
    kept = figures.stored("packing")["numbers"]
    panels = figures.drawn("packing", kept).axes
    for axes, (kind, tasks) in zip(panels, packing.streams(10).items(), strict=True):
        for line, method in zip(axes.lines, packing.SHADES, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), range(1, tasks + 1))
            np.testing.assert_allclose(line.get_ydata(), np.mean(kept[kind][method], axis=0))
    assert [text.get_text() for text in panels[0].texts] == ["packnet", "cpg", "independent"]


# ------------------------------------------------------------------------------------------------------------- coding


@pytest.mark.parametrize("a", [0.5, 8.0])
def test_ideal_lengths_are_those_of_a_loop(a: float) -> None:
    masks = drawn_masks(5, 40)
    for t, (mask, length) in enumerate(zip(masks, coding.told(masks, a), strict=True)):
        q, total = float(mask.sum()) / 40, 0.0
        for place in range(40):
            p = (float(masks[:t, place].sum()) + 2 * a * q) / (t + 2 * a)
            total -= log2(p if mask[place] else 1 - p)
        assert float(length) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("a", coding.PRIORS)
def test_of_half_dense_masks_the_lengths_add_up_to_a_ratio_of_beta_functions(a: float) -> None:
    masks = torch.stack([permutation(fold(3, t), 64) < 32 for t in range(6)])

    def beta(kept: float, left: float) -> float:
        return (lgamma(kept) + lgamma(left) - lgamma(kept + left)) / log(2)

    whole = sum(beta(a, a) - beta(kept + a, 6 - kept + a) for kept in masks.sum(0).tolist())
    assert float(coding.told(masks, a).sum()) == pytest.approx(whole, rel=1e-12)


def test_the_same_mask_again_costs_less_every_time_and_its_opposite_more() -> None:
    mask = torch.arange(16) < 8
    same = coding.told(mask.expand(4, 16), 0.5)
    assert same.tolist() == pytest.approx([16 * -log2((t + 0.5) / (t + 1)) for t in range(4)])
    assert float(coding.told(torch.stack([mask, ~mask]), 0.5)[1]) == pytest.approx(16 * -log2(0.25))


def test_a_first_mask_costs_its_entropy_and_so_does_every_one_where_earlier_ones_count_for_nothing() -> None:
    masks = drawn_masks(4, 50)
    shares = masks.double().mean(1)
    entropies = -50 * (shares * shares.log2() + (1 - shares) * (1 - shares).log2())
    assert float(coding.told(masks, 0.5)[0]) == pytest.approx(float(entropies[0]))
    assert coding.told(masks, 1e12).tolist() == pytest.approx(entropies.tolist(), rel=1e-9)


def test_masks_of_nothing_and_of_everything_cost_nothing_until_one_is_surprised() -> None:
    empty, full = torch.zeros(1, 9, dtype=torch.bool), torch.ones(1, 9, dtype=torch.bool)
    assert coding.told(torch.cat([empty, empty]), 0.5).tolist() == [0, 0]
    assert coding.told(torch.cat([full, full]), 0.5).tolist() == [0, 0]
    assert coding.told(torch.cat([empty, full]), 0.5).tolist() == pytest.approx([0, 9])  # p = 1 / 2


@pytest.mark.parametrize("transfer", ["none", "scores"])
def test_lengths_of_a_life_are_those_of_its_masks_a_layer_at_a_time(transfer: str) -> None:
    options = OPTIONS | {"method.transfer": transfer}
    experiment = Experiment("rotated-digits", "supsup", tasks=3, net="mlp:12", options=options)
    method, stream = prepare(replace(experiment, scenario="gg"))
    state = method.init(1)
    for task in stream:
        state, _ = method.learn(state, task, 2)
    stack = method.ready(state).stack
    layers = {name: w.numel() for name, w in stack.weights.items() if name in stack.bits}
    masks = {name: torch.stack([unpack(row, n) for row in stack.bits[name]]) for name, n in layers.items()}
    weights = 64 * 12 + 12 * 10
    assert sum(layers.values()) == weights
    found = coding.lengths(method, state)
    for t in range(3):
        stored = sum(8 * len(encode(mask[t])) for mask in masks.values())
        alone = sum(log2(comb(n, int(masks[name][t].sum()))) for name, n in layers.items())
        assert found["stored"][t] == pytest.approx(stored / weights)
        assert found["alone"][t] == pytest.approx(alone / weights)
    told = {a: sum(coding.told(mask, a) for mask in masks.values()) / weights for a in coding.PRIORS}
    best = min(told, key=lambda a: float(told[a].sum()))
    assert found["a"] == best
    assert (best == 0.5) == (transfer == "scores")  # anew, what came before is worth next to nothing
    np.testing.assert_allclose(found["told"], told[best])


def _bits(none: float, scores: float, masks: float) -> Numbers:
    kinds = {"none": none, "scores": scores, "masks": masks}
    lives = {s: {"stored": [[1.0] * 2], "alone": [[1.0] * 2], "told": [[1.0, 2 * x - 1]]} for s, x in kinds.items()}
    return {"tasks": 2, **{rule: {s: life | {"acc": [0.9]} for s, life in lives.items()} for rule in coding.RULES}}


@pytest.mark.parametrize(
    ("lengths", "holds"),
    [
        ((0.999, 0.5, 0.6), [True, True, True]),
        ((0.98, 0.5, 0.6), [False, True, True]),
        ((1.1, 1.0, 0.6), [True, False, True]),
        ((1.0, 0.5, 1.1), [True, True, False]),
    ],
)
def test_claims_on_coding_can_fail_each_alone(lengths: tuple[float, float, float], holds: list[bool]) -> None:
    numbers = _bits(*lengths)
    assert [finding.holds for finding in coding.findings(numbers)] == holds
    assert ("takes fewer bits" in coding.title(numbers)) == all(holds)
    one = numbers | {"largest": _bits(0.999, 1.2, 0.6)["largest"]}
    assert not coding.findings(one)[1].holds  # one rule does not make it true


def test_coding_draws_every_start_beside_the_entropy() -> None:
    kept = figures.stored("coding")["numbers"]
    for axes, rule in zip(figures.drawn("coding", kept).axes, coding.RULES, strict=True):
        entropy, *lines = axes.lines
        for line, start in zip(lines, coding.STARTS, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), range(1, kept["tasks"] + 1))
            np.testing.assert_allclose(line.get_ydata(), np.mean(kept[rule][start]["told"], axis=0))
            assert kept[rule][start]["told"][0][0] == pytest.approx(entropy.get_ydata()[0], rel=0.005)
        assert axes.get_ylim()[0] == 0
