"""Independent: one network a task, each trained on its own task and nothing else.

    theta_t = argmin_theta L_t(theta), started at theta_0 (fresh) or at theta_{t-1} (previous)

What a network reaches that has a task to itself: an upper bound that forgets nothing and pays with a network a task. A
withheld id is inferred: the task with the lowest entropy answers.

Reference: D. Lopez-Paz, M. Ranzato, "Gradient episodic memory for continual learning", 2017, arXiv 1706.08840, where it
is a baseline.
Deviations: every network is the whole one (the paper divides its hidden units among the tasks, whose number nobody
    knows here), and all fresh ones start at the same values. Each has the logits of its own task alone, whatever
    `fit.compete` says, and moments of its own, whatever `fit.moments` says. Inference by entropy is not in the paper,
    which is given the id.
Memory: task, a network each, beside the start values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_words
from perdure.model import Model, index_of, own_head, start, without
from perdure.ops.infer import Bound, respond
from perdure.train import minimise

Begin = Literal["fresh", "previous"]


class Own(NamedTuple):
    """The network of one task."""

    task: int  # its index
    model: Model


class Networks(NamedTuple):
    """All networks so far."""

    start: Model  # what a fresh network starts from; it answers before the first task
    own: tuple[Own, ...]  # in the order of learning


@dataclass(frozen=True, eq=False)
class Independent(Method):
    """One network a task; a task learned again gets a new one.

    Args:
        begin: where a network starts: fresh, or from the network of the previous task.
    """

    begin: Begin = "fresh"

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Networks, Own, Model)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)

    def init(self, key: int, background: Examples | None = None) -> Networks:
        return Networks(start(self.net, self.fit, key), ())

    def learn(self, state: Networks, task: Task, key: int) -> tuple[Networks, Trace]:
        index = index_of(task, [own.task for own in state.own])
        first = state.own[-1].model if state.own and self.begin == "previous" else state.start
        fit = replace(self.fit, moments="fresh")
        model, trace = minimise(self.net, own_head(self.net, fit, first, task), fit, task, key)
        others = tuple(own for own in state.own if own.task != index)
        return state._replace(own=(*others, Own(index, model))), trace

    def ready(self, state: Networks) -> Bound:
        return Bound(state.start, dict(state.own))

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Networks, index: int) -> Networks:
        return state._replace(own=without(state.own, index))
