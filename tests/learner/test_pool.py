"""Pools: dealt, joined and kept example by example, in memory or on disk alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from perdure.contract import Refused
from perdure.learner.pool import Joined, Pool, read_pool
from perdure.store import Blobs, save_state


def pool(n: int, classes: int = 3, start: int = 0) -> Pool:
    rows = torch.arange(start, start + n)
    return Pool(torch.stack([rows, rows * 10], 1), rows % classes)


class Disk:
    """Inputs that are read when they are indexed."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.shape, self.read = x.numpy(), tuple(x.shape), 0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.read += len(rows)
        return self.x[rows]


def test_inputs_on_disk_are_joined_and_picked_as_those_in_memory() -> None:
    one, two = pool(20), pool(7, start=50)
    lazy = Pool(Disk(one.x), one.y).join(two)
    rows = torch.tensor([26, 0, 19, 20, 3, 3, 21])
    assert isinstance(lazy.x, Joined)
    for got, want in ((lazy, one.join(two)), (lazy.pick(rows), one.join(two).pick(rows))):
        assert torch.equal(got.held().x, want.x)
        assert torch.equal(got.y, want.y)
        assert got.x.shape == tuple(want.x.shape)


def test_nothing_is_read_before_it_is_asked_for() -> None:
    disk = Disk(pool(100).x)
    lazy = Pool(disk, pool(100).y)
    rest, share = lazy.deal(0.2, 1)
    kept = rest.join(pool(5)).few(2, 1)
    assert disk.read == 0
    assert len(share.y) == 21  # 7 of 34, 7 of 33, 7 of 33
    assert len(kept.held().y) == 6
    assert disk.read <= 6


def test_a_share_of_every_class_is_dealt_and_a_single_example_stays() -> None:
    y = torch.tensor([0] * 50 + [1] * 10 + [2])
    rest, share = Pool(torch.arange(61)[:, None], y).deal(0.2, 3)
    assert share.y.bincount(minlength=3).tolist() == [10, 2, 0]
    assert sorted([*rest.x[:, 0].tolist(), *share.x[:, 0].tolist()]) == list(range(61))
    assert len(Pool(torch.zeros(1, 1), y[:1]).deal(0.2, 3)[1].y) == 0
    assert len(pool(9).deal(0.0, 3)[1].y) == 0


def test_few_keeps_so_many_of_each_class() -> None:
    few = pool(100).few(4, 7)
    assert few.y.bincount().tolist() == [4, 4, 4]
    assert torch.equal(few.x[:, 0] % 3, few.y)
    assert torch.equal(few.x, pool(100).few(4, 7).x)
    assert not torch.equal(few.x, pool(100).few(4, 8).x)
    assert len(pool(100).few(0, 7).y) == 0


def test_classes_that_the_new_lack_are_repeated_until_they_weigh_as_much() -> None:
    kept = Pool(torch.arange(6)[:, None], torch.tensor([0, 0, 0, 1, 1, 1]))
    new = Pool(torch.zeros(80, 1), torch.tensor([1, 2] * 40))
    weighed = kept.weighed(new)
    assert weighed.y.bincount().tolist() == [39, 3]  # 40 new ones a class; 13 times 3
    assert weighed.x.unique().tolist() == list(range(6))


def test_many_repeats_are_seen_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, new = pool(6, 2), Pool(torch.zeros(90, 2), torch.full((90,), 7))
    made = kept.weighed(new)
    monkeypatch.setattr("perdure.learner.pool.SMALL", 6 * 30 * 2 - 1)
    seen = kept.weighed(new)
    assert isinstance(made.x, torch.Tensor)
    assert isinstance(seen.x, Joined)
    assert torch.equal(new.join(seen).held().x, new.join(made).x)
    assert torch.equal(seen.y, made.y)


def test_stored_examples_come_back(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name, nbytes = Pool(Disk(pool(10).x), pool(10).y).write(blobs)
    back = read_pool(blobs, name, (2,), pool(10).y.unique(), 10)
    assert back is not None
    assert torch.equal(back.x, pool(10).x)
    assert torch.equal(back.y, pool(10).y)
    assert nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert pool(0).write(blobs) == ("", 0)
    assert read_pool(blobs, "", (2,), torch.arange(2)) is None


X, Y = torch.zeros(3, 2), torch.tensor([1, 1, 4])
WRONG = {
    "no tensors": Pool(1, 2),
    "other inputs": Pool(X[:, :1], Y),
    "fewer inputs": Pool(X[:2], Y),
    "complex inputs": Pool(X.to(torch.complex64), Y),
    "labels of another type": Pool(X, Y.float()),
    "labels in columns": Pool(X, Y[:, None]),
    "another label": Pool(X, Y + 1),
    "more than there were": Pool(X[[0, 1, 2, 0]], Y[[0, 1, 2, 0]]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_stored_examples_of_another_task_are_refused(tmp_path: Path, wrong: str) -> None:
    blobs, given = Blobs(tmp_path), ((2,), torch.tensor([1, 4]), 3)
    assert read_pool(blobs, save_state(blobs, Pool(X, Y)).name, *given) is not None
    with pytest.raises(Refused, match="are damaged"):
        read_pool(blobs, save_state(blobs, WRONG[wrong]).name, *given)
