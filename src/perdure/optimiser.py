"""The optimisers of `torch.optim` in their functional form: what they remember is plain tensors, by slot.

The classes of `torch.optim` do the same sums, but the first of them brings in torch's compiler: 70 MB and a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from perdure.contract import Fit

BETAS, EPS, ALPHA = (0.9, 0.999), 1e-8, 0.99  # torch's own defaults
COUNT = "step"  # the slot that counts steps, one number for each tensor


class Optimiser:
    """Moves tensors in place along their gradients, as `fit` says.

    Args:
        fit: which optimiser, with which momentum and decay; the rate is said at each step.
        params: what is moved.

    Attributes:
        slots: moments by name, a tensor for each of `params`; empty before the first step.
    """

    def __init__(self, fit: Fit, params: Sequence[Tensor]) -> None:
        self.fit, self.params = fit, [param.detach() for param in params]
        self.slots: dict[str, list[Tensor]] = {}

    def resume(self, slots: Mapping[str, list[Tensor]]) -> None:
        """Continues from moments, which are changed in place from then on."""
        self.slots = dict(slots)

    @torch.no_grad()
    def step(self, grads: list[Tensor], rate: float) -> None:
        """One step along gradients, each in the shape and the strides of its parameter."""
        fit = self.fit
        match fit.optimizer:
            case "sgd":
                velocity: list[Tensor | None] = [*self.slots.get("momentum_buffer", [])] or [None] * len(grads)
                sgd(
                    self.params,
                    grads,
                    velocity,
                    weight_decay=fit.weight_decay,
                    momentum=fit.momentum,
                    lr=rate,
                    dampening=0.0,
                    nesterov=fit.nesterov,
                    maximize=False,
                )
                if fit.momentum and not self.slots:
                    self.slots["momentum_buffer"] = [each for each in velocity if each is not None]
            case "adam" | "adamw":
                slots = self._begun("exp_avg", "exp_avg_sq", COUNT)
                (adam if fit.optimizer == "adam" else adamw)(
                    self.params,
                    grads,
                    slots["exp_avg"],
                    slots["exp_avg_sq"],
                    [],
                    slots[COUNT],
                    fused=True,
                    amsgrad=False,
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    lr=rate,
                    weight_decay=fit.weight_decay,
                    eps=EPS,
                    maximize=False,
                )
            case "rmsprop":
                slots = self._begun("square_avg", *["momentum_buffer"] * bool(fit.momentum), COUNT)
                rmsprop(
                    self.params,
                    grads,
                    slots["square_avg"],
                    [],
                    slots.get("momentum_buffer", []),
                    slots[COUNT],
                    lr=rate,
                    alpha=ALPHA,
                    eps=EPS,
                    weight_decay=fit.weight_decay,
                    momentum=fit.momentum,
                    centered=False,
                )

    def _begun(self, *names: str) -> dict[str, list[Tensor]]:
        """The slots, made of zeros before the first step."""
        if not self.slots:
            for name in names:
                self.slots[name] = [
                    torch.zeros((), device=param.device) if name == COUNT else torch.zeros_like(param)
                    for param in self.params
                ]
        return self.slots
