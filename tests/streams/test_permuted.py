"""Permutations: bijections, shared by training and exam, decided by the seed."""

import re

import pytest
import torch

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets import Base
from perdure.rng import fold, permutation
from perdure.streams.permuted import Permute, permuted


def moved(stream, base, t):
    """(pixels,) where each pixel of task t comes from, read off its images; the same in training and exam."""
    orders = []
    for examples, part in ((stream[t].examples, base.train), (stream.exams[t].examples, base.exam)):
        x, plain = examples.raw(torch.arange(len(part))).flatten(1), part.x.flatten(1)
        order = x[0] - plain[0, 0]  # the base counts its pixels through
        assert torch.equal(x, plain[:, order])
        orders.append(order)
    assert torch.equal(*orders)
    return orders[0]


def test_permutations_are_bijections_that_differ_between_tasks(tiny):
    stream = permuted(tiny, 6)
    orders = [moved(stream, tiny, t) for t in range(6)]
    assert all(torch.equal(order.sort().values, torch.arange(30)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert tuple(range(30)) not in {tuple(order.tolist()) for order in orders}


def test_the_seed_alone_decides(tiny):
    one, again, other = permuted(tiny, 3, 5), permuted(tiny, 9, 5, centre=None), permuted(tiny, 3, 6)
    for t in range(3):
        order = moved(one, tiny, t)
        assert torch.equal(order, permutation(fold(5, "permuted", t), 30))
        assert torch.equal(order, moved(again, tiny, t))
        assert not torch.equal(order, moved(other, tiny, t))


def test_neighbouring_seeds_share_no_permutation(tiny):
    orders = [tuple(moved(permuted(tiny, 4, seed), tiny, t).tolist()) for seed in range(4) for t in range(4)]
    assert len(set(orders)) == 16


def test_the_first_task_may_be_left_as_it_is(tiny):
    stream, usual = permuted(tiny, 3, identity_first=True), permuted(tiny, 3)
    assert torch.equal(moved(stream, tiny, 0), torch.arange(30))
    assert torch.equal(moved(stream, tiny, 1), moved(usual, tiny, 1))


def test_only_the_centre_moves(tiny):
    order = moved(permuted(tiny, 1, centre=3), tiny, 0).view(5, 6)
    still = torch.arange(30).view(5, 6)
    assert (order != still).any()
    order, inner = order.clone(), order[1:4, 1:4].flatten().sort().values
    assert torch.equal(inner, still[1:4, 1:4].flatten())
    order[1:4, 1:4] = still[1:4, 1:4]
    assert torch.equal(order, still)


def test_colours_move_alike_and_bytes_stay_bytes():
    x = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    permute = Permute(3, (3, 4, 5))
    out = permute(x, torch.arange(7))
    assert (out.dtype, out.shape) == (torch.uint8, x.shape)
    assert torch.equal(out.flatten(2), x.flatten(2)[:, :, permute.order])


def test_vectors_are_permuted_too():
    x = torch.arange(12.0).view(3, 4)
    base = Base("lines", Arrays(x, torch.tensor([0, 1, 0])), Arrays(x, torch.tensor([0, 1, 0])), 2)
    out = permuted(base, 1)[0].examples.raw(torch.arange(3))
    assert torch.equal(out, x[:, permutation(fold(0, "permuted", 0), 4)])


def test_inputs_are_scaled(digits):
    task = permuted(digits, 1)[0].examples
    x, _, _ = task.take(torch.arange(len(task)))
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert permuted(digits, 1, scale="none")[0].examples.take(torch.arange(9)).x.max() > 1


@pytest.mark.parametrize("centre", [1, 6, -2])
def test_a_centre_that_does_not_fit_is_refused(tiny, centre):
    with pytest.raises(Refused, match=re.escape(f"stream.centre is {centre}, but an input has shape (5, 6); use 2 to")):
        permuted(tiny, centre=centre)
