"""SCP, sliced Cramer preservation: what the network answers on average to a batch may not shift, in any direction.

    loss   = L_t(theta) + lam sum Gamma (theta - theta_{t-1})^2
    Gamma <- Gamma + E_{batch, xi} (d (xi . phi) / d theta)^2               after each task, at theta_t

phi (n,) is the mean of the competing logits over a batch, and xi a direction drawn evenly from all. A batch stands
for the distribution that its examples come from: Gamma measures how that of the answers moves. Since E xi xi^T = I / n,

    E_xi (d (xi . phi) / d theta)^2 = 1/n sum_c (d phi_c / d theta)^2

so that n backward passes, one a logit, give exactly what drawn directions approach. Labels do not enter.

Reference: S. Kolouri, N. A. Ketz, A. Soltoggio, P. K. Pilly, "Sliced Cramer synaptic consolidation for preserving
    deeply learned representations", ICLR 2020, openreview BJge3TNKwH.
Deviations: the sum over directions is exact unless `slices` are asked for.
Memory: constant, twice the network: a task starts at its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace, check_finite, check_limit
from perdure.model import Model, answer, evaluation, start
from perdure.ops.anchor import consolidate
from perdure.ops.sensitivity import chosen, opened
from perdure.rng import fold, normal


class SCPState(NamedTuple):
    """What is known after some tasks; Gamma is empty before the first."""

    model: Model
    importance: dict[str, Tensor]  # Gamma, by parameter name


@dataclass(frozen=True, eq=False)
class SCP(Method):
    """Sliced Cramer preservation.

    Args:
        lam: strength of the penalty on old tasks. With sgd, lr * lam * Gamma above 1 diverges.
        slices: directions drawn for each batch; all of them, exactly, when not given.
        size: examples of a batch whose mean answer is preserved; with 1 it is every single answer.
        gamma_examples: at most so many examples a task for Gamma; all of them when not given.
    """

    lam: float = 10.0
    slices: int | None = None
    size: int = 128
    gamma_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (SCPState, Model)
    off: ClassVar = {"lam": 0.0}
    fails: ClassVar = {
        Scenario.GNU: "21 % on split digits: the last task alone (perdure run split-digits scp --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        check_limit("gamma_examples", self.gamma_examples)
        for name in ("slices", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"method.{name} is {value}; it must be at least 1")

    def init(self, key: int, background: Examples | None = None) -> SCPState:
        return SCPState(start(self.net, self.fit, key), {})

    def learn(self, state: SCPState, task: Task, key: int) -> tuple[SCPState, Trace]:
        measured = partial(self._gamma, fold(key, "gamma"))
        model, Gamma, trace = consolidate(self, self.lam, state.model, state.importance, task, key, measured)
        return SCPState(model, Gamma), trace

    def _gamma(self, key: int, model: Model, examples: Examples, classes: Tensor | None) -> dict[str, Tensor]:
        """What a task adds to Gamma: each batch counts as its examples do."""
        net, (rows, _) = evaluation(self.net), opened(model, classes)
        params = {name: param.detach().requires_grad_() for name, param in model.params.items()}
        leaves, limit = list(params.values()), self.gamma_examples or len(examples)
        places = chosen(examples, limit, key)  # shuffled: a batch of one class would stand for another distribution
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for number, batch in enumerate(places.split(self.size)):
            with torch.autocast(rows.device.type, enabled=False), torch.enable_grad():
                x = examples.take(batch).x.to(leaves[0])
                phi = functional_call(net, {**params, **model.stats}, (x,)).index_select(1, rows).mean(0)
            directions = self._directions(fold(key, "slices", number), len(phi)).to(phi)
            share = len(batch) / len(places)
            for xi in directions:
                grads = torch.autograd.grad(phi, leaves, xi, True, allow_unused=True, materialize_grads=True)
                torch._foreach_addcmul_(total, grads, grads, value=share)
        return dict(zip(params, total, strict=True))

    def _directions(self, key: int, n: int) -> Tensor:
        """Cotangents of n logits, whose squared gradients sum to the mean over directions: (slices, n) or (n, n)."""
        if self.slices is None:
            return torch.eye(n) / sqrt(n)
        xi = normal(key, self.slices * n).view(self.slices, n)
        return xi.div_(xi.norm(dim=1, keepdim=True) * sqrt(self.slices))

    def predict(self, ready: SCPState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
