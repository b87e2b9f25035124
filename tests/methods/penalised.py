"""Small tasks of four numbers for methods that hold weights by a penalty, and what is measured on them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Fit, Method, Task, TaskId
from perdure.data import Arrays
from perdure.ops.fisher import diagonal
from perdure.rng import fold, normal, permutation

N = 40  # examples of a task


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def task(number: int, classes: tuple[int, ...] = (0, 1, 2)) -> Task:
    """Inputs (N, 4) labelled by the direction that they lie in most, so that there is something to learn."""
    x = normal(fold(1, number), N * 4).view(N, 4).float()
    place = (x @ normal(fold(2, number), 4 * len(classes)).view(4, -1).float()).argmax(1)
    labels = torch.tensor(classes)
    return Task(Arrays(x, labels[place]), TaskId(number, labels))


def lived(method: Method, tasks: list[Task]) -> list[Any]:
    """The state after each task."""
    states = [method.init(5)]
    for number, each in enumerate(tasks):
        states.append(method.learn(states[-1], each, fold(5, number))[0])
    return states[1:]


def fishers(method: Method, states: list[Any], tasks: list[Task]) -> list[dict[str, Tensor]]:
    """The exact Fisher of each task where its learning, by `lived`, ended."""
    return [
        diagonal(method.net, state.model, each.examples, "exact", fold(fold(5, number), "fisher"))
        for number, (state, each) in enumerate(zip(states, tasks, strict=True))
    ]


def slope(params: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """The gradient of the loss of a task."""
    leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
    examples = task(number).examples
    loss = F.cross_entropy(functional_call(net(), leaves, (examples.take(torch.arange(N)).x,)), examples.labels)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def on_permuted_digits(cls: type[Method], **options: Any) -> Tensor:
    """(3,) the accuracy on each of three permutations of the digits, learned one after the other."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    orders = [permutation(fold(3, number), 64) for number in range(3)]
    body, fit = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10)), Fit(steps=500, batch=64)
    method = cls(body, fit, **options)
    state = method.init(0)
    for number, order in enumerate(orders):
        state, _ = method.learn(state, Task(Arrays(x[:, order], y), TaskId(number, torch.arange(10))), number)
    hits = [(method.predict(state, x[:, order]).logits.argmax(1) == y).float().mean() for order in orders]
    return torch.stack(hits)
