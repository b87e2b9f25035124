"""EWC, elastic weight consolidation: each weight is held the harder, the more the old tasks need it.

    loss = L_t(theta) + sum_k lam/2 F_k (theta - theta_k)^2              k: the tasks before t

F_k is the diagonal Fisher of task k at theta_k, where its learning ended. The sum over k is one quadratic (and a
constant), which is all that is kept:

    A = sum_k F_k     C = sum_k F_k theta_k / A          its gradient: lam A (theta - C)
    A <- A + F        C <- C + F / A (theta - C)         after each task

Reference: J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv 1612.00796.
Deviations: none. The paper allows one merged penalty; C is kept as a running mean, which stays exact over many tasks.
Memory: constant, three times the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.ops.anchor import Pull, descend
from perdure.ops.fisher import Kind, check_fisher, diagonal
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
    fails: ClassVar = {Scenario.GNU: "19.7 % on split MNIST, where finetune has 20.0 % (perdure reproduce vdv-split)"}

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        check_fisher(self.fisher, self.fisher_examples)

    def init(self, key: int, background: Examples | None = None) -> EWCState:
        return EWCState(start(self.net, self.fit, key), {}, {})

    def learn(self, state: EWCState, task: Task, key: int) -> tuple[EWCState, Trace]:
        classes = competing(self.fit, task)
        descent = Descent(self.net, grow(self.net, self.fit, state.model, task), self.fit, key, classes)
        theta, layout = descent.flat, descent.layout
        examples = task.examples.materialise(descent.device)
        held = bool(self.lam and state.precision)
        A = layout.flat(state.precision) if held else torch.zeros_like(theta)
        C = layout.flat(state.anchor) if held else torch.zeros_like(theta)
        descend(descent, examples, Pull(descent, self.lam * A, C) if held else None)
        model, trace = descent.model, descent.trace
        if not self.lam:
            return state._replace(model=model), trace
        F = layout.flat(
            diagonal(self.net, model, examples, self.fisher, fold(key, "fisher"), classes, self.fisher_examples)
        )
        A += F
        C += F / A.clamp_min(torch.finfo(A.dtype).tiny) * (theta - C)  # where A is 0, C does not matter
        return EWCState(model, layout.named(A), layout.named(C)), trace

    def predict(self, ready: EWCState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
