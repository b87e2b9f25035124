"""Memories: exemplars kept in a state as they were stored, and the reservoir that a loop fills and replays.

Reference: J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 1985 (algorithm R).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from perdure.contract import Batch, Examples, Scale
from perdure.data import BLOCK as ROWS
from perdure.data import Arrays, Concat, View
from perdure.rng import fold, integers
from perdure.train import BLOCK, Descent, length

Sets = tuple[tuple[int, ...], ...]  # sets of labels


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


class Replay:
    """Exemplars beside the batches of a task, while the reservoir takes up that task.

    What a slot holds at any step follows from the draws alone, so nothing is written while the loop runs: exemplars
    are looked up in a pool, the memory before the task and then the task itself, and gathered for many steps at once.

    Args:
        memory: M exemplars so far; never changed.
        examples: the task; its first pass is offered to the reservoir.
        descent: brings the task in its order, and gives targets for labels.
        key: of all draws.

    Attributes:
        pool: M + N examples.

    Raises:
        Refused: the task is empty, or stored at another scale than the memory.
    """

    def __init__(self, memory: Memory, examples: Examples, descent: Descent, key: int) -> None:
        self.slots, self.seen, self.n, self.offered = len(memory.labels), memory.seen, len(examples), 0
        self.device, self.home, self.key = descent.device, examples.labels.device, key
        self.size, _ = length(descent.fit, self.n)
        self.block = self.size * max(1, BLOCK // (self.size * max(1, memory.x[0].numel())))
        old = Arrays(memory.x.to(self.home), memory.labels.to(self.home), memory.scale)
        self.pool = Concat([old, examples])
        filled, new = descent.targets(memory.examples.labels), descent.targets(examples.labels)
        self.targets = torch.cat([filled, new.new_zeros(self.slots - len(filled)), new])
        self.arrived = descent.order(self.n, epoch=0)
        place = reservoir(fold(key, "reservoir"), self.slots, self.seen, self.n)
        writes = (place * self.n + torch.arange(self.n))[place >= 0]  # by slot, then by arrival
        self.writes = torch.cat([writes.new_tensor([-1]), writes.sort().values])

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
        return self.held(torch.arange(self.slots), self.offered)

    @property
    def memory(self) -> Memory:
        """The memory after the batches so far, as it was stored."""
        return keep(View(self.pool, self.rows.to(self.home)), self.device)._replace(seen=self.seen + self.offered)


def enlist(sets: Sets, classes: Tensor | None) -> tuple[Sets, int]:
    """The sets of labels that compete among themselves, with that of one more task, and its place among them.

    `classes` is None where all labels compete: then there are no sets.
    """
    if classes is None:
        return sets, 0
    names = tuple(classes.tolist())
    sets = sets if names in sets else (*sets, names)
    return sets, sets.index(names)


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
