"""The bytes of a method's state after many tasks, from a trial in which it learns three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from perdure import nets, tree
from perdure.contract import Method, Refused, Scale, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.experiments.advice.families import ROWS
from perdure.experiments.advice.needs import Needs
from perdure.fold import Setting
from perdure.learner.settings import NUMBERS
from perdure.model import probe, with_outputs
from perdure.options import build_method, method_class
from perdure.rng import fold, integers
from perdure.train import for_scenario

TAUGHT, STEPS, BATCH = 3, 2, 4  # of a trial: tasks, steps of each, examples of a step
ENOUGH, LEAST = 2000, 300  # examples of a task in a trial: no memory of a default size is larger; and with large inputs


class Projection(NamedTuple):
    """Bytes of a method's state after 1, 2 and 3 tasks, and those of each task beyond."""

    sizes: tuple[int, ...]
    growth: int
    room: int | None = None  # how many tasks it can learn; None where that is not known
    task: int = 0  # bytes of a task's examples
    awake: int = 0  # tasks whose examples may be held beside

    def at(self, tasks: int) -> int:
        """After so many tasks, at most."""
        known = len(self.sizes)
        size = self.sizes[tasks - 1] if tasks <= known else self.sizes[-1] + self.growth * (tasks - known)
        return size + self.task * min(tasks - 1, self.awake)


def build(needs: Needs) -> nn.Module:
    """The network, which takes such inputs and is not too large to be tried.

    Raises:
        Refused: it does not, or is.
    """
    with torch.device("meta"):
        numbers = sum(param.numel() for param in nets.build(needs.net, needs.shape, 0).parameters())
    if numbers > NUMBERS:
        raise Refused(f"net {needs.net!r} has {numbers:,} numbers; at most {NUMBERS:,} can be tried")
    return nets.build(needs.net, needs.shape, 0)


def projected(name: str, needs: Needs, net: nn.Module) -> Projection:
    """The bytes of a method's state, from a trial: it learns three tasks in a few steps.

    Args:
        net: for such inputs; its head grows.

    Raises:
        Refused: it cannot learn such tasks, or so many.
    """
    scenario, row, cls = needs.scenario, ROWS[name], method_class(name)
    shared = 0 if needs.labels == "unshared" else needs.classes
    method = build_method(cls, net, row.trial)
    fit = replace(method.fit, epochs=None, steps=None if scenario is Scenario.NNS else STEPS, batch=BATCH)
    fit = for_scenario(fit, scenario)
    fit = replace(fit, head=probe(net, fit, torch.zeros(1, *needs.shape)))
    method = method.with_(net=with_outputs(net, fit, shared), fit=fit)
    room = row.room(method) if row.room else None
    if room is not None and needs.tasks > room:
        raise Refused(f"its network is full after {room} tasks; use a wider net")
    state, sizes = method.init(0), list[int]()
    begun = tree.nbytes(state)
    with Setting(threads=1).applied(net):
        for task in _tasks(needs, n := _examples(needs, method)):
            state, _ = method.learn(state, task, fold(0, "trial", len(sizes)))
            sizes.append(tree.nbytes(state))
    growth = sizes[-1] - sizes[-2]
    if scenario is Scenario.NNS and cls.memory == "task":  # a trial is too short to find a border
        sizes = [begun + (sizes[0] - begun) * tasks for tasks in range(1, TAUGHT + 1)]
        growth = sizes[0] - begun
    example = prod(needs.shape) * (1 if len(needs.shape) > 1 else 4) + 8  # and its label
    if row.awake:
        lasting = getattr(build_method(cls, net, {}), row.awake)
        return Projection(tuple(sizes), growth, room, needs.examples * example, lasting - 1)
    if cls.memory == "data":  # the examples that the trial left out
        more = (needs.examples - n) * example
        sizes, growth = [known + more * tasks for tasks, known in enumerate(sizes, 1)], growth + more
    return Projection(tuple(sizes), growth, room)


def _examples(needs: Needs, method: Method) -> int:
    """Of a task in a trial: few where none leave a trace in the state."""
    few = max(4 * BATCH, 2 * needs.classes)
    if method.rehearses:
        few = max(LEAST, min(ENOUGH, NUMBERS // 4 // prod(needs.shape)))
    return max(needs.classes, min(needs.examples, few))


def _tasks(needs: Needs, n: int) -> Iterator[Task]:
    """Tasks of n examples, all noise."""
    images, unshared = len(needs.shape) > 1, needs.labels == "unshared"
    values = integers(0, torch.full((n * prod(needs.shape),), 256), n * prod(needs.shape)).view(n, *needs.shape)
    x, scale = (values.byte(), Scale(128.0, 1 / 64)) if images else (values / 256.0, Scale())
    for number in range(TAUGHT):
        classes = torch.arange(needs.classes) + unshared * number * needs.classes
        labels = classes[torch.arange(n) % needs.classes]
        yield Task(Arrays(x, labels, scale), None if needs.scenario is Scenario.NNS else TaskId(number, classes))
