"""L-MAS, local memory aware synapses: weights between neurons that are active together are held, layer by layer.

    loss     = L_t(theta) + lam sum Omega (theta - theta_{t-1})^2
    Omega_ij <- Omega_ij + 1/N sum_n |y_i y_j|                               after each task, at theta_t

y_i is what a layer is given from neuron i, and y_j what it hands on from neuron j, its ReLU included: Hebb's rule. In
layers of ReLUs it is MAS of each layer alone, which preserves what that layer makes of what it is given:

    1/2 d |y|^2 / d theta_ij = y_j 1[y_j > 0] y_i = y_i y_j

The right is read off the activations, and the left says what it is for other layers: half the squared length of what
the next one is given, and no gradient passes through a layer. The head hands on the logits that competed. Labels do
not enter it.

Reference: R. Aljundi, F. Babiloni, M. Elhoseiny, M. Rohrbach, T. Tuytelaars, "Memory aware synapses: learning what
    (not) to forget", 2018, arXiv 1711.09601 (the local version, and its connection to Hebb's rule).
Deviations: the paper has layers of ReLUs between activations that are not negative; absolute values, an example at a
    time as in MAS, are for the head and for inputs below 0. Its factor of 2 is in lam.
Memory: constant, twice the network: a task starts at its anchor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_finite, check_limit
from perdure.model import Model, answer, forward, start
from perdure.ops.anchor import consolidate
from perdure.ops.sensitivity import SAMPLES, chosen, factors, mean, opened
from perdure.rng import fold


class LMASState(NamedTuple):
    """What is known after some tasks; Omega is empty before the first."""

    model: Model
    importance: dict[str, Tensor]  # Omega, by parameter name


class Local(nn.Module):
    """A network that answers with its logits and, beside them, all that its layers are given: (B, n + given).

    The gradient of any of it ends at the layer that hands it on. A layer is a module that has parameters of its own.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        given: dict[int, Tensor] = {}  # what goes to several layers counts once

        def cut(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            both = (*inputs, *named.values())
            given.update({id(y): y for y in both if isinstance(y, Tensor) and y.is_floating_point()})
            alone = [y.detach() if isinstance(y, Tensor) else y for y in both]
            return tuple(alone[: len(inputs)]), dict(zip(named, alone[len(inputs) :], strict=True))

        layers = [layer for layer in self.net.modules() if any(True for _ in layer.parameters(recurse=False))]
        hooks = [layer.register_forward_pre_hook(cut, with_kwargs=True) for layer in layers]
        try:
            logits = self.net(x)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([logits, *(y.flatten(1) for y in given.values())], 1)


@dataclass(frozen=True, eq=False)
class LMAS(Method):
    """Local memory aware synapses.

    Args:
        lam: strength of the penalty on old tasks. With sgd, lr * lam * Omega above 1 diverges.
        omega_examples: at most so many examples a task for Omega; when not given, all of them where the network is
            made of Linear layers, else 5,000.
    """

    lam: float = 0.1
    omega_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (LMASState, Model)
    off: ClassVar = {"lam": 0.0}
    fails: ClassVar = {
        Scenario.GNU: "20 % on split digits: the last task alone (perdure run split-digits l-mas --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        check_limit("omega_examples", self.omega_examples)

    def init(self, key: int, background: Examples | None = None) -> LMASState:
        return LMASState(start(self.net, self.fit, key), {})

    def learn(self, state: LMASState, task: Task, key: int) -> tuple[LMASState, Trace]:
        measured = partial(self._omega, fold(key, "omega"))
        model, Omega, trace = consolidate(self, self.lam, state.model, state.importance, task, key, measured)
        return LMASState(model, Omega), trace

    def _omega(self, key: int, model: Model, examples: Examples, classes: Tensor | None) -> dict[str, Tensor]:
        """What a task adds to Omega."""
        local, (rows, _) = Local(self.net), opened(model, classes)
        inner = model._replace(
            params={f"net.{name}": param for name, param in model.params.items()},
            stats={f"net.{name}": buffer for name, buffer in model.stats.items()},
        )
        factored = factors(local, inner, examples)
        limit = self.omega_examples if factored or self.omega_examples else SAMPLES
        places = chosen(examples, limit, key)
        width = forward(local, inner, examples.take(places[:1]).x.to(rows.device)).shape[1]
        rows = torch.cat([rows, torch.arange(len(model.labels), width, device=rows.device)])  # no logit that is hidden

        def cotangents(_: slice, y: Tensor) -> Iterator[Tensor]:
            yield y  # d 1/2 |y|^2 / dy

        Omega = mean(local, inner, examples, places, rows, cotangents, "absolute", factored)
        return {name.removeprefix("net."): part for name, part in Omega.items()}

    def predict(self, ready: LMASState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
