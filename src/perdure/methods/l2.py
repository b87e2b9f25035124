"""L2: every weight is held alike to where the last task left it.

    loss = L_t(theta) + lam/2 |theta - theta_{t-1}|^2

What EWC is without a Fisher, and the baseline that it was first compared with: what matters to old tasks is held no
harder than what does not.

Reference: J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv 1612.00796.
Deviations: none.
Memory: constant, the network: a task starts at its anchor, so nothing more is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.ops.anchor import Pull, descend
from perdure.train import Descent, competing, minimise


class L2State(NamedTuple):
    """A network, and how many tasks it has learned: the start values are no anchor."""

    model: Model
    tasks: int


@dataclass(frozen=True, eq=False)
class L2(Method):
    """A pull to the last task's weights.

    Args:
        lam: strength of the pull. With sgd, lr * lam above 2 diverges.
    """

    lam: float = 0.03

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (L2State, Model)
    off: ClassVar = {"lam": 0.0}
    fails: ClassVar = {
        Scenario.GNU: "20 % on split digits: the last task alone (perdure run split-digits l2 --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)

    def init(self, key: int, background: Examples | None = None) -> L2State:
        return L2State(start(self.net, self.fit, key), 0)

    def learn(self, state: L2State, task: Task, key: int) -> tuple[L2State, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not (self.lam and state.tasks):
            model, trace = minimise(self.net, model, self.fit, task, key)
            return L2State(model, state.tasks + 1), trace
        descent = Descent(self.net, model, self.fit, key, competing(self.fit, task))
        old = {name: torch.ones_like(param) for name, param in state.model.params.items()}
        pull = Pull(descent, self.lam * descent.layout.flat(old), descent.flat.clone())  # rows of new labels are free
        descend(descent, task.examples, pull)
        return L2State(descent.model, state.tasks + 1), descent.trace

    def predict(self, ready: L2State, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
