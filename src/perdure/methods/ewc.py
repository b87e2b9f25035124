"""EWC, elastic weight consolidation: each weight is held the harder, the more the old tasks need it.

    loss = L_t(theta) + sum_k lam/2 F_k (theta - theta_k)^2              k: the tasks before t

F_k is the diagonal Fisher of task k at theta_k, where its learning ended. The sum over k is one quadratic (and a
constant), which is all that is kept:

    A = sum_k F_k     C = sum_k F_k theta_k / A          its gradient: lam A (theta - C)
    A <- A + F        C <- C + F / A (theta - C)         after each task

Reference: J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv 1612.00796.
Deviations: none. The paper leaves one or several penalties open; a running mean C loses no digits, A theta - B would.
Memory: constant, three times the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace
from perdure.model import Model, answer, grow, start
from perdure.ops.fisher import Kind, diagonal
from perdure.rng import fold
from perdure.train import Descent, competing


class EWCState(NamedTuple):
    """What is known after some tasks; A and C are empty before the first."""

    model: Model
    precision: dict[str, Tensor]  # A, by parameter name
    anchor: dict[str, Tensor]  # C


@dataclass(frozen=True, eq=False)
class EWC(Method):
    """Elastic weight consolidation.

    Args:
        lam: strength of the penalty on old tasks. With sgd, lr * lam * A above 2 diverges.
        fisher: exact, sampled (one label an example), empirical (the true label), or auto: exact where the network
            is made of Linear layers, else sampled on 5,000 examples.
        fisher_examples: at most so many examples a task for the Fisher; all of them when not given.
    """

    lam: float = 100.0
    fisher: Kind = "auto"
    fisher_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # F_k needs to know where a task ends
    states: ClassVar = (EWCState, Model)
    off: ClassVar = {"lam": 0.0}

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise Refused(f"lam is {self.lam}, a negative strength would push away")

    def init(self, key: int, background: Examples | None = None) -> EWCState:
        return EWCState(start(self.net, self.fit, key), {}, {})

    def learn(self, state: EWCState, task: Task, key: int) -> tuple[EWCState, Trace]:
        classes = competing(self.fit, task)
        descent = Descent(self.net, grow(self.net, self.fit, state.model, task), self.fit, key, classes)
        examples, theta = task.examples.materialise(descent.device), descent.flat
        pulled = self.lam > 0 and bool(state.precision)
        a, c = (descent.layout.flat(kept) if pulled else torch.zeros_like(theta) for kept in state[1:])
        strength, away = self.lam * a, torch.empty_like(theta)
        for batch in descent.batches(examples):
            grads = descent.grad(F.cross_entropy(descent(batch.x), batch.y))
            if pulled:
                torch.sub(theta, c, out=away)
                grads.addcmul_(strength, away)
            descent.step(grads)
        model = descent.model
        f = descent.layout.flat(
            diagonal(self.net, model, examples, self.fisher, fold(key, "fisher"), classes, self.fisher_examples)
        )
        a += f
        c += f / a.clamp_min(torch.finfo(a.dtype).tiny) * (theta - c)  # where A is 0, C is of no consequence
        return EWCState(model, descent.layout.named(a), descent.layout.named(c)), descent.trace

    def predict(self, ready: EWCState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
