"""Finetune: keep training the same network on whatever comes, and forget.

    theta_t = argmin_theta L_t(theta), started at theta_{t-1}

The lower bound of the field: no method that remembers may do worse.

Reference: M. McCloskey, N. Cohen, "Catastrophic interference in connectionist networks", 1989.
Deviations: none.
Memory: constant, the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from perdure.contract import Answer, Examples, Method, Task, TaskId, Trace
from perdure.model import Model, answer, grow, start
from perdure.train import minimise


@dataclass(frozen=True, eq=False)
class Finetune(Method):
    """Plain training on one task after another."""

    states: ClassVar = (Model,)

    def init(self, key: int, background: Examples | None = None) -> Model:
        return start(self.net, self.fit, key)

    def learn(self, state: Model, task: Task, key: int) -> tuple[Model, Trace]:
        return minimise(self.net, grow(self.net, self.fit, state, task), self.fit, task, key)

    def predict(self, ready: Model, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready, x, id)
