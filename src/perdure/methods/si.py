"""SI, synaptic intelligence: each weight is held the harder, the more it lowered the loss of old tasks on its way.

    loss   = L_t(theta) + c sum Omega (theta - theta_{t-1})^2
    omega <- omega - g Delta                                               at each step
    Omega <- max(0, Omega + omega / ((theta_t - theta_{t-1})^2 + xi))      after each task, from omega = 0

g is the gradient of L_t alone, and Delta what the optimiser in fact moved, decay and momentum included: the sum of
omega over the weights is about the loss that the task lost. It is gathered while learning, without another pass.

Reference: F. Zenke, B. Poole, S. Ganguli, "Continual learning through synaptic intelligence", 2017, arXiv 1703.04200.
Deviations: none. As in the authors' code, 0 bounds the sum over tasks, not each task's share of it.
Memory: constant, twice the network: a task starts at its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.train import Descent, competing, minimise


class SIState(NamedTuple):
    """What is known after some tasks; Omega is empty before the first."""

    model: Model
    importance: dict[str, Tensor]  # Omega, by parameter name


@dataclass(frozen=True, eq=False)
class SI(Method):
    """Synaptic intelligence.

    Args:
        c: strength of the penalty on old tasks. With sgd, lr * c * Omega above 1 diverges.
        xi: damping, in squared distance: bounds the importance of weights that hardly moved.
    """

    c: float = 1.0
    xi: float = 0.1

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (SIState, Model)
    off: ClassVar = {"c": 0.0}
    fails: ClassVar = {Scenario.GNU: "20.0 % on split MNIST, as finetune has (perdure reproduce vdv-split)"}

    def __post_init__(self) -> None:
        check_finite("c", self.c)
        if not 0 < self.xi < inf:
            raise Refused(f"method.xi is {self.xi}; a damping is finite and positive")

    def init(self, key: int, background: Examples | None = None) -> SIState:
        return SIState(start(self.net, self.fit, key), {})

    def learn(self, state: SIState, task: Task, key: int) -> tuple[SIState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not self.c:
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        descent = Descent(self.net, model, self.fit, key, competing(self.fit, task))
        theta, layout, anchor = descent.flat, descent.layout, descent.flat.clone()
        Omega = layout.flat(state.importance) if state.importance else torch.zeros_like(theta)
        strength, omega, parts = 2 * self.c * Omega, torch.zeros_like(theta), descent.parts
        away, spare = torch.zeros_like(theta), torch.empty_like(theta)  # theta - anchor
        for batch in descent.batches(task.examples):
            g = descent.gradients(cross_entropy(descent(batch.x), batch.y))  # not copied, but layer by layer
            for part, *pull, total in zip(g, parts(strength), parts(away), parts(spare), strict=True):
                torch.addcmul(part, *pull, out=total)
            descent.step(spare)
            further = torch.sub(theta, anchor, out=spare)
            torch._foreach_addcmul_(parts(omega), g, parts(away.sub_(further)))  # -Delta
            away, spare = further, away
            del g  # the next gradient is written where this one was
        Omega.add_(omega.div_(away.square_().add_(self.xi))).clamp_min_(0)
        return SIState(descent.model, layout.named(Omega)), descent.trace

    def predict(self, ready: SIState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
