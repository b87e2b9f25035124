"""Facts about the pull of an anchor: it is the gradient of the written penalty, to the last bit at the anchor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perdure.contract import Fit, Refused, check_finite
from perdure.model import start
from perdure.ops.anchor import Pull
from perdure.rng import fold, normal
from perdure.train import Descent

P = 30


def drawn(*names: str) -> list[Tensor]:
    return [normal(fold(1, name), P).float() for name in names]


def descending(theta: Tensor, **fit: Any) -> Descent:
    """A descent that stands at theta (30,)."""
    options = Fit(optimizer="sgd", lr=0.1, **fit)
    net = nn.Linear(5, 5)
    params = {"weight": theta[:25].view(5, 5), "bias": theta[25:]}
    return Descent(net, start(net, options, 3)._replace(params=params), options, 0)


def pulled(descent: Descent, pull: Pull) -> Tensor:
    """(P,) what a pull adds to gradients of zero."""
    flat = torch.zeros(P)
    pull(list(descent.layout.views(flat).values()))
    return flat


def test_it_is_the_gradient_of_the_written_penalty() -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    S = S.abs()
    leaf = theta.clone().requires_grad_()
    (written,) = torch.autograd.grad((S * (leaf - C) ** 2).sum() / 2, leaf)
    descent = descending(theta)
    torch.testing.assert_close(pulled(descent, Pull(descent, S, C)), written)


def test_it_is_exactly_0_at_the_anchor_and_where_the_strength_is_0() -> None:
    """However large S is: S theta - S C, taken term by term, would leave rounding for Adam to follow."""
    S, C, theta = drawn("strength", "anchor", "theta")
    S = 1e12 * S.abs().masked_fill(torch.arange(P) < 5, 0)
    there, away = descending(C), descending(theta)
    assert not pulled(there, Pull(there, S, C)).any()
    assert torch.equal(pulled(away, Pull(away, S, C)) == 0, torch.arange(P) < 5)


def test_it_follows_the_parameters_and_changes_no_argument() -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    kept = [tensor.clone() for tensor in (S, C)]
    descent = descending(theta)
    pull = Pull(descent, S, C)
    first = pulled(descent, pull)
    descent.flat.add_(1)
    torch.testing.assert_close(pulled(descent, pull), first + S)
    assert torch.equal(S, kept[0])
    assert torch.equal(C, kept[1])


@pytest.mark.parametrize("fit", [{}, {"clip": 1e9}, {"clip": 0.5}, {"freeze": "bias"}])
def test_a_step_goes_along_loss_and_penalty(fit: dict[str, Any]) -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    x = normal(4, 5).float()[None]
    descent, plain = descending(theta, **fit), descending(theta)
    total = plain.grad(plain(x).square().sum()) + S.abs() * (theta - C)
    if "freeze" in fit:
        plain.layout.views(total)["bias"].zero_()
    total *= min(1.0, fit.get("clip", torch.inf) / float(total.norm()))
    descent.follow(descent(x).square().sum(), Pull(descent, S.abs(), C))
    torch.testing.assert_close(descent.flat, theta - 0.1 * total)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_strength_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(Refused, match=f"method.mu is {value}; it must be finite and not negative"):
        check_finite("mu", value)
