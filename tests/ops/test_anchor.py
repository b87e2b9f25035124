"""Facts about the pull of an anchor: it is the gradient of the written penalty, and costs one buffer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perdure.contract import Fit, Refused
from perdure.model import start
from perdure.ops.anchor import Pull, check_strength
from perdure.rng import fold, normal
from perdure.train import Descent

P = 30


def drawn(*names: str) -> list[Tensor]:
    return [normal(fold(1, name), P) for name in names]


def test_it_is_the_gradient_of_the_written_penalty() -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    S = S.abs()
    leaf = theta.clone().requires_grad_()
    (written,) = torch.autograd.grad((S * (leaf - C) ** 2).sum() / 2, leaf)
    torch.testing.assert_close(Pull(S, C)(theta), written, rtol=1e-12, atol=1e-12)


def test_it_vanishes_at_the_anchor_and_where_the_strength_is_0() -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    S = S.abs().masked_fill(torch.arange(P) < 5, 0)
    pull = Pull(S, C)
    assert float(pull(C).abs().max()) < 1e-15
    assert torch.equal(pull(theta) == 0, torch.arange(P) < 5)


def test_every_call_writes_the_same_buffer_and_no_argument() -> None:
    S, C, theta = drawn("strength", "anchor", "theta")
    kept = [tensor.clone() for tensor in (S, C, theta)]
    pull = Pull(S, C)
    first = pull(theta)
    then = first.clone()
    assert pull(theta + 1).data_ptr() == first.data_ptr()
    assert not torch.equal(first, then)
    assert torch.equal(pull(theta), then)
    assert all(torch.equal(*pair) for pair in zip((S, C, theta), kept, strict=True))


def test_a_loss_is_added_to_it() -> None:
    net = nn.Linear(5, 5)
    descent = Descent(net, start(net, Fit(), 3), Fit(), 0)
    S, C = (tensor.float() for tensor in drawn("strength", "anchor"))
    x = normal(4, 5).float()[None]
    plain = descent.grad(descent(x).square().sum()).clone()
    both = descent.grad(descent(x).square().sum(), onto=Pull(S.abs(), C)(descent.flat))
    torch.testing.assert_close(both, plain + S.abs() * (descent.flat - C))


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_strength_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(Refused, match=f"mu is {value}; a strength is finite and not negative"):
        check_strength("mu", value)
