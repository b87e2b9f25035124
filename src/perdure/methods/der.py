"""DER, dark experience replay: exemplars are replayed with what the network answered when it saw them.

    L    = mean over B_t of CE(f(x), y)
         + alpha mean over B' of |f(x') - z'|^2 / C    B' ~ M
         + beta  mean over B'' of CE(f(x''), y'')      B'' ~ M, another draw; beta > 0 is DER++
    M_r <- x_n, y_n, z_n = f(x_n) before its step,     r ~ U{0..n-1}, if r < slots (reservoir)

Reference: P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara, "Dark experience for general continual
    learning: a strong, simple baseline", 2020, arXiv 2004.07211.
Deviations: exemplars are drawn with replacement, and all three batches share one forward pass, so that normalisation
    statistics see them together. Where a task is learned in more than one pass, only the first offers its examples to
    the memory, so that all have the same chance, and each of the others renews their logits. A label that an exemplar
    was too early for counts with the logit 0, which is what a new row of the head answers. Where only the task's own
    logits compete (GG), those of an exemplar compete, and are compared, within the task it came from.
Memory: constant, the network and `slots` exemplars as they are stored, allocated when the first task is learned, with
    a logit each for every row of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scale, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.ops.memory import Memory
from perdure.ops.rehearsal import Exemplars, Rehearsal, check_slots, without
from perdure.train import minimise


class DERState(NamedTuple):
    """A network, its memory, and what it answered."""

    model: Model
    exemplars: Exemplars
    z: Tensor  # (M, C) the logits of each exemplar when it was seen


@dataclass(frozen=True, eq=False)
class DER(Method):
    """Dark experience replay; with a positive beta, DER++.

    Args:
        alpha: strength of the old logits.
        beta: strength of the old labels.
        slots: exemplars in memory; with 0 nothing is replayed.
    """

    alpha: float = 0.5
    beta: float = 0.0
    slots: int = 1000

    rehearses: ClassVar = True
    states: ClassVar = (DERState, Model, Exemplars, Memory, Scale)
    off: ClassVar = {"alpha": 0.0, "beta": 0.0}

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            check_finite(name, getattr(self, name))
        check_slots(self.slots)

    def init(self, key: int, background: Examples | None = None) -> DERState:
        return DERState(start(self.net, self.fit, key), without(self.slots), torch.zeros(self.slots, 0))

    def learn(self, state: DERState, task: Task, key: int) -> tuple[DERState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not self.slots or not (self.alpha or self.beta):
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        rehearsal = Rehearsal(self.net, model, self.fit, task, key, state.exemplars)
        descent, which, bias = rehearsal.descent, rehearsal.which, rehearsal.bias
        z = F.pad(state.z, (0, len(model.labels) - state.z.shape[1], 0, len(task.examples)))  # of the pool
        columns = torch.arange(len(model.labels), device=z.device) if descent.rows is None else descent.rows

        def entropy(logits: Tensor, y: Tensor, sets: Tensor | int) -> Tensor:
            return F.cross_entropy(logits if bias is None else logits + bias[sets], y)

        def distance(logits: Tensor, rows: Tensor) -> Tensor:
            then = z[rows[:, None], columns]
            if bias is None:
                return F.mse_loss(logits, then)
            among = bias[which[rows]] == 0
            return ((logits - then).square() * among / among.sum(1, keepdim=True)).sum() / len(rows)

        draws = [name for name, strength in (("logits", self.alpha), ("replay", self.beta)) if strength]
        for batch, *old in rehearsal.batches(*draws):
            new, *again = descent(torch.cat([part.x for part in (batch, *old)])).split(len(batch.y))
            loss = entropy(new, batch.y, rehearsal.own)
            for name, part, logits in zip(draws, old, again, strict=False):  # none while the memory is empty
                if name == "logits":
                    loss = loss + self.alpha * distance(logits, part.rows)
                else:
                    loss = loss + self.beta * entropy(logits, part.y, which[part.rows])
            z[self.slots + batch.rows[:, None], columns] = new.detach().to(z)
            descent.follow(loss)
        return DERState(descent.model, rehearsal.exemplars, z[rehearsal.rows]), descent.trace

    def predict(self, ready: DERState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
