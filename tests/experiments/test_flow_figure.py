"""The figure of a flow without ids: which mask learned what, counted by hand."""

import numpy as np
import pytest

from perdure.experiments import figures
from perdure.experiments.figures import flow

NUMBERS = {
    "tasks": 3,
    "border": 2.5,  # batches a task: the third batch straddles
    "batches": 8,
    "log": [[0, 0], [3, 1], [5, -1], [6, 0]],
    "accuracy": {"gns": [0.9, 0.9, 0.9], "nns": [0.9, 0.88, 0.86]},
}


def test_the_mask_of_each_batch_follows_from_the_turns() -> None:
    assert flow.learned(NUMBERS).tolist() == [0, 0, 0, 1, 1, -1, 0, 0]


def test_a_batch_belongs_to_the_task_in_whose_share_its_middle_lies() -> None:
    assert flow.truth(NUMBERS).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


def test_purity_counts_the_batches_of_each_masks_commonest_task() -> None:
    tasks = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    assert flow.purity(tasks, tasks) == 1
    assert flow.purity(np.zeros(8, dtype=np.int64), tasks) == 3 / 8
    assert flow.purity(flow.learned(NUMBERS), tasks) == 4 / 8  # two of mask 0, two of mask 1; one was left out
    assert flow.purity(np.arange(8), tasks) == 1  # more masks than tasks are pure, and counted apart


def test_each_claim_is_seen_only_where_it_holds() -> None:
    assert [finding.holds for finding in flow.findings(NUMBERS)] == [False, False, True]
    pure = {**NUMBERS, "border": 8 / 3, "log": [[0, 0], [3, 1], [5, 2]]}
    assert [finding.holds for finding in flow.findings(pure)] == [True, True, True]
    worse = {**pure, "accuracy": {"gns": [0.9] * 3, "nns": [0.8] * 3}}
    assert [finding.holds for finding in flow.findings(worse)] == [True, True, False]


def test_what_was_measured_is_drawn() -> None:
    left, right = figures.drawn("flow", NUMBERS).axes
    assert left.lines[0].get_ydata().tolist() == (flow.truth(NUMBERS) + 1).tolist()
    for line, scenario in zip(right.lines, ("gns", "nns"), strict=True):
        assert line.get_ydata().tolist() == pytest.approx(NUMBERS["accuracy"][scenario])
