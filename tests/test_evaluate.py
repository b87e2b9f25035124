"""Metrics against matrices done by hand, and exams against brute force."""

import math

import numpy as np
import pytest
import torch

from perdure import evaluate
from perdure.contract import Answer, Scenario, TaskId
from perdure.data import Arrays
from perdure.streams.stream import Exam

R = np.array([[0.1, 0.2, 0.3], [0.9, 0.25, 0.3], [0.7, 0.8, 0.5], [0.6, 0.75, 0.95]])
NAN = float("nan")


def test_figures_of_a_matrix_done_by_hand() -> None:
    assert evaluate.acc(R) == pytest.approx((0.6 + 0.75 + 0.95) / 3)
    assert evaluate.bwt(R) == pytest.approx(((0.6 - 0.9) + (0.75 - 0.8)) / 2)
    assert evaluate.fwt(R) == pytest.approx(((0.25 - 0.2) + (0.5 - 0.3)) / 2)
    assert evaluate.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.75)) / 2)


def test_forgetting_looks_at_every_row_before_the_last() -> None:
    rising = R.copy()
    rising[2, 0] = 0.95  # better after task 2 than after its own
    assert evaluate.forgetting(rising) == pytest.approx(((0.95 - 0.6) + (0.8 - 0.75)) / 2)
    assert evaluate.forgetting(rising) >= -evaluate.bwt(rising)


def test_perfect_memory_forgets_nothing() -> None:
    ones = np.ones((4, 3))
    assert evaluate.bwt(ones) == evaluate.forgetting(ones) == 0
    assert evaluate.acc(ones) == 1


def test_acc_does_not_depend_on_the_order_of_tasks() -> None:
    assert evaluate.acc(R[:, [2, 0, 1]]) == pytest.approx(evaluate.acc(R))


def test_one_task_is_undefined_with_a_reason() -> None:
    one = np.array([[0.1], [0.9]])
    why = evaluate.reasons(one, [0], [1], [0, 1])
    for name in ("bwt", "fwt", "forgetting"):
        assert math.isnan(getattr(evaluate, name)(one))
        assert why[name] == "one task alone can neither forget nor transfer"


def test_unseen_labels_leave_only_transfer_undefined() -> None:
    unseen = R.copy()
    unseen[np.triu_indices(3)] = NAN  # the head grows: nothing before its own task
    why = evaluate.reasons(unseen, range(3), [1, 2, 3], [0, 1, 2, 3])
    assert set(why) == {"fwt", *(f"R[{i},{j + 1}]" for i, j in zip(*np.triu_indices(3), strict=True))}
    assert why["fwt"] == why["R[1,2]"] == "the method had no row for its labels yet"
    assert evaluate.forgetting(unseen) == pytest.approx(evaluate.forgetting(R))


def test_rows_not_asked_for_are_undefined_with_that_reason() -> None:
    last = np.full((4, 3), NAN)
    last[3] = R[3]
    why = evaluate.reasons(last, range(3), [1, 2, 3], [3])
    assert evaluate.acc(last) == evaluate.acc(R)
    assert why["R[0]"] == why["bwt"] == why["fwt"] == why["forgetting"] == "this row was not asked for (exam rows)"
    assert "acc" not in why


def test_rows_not_asked_for_take_a_reason_each_however_many_tasks_there_are() -> None:
    many = np.full((1001, 1000), NAN)
    many[-1] = 0.9
    why = evaluate.reasons(many, range(1000), range(1, 1001), [1000], many)
    assert [name for name in why if name.startswith("R")] == [f"R[{row}]" for row in range(1000)]


