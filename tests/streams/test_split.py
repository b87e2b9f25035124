"""Splits: an exact partition of the labels and of the examples."""

import re

import pytest
import torch

from perdure.contract import Refused, Scenario
from perdure.streams.split import split


@pytest.mark.parametrize(("tasks", "sizes"), [(1, [6]), (2, [3, 3]), (3, [2, 2, 2]), (4, [2, 2, 1, 1]), (6, [1] * 6)])
def test_labels_and_examples_are_divided_exactly(tiny, tasks, sizes):
    stream = split(tiny, tasks)
    assert [len(task.id.classes) for task in stream] == sizes
    assert torch.cat([task.id.classes for task in stream]).sort().values.tolist() == list(range(6))
    for part, sets in ((tiny.train, [t.examples for t in stream]), (tiny.exam, [e.examples for e in stream.exams])):
        x = torch.cat([examples.raw(torch.arange(len(examples))) for examples in sets]).flatten(1)
        order = x[:, 0].argsort()
        assert torch.equal(x[order], part.x.flatten(1))
        assert torch.equal(torch.cat([examples.labels for examples in sets])[order], part.labels)


def test_the_seed_decides_the_order(tiny):
    def order(seed):
        return [task.id.classes.tolist() for task in split(tiny, 3, seed)]

    assert order(4) == order(4)
    assert len({str(order(seed)) for seed in range(6)}) > 3


def test_an_order_may_be_given(tiny):
    stream = split(tiny, 3, class_order="0, 5,4,1,2,3")
    assert [task.id.classes.tolist() for task in stream] == [[0, 5], [1, 4], [2, 3]]


@pytest.mark.parametrize("order", ["0,1,2", "0,1,2,3,4,4", "0,1,2,3,4,6", "sorted", "0,1,2,3,4,-5"])
def test_an_order_that_leaves_a_label_out_is_refused(tiny, order):
    message = f"stream.class_order is {order!r}; use seed, or each label from 0 to 5 once, with commas between"
    with pytest.raises(Refused, match=re.escape(message)):
        split(tiny, 3, class_order=order)


def test_too_many_tasks_are_refused(tiny):
    with pytest.raises(Refused, match="the 6 labels of tiny cannot be split over 7 tasks; use fewer tasks"):
        split(tiny, 7)
    with pytest.raises(Refused, match=r"one label only, .* \(scenario gg\)"):
        split(tiny, 4, scenario=Scenario.GG)
    with pytest.raises(Refused, match="each needs as many; they have 1 to 2"):
        split(tiny, 4, scenario=Scenario.GNS)
