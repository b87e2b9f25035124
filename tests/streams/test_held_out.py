"""Held out: what tuning sees is the training part of a stream, and no exam is ever read."""

import pytest
import torch

from perdure.contract import Refused, Scenario
from perdure.data import Arrays
from perdure.datasets import Base
from perdure.streams.drifting import drifting
from perdure.streams.held_out import held_out, small
from perdure.streams.permuted import permuted
from perdure.streams.split import split

GG, GNS, GNU, NNS = Scenario.GG, Scenario.GNS, Scenario.GNU, Scenario.NNS
N = 120


class Sealed(Arrays):
    """Exam examples that may not be read."""

    def raw(self, indices):
        raise AssertionError("an exam was read")


@pytest.fixture
def base() -> Base:
    """Each input names its row; the labels are 0 to 5."""
    x = torch.arange(N)[:, None, None].expand(N, 2, 2).contiguous()
    return Base("tiny", Arrays(x, torch.arange(N) % 6), Sealed(x + 1000, torch.arange(N) % 6), 6)


def rows(examples) -> list[int]:
    return examples.raw(torch.arange(len(examples)))[:, 0, 0].tolist()


@pytest.mark.parametrize("scenario", [GG, GNS, GNU])
def test_learned_and_asked_are_the_training_examples_dealt_in_two(base, scenario) -> None:
    stream = held_out(permuted(base, 3, scenario=scenario), 0.25, key=7)
    assert stream.name == "permuted-tiny (held out)"
    for task, exam, whole in zip(stream.tasks, stream.exams, permuted(base, 3, scenario=scenario).exams, strict=True):
        learned, asked = rows(task.examples), rows(exam.examples)
        assert len(asked) == N // 4
        assert sorted(learned + asked) == [*range(N)]
        assert learned == sorted(learned)  # in order of arrival
        assert torch.equal(exam.id.classes, whole.id.classes)
        start = int(exam.id.classes.min())
        assert [int(label) - start for label in exam.examples.labels] == [row % 6 for row in asked]


def test_what_is_asked_in_one_task_is_learned_in_none(base) -> None:
    stream = held_out(permuted(base, 4), 0.1, key=0)
    asked = {row for exam in stream.exams for row in rows(exam.examples)}
    assert len(asked) == N // 10
    assert not asked & {row for task in stream.tasks for row in rows(task.examples)}


@pytest.mark.parametrize("scenario", [GNS, NNS])
def test_nor_where_tasks_learn_only_some_of_their_examples(base, scenario) -> None:
    part = permuted(base, 4, scenario=scenario, examples_per_task=60)
    stream = held_out(part, 0.25, key=7)
    learned = [rows(task.examples) for task in stream.tasks]
    asked = [rows(exam.examples) for exam in stream.exams]
    assert sum(map(len, learned)) == 4 * 60
    assert [len(exam) for exam in asked] == [N // 4] * 4
    assert not {row for exam in asked for row in exam} & {row for task in learned for row in task}


def test_a_part_of_the_examples_is_drawn_from_what_is_left(base) -> None:
    part = permuted(base, 4, examples_per_task=60)
    stream = held_out(part, 0.25, key=7)
    assert rows(held_out(part[1:], 0.25, key=7).tasks[0].examples) == rows(stream.tasks[1].examples)
    assert [len(task.examples) for task in held_out(part, 0.75, key=7).tasks] == [N // 4] * 4  # there are no more


@pytest.mark.parametrize("passes", [1, 2])
def test_nor_where_the_data_set_is_dealt_again(base, passes) -> None:
    stream = held_out(drifting(base, 3, span=0.0, passes=passes), 0.25, key=7)
    asked = {row for exam in stream.exams for row in rows(exam.examples)}
    learned = [row for task in stream.tasks for row in rows(task.examples)]
    assert len(asked) == N // 4 if passes == 1 else len(asked) > N // 4
    assert sorted(learned) == sorted(passes * [row for row in range(N) if row not in asked])


def test_a_flow_does_not_bring_what_is_asked(base) -> None:
    stream = held_out(permuted(base, 2, scenario=NNS, chunk=50), 0.25, key=0)
    arrived = [row for task in stream.tasks for row in rows(task.examples)]
    asked = {row for exam in stream.exams for row in rows(exam.examples)}
    assert len(arrived) == 2 * N * 3 // 4
    assert not asked & set(arrived)


def test_the_first_tasks_of_a_split_keep_their_labels(base) -> None:
    whole, part = split(base, 3), held_out(split(base, 3)[:2], 0.5, key=0)
    assert len(part) == 2
    for one, other in zip(part.exams, whole.exams[:2], strict=True):
        assert torch.equal(one.id.classes, other.id.classes)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.0, "the share to hold out is 1; it must be between 0 and 1"),
        (0.001, "a share of 0.001 of the 120 examples of task 1 is 0; hold out another"),
    ],
)
def test_a_share_that_leaves_nothing(base, share, message) -> None:
    with pytest.raises(Refused) as refused:
        held_out(permuted(base, 2), share, key=0)
    assert str(refused.value) == message


def test_small_has_few_of_everything() -> None:
    x = torch.arange(N)[:, None, None].expand(N, 2, 2).contiguous()
    part = Arrays(x, torch.arange(N) % 6)
    stream = small(permuted(Base("tiny", part, Arrays(x[:9], torch.arange(9) % 6), 6), 5), tasks=2, examples=16)
    assert [len(task.examples) for task in stream.tasks] == [16, 16]
    assert [len(exam.examples) for exam in stream.exams] == [9, 9]
    assert stream.name == "permuted-tiny (smoke)"
