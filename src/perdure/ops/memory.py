"""Memories: exemplars kept in a state as they were stored, and how a loop fills and replays them.

Reference: J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 1985 (algorithm R); A. Chaudhry et al., "On tiny
    episodic memories in continual learning", 2019, arXiv 1902.10486 (rings); A. Chrysakis, M.-F. Moens, "Online
    continual learning from imbalanced data", ICML 2020 (class-balancing reservoir).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import count
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import Batch, Examples, Scale
from perdure.data import BLOCK as ROWS
from perdure.data import Arrays, Concat, View
from perdure.rng import fold, integers, uniform
from perdure.train import BLOCK, Descent, length

Sets = tuple[tuple[int, ...], ...]  # sets of labels
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
    x = torch.cat([examples.raw(block).to(where) for block in rows.split(ROWS)])
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


class Replay:
    """Exemplars beside the batches of a task, while the memory takes up that task.

    What a slot holds at any step follows from draws and labels alone, so nothing is written while the loop runs:
    exemplars are looked up in a pool, the memory before the task and then the task itself, and gathered for many steps
    at once.

    Args:
        memory: M exemplars so far; never changed.
        examples: the task; its first pass is offered to the memory.
        descent: brings the task in its order, and gives targets for labels.
        key: of all draws.
        keep: what a full memory gives up for an example: any exemplar, the oldest of a class, one of a large class. By
            rings the memory is in order of arrival, which says what is oldest.
        counts: how many examples the label of each row of the head has shown, where `keep` is balanced.

    Attributes:
        pool: M + N examples.

    Raises:
        Refused: the task is empty, or stored at another scale than the memory.
    """

    def __init__(
        self,
        memory: Memory,
        examples: Examples,
        descent: Descent,
        key: int,
        keep: Keep = "reservoir",
        counts: Sequence[int] = (),
    ) -> None:
        self.slots, self.seen, self.n, self.offered = len(memory.labels), memory.seen, len(examples), 0
        self.device, self.home, self.key = descent.device, examples.labels.device, key
        self.size, _ = length(descent.fit, self.n)
        self.block = self.size * max(1, BLOCK // (self.size * max(1, memory.x[0].numel())))
        old = Arrays(memory.x.to(self.home), memory.labels.to(self.home), memory.scale)
        self.pool = Concat([old, examples])
        filled, new = descent.targets(memory.examples.labels), descent.targets(examples.labels)
        self.targets = torch.cat([filled, new.new_zeros(self.slots - len(filled)), new])
        self.arrived = descent.order(self.n, epoch=0)
        place = self._plan(memory, examples, descent.labels.tolist(), keep, counts)
        writes = (place * self.n + torch.arange(self.n))[place >= 0]  # by slot, then by arrival
        self.writes = torch.cat([writes.new_tensor([-1]), writes.sort().values])

    def _plan(self, memory: Memory, examples: Examples, labels: list[int], keep: Keep, counts: Sequence[int]) -> Tensor:
        """(n,) the slot that each example is written to, in order of arrival, or -1; classes are rows of the head."""
        self.keep, self.before, self.arriving, key = keep, list[int](), list[int](), fold(self.key, "reservoir")
        if keep == "reservoir":
            return reservoir(key, self.slots, self.seen, self.n)
        row = {label: place for place, label in enumerate(labels)}
        held = [row[label] for label in memory.examples.labels.tolist()]
        self.arriving = [row[label] for label in examples.labels[self.arrived.to(self.home)].tolist()]
        if keep == "ring":
            return torch.tensor(ring(self.slots, held, self.arriving))
        self.before = [*counts, *[0] * (len(labels) - len(counts))]
        return torch.tensor(balanced(key, self.slots, held, self.arriving, self.before, self.seen))

    def held(self, slots: Tensor, before: Tensor | int) -> Tensor:
        """(n,) where in the pool is what slots (n,) hold, when so many examples of the task were offered."""
        last = self.writes[torch.searchsorted(self.writes, slots * self.n + before) - 1]
        return torch.where(last // self.n == slots, self.slots + self.arrived[last % self.n], slots)

    def batches(self, draw: str = "replay") -> Iterator[Batch]:
        """A batch beside each of the task's, for ever: as many exemplars, drawn alike and with replacement.

        x (B, ...) scaled, y (B,) targets, rows (B,) of the pool; none of them while the memory is empty. Draws of
        another name are independent.
        """
        key, size = fold(self.key, draw), self.size
        for epoch in count():
            for places in torch.arange(self.n).split(self.block):
                before = places // size * size if epoch == 0 else torch.full_like(places, self.n)
                full = (self.seen + before).clamp_(max=self.slots)
                slots = integers(key, full, len(places), start=epoch * self.n + int(places[0]))
                rows = self.held(slots, before)
                x, y = self.pool.take(rows.to(self.home)).x.to(self.device), self.targets[rows]
                parts = (part.split(size) for part in (x, y, rows))
                for start, *batch in zip(before[::size].tolist(), *parts, strict=True):
                    self.offered = min(start + size, self.n)
                    yield Batch(*batch) if self.seen + start else Batch(*(part[:0] for part in batch))

    @property
    def rows(self) -> Tensor:
        """(M,) where in the pool is what the memory holds after the batches so far."""
        rows = self.held(torch.arange(self.slots), self.offered)
        if self.keep != "ring":
            return rows
        fill = min(self.seen + self.offered, self.slots)
        time = torch.cat([torch.arange(self.slots), self.slots + self.arrived.argsort()])[
            rows
        ]  # of the pool, as it came
        time[fill:] = len(self.arrived) + self.slots  # free slots stay behind
        return rows[time.argsort(stable=True)]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many examples the label of each row has shown after the batches so far; none unless balanced."""
        total = list(self.before)
        for y in self.arriving[: self.offered] if total else ():
            total[y] += 1
        return tuple(total)

    @property
    def memory(self) -> Memory:
        """The memory after the batches so far, as it was stored."""
        return keep(View(self.pool, self.rows.to(self.home)), self.device)._replace(seen=self.seen + self.offered)


