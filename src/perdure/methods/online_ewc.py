"""Online EWC: one running Fisher holds each weight to where the last task left it, and old tasks fade.

    loss = L_t(theta) + lam/2 gamma F* (theta - theta_{t-1})^2
    F*  <- gamma F* + F_t                                          after each task

F_t is the diagonal Fisher of task t at theta_t, where its learning ended. While task t is learned, that of task k < t
counts gamma^(t-k) times: gamma stands in the penalty and in the update.

Reference: J. Schwarz, J. Luketina, W. M. Czarnecki, A. Grabska-Barwinska, Y. W. Teh, R. Pascanu, R. Hadsell,
    "Progress & Compress: a scalable framework for continual learning", 2018, arXiv 1805.06370.
Deviations: lam is written out, which the paper folds into F. The paper normalises each F_t and does not say how; here
    that is an option, to a mean of 1. Of the paper's two networks only the one that keeps old tasks is here.
Memory: constant, twice the network: a task starts at its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.ops.anchor import Pull, descend
from perdure.ops.fisher import Kind, check_fisher, diagonal
from perdure.rng import fold
from perdure.train import Descent, competing


class OnlineState(NamedTuple):
    """What is known after some tasks; F* is empty before the first."""

    model: Model
    precision: dict[str, Tensor]  # F*, by parameter name


@dataclass(frozen=True, eq=False)
class OnlineEWC(Method):
    """Elastic weight consolidation that forgets gracefully.

    Args:
        lam: strength of the penalty on old tasks. With sgd, lr * lam * gamma * F* above 2 diverges.
        gamma: how much of the running Fisher stays when a task is added (0 to 1; 1 keeps all).
        normalise: divide each task's Fisher by its mean, so that tasks count alike whatever the scale of their loss;
            lam is then comparable with that of l2.
        fisher: exact, sampled (one label an example), empirical (the true label), or auto: exact where the network
            is made of Linear layers, else sampled on 5,000 examples.
        fisher_examples: at most so many examples a task for the Fisher; all of them when not given.
    """

    lam: float = 100.0
    gamma: float = 0.95
    normalise: bool = False
    fisher: Kind = "auto"
    fisher_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # F_t needs to know where a task ends
    states: ClassVar = (OnlineState, Model)
    off: ClassVar = {"lam": 0.0}
    fails: ClassVar = {
        Scenario.GNU: "20 % on split digits: the last task alone (perdure run split-digits online-ewc --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        if not 0 <= self.gamma <= 1:
            raise Refused(f"method.gamma is {self.gamma}; it is the share that stays, from 0 to 1")
        check_fisher(self.fisher, self.fisher_examples)

    def init(self, key: int, background: Examples | None = None) -> OnlineState:
        return OnlineState(start(self.net, self.fit, key), {})

    def learn(self, state: OnlineState, task: Task, key: int) -> tuple[OnlineState, Trace]:
        classes = competing(self.fit, task)
        descent = Descent(self.net, grow(self.net, self.fit, state.model, task), self.fit, key, classes)
        theta, layout = descent.flat, descent.layout
        examples = task.examples.materialise(descent.device)
        held = bool(self.lam and state.precision)
        faded = self.gamma * layout.flat(state.precision) if held else torch.zeros_like(theta)  # gamma F*
        descend(descent, examples, Pull(descent, self.lam * faded, theta.clone()) if held else None)
        model, trace = descent.model, descent.trace
        if not self.lam:
            return state._replace(model=model), trace
        F = layout.flat(
            diagonal(self.net, model, examples, self.fisher, fold(key, "fisher"), classes, self.fisher_examples)
        )
        if self.normalise:
            F /= F.mean().clamp_min(torch.finfo(F.dtype).tiny)
        return OnlineState(model, layout.named(faded + F)), trace

    def predict(self, ready: OnlineState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
