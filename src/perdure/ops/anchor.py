"""Anchors: the pull of a quadratic penalty, which is added to the gradient of a loss.

    penalty = 1/2 sum S (theta - C)^2        its gradient: S (theta - C)

All are flat, (P,), in the layout of a `Descent`. S is the strength times each weight's importance, C the anchor. The
difference is taken first: S theta - S C would be off by rounding where S is large, and Adam follows any gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import Examples, Method, Task, Trace
from perdure.model import Model, grow
from perdure.train import Descent, competing

Importance = dict[str, Tensor]  # of each weight, by parameter name; empty before the first task


class Pull:
    """The gradient of a quadratic penalty on what a descent moves: `descent.follow(loss, pull)`.

    Args:
        descent: whose parameters theta are pulled.
        strength: (P,) S, not negative. Plain descent along it diverges where its rate times S exceeds 2.
        anchor: (P,) C; where S is 0 it does not matter, as long as it is finite.
    """

    def __init__(self, descent: Descent, strength: Tensor, anchor: Tensor) -> None:
        self.theta, self.anchor, self.away = descent.flat, anchor, torch.empty_like(anchor)
        views = descent.layout.views
        self.strengths, self.aways = list(views(strength).values()), list(views(self.away).values())

    def __call__(self, grads: list[Tensor]) -> None:
        """Adds S (theta - C) to gradients, a tensor each of the leaves, in place."""
        torch.sub(self.theta, self.anchor, out=self.away)
        torch._foreach_addcmul_(grads, self.strengths, self.aways)


def descend(descent: Descent, examples: Examples, pull: Pull | None) -> None:
    """Fits a descent to examples by cross-entropy, under a pull where there is one."""
    for batch in descent.batches(examples):
        descent.follow(cross_entropy(descent(batch.x), batch.y), pull)


def consolidate(
    method: Method,
    lam: float,
    model: Model,
    importance: Importance,
    task: Task,
    key: int,
    measured: Callable[[Model, Examples, Tensor | None], Importance],
) -> tuple[Model, Importance, Trace]:
    """Learns a task with old weights held where the last one left them, then adds what is important to this one.

        loss = L_t(theta) + lam sum I (theta - theta_{t-1})^2         I <- I + I_t, at theta_t

    Args:
        measured: I_t of the model that was learned, the task's examples, and the labels that competed (None for all).
    """
    classes = competing(method.fit, task)
    descent = Descent(method.net, grow(method.net, method.fit, model, task), method.fit, key, classes)
    theta, layout = descent.flat, descent.layout
    examples = task.examples.materialise(descent.device)
    held = bool(lam and importance)
    whole = layout.flat(importance) if held else torch.zeros_like(theta)
    descend(descent, examples, Pull(descent, 2 * lam * whole, theta.clone()) if held else None)
    model, trace = descent.model, descent.trace
    if not lam:
        return model, importance, trace
    whole += layout.flat(measured(model, examples, classes))
    return model, layout.named(whole), trace
