"""MAS, memory aware synapses: each weight is held the harder, the more the network's outputs would change with it.

    loss   = L_t(theta) + lam sum Omega (theta - theta_{t-1})^2
    Omega <- Omega + 1/N sum_n |d |f(x_n)|^2 / d theta|                  after each task, at theta_t

f are the logits that competed. The absolute value is taken an example at a time, so that the gradients of examples do
not cancel. Omega asks for inputs only: labels do not enter it.

Reference: R. Aljundi, F. Babiloni, M. Elhoseiny, M. Rohrbach, T. Tuytelaars, "Memory aware synapses: learning what
    (not) to forget", 2018, arXiv 1711.09601.
Deviations: none. By default the authors' code takes the absolute value of sums over batches of 200; with batches of 1,
    as in the paper, it is this.
Memory: constant, twice the network: a task starts at its anchor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_finite, check_limit
from perdure.model import Model, answer, start
from perdure.ops.anchor import consolidate
from perdure.ops.sensitivity import SAMPLES, chosen, factors, mean, opened
from perdure.rng import fold


class MASState(NamedTuple):
    """What is known after some tasks; Omega is empty before the first."""

    model: Model
    importance: dict[str, Tensor]  # Omega, by parameter name


@dataclass(frozen=True, eq=False)
class MAS(Method):
    """Memory aware synapses.

    Args:
        lam: strength of the penalty on old tasks (the paper has 1, not tuned). With sgd, lr * lam * Omega above 1
            diverges.
        omega_examples: at most so many examples a task for Omega; when not given, all of them where the network is
            made of Linear layers, else 5,000.
    """

    lam: float = 0.1
    omega_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (MASState, Model)
    off: ClassVar = {"lam": 0.0}
    fails: ClassVar = {
        Scenario.GNU: "20 % on split digits: the last task alone (perdure run split-digits mas --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        check_limit("omega_examples", self.omega_examples)

    def init(self, key: int, background: Examples | None = None) -> MASState:
        return MASState(start(self.net, self.fit, key), {})

    def learn(self, state: MASState, task: Task, key: int) -> tuple[MASState, Trace]:
        measured = partial(self._omega, fold(key, "omega"))
        model, Omega, trace = consolidate(self, self.lam, state.model, state.importance, task, key, measured)
        return MASState(model, Omega), trace

    def _omega(self, key: int, model: Model, examples: Examples, classes: Tensor | None) -> dict[str, Tensor]:
        """What a task adds to Omega."""
        factored = factors(self.net, model, examples)
        limit = self.omega_examples if factored or self.omega_examples else SAMPLES
        places, (rows, _) = chosen(examples, limit, key), opened(model, classes)

        def cotangents(_: slice, f: Tensor) -> Iterator[Tensor]:
            yield 2 * f  # d |f|^2 / df

        return mean(self.net, model, examples, places, rows, cotangents, "absolute", factored)

    def predict(self, ready: MASState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
