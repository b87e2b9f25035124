"""Drift: which row turns by which angle, and the same examples shuffled."""

import pytest
import torch

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets import Base
from perdure.rng import fold, permutation
from perdure.streams.drifting import drifting
from perdure.streams.rotated import turned


def arrived(stream):
    return torch.cat([task.examples.raw(torch.arange(len(task.examples))) for task in stream])


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_every_batch_turns_a_little_more(tiny, tasks):
    stream = drifting(tiny, tasks, 4, batch=8, span=70.0)
    dealt = permutation(fold(fold(4, "drifting"), 0), 60)
    degrees = torch.tensor([10.0 * (i // 8) for i in range(60)])  # 8 batches: 0, 10, ... 70
    assert torch.equal(arrived(stream), turned(tiny.train.x[dealt], degrees, "nearest"))
    assert torch.equal(torch.cat([task.examples.labels for task in stream]), tiny.train.labels[dealt])
    assert stream.ordered
    sizes = [len(task.examples) for task in stream]
    assert sum(sizes) == 60
    assert max(sizes) - min(sizes) <= 1


def test_more_passes_deal_the_base_again_and_lengthen_the_way(tiny):
    stream = drifting(tiny, 4, passes=3, span=0.0)
    x = arrived(stream).flatten(1)[:, 0]
    for third in x.split(60):
        assert torch.equal(third.sort().values, tiny.train.x.flatten(1)[:, 0])
    assert not torch.equal(x[:60], x[60:120])
    assert [len(task.examples) for task in stream] == [45] * 4


def test_an_exam_is_spread_over_its_stretch(tiny):
    stream = drifting(tiny, 3, batch=5, span=110.0)  # 12 batches: 0, 10, ... 110; 4 a task
    for i, exam in enumerate(stream.exams):
        degrees = exam.examples.transform.degrees
        wish = 40 * i + 30 * (torch.arange(30) + 0.5) / 30
        assert torch.allclose(degrees.sort().values, wish)
        assert not torch.equal(degrees, degrees.sort().values)
        assert torch.equal(exam.examples.raw(torch.arange(30)), turned(tiny.exam.x, degrees, "nearest"))


def test_iid_shuffles_the_same_examples_at_the_same_angles(tiny):
    drift, iid = drifting(tiny, 3, batch=8), drifting(tiny, 3, batch=8, iid=True)
    one, other = arrived(drift).flatten(1), arrived(iid).flatten(1)
    assert not torch.equal(one, other)
    assert sorted(one.tolist()) == sorted(other.tolist())
    assert not iid.ordered
    for a, b in zip(drift.exams, iid.exams, strict=True):
        assert torch.equal(a.examples.raw(torch.arange(30)), b.examples.raw(torch.arange(30)))


def test_fewer_examples_stay_in_order(tiny):
    whole, few = drifting(tiny, 2, batch=4, span=0.0), drifting(tiny, 2, batch=4, span=0.0, examples_per_task=10)
    for t in range(2):
        every, some = (
            stream[t].examples.raw(torch.arange(len(stream[t].examples))).flatten(1)[:, 0].tolist()
            for stream in (whole, few)
        )
        assert some == [x for x in every if x in some]


def test_bad_options_are_refused(tiny):
    with pytest.raises(Refused, match="batch is 0; it must be at least 1"):
        drifting(tiny, batch=0)
    with pytest.raises(Refused, match=r"stream\.span is nan; give a number of degrees"):
        drifting(tiny, span=float("nan"))
    with pytest.raises(Refused, match="60 examples cannot be dealt over 61 tasks; use fewer tasks or more passes"):
        drifting(tiny, 61)
    part = Arrays(torch.zeros(4, 9), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(Refused, match="drifting turns images"):
        drifting(Base("lines", part, part, 2))
