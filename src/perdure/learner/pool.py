"""Pools of examples: inputs as they were given, in memory or on disk, and the numbers of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.datasets.base import stratified
from perdure.datasets.npz import Array
from perdure.rng import permutation
from perdure.store import Blobs, load_state, save_state

SMALL = 1 << 26  # numbers that examples may have to be brought into memory as a whole


class Joined:
    """Inputs that stay where they are: arrays one after the other, seen through rows (n,)."""

    def __init__(self, parts: Sequence[Any], rows: Tensor) -> None:
        self.parts, self.rows = parts, rows
        self.ends = np.cumsum([part.shape[0] for part in parts])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.parts[0].shape[1:])

    def __getitem__(self, places: Array) -> Tensor:
        rows = self.rows[torch.as_tensor(places)].numpy()
        owner = np.searchsorted(self.ends, rows, side="right")
        blocks = []
        for number in np.unique(owner).tolist():
            start = self.ends[number - 1] if number else 0
            blocks.append(torch.as_tensor(self.parts[number][rows[owner == number] - start]))
        return torch.cat(blocks)[torch.from_numpy(owner.argsort(kind="stable").argsort(kind="stable"))]


class Pool(NamedTuple):
    """Examples of one kind."""

    x: Any  # Tensor (n, ...), or anything with a shape that is indexed by an integer array and read when it is
    y: Tensor  # (n,) int64

    def pick(self, rows: Tensor) -> Pool:
        """Those at some rows, which may repeat."""
        x = self.x[rows] if isinstance(self.x, Tensor) else Joined([self.x], rows)
        return Pool(x, self.y[rows])

    def join(self, other: Pool | None) -> Pool:
        """These and others after them."""
        if other is None or not len(other.y):
            return self
        if not len(self.y):
            return other
        y = torch.cat([self.y, other.y])
        if isinstance(self.x, Tensor) and isinstance(other.x, Tensor):
            return Pool(torch.cat([self.x, other.x]), y)
        return Pool(Joined([self.x, other.x], torch.arange(len(y))), y)

    def deal(self, share: float, key: int) -> tuple[Pool, Pool]:
        """Two pools: the rest, and a share (0 to 1) of every class; a class of one example stays with the rest."""
        if share <= 0:
            return self, self.pick(torch.arange(0))
        rest, dealt = stratified(self.y, share, key)
        return self.pick(rest.sort().values), self.pick(dealt.sort().values)

    def few(self, most: int, key: int) -> Pool:
        """At most so many of every class, drawn by a key."""
        order = permutation(key, len(self.y))
        drawn = [order[self.y[order] == label][:most] for label in self.y.unique()]
        return self.pick(torch.cat([order[:0], *drawn]).sort().values)

    def weighed(self, new: Pool) -> Pool:
        """These, to be learned again beside new ones: classes that those lack are repeated to weigh as much.

        Where that is much, the repeats are seen and not made.
        """
        mean = len(new.y) / max(1, len(new.y.unique()))
        rows = []
        for label in self.y.unique():
            own = (self.y == label).nonzero()[:, 0]
            times = 1 if bool((new.y == label).any()) else max(1, round(mean / len(own)))
            rows.append(own.repeat(times))
        weighed = torch.cat([torch.arange(0), *rows])
        much = len(weighed) * prod(self.x.shape[1:]) > SMALL
        return Pool(Joined([self.x], weighed), self.y[weighed]) if much else self.pick(weighed)

    def held(self) -> Pool:
        """The same in memory."""
        return self if isinstance(self.x, Tensor) else Pool(torch.as_tensor(self.x[np.arange(len(self.y))]), self.y)

    def held_if_small(self) -> Pool:
        """The same in memory, if they have at most `SMALL` numbers: then each is read once, and not at every step."""
        shape = self.x.shape
        return self.held() if len(self.y) and prod(shape) <= SMALL else self

    def write(self, blobs: Blobs) -> tuple[str, int]:
        """Stores them; their name, empty for none at all, and bytes."""
        if not len(self.y):
            return "", 0
        saved = save_state(blobs, self.held())
        return saved.name, sum(saved.nbytes.values())


def read_pool(
    blobs: Blobs, name: str, shape: tuple[int, ...], classes: Tensor, count: int | None = None
) -> Pool | None:
    """Stored examples by name; None for the empty name.

    Args:
        shape: of each input.
        classes: (c,) that its label is one of.
        count: how many they are, where that is known.

    Raises:
        Refused: they are damaged, or others.
    """
    if not name:
        return None
    pool = load_state(blobs, name, (Pool,))
    if not (isinstance(pool, Pool) and isinstance(pool.x, Tensor) and isinstance(pool.y, Tensor)):
        raise Refused(f"the stored examples {name} are damaged: they are no inputs and labels")
    x, y = pool
    right = y.dtype == torch.int64 and y.ndim == 1 and count in (None, len(y)) and bool(torch.isin(y, classes).all())
    if not right or x.shape != (len(y), *shape) or x.is_complex():
        raise Refused(
            f"the stored examples {name} are damaged: inputs {tuple(x.shape)} with labels {tuple(y.shape)} are not "
            "those of the task"
        )
    return pool
