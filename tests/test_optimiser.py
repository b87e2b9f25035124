"""The functional optimisers are the classes of `torch.optim`, bit for bit, and remember the same."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perdure.contract import Fit
from perdure.optimiser import Optimiser
from perdure.rng import fold, normal
from perdure.tree import equal

FITS = {
    "sgd": Fit(optimizer="sgd"),
    "sgd-decay": Fit(optimizer="sgd", weight_decay=0.1),
    "momentum": Fit(optimizer="sgd", momentum=0.9, weight_decay=0.1),
    "nesterov": Fit(optimizer="sgd", momentum=0.9, nesterov=True),
    "adam": Fit(optimizer="adam"),
    "adam-decay": Fit(optimizer="adam", weight_decay=0.1),
    "adamw": Fit(optimizer="adamw", weight_decay=0.1),
    "rmsprop": Fit(optimizer="rmsprop"),
    "rmsprop-momentum": Fit(optimizer="rmsprop", momentum=0.9, weight_decay=0.1),
}
SHAPES = [(7, 5), (3, 2, 3, 3), (33,), (), (0, 4)]
RATES = [0.1, 0.1, 0.03, 0.0, 0.2, 0.01]


def drawn(key: int) -> list[Tensor]:
    parts = [normal(fold(key, place), torch.Size(shape).numel()).view(shape) for place, shape in enumerate(SHAPES)]
    return [part.float() for part in parts]


def stock(fit: Fit, params: list[Tensor]) -> torch.optim.Optimizer:
    match fit.optimizer:
        case "sgd":
            kind = torch.optim.SGD
            return kind(params, lr=9.0, momentum=fit.momentum, nesterov=fit.nesterov, weight_decay=fit.weight_decay)
        case "adam":
            return torch.optim.Adam(params, lr=9.0, weight_decay=fit.weight_decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(params, lr=9.0, weight_decay=fit.weight_decay, fused=True)
    return torch.optim.RMSprop(params, lr=9.0, momentum=fit.momentum, weight_decay=fit.weight_decay)


@pytest.mark.parametrize("name", FITS)
def test_steps_and_moments_are_those_of_the_class_bit_for_bit(name: str) -> None:
    fit, ours, theirs = FITS[name], drawn(1), drawn(1)
    optimiser, classic = Optimiser(fit, ours), stock(fit, theirs)
    for step, rate in enumerate(RATES):
        gradients = drawn(100 + step)
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = gradient.clone()
        classic.param_groups[0]["lr"] = rate
        classic.step()
        optimiser.step(gradients, rate)
        assert equal(tuple(ours), tuple(theirs)), step
    slots = {name: tuple(tensors) for name, tensors in optimiser.slots.items()}
    remembered = [classic.state[param] for param in theirs]
    for slot, tensors in slots.items():
        assert equal(tensors, tuple(state[slot] for state in remembered)), slot
    assert {slot for state in remembered for slot in state if state[slot] is not None} == set(slots)
    assert not equal(tuple(ours), tuple(drawn(1)))


@pytest.mark.parametrize("name", FITS)
def test_a_descent_that_is_taken_up_again_is_the_one_that_went_on(name: str) -> None:
    fit, whole, parts = replace(FITS[name], moments="kept"), drawn(1), drawn(1)
    straight, first = Optimiser(fit, whole), Optimiser(fit, parts)
    for step in range(6):
        straight.step(drawn(step), 0.1)
        if step == 3:
            second = Optimiser(fit, parts)
            second.resume({slot: [tensor.clone() for tensor in own] for slot, own in first.slots.items()})
            first = second
        first.step(drawn(step), 0.1)
    assert equal(tuple(parts), tuple(whole))


def test_learning_does_not_bring_in_the_compiler() -> None:
    script = """
import sys, torch, perdure
from perdure.contract import Fit, Task
from perdure.data import Arrays
from perdure.model import start
from perdure.train import minimise
for optimizer in ("sgd", "adam", "adamw", "rmsprop"):
    fit = Fit(optimizer=optimizer, steps=2)
    net = torch.nn.Linear(3, 2)
    minimise(net, start(net, fit, 0), fit, Task(Arrays(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])), None), 0)
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