def test_cells_with_the_id_given_have_reasons_of_their_own() -> None:
    """Where the exam without the id is undefined too, its reason; else the method does not know the task."""
    plain, given = R.copy(), R.copy()
    plain[0], plain[1, 2] = NAN, NAN
    given[0], given[1, 1:], given[3, 1] = NAN, NAN, NAN
    why = evaluate.reasons(plain, range(3), [1, 2, 3], [1, 2, 3], given)
    unlearned = "given the id of a task that it has not learned, the method has no answer"
    assert {name: reason for name, reason in why.items() if "given" in name} == {
        "R_given[1,2]": unlearned,
        "R_given[1,3]": "the method had no row for its labels yet",
        "R_given[3,2]": unlearned,
        "acc_given": unlearned,
    }
    assert {name: why[name] for name in why if "given" not in name} == evaluate.reasons(
        plain, range(3), [1, 2, 3], [1, 2, 3]
    )


def test_a_chunk_over_a_border_leaves_transfer_undefined() -> None:
    why = evaluate.reasons(R, [0, 1, 3], [2, 3, 4], [0, 1, 2, 3])
    assert why == {"fwt": "a chunk straddles the border before task 2, so it was partly learned before its exam"}
    assert evaluate.reasons(R, [0, 2, 3], [2, 3, 4], [0, 1, 2, 3]) == {}


def test_omega_of_a_matrix_done_by_hand() -> None:
    """Row 0 and what was not learned yet have no part in it; a large exam weighs more in what is over all."""
    base, new, every = evaluate.omega(R, [100, 50, 50], offline=0.8)
    assert base == pytest.approx((0.7 + 0.6) / 2 / 0.8)
    assert new == pytest.approx((0.8 + 0.95) / 2)
    assert every == pytest.approx(((100 * 0.7 + 50 * 0.8) / 150 + (100 * 0.6 + 50 * 0.75 + 50 * 0.95) / 200) / 2 / 0.8)
    unseen = np.where(np.arange(3) < np.arange(4)[:, None], R, np.nan)
    assert evaluate.omega(unseen, [100, 50, 50], 0.8) == evaluate.omega(R, [100, 50, 50], 0.8)
    assert evaluate.omega(np.ones((5, 4)), [1, 2, 3, 4], 1.0) == (1, 1, 1)
    assert all(map(math.isnan, evaluate.omega(np.ones((2, 1)), [9], 1.0)))


def test_learning_speed() -> None:
    assert evaluate.learning_speed(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])) == 0
    assert evaluate.learning_speed(torch.tensor([0.5, 0.5, 9.0]), torch.tensor([1.0, 1.0])) == 0.5
    assert evaluate.learning_speed(torch.tensor([2.0]), torch.tensor([1.0])) == -1


class Rule:
    """Answers with fixed logits for the row number that an input holds."""

    def __init__(self, logits: torch.Tensor, labels: list[int], task: list[int] | None = None) -> None:
        self.logits, self.labels, self.task, self.asked = logits, torch.tensor(labels, dtype=torch.int64), task, []

    def predict(self, ready: object, x: torch.Tensor, id: TaskId | None = None) -> Answer:
        self.asked.append(None if id is None else id.index)
        inferred = None if self.task is None else torch.tensor(self.task)
        return Answer(self.logits[x[:, 0].long()], self.labels, inferred)


def exam(labels: list[int], classes: list[int]) -> Exam:
    x = torch.arange(len(labels)).float()[:, None]
    return Exam(Arrays(x, torch.tensor(labels)), TaskId(3, torch.tensor(classes)))


def test_an_id_narrows_the_labels_that_compete() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    rule = Rule(logits, [0, 5, 7])
    asked, given, _ = evaluate.examine(rule, None, exam([5, 5, 7], [5, 7]), Scenario.GNU)
    assert (asked, given) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert rule.asked == [None]  # nothing was inferred, so the id only narrows: one pass serves both
    rule = Rule(logits, [0, 5, 7], task=[0, 0, 0])
    evaluate.examine(rule, None, exam([5, 5, 7], [5, 7]), Scenario.GNU)
    assert rule.asked == [None, 3]
    rule = Rule(logits, [0, 5, 7])
    evaluate.examine(rule, None, exam([5, 5, 7], [5, 7]), Scenario.GG)
    assert rule.asked == [3]


