"""A trunk: all of a network but its head, made once, shared by every task, and never changed again.

first     learned on the background, where a stream has one, else on the first task together with its head
random    start values that nobody trained
net       the weights of the net as it is given: a pre-trained backbone
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from torch import Tensor, nn

from perdure.contract import Examples, Fit, Task, TaskId, Trace
from perdure.model import Model, Part, head_of, own_head, parts_of, start
from perdure.rng import fold
from perdure.train import minimise

Origin = Literal["first", "random", "net"]


class Trunk(NamedTuple):
    """What every task builds on."""

    model: Model  # the trunk; and the head and statistics that every task starts from
    made: bool  # whether it is what it will stay


def begin(net: nn.Module, fit: Fit, origin: Origin, key: int, background: Examples | None) -> Trunk:
    """The trunk before any task."""
    fit = replace(fit, start="net") if origin == "net" else fit
    trunk = Trunk(start(net, fit, key), origin != "first")
    if origin == "first" and background is not None:
        trunk, _, _ = learn_trunk(net, fit, trunk, Task(background, None), fold(key, "background"))
    return trunk


def learn_trunk(net: nn.Module, fit: Fit, trunk: Trunk, task: Task, key: int) -> tuple[Trunk, Model, Trace]:
    """Learns the whole network on one task: the trunk, made; the model of that task, which has its head; the trace.

    Later tasks start from the head as it was, and from the statistics as they have become.
    """
    fit, head = replace(fit, moments="fresh"), parts_of(head_of(net, fit))
    model, trace = minimise(net, own_head(net, fit, trunk.model, task), fit, task, key)
    params = {name: trunk.model.params[name] if name in head else w for name, w in model.params.items()}
    return Trunk(trunk.model._replace(params=params, stats=model.stats), True), model, trace


def part_of(net: nn.Module, fit: Fit, index: int, params: dict[str, Tensor], model: Model) -> Part:
    """What a task keeps for itself: of `params` the head, of a model statistics and labels."""
    head = {name: params[name] for name in parts_of(head_of(net, fit)) if name in params}
    return Part(TaskId(index, model.labels), head, model.stats)
