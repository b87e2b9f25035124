"""A-GEM, averaged gradient episodic memory: no step may raise the loss on a sample of the memory.

    g     = grad L_t(theta)                            on the batch of the task
    g_ref = grad L_M(theta)                            on a batch drawn from the memories of all past tasks
    g    <- g - min(0, g.g_ref) / (g_ref.g_ref) g_ref

It is the g~ nearest to g with g~.g_ref >= 0. All parameters are one vector: a projection layer by layer would be
another method.

Reference: A. Chaudhry, M. Ranzato, M. Rohrbach, M. Elhoseiny, "Efficient lifelong learning with A-GEM", 2019,
    arXiv 1812.00420.
Deviations: reference batches are dealt from the shuffled memory: each is a uniform draw without replacement, but
    neighbours share no exemplar. Normalisation statistics see the reference batches too. The gradient is projected
    whatever the optimiser makes of it; the paper's is plain sgd. Where only the task's own logits compete (GG), those
    of an exemplar compete within the task it came from.
Memory: task, `per_class` exemplars of each of its classes as they are stored, beside the network; those of a task that
    is learned again are drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Batch, Examples, Method, Refused, Scale, Scenario, Task, TaskId, Trace
from perdure.data import Concat, View
from perdure.model import Model, answer, grow, index_of, start
from perdure.ops.memory import Memory, filed, keep
from perdure.ops.rivals import Sets, rivals
from perdure.rng import fold, permutation
from perdure.train import BLOCK, Descent, competing, minimise


class AGEMState(NamedTuple):
    """A network and what it remembers of every task."""

    model: Model
    memory: tuple[Memory, ...]  # one a task
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    which: tuple[int, ...]  # the set of each task
    tasks: tuple[int, ...]  # the index of each


def project(g: Tensor, g_ref: Tensor, out: Tensor | None = None) -> Tensor:
    """(P,) the nearest to g (P,) whose product with g_ref (P,) is not negative: g itself where its own is not.

    Waits for no device: where g_ref is zero, so is what is subtracted. `out` (P,) may be g.
    """
    least = torch.finfo(g.dtype).tiny
    share = torch.dot(g, g_ref).clamp(max=0.0) / torch.dot(g_ref, g_ref).clamp(min=least)
    return torch.addcmul(g, g_ref, share, value=-1.0, out=out)


def exemplars(labels: Tensor, per_class: int, key: int) -> Tensor:
    """(m,) sorted rows of labels (N,): `per_class` of every class, drawn without replacement, or all it has."""
    order = permutation(key, len(labels)).to(labels.device)
    rows = order[labels[order].argsort(stable=True)]  # class by class, each in the order of the draw
    shown = labels[rows]
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(shown, shown)
    return rows[rank < per_class].sort().values


def references(pool: Examples, slots: int, size: int, key: int) -> Iterator[Batch]:
    """Batches for ever of `size` from the first `slots` examples, without replacement; of all where there are no more.

    The slots are shuffled and dealt out batch by batch; where too few are left they are shuffled anew. So every batch
    is a uniform draw, at a cost that does not grow with the memory.
    """
    home = pool.labels.device
    if slots <= size:
        yield from repeat(pool.take(torch.arange(slots, device=home)))
    block = size * max(1, BLOCK // (size * pool.raw(torch.zeros(1, dtype=torch.int64, device=home)).numel()))
    for deal in count():
        dealt = permutation(fold(key, deal), slots)[: slots // size * size]
        for rows in dealt.to(home).split(block):
            yield from map(Batch, *(part.split(size) for part in pool.take(rows)))


@dataclass(frozen=True, eq=False)
class AGEM(Method):
    """Averaged gradient episodic memory.

    Args:
        per_class: exemplars of each class that a task leaves in memory; with 0 nothing is remembered.
        reference: exemplars in a reference batch; all of a memory that holds fewer.
    """

    per_class: int = 25
    reference: int = 256

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # a memory is filled where a task ends
    memory: ClassVar = "task"
    rehearses: ClassVar = True
    states: ClassVar = (AGEMState, Model, Memory, Scale)
    off: ClassVar = {"per_class": 0}

    def __post_init__(self) -> None:
        if self.per_class < 0:
            raise Refused(f"method.per_class is {self.per_class}; it must not be negative (0 remembers nothing)")
        if self.reference < 1:
            raise Refused(f"method.reference is {self.reference}; it must be at least 1")

    def init(self, key: int, background: Examples | None = None) -> AGEMState:
        return AGEMState(start(self.net, self.fit, key), (), (), (), ())

    def learn(self, state: AGEMState, task: Task, key: int) -> tuple[AGEMState, Trace]:
        if not self.per_class:
            model, trace = minimise(self.net, grow(self.net, self.fit, state.model, task), self.fit, task, key)
            return state._replace(model=model), trace
        rows = exemplars(task.examples.labels, self.per_class, fold(key, "memory"))
        index, memory = index_of(task, state.tasks), keep(View(task.examples, rows), state.model.labels.device)
        after = AGEMState(
            grow(self.net, self.fit, state.model, task), *filed(state[1:], index, memory, competing(self.fit, task))
        )
        if len(after.tasks) > 1:
            model, trace = self._constrained(after, task, key)
        else:
            model, trace = minimise(self.net, after.model, self.fit, task, key)
        return after._replace(model=model), trace

    def _constrained(self, state: AGEMState, task: Task, key: int) -> tuple[Model, Trace]:
        """Learns the last task that the state knows of under the constraint of all before it."""
        classes, bias = rivals(state.model.labels, state.sets)
        descent = Descent(self.net, state.model, self.fit, key, classes)
        pool = Concat([memory.examples for memory in state.memory]).materialise(descent.device)
        pool = View(pool, labels=descent.targets(pool.labels))
        sizes = torch.tensor([memory.seen for memory in state.memory])
        which = torch.tensor(state.which).repeat_interleave(sizes).to(descent.device)  # the set of each exemplar
        g_ref = torch.zeros_like(descent.flat)

        def loss(batch: Batch, sets: Tensor | int) -> Tensor:
            logits = descent(batch.x)
            return F.cross_entropy(logits if bias is None else logits + bias[sets], batch.y)

        past = references(pool, int(sizes[:-1].sum()), self.reference, fold(key, "reference"))
        for batch, old in zip(descent.batches(task.examples), past, strict=False):
            g = descent.grad(loss(batch, state.which[-1]))
            descent.grad(loss(old, which[old.rows]), onto=g_ref.zero_())
            descent.step(project(g, g_ref, out=g))
        return descent.model, descent.trace

    def predict(self, ready: AGEMState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
