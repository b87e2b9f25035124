"""CPG, compacting, picking and growing: a task picks old weights, learns free ones, and gives back what it can spare.

For the t-th task, with W the weights below the head, owner 0 where one is free, and a score m for each older weight:

    pick      min L_t over m, W[owner = t], and vectors and a head of its own, where owner <- t where it was 0, and
              the network runs on W 1[m >= 0] where 1 <= owner < t (straight-through: dL/dm = dL/d(W 1[m >= 0]) W)
    grow      while the accuracy on held-back examples misses the goal and the net may grow: more units, W fresh and
              owner 0 there, and pick again
    compact   for r = .1, .2, ..., .9, .95: in each layer of n weights owned in pick, the smallest are freed until
              floor(r n) are, and the rest is retrained with m; the largest r that reaches the goal stands

    bind(W, t) = W where owner = t, or where 1 <= owner < t and m_t >= 0, else 0; at the shapes of the t-th task

The goal is an accuracy, or what a fresh network of the original width reaches on the same held-back examples, trained
in the same way. The size is counted in parameters: at size z a hidden layer has sqrt(z) times its units. A withheld id
is inferred: the task with the lowest entropy answers.

Reference: S. C. Y. Hung, C.-H. Tu, C.-E. Wu, C.-H. Chen, Y.-M. Chan, C.-S. Chen, "Compacting, picking and growing for
unforgetting continual learning", 2019, arXiv 1910.06562.
Deviations: goal, growth and ratio go by examples held back from training, which are never trained on; the authors' code
takes the test set. Where a goal is missed at the largest size, the paper leaves 1/(tasks to come + 1) of the weights;
that number nobody knows here, so half is given back in any case, and more as long as the accuracy stays where it was.
Scores start at .005 and are cut at 0 (the paper: .01 and .005), so that decay alone drops no weight; they share the
optimiser of `fit`. Ratios are pruned at once, not along a cubic schedule. Free weights start at the values they had
before life. Moments are fresh in every phase. Inference by entropy is not in the paper, which is given the id.
Memory: the network, and for each task its vectors, head, statistics, a coded mask of the weights it owns, and at most
about a bit for each older weight. A task that is forgotten or learned anew takes these along; what it owned stays, in
use, while a later task is kept, and is then free again. The net stays as large as it has become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from perdure.contract import Answer, Examples, Fit, Method, Refused, Scenario, Task, TaskId, Trace
from perdure.model import (
    Model,
    Part,
    accuracy,
    first_come,
    head_of,
    index_of,
    own_head,
    parts_of,
    rows_of,
    start,
)
from perdure.ops.chain import chain, widened
from perdure.ops.codec import encode, restored
from perdure.ops.infer import Bound, respond
from perdure.ops.masks import Through, learn_masks
from perdure.ops.owners import MOST, Codes, at_rest, at_work, indices, released, vacated, with_task
from perdure.ops.select import largest
from perdure.rng import fold
from perdure.train import Descent, Layout, frozen, length, minimise

Params = dict[str, Tensor]
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPARED = 0.5  # the ratio that a task gives back which misses its goal
SCORE = 0.005  # where scores start
ADVICE = "Set method.limit to 1, so that the net never grows"


class Own(NamedTuple):
    """What belongs to one task alone, beside the weights it owns."""

    part: Part  # among its `head`: its vectors
    picks: Params  # coded, by name: which of the older weights it uses, in order of place
    shapes: dict[str, tuple[int, ...]]  # of the weights when it was learned

    @property
    def task(self) -> int:
        return self.part.task


class Grown(NamedTuple):
    """One network that all tasks share, as large as it has become, and to which of them each weight belongs."""

    model: Model  # its weights, free ones as they started; and vectors, head and statistics as every task starts
    masks: Codes  # of owners at rest
    size: float  # in parameters, of the net as it was given
    tasks: tuple[Own | None, ...]  # in the order of learning; None where one is forgotten that later ones build on

    @property
    def owner(self) -> Params:
        """Of each weight, uint8: 0 free, t of the t-th task."""
        return at_work(self.masks, self.model.params, len(self.tasks))


class Draft(NamedTuple):
    """A task while it is learned."""

    model: Model  # in place of a weight that an older task owns stands its score, of one that was given back 0
    owner: Params
    older: Params  # bool: whether an older task owns it
    beneath: Params  # W where it does, else 1


def older(owner: Tensor, t: int) -> Tensor:
    """Bool: what belongs to a task before the t-th."""
    return (owner > 0) & (owner < t)


def bind(state: Grown, owner: Params, t: int) -> Params:
    """The parameters of the t-th task (1 for the first), at the shapes that it was learned at."""
    own = state.tasks[t - 1]
    assert own is not None
    params = {**state.model.params, **own.part.head}
    for name, shape in own.shapes.items():
        corner = tuple(map(slice, shape))
        seen, theirs = owner[name][corner] == t, older(owner[name][corner], t)
        if n := int(theirs.sum()):
            seen[theirs] = restored(own.picks[name], n)
        params[name] = params[name][corner].where(seen, 0.0).contiguous()
    return params


def merged(draft: Draft) -> Model:
    """What the network of a draft runs on."""
    params = draft.model.params
    weights = {n: params[n].where(~mask, (params[n] >= 0) * draft.beneath[n]) for n, mask in draft.older.items()}
    return draft.model._replace(params=params | weights)


class Picks:
    """The rule of masks by which scores of older weights are cut at 0, and all else is taken as it is."""

    signed = False

    def __init__(self, older: Mapping[str, Tensor]) -> None:
        self.older = older

    def write(self, scores: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        for name, score in scores.items():
            torch.where(self.older[name], (score >= 0).to(score), score, out=out[name])

    def masks(self, scores: Mapping[str, Tensor]) -> Params:
        """Bool, by name: of the older weights, in order of place."""
        return {name: (score >= 0)[self.older[name]] for name, score in scores.items()}


def compact(draft: Draft, claimed: Mapping[str, int], ratio: float, t: int) -> Draft:
    """Leaves the t-th task the n - floor(ratio n) largest of the n weights it has claimed in each layer."""
    params, owners = dict(draft.model.params), dict(draft.owner)
    for name, n in claimed.items():
        mine = owners[name] == t
        kept = largest(params[name][mine], n - int(ratio * n))
        owners[name] = owners[name].masked_scatter(mine, kept.to(torch.uint8) * t)
        params[name] = params[name].masked_fill(owners[name] == 0, 0.0)
    return draft._replace(model=draft.model._replace(params=params), owner=owners)


def fresh(net: nn.Module, fit: Fit, size: float, key: int) -> Model:
    """The model before life at a size; a larger one than the net has nothing of the net as it is given."""
    if size == 1:
        return start(net, fit, key)
    return start(widened(net, head_of(net, fit), size, ADVICE), replace(fit, start="fresh"), key)


def grow(net: nn.Module, fit: Fit, state: Grown, size: float, key: int) -> Grown:
    """The state at a larger size: all it holds is as it was, and what is new is free and starts fresh."""
    begun = fresh(net, fit, size, key)

    def pasted(old: Params, new: Params) -> Params:
        out = {name: new[name].to(tensor, copy=True) for name, tensor in old.items()}
        for name, tensor in old.items():
            out[name][tuple(map(slice, tensor.shape))] = tensor
        return out

    model = state.model._replace(
        params=pasted(state.model.params, begun.params), stats=pasted(state.model.stats, begun.stats)
    )
    owner = pasted(state.owner, {name: torch.zeros_like(w) for name, w in begun.params.items()})
    return Grown(model, at_rest(owner, len(state.tasks)), size, state.tasks)


@dataclass(frozen=True, eq=False)
class CPG(Method):
    """Compacting, picking and growing: as small as the goal allows, and nothing is forgotten.

    Chains of Linear and convolution layers with batch norms between them can grow; for other nets set `limit` to 1.

    Args:
        goal: the accuracy that a task must reach on its held-back examples (0 to 1), or `single`: what a single
            network of the original width reaches there.
        margin: how far below the goal is near enough (0 to 1).
        validation: the share of a task's examples that is held back (0 to 1).
        grow: how much larger the net becomes at once, in its original parameters.
        limit: the largest size, in its original parameters; at 1 it never grows.
        retrain: steps of retraining at each ratio, as a share of those that picking takes (0 to 1).
    """

    goal: float | Literal["single"] = "single"
    margin: float = 0.01
    validation: float = 0.1
    grow: float = 0.5
    limit: float = 1.5
    retrain: float = 0.2

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Grown, Own, Part, Model, TaskId)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        goal = 1.0 if self.goal == "single" else self.goal
        for name, fine, rule in (
            ("goal", isinstance(goal, int | float) and 0 <= goal <= 1, "be an accuracy, 0 to 1, or single"),
            ("margin", 0 <= self.margin <= 1, "lie between 0 and 1"),
            ("validation", 0 < self.validation < 1, "lie between 0 and 1, both excluded"),
            ("grow", 0 < self.grow < inf, "be positive (set method.limit to 1 for a net that never grows)"),
            ("limit", 1 <= self.limit < inf, "be at least 1, the size of the net as it is given"),
            ("retrain", 0 < self.retrain <= 1, "be above 0 and at most 1"),
        ):
            if not fine:
                raise Refused(f"method.{name} is {getattr(self, name)!r}; it must {rule}")

    def init(self, key: int, background: Examples | None = None) -> Grown:
        model, head = start(self.net, self.fit, key), parts_of(head_of(self.net, self.fit))
        still = frozen(self.net, self.fit)
        weights = {n: w for n, w in model.params.items() if w.ndim > 1 and n not in head and n not in still}
        if not weights:
            raise Refused("CPG packs the weights below the head, and this net has none that may move; add a layer")
        if self.limit > 1:
            if still:
                raise Refused(f"{min(still)} is frozen, and what is frozen cannot grow; set method.limit to 1")
            chain(self.net, head_of(self.net, self.fit), ADVICE)
        return Grown(model, dict.fromkeys(weights, ()), 1.0, ())

    def learn(self, state: Grown, task: Task, key: int) -> tuple[Grown, Trace]:
        learned = indices(state.tasks)
        if (index := index_of(task, learned)) in learned:
            state = self.forget(state, index)
        t = len(state.tasks) + 1
        if t > MOST:
            raise Refused(f"CPG counts owners in a byte: it learns at most {MOST} tasks; start a new learner")
        task, held = self._hold_back(task, key)
        goal = self._goal(task, held, key) - self.margin
        losses: list[Tensor] = []

        while True:
            draft, loss = self._train(self._begin(state, task, t), self.fit, task, fold(key, "pick", len(losses)))
            losses.append(loss)
            reached = accuracy(self.net, merged(draft), held)
            size = min(state.size + self.grow, self.limit)
            if reached >= goal or size <= state.size:
                break
            state = grow(self.net, self.fit, state, size, fold(key, "grow", len(losses)))

        short, best = self._retraining(len(task.examples)), draft
        claimed = {name: n for name, owner in draft.owner.items() if (n := int((owner == t).sum()))}
        for ratio in RATIOS if claimed else ():
            draft = compact(draft, claimed, ratio, t)
            draft, loss = self._train(draft, short, task, fold(key, "compact", len(losses)))
            losses.append(loss)
            spared = reached < goal and ratio <= SPARED
            if spared or accuracy(self.net, merged(draft), held) >= min(goal, reached):
                best = draft
        return self._end(state, best, t, index), Trace(torch.cat(losses))

    def ready(self, state: Grown) -> Bound:
        owner = state.owner
        tasks = {
            own.task: Model(bind(state, owner, t), own.part.stats, own.part.id.classes, {})
            for t, own in enumerate(state.tasks, 1)
            if own is not None
        }
        return Bound(state.model, tasks)

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Grown, index: int) -> Grown:
        tasks, begun = vacated(state.tasks, index), fresh(self.net, self.fit, state.size, fold(index, "forgotten"))
        params, owner = released(state.model.params, state.owner, len(tasks), begun.params)
        model = state.model._replace(params=params)
        return state._replace(model=model, masks=at_rest(owner, len(tasks)), tasks=tasks)

    def _hold_back(self, task: Task, key: int) -> tuple[Task, Examples]:
        """The task without the examples that it is measured on, and those."""
        rest, held = task.examples.split(fold(key, "validation"), self.validation)
        if not len(rest) or not len(held):
            raise Refused(
                f"method.validation {self.validation:g} holds back {len(held)} of a task's {len(task.examples)} "
                "examples; change it, or give the task more examples"
            )
        return task._replace(examples=rest), held.materialise()

    def _goal(self, task: Task, held: Examples, key: int) -> float:
        """The accuracy to reach on the examples held back."""
        if self.goal != "single":
            return self.goal
        alone = self._own(start(self.net, self.fit, fold(key, "single")), task)
        model, _ = minimise(self.net, alone, replace(self.fit, moments="fresh"), task, fold(key, "single"))
        return accuracy(self.net, model, held)

    def _own(self, model: Model, task: Task) -> Model:
        """The model with a head of the task's own, its rows in the order in which their labels first come.

        What the held-back examples decide may hang on the last bits, and those on the order of rows: in this order
        other names for the labels change nothing, bit for bit.
        """
        model, head = own_head(self.net, self.fit, model, task), parts_of(head_of(self.net, self.fit))
        return _with_rows(model, head, rows_of(model.labels, first_come(task).to(model.labels.device)))

    def _begin(self, state: Grown, task: Task, t: int) -> Draft:
        """The t-th task before it is learned: all older weights picked, and all that is free claimed."""
        model, W = self._own(state.model, task), state.model.params
        owner = {name: mine.masked_fill(mine == 0, t) for name, mine in state.owner.items()}
        theirs = {name: older(mine, t) for name, mine in owner.items()}
        scores = {name: W[name].masked_fill(mask, SCORE) for name, mask in theirs.items()}
        beneath = {name: W[name].where(mask, 1.0) for name, mask in theirs.items()}
        return Draft(model._replace(params=model.params | scores), owner, theirs, beneath)

    def _train(self, draft: Draft, fit: Fit, task: Task, key: int) -> tuple[Draft, Tensor]:
        """The draft after some steps over the weights it owns, its scores, its vectors and its head; the losses."""
        params, owner, layout = draft.model.params, draft.owner, Layout(draft.model.params)
        free = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in params.items() if name not in owner}
        given = free | {name: mine == 0 for name, mine in owner.items()}
        descent = Descent(
            self.net,
            merged(draft),
            replace(fit, moments="fresh"),
            key,
            hold=torch.cat([given[name].flatten() for name in params]),
            moved=layout.flat(params),
        )
        through = Through(descent, layout.flat(params | draft.beneath), owner, Picks(draft.older), free)
        learn_masks(through, descent, task.examples)
        model = descent.model._replace(params=layout.named(descent.moved))
        return draft._replace(model=model), descent.trace.loss

    def _retraining(self, examples: int) -> Fit:
        """How to retrain at a ratio."""
        return replace(self.fit, epochs=None, steps=max(1, round(length(self.fit, examples)[1] * self.retrain)))

    def _end(self, state: Grown, draft: Draft, t: int, index: int) -> Grown:
        """The state after a task: what it owns joins the network, the rest is kept beside it."""
        names, still = parts_of(head_of(self.net, self.fit)), frozen(self.net, self.fit)
        model, owner = _with_rows(draft.model, names, draft.model.labels.argsort()), draft.owner
        weights = {name: model.params[name].where(mine == t, state.model.params[name]) for name, mine in owner.items()}
        picks = {name: encode(model.params[name][mask] >= 0) for name, mask in draft.older.items() if mask.any()}
        head = {name: w for name, w in model.params.items() if name not in owner and name not in still}
        part = Part(TaskId(index, model.labels), head, model.stats)
        own = Own(part, picks, {name: tuple(mine.shape) for name, mine in owner.items()})
        shared = state.model._replace(params=state.model.params | weights)
        return Grown(shared, with_task(state.masks, owner, t), state.size, (*state.tasks, own))


def _with_rows(model: Model, head: tuple[str, str], rows: Tensor) -> Model:
    """The model with the rows of its head in another order."""
    params = {name: w[rows] if name in head else w for name, w in model.params.items()}
    return model._replace(params=params, labels=model.labels[rows])
