"""A small network, small tasks and a short life for methods whose tasks share weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from perdure.contract import Fit, Method, Task, TaskId
from perdure.data import Arrays
from perdure.model import with_outputs
from perdure.rng import fold, normal, permutation

FIT = Fit(steps=30, batch=20, lr=0.01)


def network(rows: int = 0) -> nn.Module:
    """Six numbers to a head of some rows, with a batch norm on the way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)
        )
    return with_outputs(net, Fit(), rows)


def lesson(number: int, classes: tuple[int, ...], n: int = 60) -> Task:
    """Classes around centres that are the task's own."""
    labels = torch.tensor(classes)[permutation(fold(1, number), n) % len(classes)]
    centres = 2 * normal(fold(2, number), 6 * len(classes)).view(-1, 6)
    x = centres[torch.searchsorted(torch.tensor(classes), labels)] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor(classes)))


def lived(method: Method, *tasks: Task) -> list[Any]:
    """The states before any task, and after each."""
    states = [method.init(7)]
    for place, own in enumerate(tasks):
        states.append(method.learn(states[-1], own, fold(7, place))[0])
    return states
