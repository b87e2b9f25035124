"""Memories: exemplars kept in a state as they were stored, and which example takes the place of which.

Reference: J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 1985 (algorithm R); A. Chaudhry et al., "On tiny
    episodic memories in continual learning", 2019, arXiv 1902.10486 (rings); A. Chrysakis, M.-F. Moens, "Online
    continual learning from imbalanced data", ICML 2020 (class-balancing reservoir).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence, Sized
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Examples, Scale
from perdure.data import BLOCK, Arrays
from perdure.ops.rivals import Sets, enlist
from perdure.rng import integers, uniform

Keep = Literal["reservoir", "ring", "balanced"]  # what a full memory gives up for an example


class Memory(NamedTuple):
    """M exemplars; the first min(seen, M) slots are filled."""

    x: Tensor  # (M, ...) as stored: uint8 stays uint8
    labels: Tensor  # (M,) int64
    scale: Scale  # how stored values become network inputs
    seen: int  # examples offered so far

    @property
    def examples(self) -> Examples:
        """The exemplars as a set of examples."""
        fill = min(self.seen, len(self.labels))
        return Arrays(self.x[:fill], self.labels[:fill], self.scale)


Episodes = tuple[tuple[Memory, ...], Sets, tuple[int, ...], tuple[int, ...]]  # by task: exemplars, sets, which, index


def keep(examples: Examples, where: torch.device) -> Memory:
    """A memory of every example of a set, on a device."""
    rows = torch.arange(len(examples), device=examples.labels.device)
    x = torch.cat([examples.raw(block).to(where) for block in rows.split(BLOCK)])
    return Memory(x, examples.labels.to(where, copy=True), examples.scale, len(examples))


def allocate(slots: int, examples: Examples) -> Memory:
    """A memory of M free slots for inputs like those of a set: all of its bytes, from the start."""
    like = examples.raw(torch.arange(min(1, len(examples)), device=examples.labels.device))
    return Memory(like.new_zeros(slots, *like.shape[1:]), examples.labels.new_zeros(slots), examples.scale, 0)


def reservoir(key: int, slots: int, seen: int, n: int) -> Tensor:
    """(n,) the slot that each of n arriving examples is written to, or -1 where it is passed over.

    The i-th example ever (from 0) takes slot i while there are free ones, then slot r ~ U{0..i} if r < M: after any
    number of examples each of them is in memory with the same probability. The draws are counted by `seen`, so they
    are the same however the examples arrive in batches.
    """
    arrived = torch.arange(seen, seen + n)
    drawn = integers(key, arrived + 1, n, start=seen)
    place = torch.where(arrived < slots, arrived, drawn)
    return torch.where(place < slots, place, -1)


def _largest(homes: Sequence[Sized]) -> tuple[int, list[int]]:
    """How many slots the classes have that have most, and which they are. Once a memory is full, no class gets more."""
    most = max(map(len, homes))
    return most, [y for y, home in enumerate(homes) if len(home) == most]


def ring(slots: int, held: Sequence[int], arriving: Sequence[int]) -> list[int]:
    """The slot that each of n arriving examples is written to, where each class keeps its newest.

    Free slots are taken first. Then a class takes over the oldest exemplar of the one that has most, the first of
    those, until that would no longer make their shares more even; then its own oldest. So every class has
    floor(M / C) exemplars, or all it has shown. Of more classes than slots the first keep theirs, and -1 is for others.

    Args:
        held: the class of each exemplar, the oldest first.
        arriving: the class of each example.
    """
    rings: list[deque[int]] = [deque() for _ in range(1 + max((*held, *arriving), default=-1))]
    for slot, y in enumerate(held):
        rings[y].append(slot)
    free, most, largest, place = len(held), 0, list[int](), list[int]()
    for y in arriving:
        own = rings[y]
        if free == slots and not largest:
            most, largest = _largest(rings)
        if free < slots:
            slot, free = free, free + 1
        elif len(own) + 1 < most:
            slot = rings[largest.pop(0)].popleft()
        else:
            slot = own.popleft() if own else -1
        if slot >= 0:
            own.append(slot)
        place.append(slot)
    return place


def balanced(
    key: int, slots: int, held: Sequence[int], arriving: Sequence[int], counts: Sequence[int], seen: int
) -> list[int]:
    """The slot that each of n arriving examples is written to, or -1: all of a rare class, a draw from a frequent one.

    Free slots are taken first. Then an example takes over any exemplar of a class that has most, unless its own class
    is full: it has most, or did once. Of a full class that has shown k examples the last takes over an exemplar of its
    own with probability m / k, for m exemplars, so that each of the k is in memory with the same probability. A class
    that once had most and has not now gave up an exemplar, and so has fewer than it showed: that tells which are full.
    The draws are counted by `seen`, so they are the same however the examples arrive in batches.

    Args:
        held: the class of the exemplar in each slot that is filled.
        arriving: the class of each example.
        counts: (C,) how many examples each class had shown before.
    """
    shown = list(counts)
    homes: list[list[int]] = [[] for _ in shown]  # the slots of each class, in order
    for slot, y in enumerate(held):
        homes[y].append(slot)
    free, most, largest, place = len(held), 0, list[int](), list[int]()
    for y, u in zip(arriving, uniform(key, len(arriving), start=seen).tolist(), strict=True):
        own = homes[y]
        if free == slots and not largest:
            most, largest = _largest(homes)
        if free < slots:
            slot, free = free, free + 1
            own.append(slot)
        elif shown[y] > len(own) or len(own) == most:
            drawn = int(u * (shown[y] + 1))
            slot = own[drawn] if drawn < len(own) else -1
        else:
            which, drawn = divmod(int(u * most * len(largest)), most)
            slot = homes[largest.pop(which)].pop(drawn)
            insort(own, slot)
            if len(own) == most:
                insort(largest, y)
        shown[y] += 1
        place.append(slot)
    return place


def filed(episodes: Episodes, index: int, memory: Memory, classes: Tensor | None) -> Episodes:
    """What is kept of every task, with one more at the end: what was kept of the same index before is replaced.

    Args:
        classes: (n,) the labels that compete while it is learned; None for all.
    """
    memories, sets, which, tasks = episodes
    sets, own = enlist(sets, classes)
    others = [place for place, other in enumerate(tasks) if other != index]
    return (
        (*(memories[place] for place in others), memory),
        sets,
        (*(which[place] for place in others), own),
        (*(tasks[place] for place in others), index),
    )
