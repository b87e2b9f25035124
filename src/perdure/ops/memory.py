"""Memories: exemplars kept in a state as they were stored, and the reservoir that a loop fills and replays.

Reference: J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 1985 (algorithm R).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import torch
from torch import Tensor

from perdure.contract import Batch, Examples, Refused, Scale
from perdure.data import BLOCK, Arrays
from perdure.rng import fold, integers, uniform
from perdure.train import Descent

Sets = tuple[tuple[int, ...], ...]

DRAWS = 1 << 14  # random numbers drawn at once: a hash a step would cost more than the step's own gather


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
    x = torch.cat([examples.raw(block).to(where) for block in rows.split(BLOCK)])
    return Memory(x, examples.labels.to(where, copy=True), examples.scale, len(examples))


def allocate(slots: int, examples: Examples) -> Memory:
    """A memory of M free slots for inputs like those of a set: all of its bytes, from the start."""
    like = _first(examples)
    return Memory(like.new_zeros(slots, *like.shape[1:]), examples.labels.new_zeros(slots), examples.scale, 0)


def _first(examples: Examples) -> Tensor:
    return examples.raw(torch.arange(min(1, len(examples)), device=examples.labels.device))


def _form(x: Tensor, scale: Scale) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} inputs of shape {tuple(x.shape[1:])} at {scale}"


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
    """A memory at work: a float copy in place, which a loop draws from and writes to.

    Args:
        memory: exemplars so far; never changed.
        examples: the task that arrives; its first pass is offered to the reservoir.
        descent: gives targets for labels, and the device.
        key: of all draws.

    Attributes:
        rows: (M,) which example of the task a slot holds, -1 for an older exemplar.

    Raises:
        Refused: the task's inputs are stored in another way than the memory's.
    """

    def __init__(self, memory: Memory, examples: Examples, descent: Descent, key: int) -> None:
        was, now = _form(memory.x, memory.scale), _form(_first(examples), examples.scale)
        if was != now:
            raise Refused(f"the memory holds {was}, but the task brings {now}; store the inputs of all tasks alike")
        self.old, self.examples, self.device = memory, examples, descent.device
        self.slots, self.seen = len(memory.labels), memory.seen
        self.x = memory.scale(memory.x.to(self.device, copy=True))
        self.y = descent.targets(memory.examples.labels)
        self.y = torch.cat([self.y, self.y.new_zeros(self.slots - len(self.y))])
        self.rows = torch.full_like(self.y, -1)
        self._plan(reservoir(fold(key, "reservoir"), self.slots, self.seen, len(examples)))
        self._key, self._drawn, self._table = fold(key, "replay"), 0, torch.zeros(0)

    def _plan(self, place: Tensor) -> None:
        """All writes of the task: when, into which slot, and when that slot is next written to."""
        at = (place >= 0).nonzero().squeeze(1)
        slot = place[at]
        order = slot.argsort(stable=True)
        again = slot[order[1:]] == slot[order[:-1]]
        until = torch.full_like(at, len(place))
        until[order[:-1][again]] = at[order[1:][again]]
        self._when = at.tolist()
        self._at, self._slot, self._until = (column.to(self.device) for column in (at, slot, until))

    def draw(self, n: int) -> Batch:
        """Exemplars drawn alike and with replacement: x (n, ...) scaled, y (n,) targets, rows (n,) slots.

        None of them while the memory is empty.
        """
        if self._drawn + n > len(self._table):
            self._key, self._drawn = fold(self._key, "more"), 0
            self._table = uniform(self._key, max(DRAWS, n)).to(self.device)
        slots = (self._table[self._drawn : self._drawn + n] * min(self.seen, self.slots)).long()
        self._drawn += n
        if not self.seen:
            slots = slots[:0]
        return Batch(self.x.index_select(0, slots), self.y.index_select(0, slots), slots)

    def write(self, batch: Batch) -> None:
        """Offers a batch of the task to the reservoir; after the first pass over the task it does nothing."""
        start = self.seen - self.old.seen
        end = min(start + len(batch.y), len(self.examples))
        self.seen = self.old.seen + end
        first, last = bisect_left(self._when, start), bisect_left(self._when, end)
        if first == last:
            return
        stays = self._until[first:last] >= end  # of two writes into one slot the later stays
        slots, places = self._slot[first:last][stays], self._at[first:last][stays] - start
        for column, values in zip((self.x, self.y, self.rows), batch, strict=True):
            column.index_copy_(0, slots, values.to(self.device).index_select(0, places))

    @property
    def memory(self) -> Memory:
        """The memory as it is now: what is new in it comes from the task as it is stored, without rounding."""
        x, labels = (column.to(self.device, copy=True) for column in self.old[:2])
        for slots in (self.rows >= 0).nonzero().squeeze(1).split(BLOCK):
            rows = self.rows[slots].to(self.examples.labels.device)
            x[slots], labels[slots] = (
                new.to(self.device) for new in (self.examples.raw(rows), self.examples.labels[rows])
            )
        return Memory(x, labels, self.old.scale, self.seen)


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
