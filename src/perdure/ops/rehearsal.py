"""Rehearsal: a task is learned beside exemplars of older ones, and the memory takes up that task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from perdure.contract import Batch, Examples, Fit, Refused, Task
from perdure.data import Arrays, Concat, View
from perdure.model import Model
from perdure.ops.memory import Keep, Memory, allocate, balanced, keep, reservoir, ring
from perdure.ops.rivals import Sets, enlist, rivals
from perdure.rng import fold, integers
from perdure.train import BLOCK, Descent, competing, length


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
        arrival = torch.cat([torch.arange(self.slots), self.slots + self.arrived.argsort()])  # of the pool
        time = arrival[rows]
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


class Exemplars(NamedTuple):
    """The exemplars of all tasks, and within what each competes."""

    memory: Memory | None  # none before the first task, which gives the inputs their shape, and without slots
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    which: Tensor  # (M,) int32, the set of each exemplar
    counts: tuple[int, ...]  # how many examples the label of each row of the head has shown, where balanced


def without(slots: int) -> Exemplars:
    """So many free slots, before the first task."""
    return Exemplars(None, (), torch.zeros(slots, dtype=torch.int32), ())


def check_slots(slots: int) -> None:
    """Raises Refused where a memory cannot have so many slots."""
    if slots < 0:
        raise Refused(f"method.slots is {slots}; it must not be negative (0 replays nothing)")


class Rehearsal:
    """Gradient descent on a task beside exemplars, which take up that task; without slots, on the task alone.

    Where only the labels of a task compete, an exemplar competes within those of the task it came from.

    Args:
        net, model, fit, key: as `Descent` has them.
        past: the exemplars so far; never changed.
        keep: as `Replay` has it.

    Attributes:
        descent: on the task and on exemplars.
        examples: the task, in memory where it may be.
        replay: the exemplars; None without slots.
        own: the set of labels that the task's examples compete within.
        which: (M + N,) the set of everything in the pool, exemplars and then the task.
        bias: (sets, n) what is added to the logits of an example of each set, as `rivals` has it; None for nothing.
    """

    def __init__(
        self, net: nn.Module, model: Model, fit: Fit, task: Task, key: int, past: Exemplars, keep: Keep = "reservoir"
    ) -> None:
        classes, slots = competing(fit, task), len(past.which)
        self.past, self.sets, self.which, self.own, self.bias = past, past.sets, past.which, 0, None
        if slots:
            self.sets, self.own = enlist(past.sets, classes)
            classes, self.bias = rivals(model.labels, self.sets)
        self.descent = Descent(net, model, fit, key, classes)
        self.examples = task.examples.materialise(self.descent.device)
        self.replay: Replay | None = None
        if slots:
            memory = past.memory or allocate(slots, self.examples)
            self.replay = Replay(memory, self.examples, self.descent, key, keep, past.counts)
            self.which = torch.cat([past.which, past.which.new_full((len(self.examples),), self.own)])

    def batches(self, *draws: str) -> Iterator[tuple[Batch, ...]]:
        """Each batch of the task, with one of exemplars for every draw; draws of different names are independent."""
        olds = [self.replay.batches(draw) for draw in draws or ("replay",)] if self.replay else []
        return zip(self.descent.batches(self.examples), *olds, strict=False)

    def loss(self, batch: Batch, *olds: Batch) -> Tensor:
        """The mean cross-entropy of a batch together with exemplars, by one forward pass."""
        if not olds:
            return cross_entropy(self.descent(batch.x), batch.y)
        logits = self.descent(torch.cat([batch.x, *(old.x for old in olds)]))
        if self.bias is not None:
            own = torch.full_like(batch.y, self.own)
            logits = logits + self.bias[torch.cat([own, *(self.which[old.rows] for old in olds)])]
        return cross_entropy(logits, torch.cat([batch.y, *(old.y for old in olds)]))

    @property
    def rows(self) -> Tensor:
        """(M,) where in the pool is what the memory holds after the batches so far."""
        return torch.arange(0) if self.replay is None else self.replay.rows

    @property
    def exemplars(self) -> Exemplars:
        """The exemplars after the batches so far."""
        if self.replay is None:
            return self.past
        return Exemplars(self.replay.memory, self.sets, self.which[self.rows], self.replay.counts)
