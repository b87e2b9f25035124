"""Facts about the sensitivity of outputs: the loop over examples, finite differences, a closed form."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from networks import NETS, C, apart, arrays, settled
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Examples
from perdure.data import Arrays
from perdure.model import Model
from perdure.ops.sensitivity import Power, chosen, factors, mean, opened


def two(_: slice, logits: Tensor) -> Iterator[Tensor]:
    """The cotangents of |f|^2 and of the sum of f."""
    yield 2 * logits
    yield torch.ones_like(logits)


def loop(net: nn.Module, model: Model, examples: Arrays, power: Power) -> dict[str, Tensor]:
    """The same by a backward pass for each example, in float64."""
    body = copy.deepcopy(net).double().eval()
    stats = {name: b.double() if b.is_floating_point() else b for name, b in model.stats.items()}
    total = {name: torch.zeros_like(param, dtype=torch.float64) for name, param in model.params.items()}
    for x in examples.x.double():
        for number in range(2):
            leaves = {name: param.double().requires_grad_() for name, param in model.params.items()}
            f = functional_call(body, {**leaves, **stats}, (x[None],))
            said = f.square().sum() if number == 0 else f.sum()
            grads = torch.autograd.grad(said, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for name, own in zip(leaves, grads, strict=True):
                total[name] += (own.abs() if power == "absolute" else own.square()) / len(examples)
    return total


def measured(net: nn.Module, model: Model, examples: Examples, power: Power, batch: int = 4) -> dict[str, Tensor]:
    (rows, _), places = opened(model, None), chosen(examples, None, 0)
    return mean(net, model, examples, places, rows, two, power, factors(net, model, examples), batch)


@pytest.mark.parametrize("power", ["absolute", "square"])
@pytest.mark.parametrize("name", [name for name in NETS if name != "coupled"])
def test_it_is_the_loop_over_examples(name: str, power: Power) -> None:
    net, shape, _ = NETS[name]
    model, examples = settled(net), arrays(shape, n=10)
    assert apart(measured(net, model, examples, power), loop(net, model, examples, power)) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_which_networks_factor(name: str) -> None:
    net, shape, expected = NETS[name]
    assert factors(net, settled(net), arrays(shape, n=8)) is expected


def test_the_power_is_taken_an_example_at_a_time() -> None:
    """Opposite inputs give opposite answers without a bias: their gradients by it cancel, and their powers do not."""
    net = nn.Linear(4, C)
    model, x = settled(net), arrays((4,), n=5).x
    model.params["bias"].zero_()
    examples = Arrays(torch.cat([x, -x]), torch.zeros(10, dtype=torch.int64))
    f = F.linear(examples.x, model.params["weight"])
    found = measured(net, model, examples, "absolute")
    assert float(f.mean(0).abs().max()) < 1e-6
    torch.testing.assert_close(found["bias"], 2 * f.abs().mean(0) + 1)
    torch.testing.assert_close(found["weight"], (2 * f.abs() + 1).T @ examples.x.abs() / 10)


def test_a_limit_draws_places_by_key() -> None:
    examples = arrays((4,), n=20)
    assert chosen(examples, None, 1).tolist() == list(range(20))
    some, other = (chosen(examples, 7, key).tolist() for key in (1, 2))
    assert len(set(some)) == 7
    assert set(some) < set(range(20))
    assert some != other
    assert len(chosen(examples, 100, 1)) == 20
