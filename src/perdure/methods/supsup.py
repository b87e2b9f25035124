"""SupSup: one network of random weights that are never trained, and for every task a mask over them.

    W      signed constants from a key                                  never stored, never moved
    learn  min_s L_t(W * m(s));  M_t <- m(s)                            scores s, straight-through; only M_t is kept
    infer  argmin_i d/d alpha_i  objective(f(x, W * sum_i alpha_i M_i))      alpha = 1/k, when no id is given

The network has more outputs than a task has labels. Those that no label uses are pushed down on a mask's own data only,
so their log-sum-exp (G) tells masks apart, as the entropy of all outputs does (H).

Without ids (NNs) every hundredth batch, and every batch whose loss jumps above what is usual, is asked whose it is
before any step on it: where the best of k masks is hardly better than the rest,

    max_i(-g_i) - log mean_i exp(-g_i) < log(1 + eps)

it is nobody's, and gets a mask of its own. The youngest mask is not judged before it has learned for a while.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
Deviations: W depends on a key alone, not on how many tasks there will be. Only learned masks take part; fewer than 5
are joined by random ones in NNs, as in the authors' code, but these can never be chosen. The loss as an alarm, the
probation and moments that each mask keeps are not in the paper. Superposed statistics of normalisation are the mean of
the tasks'.
Memory: a key, and for each task a coded mask (at most a bit a weight) and its statistics; in NNs the scores and their
moments too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import ClassVar, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from perdure.contract import Answer, Examples, Fit, Method, Refused, Scenario, Task, TaskId, Trace
from perdure.model import Model, answer, classes_of, head_of, parts_of, start, with_outputs
from perdure.ops.codec import decode, encode
from perdure.ops.infer import Bound, Made, entropy, respond, routed
from perdure.ops.masks import (
    Largest,
    Rule,
    Threshold,
    Through,
    constants,
    erdos_renyi_budgets,
    learn_masks,
    maskable,
    start_scores,
    uniform_budgets,
)
from perdure.ops.superpose import SEARCHES, Stack, bind, counted, surplus
from perdure.rng import fold
from perdure.train import Descent, Layout

Params = dict[str, Tensor]
Part = TypeVar("Part")
Kind = Literal["threshold", "largest"]
Budget = Literal["uniform", "erdos-renyi"]
Search = Literal["one-shot", "binary", "sweep"]
Told = Literal["entropy", "surplus"]
Transfer = Literal["none", "scores", "masks"]


class Supermasks(NamedTuple):
    """Everything known after some tasks."""

    seed: int  # the key of W
    ids: tuple[TaskId, ...]  # in the order of learning
    masks: tuple[Params, ...]  # coded, by name of the weights, but for the head's
    heads: tuple[Params, ...]
    stats: tuple[Params, ...]
    mean: Params  # of the scores of all tasks; empty unless they are transferred


class Masked(NamedTuple):
    """What exams need: masks on top of one another, and the models they make."""

    stack: Stack
    bound: Bound
    ids: tuple[TaskId, ...]


@dataclass(frozen=True, eq=False)
class SupSup(Method):
    """A mask a task over random weights: nothing is forgotten, and the task is recognised from its data.

    Args:
        outputs: of the network, s; those beyond a task's labels make tasks easier to tell apart.
        rule: which weights a mask keeps: those whose score is at least 0, or the largest in size, as many as the
            budget says (edge-popup).
        budget: of each layer under `largest`: the same share of all, or in proportion to its inputs and outputs.
        density: the share that a uniform budget keeps (0 to 1); e of an Erdos-Renyi budget, e (in + out) weights.
        refresh: steps between two exact searches for the cut-off of `largest`.
        infer: how a task is found: by one gradient, by halving the candidates, or by trying all.
        told: what it is told by: the entropy of all outputs, or the outputs that no label uses.
        pool: inputs in a row that are known to share their task and are judged together.
        transfer: where scores start: random, or the mean of earlier tasks' scores or masks.
        most: masks there may be; no limit when not given.
    """

    fit: Fit = Fit(optimizer="rmsprop", lr=1e-4)
    outputs: int = 100
    rule: Kind = "threshold"
    budget: Budget = "uniform"
    density: float = 0.5
    refresh: int = 10
    infer: Search = "one-shot"
    told: Told = "entropy"
    pool: int = 1
    transfer: Transfer = "none"
    most: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Supermasks, TaskId)
    isolates: ClassVar = True

    def __post_init__(self) -> None:
        kinds = {"rule": Kind, "budget": Budget, "infer": Search, "told": Told, "transfer": Transfer}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise Refused(f"method.{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(kind))}")
        for name in ("outputs", "refresh", "pool", "most"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"method.{name} is {value}; it must be at least 1")
        if not 0 < self.density < (1 if self.budget == "uniform" else inf):
            raise Refused(f"method.density is {self.density}; a share lies between 0 and 1, and e is positive")

    @cached_property
    def wide(self) -> nn.Module:
        """The network with all its outputs."""
        return with_outputs(self.net, self.fit, self.outputs)

    def init(self, key: int, background: Examples | None = None) -> Supermasks:
        maskable(self.net)
        return Supermasks(fold(key, "constants"), (), (), (), (), {})

    def learn(self, state: Supermasks, task: Task, key: int) -> tuple[Supermasks, Trace]:
        index, classes = len(state.ids) if task.id is None else task.id.index, in_order(task)
        state = without(state, index)
        self._check(state, classes)
        weights = constants(self.wide, state.seed)
        layout, scores = Layout(weights), self._first_scores(state, weights, fold(key, "scores"))
        spare = -1 - torch.arange(self.outputs - len(classes))  # outputs that no label uses
        model = Model(weights, start(self.wide, self.fit, 0).stats, torch.cat([classes, spare]), {})

        moved = layout.flat({name: scores.get(name, torch.ones_like(w)) for name, w in weights.items()})
        descent = Descent(self.wide, model, replace(self.fit, moments="fresh"), key, moved=moved)
        through = Through(descent, layout.flat(weights), scores, self._rule(weights))
        masks = learn_masks(through, descent, task.examples)

        codes = {name: encode(mask) for name, mask in masks.items()}
        head = {name: codes.pop(name) for name in parts_of(head_of(self.wide, self.fit)) if name in codes}
        return Supermasks(
            state.seed,
            (*state.ids, TaskId(index, classes)),
            (*state.masks, codes),
            (*state.heads, head),
            (*state.stats, descent.model.stats),
            self._mean(state, through.scores),
        ), descent.trace

    def ready(self, state: Supermasks) -> Masked:
        weights, k = constants(self.wide, state.seed), len(state.ids)
        codes = [{**mask, **head} for mask, head in zip(state.masks, state.heads, strict=True)]
        bits = {
            name: torch.stack([decode(code[name], weights[name].numel()) for code in codes])
            for name in (codes[0] if k else ())
        }
        counts = {name: counted(packed, weights[name].shape) for name, packed in bits.items()}
        stack, head = Stack(weights, bits, counts, state.stats), parts_of(head_of(self.wide, self.fit))

        def own(place: int) -> Model:
            labels = state.ids[place].classes
            params = {name: w[: len(labels)] if name in head else w for name, w in bind(stack, place).items()}
            return Model(params, state.stats[place], labels, {})

        rows = len(start(self.net, self.fit, 0).labels)
        first = {name: w[:rows] if name in head else w for name, w in weights.items()}
        begin = Model(first, start(self.wide, self.fit, 0).stats, torch.arange(rows), {})
        return Masked(stack, Bound(begin, Made([id.index for id in state.ids], own)), state.ids)

    def predict(self, ready: Masked, x: Tensor, id: TaskId | None = None) -> Answer:
        if id is not None or not ready.ids:
            return respond(self.wide, ready.bound, x, id)
        told = entropy if self.told == "entropy" else surplus(max(len(id.classes) for id in ready.ids))
        places = SEARCHES[self.infer](self.wide, ready.stack, x, told, self.pool)
        tasks = torch.tensor([id.index for id in ready.ids], device=x.device)[places]
        labels = torch.cat([id.classes for id in ready.ids]).unique()
        return routed(tasks, labels, lambda task, rows: answer(self.wide, ready.bound.tasks[task], x[rows]))

    def _check(self, state: Supermasks, classes: Tensor) -> None:
        if len(classes) > self.outputs:
            raise Refused(
                f"a task has {len(classes)} labels, and the network {self.outputs} outputs; raise method.outputs"
            )
        if self.most is not None and len(state.ids) >= self.most:
            raise Refused(f"all {self.most} masks are in use; raise method.most, or leave it out for no limit")

    def _rule(self, weights: Params) -> Rule:
        if self.rule == "threshold":
            return Threshold()
        shapes = {name: weights[name].shape for name in maskable(self.wide)}
        budgets = uniform_budgets if self.budget == "uniform" else erdos_renyi_budgets
        return Largest(budgets(shapes, self.density), self.refresh)

    def _first_scores(self, state: Supermasks, weights: Params, key: int) -> Params:
        """Where scores start: drawn, or what is transferred."""
        drawn, k = start_scores(self.wide, key), len(state.ids)
        if self.transfer == "scores" and k:
            return dict(state.mean)
        if self.transfer == "masks" and k:
            counts = self.ready(state).stack.counts
            return {name: kept / k - 0.5 for name, kept in counts.items()}
        return drawn

    def _mean(self, state: Supermasks, scores: Params) -> Params:
        """The running mean of the scores of all tasks, if it is wanted."""
        if self.transfer != "scores":
            return {}
        before = state.mean or {name: torch.zeros_like(score) for name, score in scores.items()}
        return {name: before[name].lerp(score, 1 / (len(state.ids) + 1)) for name, score in scores.items()}


def in_order(task: Task) -> Tensor:
    """(n,) the labels of a task in the order in which its examples first show them, whatever their names."""
    classes = classes_of(task)
    hits = task.examples.labels[:, None] == classes.to(task.examples.labels.device)
    return classes[(~hits).long().cumprod(0).sum(0).argsort(stable=True).to(classes.device)]


def without(state: Supermasks, index: int) -> Supermasks:
    """The state without what was learned of a task: one that is learned again gets a new mask."""
    kept = [place for place, id in enumerate(state.ids) if id.index != index]

    def pick(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(parts[place] for place in kept)

    return state._replace(
        ids=pick(state.ids), masks=pick(state.masks), heads=pick(state.heads), stats=pick(state.stats)
    )
