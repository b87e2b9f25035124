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

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, get_args

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scale, Task, TaskId, Trace, unknown
from perdure.model import Model, answer, grow, start
from perdure.ops.memory import Keep, Memory, Replay, Sets, allocate, enlist, rehearse, rivals
from perdure.train import Descent, competing, minimise


class ERState(NamedTuple):
    """A network and its memory."""

    model: Model
    memory: Memory | None  # none before the first task, which gives the inputs their shape
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    which: Tensor  # (M,) int32, the set of each exemplar
    counts: tuple[int, ...] = ()  # how many examples the label of each row of the head has shown, where balanced


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
    states: ClassVar = (ERState, Model, Memory, Scale)
    off: ClassVar = {"slots": 0}

    def __post_init__(self) -> None:
        if self.slots < 0:
            raise Refused(f"method.slots is {self.slots}; it must not be negative (0 replays nothing)")
        if self.keep not in get_args(Keep):
            raise unknown("method.keep", self.keep, get_args(Keep))

    def init(self, key: int, background: Examples | None = None) -> ERState:
        return ERState(start(self.net, self.fit, key), None, (), torch.zeros(self.slots, dtype=torch.int32))

    def learn(self, state: ERState, task: Task, key: int) -> tuple[ERState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not self.slots:
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        sets, own = enlist(state.sets, competing(self.fit, task))
        classes, bias = rivals(model.labels, sets)
        descent = Descent(self.net, model, self.fit, key, classes)
        examples = task.examples.materialise(descent.device)
        memory = state.memory or allocate(self.slots, examples)
        replay = Replay(memory, examples, descent, key, self.keep, state.counts)
        which = torch.cat([state.which, state.which.new_full((len(examples),), own)])  # of the memory, then of the task
        rehearse(descent, examples, replay, own, which, bias)
        return ERState(descent.model, replay.memory, sets, which[replay.rows], replay.counts), descent.trace

    def predict(self, ready: ERState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
