"""Heads: one trunk that is learned once and then frozen, and for every task a head of its own on its features.

    t = 1    (W, V_1) = argmin L_1(W, V_1)            the trunk W with the first head
    t > 1    V_t = argmin L_t(W, V_t)                 the head alone

    bind(W, V_t) = W with the head V_t

What frozen features are worth: a lower bound for methods that adapt the trunk to each task without forgetting. A
withheld id is inferred: the task with the lowest entropy answers.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769, where it is the baseline "separate
heads" (trunk of the first task) and "rand W" (random trunk).
Deviations: the trunk may also be that of the given net, or learned on a background. Statistics of normalisation are
each task's own, begun at the trunk's: tasks with other inputs have others, and at 8 bytes a unit they are cheap.
Moments are fresh for every task, whatever `fit.moments` says. Inference by entropy is not in the paper, which gives the
id to its baselines.
Memory: a network, and for each task its head and statistics. A task that is forgotten takes these along; a trunk that
was learned on it stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

from perdure.contract import (
    Answer,
    Examples,
    Fit,
    Method,
    Scenario,
    Task,
    TaskId,
    Trace,
    check_finite,
    check_words,
)
from perdure.model import Model, Part, head_of, index_of, own_head, parts_of, without
from perdure.ops.infer import Bound, respond
from perdure.ops.trunk import Origin, Trunk, begin, learn_trunk, part_of
from perdure.train import frozen, minimise

Params = dict[str, Tensor]


class Headed(NamedTuple):
    """One trunk, and the heads on it."""

    trunk: Trunk
    parts: tuple[Part, ...]  # in the order of learning


def bind(params: Params, head: Params) -> Params:
    """The network of one task: the trunk's parameters, and its own head in place of the one they hold."""
    return {**params, **head}


@dataclass(frozen=True, eq=False)
class Heads(Method):
    """A frozen trunk and a head a task: old answers never change, and new tasks learn only what its features show.

    Args:
        trunk: where it comes from: learned on the background or the first task, random, or the net as it is given.
        head_lr: learning rate where a head is learned alone (1e-2 in the paper); `fit.lr` when not given.
    """

    trunk: Origin = "first"
    head_lr: float | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Headed, Trunk, Part, Model, TaskId)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)
        check_finite("head_lr", self.head_lr or 0.0)

    def init(self, key: int, background: Examples | None = None) -> Headed:
        return Headed(begin(self.net, self.fit, self.trunk, key, background), ())

    def learn(self, state: Headed, task: Task, key: int) -> tuple[Headed, Trace]:
        index, trunk = index_of(task, [part.task for part in state.parts]), state.trunk
        if trunk.made:
            model = own_head(self.net, self.fit, trunk.model, task)
            model, trace = minimise(self.net, model, self._head_alone(model), task, key)
        else:
            trunk, model, trace = learn_trunk(self.net, self.fit, trunk, task, key)
        others = tuple(part for part in state.parts if part.task != index)
        return Headed(trunk, (*others, part_of(self.net, self.fit, index, model.params, model))), trace

    def ready(self, state: Headed) -> Bound:
        start = state.trunk.model
        tasks = {p.id.index: Model(bind(start.params, p.head), p.stats, p.id.classes, {}) for p in state.parts}
        return Bound(start, tasks)

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Headed, index: int) -> Headed:
        return state._replace(parts=without(state.parts, index))

    def _head_alone(self, model: Model) -> Fit:
        """`fit` with the trunk frozen, so that nothing below the head is differentiated, at the rate of heads."""
        still = frozen(self.net, self.fit) | (model.params.keys() - set(parts_of(head_of(self.net, self.fit))))
        lr = self.fit.lr if self.head_lr is None else self.head_lr
        return replace(self.fit, lr=lr, moments="fresh", freeze=",".join(sorted(still)))
