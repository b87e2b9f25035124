"""Novelty: limits by definition, the rule against exact counts, and how often it is wrong."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from perdure.contract import Answer, Refused
from perdure.learner.novelty import Usual, calibrate, doubt, fits, relation
from perdure.ops.infer import entropy
from perdure.rng import fold, normal, permutation, uniform


def _tasks(*sizes: int) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


# --- doubt


def test_doubt_is_what_the_answer_says() -> None:
    said = torch.tensor([0.5, -2.0], dtype=torch.float64)
    assert torch.equal(doubt(Answer(torch.zeros(2, 3), torch.arange(3), doubt=said)), said)


def test_where_an_answer_says_nothing_doubt_is_its_entropy_and_labels_that_cannot_be_count_for_nothing() -> None:
    logits = normal(1, 20).view(5, 4).float()
    wide = torch.full((5, 7), -torch.inf)
    wide[:, [1, 2, 4, 6]] = logits
    assert torch.equal(doubt(Answer(logits, torch.arange(4))), entropy(logits))
    assert torch.allclose(doubt(Answer(wide, torch.arange(7))), entropy(logits), rtol=1e-12)
    sure = torch.tensor([[120.0, 0.0]])
    assert doubt(Answer(sure, torch.arange(2))).item() == pytest.approx(120 * math.exp(-120), rel=1e-9, abs=0)


def test_a_method_that_cannot_answer_yet_has_no_doubt() -> None:
    assert doubt(Answer(torch.zeros(2, 0), torch.empty(0, dtype=torch.int64))).tolist() == [0, 0]


# --- limits


@pytest.mark.parametrize(
    ("n", "place"),
    [(19, 19), (20, 20), (39, 38), (40, 39), (99, 95), (100, 96), (199, 190), (1000, 951)],  # ceil(0.95 (n + 1))
)
def test_a_limit_is_the_order_statistic_of_the_definition(n: int, place: int) -> None:
    values = permutation(n, n).double() + 1  # 1 to n in any order: the smallest but r is r + 1
    (usual,) = calibrate(_tasks(n), values).values()
    assert usual == Usual(place, n - place, n)


@pytest.mark.parametrize("n", [1, 3, 18])
def test_so_few_examples_say_nothing(n: int) -> None:
    assert calibrate(_tasks(n), uniform(n, n)) == {0: Usual(math.inf, 0, n)}
    assert fits(torch.tensor([1e300]), torch.tensor([0]), {0: Usual(math.inf, 0, n)}).tolist() == [True]


def test_another_example_fits_as_often_as_promised() -> None:
    """Exactly ceil(0.95 (n + 1)) / (n + 1) of the time, whatever the distribution; here by leaving one of n + 1 out."""
    for n in (19, 30, 57):
        values = normal(n, n + 1) ** 3
        fit = 0
        for left in range(n + 1):
            usual = calibrate(_tasks(n), values[torch.arange(n + 1) != left])
            fit += int(fits(values[left : left + 1], None, usual))
        assert fit == math.ceil(Fraction(95, 100) * (n + 1))


def test_a_limit_counts_what_is_of_a_task_and_what_was_taken_for_it() -> None:
    values = torch.arange(60, dtype=torch.float64)
    own, task = _tasks(20, 40), torch.cat([torch.zeros(30), torch.ones(30)]).long()
    usual = calibrate(own, values, task)
    # task 0: its own 0..19 and 20..29 taken for it, n = 30, the 30th; task 1: its own 20..59, n = 40, the 39th
    assert usual == {0: Usual(29, 0, 20), 1: Usual(58, 1, 40)}
    assert usual == {index: calibrate(own, values, task)[index] for index in (1, 0)}


def test_without_tasks_all_exams_are_one_group() -> None:
    values, own = torch.cat([torch.arange(30), 100 + torch.arange(10)]).double(), _tasks(30, 10)
    assert calibrate(own, values) == {0: Usual(108, 0, 30), 1: Usual(108, 1, 10)}


# --- what fits


def test_each_input_is_held_against_the_task_it_was_taken_for() -> None:
    usual = {3: Usual(1.0, 0, 20), 8: Usual(2.0, 0, 20)}
    given, task = torch.tensor([1.0, 1.1, 2.0, 2.1, 9.0, math.nan]), torch.tensor([3, 3, 8, 8, 5, 8])
    assert fits(given, task, usual).tolist() == [True, False, True, False, True, False]
    assert fits(given, None, usual).tolist() == [True, True, True, False, False, False]


def test_nothing_fits_where_nothing_was_learned() -> None:
    assert not fits(torch.zeros(4), None, {}).any()
    assert relation(torch.zeros(4), None, {}) == ("new", None, 0.0)
    assert relation(torch.zeros(4), torch.zeros(4).long(), {}) == ("new", None, 0.0)


# --- the verdict on a batch


def _batch(fit: int, misfit: int, task: int = 0) -> tuple[Tensor, Tensor]:
    return torch.cat([torch.zeros(fit), torch.ones(misfit)]), torch.full((fit + misfit,), task)


def _chance(k: int, m: int, a: int, b: int) -> Fraction:
    """P(K >= k), K ~ BetaBinomial(m, a, b): each input adds a ball of its kind to an urn of a and b."""
    ways = {0: Fraction(1)}  # by how many misfits so far
    for drawn in range(m):
        after: dict[int, Fraction] = {}
        for misfits, chance in ways.items():
            one = Fraction(a + misfits, a + b + drawn)
            after[misfits + 1] = after.get(misfits + 1, Fraction(0)) + chance * one
            after[misfits] = after.get(misfits, Fraction(0)) + chance * (1 - one)
        ways = after
    return sum((chance for misfits, chance in ways.items() if misfits >= k), Fraction(0))


@pytest.mark.parametrize("usual", [Usual(0.5, 1, 25), Usual(0.5, 14, 287), Usual(0.5, 50, 1000), Usual(0.5, 0, 3)])
def test_the_verdict_is_that_of_an_urn(usual: Usual) -> None:
    for m in (1, 2, 3, 10, 50):
        for k in range(m + 1):
            got = relation(*_batch(m - k, k), {0: usual})
            chance = _chance(k, m, 1 + usual.misfits, 1 + usual.asked - usual.misfits)
            expected = "new" if 2 * (m - k) < m else "known" if chance >= Fraction(1, 100) else "drifted"
            assert got == (expected, 0, pytest.approx(1 - k / m)), (m, k)


def test_thousands_of_inputs() -> None:
    usual = {
        0: Usual(0.5, 50, 1000)
    }  # K of 10,000 is 500 on average, and its deviation (1 + m / a)^0.5 times a binomial's
    assert [relation(*_batch(10_000 - k, k), usual).verdict for k in (500, 600, 800, 4999, 5001)] == [
        "known", "known", "drifted", "drifted", "new",
    ]  # fmt: skip


def test_a_batch_of_several_tasks_is_judged_by_all_its_inputs() -> None:
    usual = {0: Usual(0.5, 0, 400), 1: Usual(0.5, 120, 400)}  # of the exam of 1, 30 % do not fit
    (a, own), (b, other) = _batch(60, 20, 0), _batch(18, 2, 1)
    assert relation(a, own, usual) == ("drifted", 0, 0.75)
    assert relation(torch.cat([a, b]), torch.cat([own, other]), usual) == ("known", 0, 0.78)  # as the exam of 1
    assert relation(torch.cat([a, b]), None, usual) == ("known", None, 0.78)


def test_a_task_without_an_exam_says_nothing_against_an_input() -> None:
    usual = {0: Usual(0.5, 1, 40)}
    assert relation(*_batch(0, 30, task=7), usual) == ("known", 7, 1.0)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(Refused, match="at least one"):
        relation(torch.zeros(0), None, {0: Usual(0.5, 0, 20)})


def test_known_inputs_are_seldom_called_anything_else() -> None:
    """Exams and batches of one distribution, 2,000 times: at most 1 % drifted, within its error, and never new."""
    verdicts = {"known": 0, "drifted": 0, "new": 0}
    for trial in range(2000):
        values = normal(fold(5, trial), 200)
        verdicts[relation(values[120:], None, calibrate(_tasks(120), values[:120])).verdict] += 1
    assert verdicts["new"] == 0
    assert verdicts["drifted"] <= 0.01 * 2000 + 3 * math.sqrt(0.01 * 0.99 * 2000)