def test_tasks_that_are_found_are_counted_where_they_are_inferred() -> None:
    asked = exam([0, 1, 2], [0, 1, 2])  # of task 3
    for scenario in (Scenario.GNS, Scenario.GNU, Scenario.NNS):
        cell = evaluate.examine(Rule(torch.eye(3), [0, 1, 2], task=[3, 0, 3]), None, asked, scenario)
        assert cell.taken == {0: 1, 3: 2}
        assert evaluate.own([cell], [3], 1) == pytest.approx([2 / 3])
        assert evaluate.own([cell], [1], 1) == [0]
        silent = evaluate.examine(Rule(torch.eye(3), [0, 1, 2]), None, asked, scenario)
        assert silent.taken == {}
        assert np.isnan(evaluate.own([silent, silent], [3, 4], 2)).all()
        assert np.isnan(evaluate.own([silent, silent], None, 2)).all()
    given = evaluate.examine(Rule(torch.eye(3), [0, 1, 2], task=[3, 0, 3]), None, asked, Scenario.GG)
    assert given.taken == {}  # the id is given, not inferred


def test_what_is_told_apart_without_ids_belongs_to_the_task_that_most_of_it_is_from() -> None:
    def own(*taken: dict[int, int], learned: int | None = None) -> list[float]:
        cells = [evaluate.Cell(1.0, NAN, its) for its in taken]
        return evaluate.own(cells, None, len(cells) if learned is None else learned).tolist()

    assert own({4: 9}, {2: 5}) == [1, 1]  # whatever their numbers are
    assert own({0: 7, 1: 3}, {2: 10}) == [1, 1]  # two masks, one task
    assert own({0: 10}, {0: 10}) == [1, 0]  # one mask for both
    assert own({0: 9, 1: 1}, {0: 2, 1: 8}, {0: 5, 1: 5}) == [0.9, 0.8, 0]
    assert own({0: 900, 1: 100}, {0: 10}) == [1, 0]  # inputs count, not shares of exams
    assert own({0: 99, 1: 1}, {0: 100}, {0: 100}, learned=1) == [1, 0, 0]  # what is not learned owns nothing
    assert own({0: 1}, {1: 1}, learned=0) == [0, 0]
    assert np.isnan(own({0: 10}, {})).tolist() == [False, True]


def test_no_row_for_its_labels_is_nan_not_zero() -> None:
    empty = Rule(torch.zeros(3, 0), [])
    others = Rule(torch.zeros(3, 2), [4, 5], task=[0, 0, 0])
    for rule, scenario in ((empty, Scenario.GNS), (others, Scenario.GNU)):
        asked, given, taken = evaluate.examine(rule, None, exam([0, 1, 1], [0, 1]), scenario)
        assert math.isnan(asked)
        assert math.isnan(given)
        assert taken == {}


def test_without_ids_there_is_no_second_figure() -> None:
    cell = evaluate.examine(Rule(torch.eye(3), [0, 1, 2]), None, exam([0, 1, 2], [0, 1, 2]), Scenario.NNS)
    assert cell.asked == 1
    assert math.isnan(cell.given)


def test_a_limit_takes_the_same_examples_every_time() -> None:
    n = 3000
    logits = torch.zeros(n, 2)
    logits[:, 0] = 1
    whole = exam([i % 2 for i in range(n)], [0, 1])
    first, second = (evaluate.examine(Rule(logits, [0, 1]), None, whole, Scenario.GNS, limit=100) for _ in range(2))
    assert first[:2] == second[:2]
    assert first.asked * 100 == round(first.asked * 100)
    assert evaluate.examine(Rule(logits, [0, 1]), None, whole, Scenario.GNS).asked == 0.5
