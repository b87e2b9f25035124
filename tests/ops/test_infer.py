"""Inference by lowest entropy, against loops over examples."""

import math

import pytest
import torch

from perdure.contract import Answer
from perdure.ops.infer import entropy, lowest_entropy
from perdure.rng import fold, normal


def _answer(key: int, labels: list[int], n: int = 50) -> Answer:
    logits = 2 * normal(key, n * len(labels)).view(n, len(labels)).float()
    return Answer(logits, torch.tensor(labels))


def _entropy(row: list[float]) -> float:
    top = max(row)
    total = sum(math.exp(value - top) for value in row)
    shares = [math.exp(value - top) / total for value in row]
    return -sum(share * math.log(share) for share in shares if share)


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1], [2, 3], [4, 5]],  # unshared
        [[0, 1, 2], [0, 1, 2]],  # shared
        [[7, 3], [3, 9, 1], [1, 7]],  # partly shared, in any order, of different numbers
    ],
)
def test_equals_a_loop_over_examples(labels: list[list[int]]) -> None:
    answers = {10 * number: _answer(fold(1, number), own) for number, own in enumerate(labels)}
    got = lowest_entropy(answers)
    columns = sorted({label for own in labels for label in own})
    assert got.labels.tolist() == columns
    for row in range(50):
        entropies = {index: _entropy(answer.logits[row].tolist()) for index, answer in answers.items()}
        task = min(entropies, key=lambda index: entropies[index])
        assert got.task is not None
        assert got.task[row] == task
        own = dict(zip(answers[task].labels.tolist(), answers[task].logits[row].tolist(), strict=True))
        assert got.logits[row].tolist() == [own.get(label, -math.inf) for label in columns]


def test_entropy_in_closed_form() -> None:
    assert torch.allclose(entropy(torch.zeros(1, 8)), torch.tensor([math.log(8)], dtype=torch.float64))
    z = math.log(3.0)  # shares 3/4 and 1/4
    expected = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert entropy(torch.tensor([[z, 0.0]])).item() == pytest.approx(expected, rel=1e-6)


def test_two_very_sure_tasks_do_not_tie() -> None:
    less, more = torch.tensor([[120.0, 0.0]]), torch.tensor([[0.0, 140.0]])  # both have entropy 0 in float
    labels = torch.tensor([0, 1])
    got = lowest_entropy({0: Answer(less, labels), 1: Answer(more, labels)})
    assert got.task is not None
    assert got.task.tolist() == [1]


def test_the_first_task_wins_a_tie() -> None:
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1])
    got = lowest_entropy({4: Answer(logits, labels), 2: Answer(logits, labels)})
    assert got.task is not None
    assert got.task.tolist() == [4, 4, 4]


def test_every_example_is_judged_on_its_own() -> None:
    answers = {0: _answer(fold(2, 0), [0, 1]), 1: _answer(fold(2, 1), [2, 3])}
    whole = lowest_entropy(answers)
    for row in range(50):
        one = lowest_entropy({t: Answer(a.logits[row : row + 1], a.labels) for t, a in answers.items()})
        assert torch.equal(one.logits[0], whole.logits[row])
