"""Which task was forgotten, when, and how much: exact sentences for matrices made by hand."""

from math import nan

import numpy as np
import pytest
from by_hand import forgetful, make

from perdure.report.verdict import fates, verdict

FORGOT = [
    [0.1, 0.1, 0.1, 0.1],
    [0.979, 0.1, 0.1, 0.1],
    [0.95, 0.97, 0.1, 0.1],
    [0.90, 0.96, 0.97, 0.1],
    [0.412, 0.95, 0.96, 0.97],
]


def test_one_forgotten_task():
    assert verdict("finetune", [make(FORGOT)]) == (
        "finetune forgot task 1: 97.9 % after learning it, 41.2 % at the end; "
        "the largest loss, 48.8 points, came while learning task 4."
    )


def test_several_forgotten_tasks():
    assert verdict("finetune", [make(forgetful(4, 0.2))]) == (
        "finetune forgot 3 of its 4 tasks, task 1 most: 95.0 % after learning it, 35.0 % at the end; "
        "the largest loss, 20.0 points, came while learning task 2."
    )


def test_a_task_that_lost_a_little():
    R = [[0.1, 0.1], [0.9, 0.1], [0.85, 0.9]]
    assert verdict("ewc", [make(R)]) == (
        "ewc lost 5.0 points of task 1: 90.0 % after learning it, 85.0 % at the end; "
        "the largest loss, 5.0 points, came while learning task 2."
    )


@pytest.mark.parametrize(("lost", "within"), [(0.0003, "0.1"), (0.001, "0.1"), (0.0011, "0.2"), (0.01, "1.0")])
def test_kept_is_true_of_the_unrounded_loss(lost, within):
    R = [[0.1, 0.1], [0.9, 0.1], [0.9 - lost, 0.92]]
    sentence = verdict("packnet", [make(R)])
    assert sentence.startswith(f"packnet kept every task within {within} points, and ends at ")


def test_nothing_lost():
    R = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.92]]
    assert verdict("packnet", [make(R)]) == "packnet lost nothing of what it learned, and ends at 91.0 % on average."


def test_one_task():
    assert verdict("ewc", [make([[0.1], [0.963]])]) == (
        "ewc learned its only task to 96.3 %; nothing came after it that could undo it."
    )


def test_means_of_seeds():
    low = [[0.1, 0.1], [0.8, 0.1], [0.2, 0.9]]
    high = [[0.1, 0.1], [1.0, 0.1], [0.4, 0.9]]
    assert verdict("er", [make(low, seed=0), make(high, seed=1)]) == (
        "er forgot task 1: 90.0 % after learning it, 30.0 % at the end; "
        "the largest loss, 60.0 points, came while learning task 2 (means of 2 seeds)."
    )


def test_what_knowing_the_id_changes():
    withheld = [[0.1, 0.1], [0.9, 0.1], [0.7, 0.6]]
    given = [[0.1, 0.1], [0.9, nan], [0.9, 0.8]]
    assert verdict("packnet", [make(withheld, given=given)]) == (
        "packnet forgot task 1: 90.0 % after learning it, 70.0 % at the end; "
        "the largest loss, 20.0 points, came while learning task 2. "
        "With the id given it lost nothing of what it learned, and ends at 85.0 % on average."
    )


def test_rows_that_were_not_taken():
    R = np.full((7, 6), nan)
    R[[0, 3, 6]] = 0.5
    R[3, 2], R[6, 2] = 0.9, 0.3
    assert [(fate.task, fate.when) for fate in fates(R)] == [(3, "tasks 4 to 6")]
    assert verdict("ewc", [make(R)]) == (
        "ewc forgot task 3: 90.0 % after learning it, 30.0 % at the end; "
        "the largest loss, 60.0 points, came while learning tasks 4 to 6."
    )
    R[6, 2] = 0.896
    assert verdict("ewc", [make(R)]).startswith("ewc kept the 1 task examined in time within 0.4 points, and ends")
    R[6, 2] = 0.9
    assert verdict("ewc", [make(R)]).startswith("ewc lost nothing of the 1 task examined in time, and ends")


def test_only_the_last_row_taken():
    R = np.full((4, 3), nan)
    R[3] = 0.5
    assert verdict("ewc", [make(R)]) == (
        "ewc cannot be judged: no task was examined both right after it was learned and at the end."
    )


def test_fates_are_in_order_and_count_from_one():
    found = fates(np.array(FORGOT))
    assert [fate.task for fate in found] == [1, 2, 3]
    assert found[0].lost == pytest.approx(0.567)
    assert found[0].fell == pytest.approx(0.488)
    assert [fate.when for fate in found] == ["task 4", "task 3", "task 4"]


def test_the_earlier_of_two_equal_losses_is_named():
    assert fates(forgetful(4, 0.25))[0].when == "task 2"
