"""Small tasks of stored bytes for methods that keep examples, and what is measured on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from perdure.contract import Fit, Method, Scale, Scenario, Task, TaskId, Trace
from perdure.data import Arrays, View
from perdure.model import with_outputs
from perdure.rng import fold, integers, normal, permutation
from perdure.train import for_scenario

SCALE = Scale(128.0, 1 / 32)


def net(rows: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        whole = nn.Sequential(nn.Flatten(), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 2))
    return with_outputs(whole, Fit(), rows)


def task(number: int, classes: list[int], n: int = 60) -> Task:
    """Classes far apart, elsewhere in every task."""
    key, labels = fold(7, number), integers(fold(8, number), len(classes), n)
    means = 2 * normal(key, len(classes) * 8).view(len(classes), 8)
    x = (means[labels] + normal(fold(9, number), n * 8).view(n, 8)) * 32 + 128
    stored = x.round().clamp(0, 255).byte().view(n, 2, 4)
    return Task(Arrays(stored, torch.tensor(classes)[labels], SCALE), TaskId(number, torch.tensor(classes)))


def stream(scenario: Scenario, n: int = 3) -> list[Task]:
    unshared = scenario in (Scenario.GG, Scenario.GNU)
    tasks = [task(t, [2 * t, 2 * t + 1] if unshared else [0, 1]) for t in range(n)]
    return [t._replace(id=None) for t in tasks] if scenario is Scenario.NNS else tasks


def fitted(fit: Fit, scenario: Scenario) -> Fit:
    """A fit as a scenario has it: in NNS the flow decides how often examples come."""
    return for_scenario(replace(fit, epochs=None) if scenario is Scenario.NNS else fit, scenario)


def learn_all(method: Method, tasks: list[Task]) -> tuple[Any, list[Trace]]:
    """The state after the last task, and the trace of each."""
    state, traces = method.init(0), []
    for number, some in enumerate(tasks):
        state, trace = method.learn(state, some, number)
        traces.append(trace)
    return state, traces


def on_permuted_digits(method: Method, scenario: Scenario) -> float:
    """The mean accuracy on three permutations of 800 digits, learned one after the other; in NNS 200 at a time."""
    digits = load_digits()
    x, y = torch.from_numpy(digits.data[:800]).byte(), torch.from_numpy(digits.target[:800])
    tasks = []
    for number in range(3):
        labels = y + 10 * number if scenario is Scenario.GNU else y
        id = None if scenario is Scenario.NNS else TaskId(number, labels.unique())
        tasks.append(Task(Arrays(x[:, permutation(number, 64)], labels, Scale(0.0, 1 / 16)), id))
    size = 200 if scenario is Scenario.NNS else 800
    parts = torch.arange(800).split(size)
    state, _ = learn_all(
        method, [some._replace(examples=View(some.examples, part)) for some in tasks for part in parts]
    )
    ready, hits = method.ready(state), []
    for some in tasks:
        given = some.id if scenario is Scenario.GG else None
        answer = method.predict(ready, some.examples.take(torch.arange(800)).x, given)
        hits.append((answer.labels[answer.logits.argmax(1)] == some.examples.labels).float().mean())
    return float(torch.stack(hits).mean())
