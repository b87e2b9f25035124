"""Inference by lowest entropy, against loops over examples."""

import math

import pytest
import torch
from torch import Tensor, nn

from perdure.contract import Answer, TaskId
from perdure.model import Model
from perdure.ops.infer import Bound, Made, entropy, lowest_entropy, respond, routed
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
        assert got.doubt is not None
        assert got.doubt[row].item() == pytest.approx(entropies[task], rel=1e-9)


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


# --- answers by a task that is already known


def test_each_input_is_answered_by_its_task_and_a_task_is_asked_once() -> None:
    answers = {10: _answer(3, [4, 0]), 2: _answer(4, [1, 5]), 7: _answer(5, [0, 1, 3])}
    tasks = torch.tensor([7, 10, 7, 2, 10])
    asked = []

    def own(task: int, rows: Tensor) -> Answer:
        asked.append((task, rows.tolist()))
        return answers[task]._replace(logits=answers[task].logits[rows])

    got = routed(tasks, torch.tensor([0, 1, 3, 4, 5]), own)
    assert sorted(asked) == [(2, [3]), (7, [0, 2]), (10, [1, 4])]
    assert got.labels.tolist() == [0, 1, 3, 4, 5]
    assert torch.equal(got.task, tasks)
    for row, task in enumerate(tasks.tolist()):
        shown = dict(zip(answers[task].labels.tolist(), answers[task].logits[row].tolist(), strict=True))
        assert got.logits[row].tolist() == [shown.get(label, -math.inf) for label in got.labels.tolist()]


def test_each_input_is_in_doubt_as_its_task_says_or_by_its_entropy() -> None:
    said, tasks = torch.tensor([0.25, -3.0, 1e9], dtype=torch.float64), torch.tensor([1, 6, 1])
    answers = {1: _answer(5, [0, 1], 3), 6: _answer(6, [2, 3], 3)._replace(doubt=said)}

    def own(task: int, rows: Tensor) -> Answer:
        part = answers[task]
        return Answer(part.logits[rows], part.labels, doubt=None if part.doubt is None else part.doubt[rows])

    got = routed(tasks, torch.arange(4), own).doubt
    sure = entropy(answers[1].logits)
    assert torch.equal(got, torch.stack([sure[0], said[1], sure[2]]))


def test_an_empty_batch_has_an_empty_answer() -> None:
    got = routed(torch.empty(0, dtype=torch.int64), torch.tensor([2, 3]), lambda task, rows: pytest.fail("asked"))
    assert (got.logits.shape, got.labels.tolist(), got.doubt.shape) == ((0, 2), [2, 3], (0,))


def _model(value: float, labels: list[int]) -> Model:
    return Model({"weight": torch.full((len(labels), 3), value)}, {}, torch.tensor(labels), {})


def test_models_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def make(place: int) -> Model:
        made.append(place)
        return _model(float(place), [2 * place, 2 * place + 1])

    models = Made([5, 3, 9], make)
    assert (list(models), len(models), 3 in models, 4 in models, made) == ([5, 3, 9], 3, True, False, [])
    net, x = nn.Linear(3, 2, bias=False), torch.ones(4, 3)
    bound = Bound(_model(0.0, [0, 1]), models)
    got = respond(net, bound, x, TaskId(3, torch.tensor([2, 3])))
    assert (got.labels.tolist(), got.logits.tolist(), made) == ([2, 3], [[3.0, 3.0]] * 4, [1])
    with pytest.raises(KeyError):
        models[4]


def test_a_task_that_was_never_learned_has_no_labels() -> None:
    bound = Bound(_model(1.0, [0, 1]), {0: _model(1.0, [0, 1])})
    got = respond(nn.Linear(3, 2, bias=False), bound, torch.ones(4, 3), TaskId(1, torch.tensor([0, 1])))
    assert (got.logits.shape, got.labels.shape) == ((4, 0), (0,))
