"""Anchors: the pull of a quadratic penalty, which is what a step's gradient starts from.

    penalty = 1/2 sum S (theta - C)^2        its gradient: S (theta - C) = S theta - S C

All are flat, (P,), in the layout of a `Descent`. S is the strength times each weight's importance, C the anchor.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import Examples, Refused
from perdure.train import Descent


class Pull:
    """The gradient of a quadratic penalty: one kernel a step, in one buffer that every call writes again.

    `descent.grad(loss, onto=pull(descent.flat))` is then the gradient of loss and penalty: the loss is added to it.

    Args:
        strength: (P,) S, not negative. Plain descent along it diverges where its rate times S exceeds 2.
        anchor: (P,) C; where S is 0 it does not matter, as long as it is finite.
    """

    def __init__(self, strength: Tensor, anchor: Tensor) -> None:
        self.strength, self.minus, self.out = strength, -strength * anchor, torch.empty_like(strength)

    def __call__(self, theta: Tensor) -> Tensor:
        """(P,) S (theta - C)."""
        return torch.addcmul(self.minus, self.strength, theta, out=self.out)


def descend(descent: Descent, examples: Examples, pull: Pull | None) -> None:
    """Fits a descent to examples by cross-entropy, under a pull where there is one."""
    for batch in descent.batches(examples):
        loss = cross_entropy(descent(batch.x), batch.y)
        if pull is None:
            descent.follow(loss)
        else:
            descent.step(descent.grad(loss, onto=pull(descent.flat)))


def check_strength(name: str, value: float) -> None:
    """Raises Refused where an option cannot be the strength of a penalty."""
    if not 0 <= value < inf:
        raise Refused(f"{name} is {value}; a strength is finite and not negative (0 for no penalty)")
