"""PackNet: every task packs its largest weights into what is still free, and they never change again.

For the t-th task, with W the trunk (all but the head) and owner 0 where a weight is free:

    train     owner <- t where it is 0; min L_t(W) over W[owner = t] and a head of its own, the rest used but not moved
    prune     in each layer the share q of W[owner = t] with the smallest |w|: w <- 0, owner <- 0
    retrain   min L_t(W) over the survivors, W[owner = t], and the head
    freeze    what t owns never moves again

    bind(W, t) = where(1 <= owner <= t, W, 0)          the trunk of task t, at every exam

Before task t the share q^(t-1) of the weights is free. A withheld id is inferred: the task with the lowest entropy
answers.

Reference: A. Mallya, S. Lazebnik, "PackNet: Adding multiple tasks to a single network by iterative pruning", 2018,
arXiv 1711.05769.
Deviations: `fit` says how long training and retraining take together; the paper's 20 and 10 epochs are the default
split, and both have the learning rate and schedule of `fit` (the paper retrains at the rate its training had come down
to). Normalisation statistics are each task's own and not frozen after the first (bits stay, and a task may have
other inputs). Exactly floor(q n) weights of a layer are freed, ties in order of place, where the authors' code frees
every weight up to a cut-off. Moments are fresh in every phase, whatever `fit.moments` says. Inference by entropy is not
in the paper, which is given the id.
Memory: the trunk, and for each task a coded mask of what it owns, its head and statistics. A task that is forgotten or
learned anew takes these along; what it owned stays, in use, while a later task is kept, and is then free again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Fit, Method, Refused, Scenario, Task, TaskId, Trace, check_share
from perdure.model import Model, Part, head_of, index_of, own_head, parts_of, start
from perdure.ops.infer import Bound, respond
from perdure.ops.owners import MOST, Codes, at_rest, at_work, indices, released, vacated, with_task
from perdure.rng import fold
from perdure.train import frozen, length, minimise

Params = dict[str, Tensor]


class Packed(NamedTuple):
    """One trunk that all tasks share, and to which of them each of its weights belongs."""

    model: Model  # the trunk, and the head and statistics that every task starts from
    masks: Codes  # of owners at rest, of the trunk's parameters
    parts: tuple[Part | None, ...]  # in the order of learning; None where a task is forgotten that later ones build on

    @property
    def owner(self) -> Params:
        """Of each trunk parameter, uint8: 0 free, t of the t-th task."""
        return at_work(self.masks, self.model.params, len(self.parts))


def bind(params: Params, owner: Params, t: int) -> Params:
    """The trunk as the t-th task uses it (1 for the first): its own weights and those of earlier tasks, else 0."""
    return {name: params[name].where((mine > 0) & (mine <= t), 0.0) for name, mine in owner.items()}


def prune(model: Model, owner: Params, t: int, q: float, layers: Sequence[str]) -> tuple[Model, Params]:
    """Frees the floor(q n) smallest of the n weights that the t-th task owns in each layer, ties in order of place."""
    params, owner = dict(model.params), dict(owner)
    for name in layers:
        mine = (owner[name].flatten() == t).nonzero()[:, 0]
        order = params[name].flatten()[mine].abs().argsort(stable=True)
        freed = mine[order[: int(q * len(mine))]]
        for tensors in (params, owner):
            tensors[name] = tensors[name].flatten().index_fill(0, freed, 0).view_as(tensors[name])
    return model._replace(params=params), owner


def held(model: Model, owner: Params, t: int) -> Tensor:
    """(P,) bool: what the t-th task may not move. Its head (which has no owner) it may."""
    params = model.params.items()
    parts = [owner[name] != t if name in owner else torch.zeros_like(w, dtype=torch.bool) for name, w in params]
    return torch.cat([part.flatten() for part in parts])


def freeze(state: Packed, model: Model, owner: Params, index: int) -> Packed:
    """The state after a task: what it owns joins the trunk, its head and statistics are kept beside it."""
    trunk = {name: model.params[name] if name in owner else w for name, w in state.model.params.items()}
    head = {name: w for name, w in model.params.items() if name not in owner}
    parts = (*state.parts, Part(TaskId(index, model.labels), head, model.stats))
    return Packed(state.model._replace(params=trunk), with_task(state.masks, owner, len(parts)), parts)


@dataclass(frozen=True, eq=False)
class PackNet(Method):
    """Train, prune, retrain, freeze: old tasks are kept to the last bit until the network is full.

    Biases and normalisation scales move during the first task only. Weights that `fit.freeze` names are never pruned.

    Args:
        prune: q, the share of its weights in each layer that a task gives back (0 to 1); higher leaves more to later
            tasks and less to this one.
        retrain: the share of the steps spent on retraining (0 to 1).
    """

    prune: float = 0.75
    retrain: float = 1 / 3

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Packed, Part, Model, TaskId)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_share("prune", self.prune)
        check_share("retrain", self.retrain)

    def init(self, key: int, background: Examples | None = None) -> Packed:
        model, head = start(self.net, self.fit, key), parts_of(head_of(self.net, self.fit))
        trunk = {name: w for name, w in model.params.items() if name not in head}
        state = Packed(model, dict.fromkeys(trunk, ()), ())
        if not self._layers(state):
            raise Refused("PackNet packs the weights below the head, and this net has none that may move; add a layer")
        return state

    def vet(self, tasks: Sequence[Task]) -> None:
        state = self.init(0)
        free = {name: state.model.params[name].numel() for name in self._layers(state)}
        for t in range(1, len({task.id.index for task in tasks if task.id is not None}) + 1):
            self._check_room(state, free, t)
            free = {name: int(self.prune * n) for name, n in free.items()}

    def learn(self, state: Packed, task: Task, key: int) -> tuple[Packed, Trace]:
        learned = indices(state.parts)
        if (index := index_of(task, learned)) in learned:
            state = self.forget(state, index)
        t, layers = len(state.parts) + 1, self._layers(state)
        long, short = self._phases(len(task.examples))
        model = own_head(self.net, self.fit, state.model, task)  # free weights are 0 or fresh
        owner = self._claim(state, t, layers)

        model, trained = minimise(self.net, model, long, task, fold(key, "train"), held(model, owner, t))
        model, owner = prune(model, owner, t, self.prune, layers)
        model, retrained = minimise(self.net, model, short, task, fold(key, "retrain"), held(model, owner, t))
        return freeze(state, model, owner, index), Trace(torch.cat([trained.loss, retrained.loss]))

    def ready(self, state: Packed) -> Bound:
        tasks, owner = {}, state.owner
        for t, part in enumerate(state.parts, 1):
            if part is not None:
                params = {**bind(state.model.params, owner, t), **part.head}
                tasks[part.task] = Model(params, part.stats, part.id.classes, {})
        return Bound(state.model, tasks)

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Packed, index: int) -> Packed:
        parts, fresh = vacated(state.parts, index), start(self.net, self.fit, fold(index, "forgotten"))
        params, owner = released(state.model.params, state.owner, len(parts), fresh.params)
        return Packed(state.model._replace(params=params), at_rest(owner, len(parts)), parts)

    def _layers(self, state: Packed) -> list[str]:
        """The weights to pack: trunk parameters of two or more dimensions that may move."""
        still = frozen(self.net, self.fit)
        return [name for name in state.masks if state.model.params[name].ndim > 1 and name not in still]

    def _phases(self, examples: int) -> tuple[Fit, Fit]:
        """How to train, and how to retrain."""
        total = length(self.fit, examples)[1]
        if total < 2:
            raise Refused("PackNet trains and retrains: give fit at least 2 steps a task")
        after = min(max(1, round(total * self.retrain)), total - 1)
        fit = replace(self.fit, epochs=None, moments="fresh")
        return replace(fit, steps=total - after), replace(fit, steps=after)

    def _claim(self, state: Packed, t: int, layers: Sequence[str]) -> Params:
        """All that is free, owned by the t-th task."""
        owner = state.owner
        self._check_room(state, {name: int((owner[name] == 0).sum()) for name in layers}, t)
        return {name: mine.masked_fill(mine == 0, t) for name, mine in owner.items()}

    def _check_room(self, state: Packed, free: Mapping[str, int], t: int) -> None:
        """Raises Refused where a layer has nothing left to give to the t-th task."""
        if t > MOST:
            raise Refused(f"PackNet counts owners in a byte: it learns at most {MOST} tasks; start a new learner")
        for name, left in free.items():
            if not left:
                raise Refused(
                    f"the network is full: in {name} all {state.model.params[name].numel()} weights are owned by the "
                    f"{t - 1} tasks before this one. Use a wider net, or raise method.prune (now {self.prune:g})"
                )
