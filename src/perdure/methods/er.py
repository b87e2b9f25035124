"""ER, experience replay: learn every batch together with as many exemplars from a small memory.

    L    = mean over [B_t ; B_M] of CE(f(x), y),    B_M ~ M, |B_M| = |B_t|
    M_r <- x_n,    r ~ U{0..n-1}, if r < slots      the n-th example ever, after its step (reservoir)

By rings a class gives up its own oldest exemplar, in an equal share of the memory; a balanced reservoir keeps all of a
rare class and a draw from each of the others.

Reference: A. Chaudhry, M. Rohrbach, M. Elhoseiny, T. Ajanthan, P. K. Dokania, P. H. S. Torr, M. Ranzato, "On tiny
    episodic memories in continual learning", 2019, arXiv 1902.10486; A. Chrysakis, M.-F. Moens, "Online continual
    learning from imbalanced data", ICML 2020 (balanced).
Deviations: exemplars are drawn with replacement. Where a task is learned in more than one pass, only the first offers
    its examples to the memory, so that all have the same chance. Where only the task's own logits compete (GG), those
    of an exemplar compete within the task it came from. Rings share the memory by the classes so far, as how many will
    come is not known, and slots that a class does not need yet are lent to others.
Memory: constant, the network and `slots` exemplars as they are stored, allocated when the first task is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, get_args

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scale, Task, TaskId, Trace, unknown
from perdure.model import Model, answer, grow, start
from perdure.ops.memory import Keep, Memory
from perdure.ops.rehearsal import Exemplars, Rehearsal, check_slots, without


class ERState(NamedTuple):
    """A network and its memory."""

    model: Model
    exemplars: Exemplars


@dataclass(frozen=True, eq=False)
class ER(Method):
    """Experience replay from a small memory.

    Args:
        slots: exemplars in memory; with 0 nothing is replayed.
        keep: what a full memory gives up for an example: any exemplar (reservoir), the oldest one of a class (ring), or
            one of a class that has most (balanced).
    """

    slots: int = 1000
    keep: Keep = "reservoir"

    rehearses: ClassVar = True
    states: ClassVar = (ERState, Model, Exemplars, Memory, Scale)
    off: ClassVar = {"slots": 0}

    def __post_init__(self) -> None:
        check_slots(self.slots)
        if self.keep not in get_args(Keep):
            raise unknown("method.keep", self.keep, get_args(Keep))

    def vet(self, tasks: Sequence[Task]) -> None:
        if self.keep == "reservoir" or not self.slots:
            return
        classes = len(torch.cat([task.examples.labels.cpu().unique() for task in tasks]).unique())
        if self.slots < classes:
            raise Refused(
                f"method.slots is {self.slots}, and there are {classes} classes, each of which has a share of a "
                f"{self.keep} memory; raise it to at least {classes}, or use method.keep reservoir"
            )

    def init(self, key: int, background: Examples | None = None) -> ERState:
        return ERState(start(self.net, self.fit, key), without(self.slots))

    def learn(self, state: ERState, task: Task, key: int) -> tuple[ERState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        rehearsal = Rehearsal(self.net, model, self.fit, task, key, state.exemplars, self.keep)
        for batch, *old in rehearsal.batches():
            rehearsal.descent.follow(rehearsal.loss(batch, *old))
        return ERState(rehearsal.descent.model, rehearsal.exemplars), rehearsal.descent.trace

    def predict(self, ready: ERState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