def beside(descent: Descent, batch: Batch, old: Batch, own: int, which: Tensor, bias: Tensor | None) -> Tensor:
    """The mean cross-entropy of a batch together with exemplars, by one forward pass.

    Args:
        own: the set of labels that examples of the task compete within.
        which: (M + N,) the set of everything in the pool.
        bias: (sets, n) what is added to the logits of an example of each set, as `rivals` has it; None for nothing.
    """
    logits = descent(torch.cat([batch.x, old.x]))
    if bias is not None:
        logits = logits + bias[torch.cat([torch.full_like(batch.y, own), which[old.rows]])]
    return cross_entropy(logits, torch.cat([batch.y, old.y]))


def rehearse(
    descent: Descent,
    examples: Examples,
    replay: Replay,
    own: int,
    which: Tensor,
    bias: Tensor | None,
    pull: Callable[[list[Tensor]], None] | None = None,
) -> None:
    """Fits a descent to a task, every batch together with as many exemplars, under a pull where there is one.

    Args:
        own, which, bias: as `beside` has them.
    """
    for batch, old in zip(descent.batches(examples), replay.batches(), strict=False):
        descent.follow(beside(descent, batch, old, own, which, bias), pull)


def enlist(sets: Sets, classes: Tensor | None) -> tuple[Sets, int]:
    """The sets of labels that compete among themselves, with that of one more task, and its place among them.

    `classes` is None where all labels compete: then there are no sets.
    """
    if classes is None:
        return sets, 0
    names = tuple(classes.tolist())
    sets = sets if names in sets else (*sets, names)
    return sets, sets.index(names)


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


def rivals(labels: Tensor, sets: Sets) -> tuple[Tensor | None, Tensor | None]:
    """How examples of several tasks are learned together, when each competes within its own set of labels.

    Returns:
        What `Descent` takes as `classes`: (n,) the only set there is, or None.
        What to add to the logits of an example of each set, (len(sets), n): 0 for its own labels and -inf for the
        rest; None where there are fewer than two sets.
    """
    own = [torch.tensor(names, device=labels.device) for names in sets]
    if len(own) < 2:
        return next(iter(own), None), None
    competes = torch.stack([torch.isin(labels, names) for names in own])
    return None, torch.zeros(competes.shape, device=labels.device).masked_fill_(~competes, -torch.inf)
