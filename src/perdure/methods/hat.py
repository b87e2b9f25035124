"""HAT, hard attention to the task: every task learns which units it uses, and what earlier tasks use is protected.

With h_l the units of hidden layer l, as the layer after it reads them, and e a real number for each unit and task:

    a_l  = sigma(s e_l),   h_l <- a_l * h_l
    s    = 1/s_max + (s_max - 1/s_max) (b - 1) / (B - 1)                   in batch b of the B of an epoch
    L    = L_t + c R,      R = sum a (1 - a^{<t}) / sum (1 - a^{<t})        over all hidden units
    dL/de     <-  dL/de  * s_max (cosh(s e) + 1) / (s (cosh(e) + 1))       so that e learns at any s; then |e| <= 6
    dL/dw_ij  <-  dL/dw_ij (1 - min(a_i^{<t}, a_j^{<t}))                   j feeds i; inputs have a = 1
    a^{<t+1}   =  max(a^{<t}, a^t),    a^t = 1[e > 0] (hard) or sigma(s_max e) (soft)

Since dL/de = s a (1 - a) dL/da, and 1/(a (1 - a)) = 2 (cosh(s e) + 1), the third line is s_max sigma'(e) dL/da: that is
what is computed, and no exponential overflows. A gate on h_l is a factor on the columns that read it, so the gated
network is the network with other weights:

    bind(W, a) = W_ij a_j where a_i > 0, else 0

With hard gates what a task reads is protected wholly, so its answers keep their bits. A withheld id is inferred: the
task with the lowest entropy answers.

Reference: J. Serra, D. Suris, M. Miron, A. Karatzoglou, "Overcoming catastrophic forgetting with hard attention to the
task", 2018, arXiv 1801.01423.
Deviations: gates become hard when a task ends; the paper's stay soft (`gates="soft"`). The rate does not fall when
validation stalls: `fit` says its schedule. Adam is the default: under plain SGD a unit's share of c R falls with the
number of units, and one rate does not suit small nets and large ones (the paper: lr .05, thousands of units). Where
`fit` gives steps, epochs are stretched so that the last one ends with them, at s_max. Entries that are protected wholly
keep their bits under any optimiser; where soft gates protect in part, momentum, Adam and decay move more than the
paper's plain SGD. Scales and shifts of batch norm are protected as biases, its statistics are each task's own.
Inference by entropy is not in the paper, which is given the id.
Memory: a bit a hidden unit and task (a float where gates are soft), and the task's head and statistics. A task that is
forgotten takes these along; weights that it alone used stay until another task moves them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from math import ceil, inf
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from perdure.contract import (
    Answer,
    Examples,
    Fit,
    Method,
    Refused,
    Scenario,
    Task,
    TaskId,
    Trace,
    check_finite,
    check_words,
)
from perdure.model import Model, Part, head_of, index_of, own_head, parts_of, start, without
from perdure.ops.chain import Link, chain
from perdure.ops.channels import spread
from perdure.ops.codec import pack, unpack
from perdure.ops.infer import Bound, respond
from perdure.rng import fold, normal
from perdure.train import Descent, Layout, frozen, length

Params = dict[str, Tensor]
Gates = Literal["hard", "soft"]
MOST = 6.0  # of |e|
EMBEDDING = "hat_embedding"  # the name of e among the parameters while a task is learned


class Own(NamedTuple):
    """What belongs to one task alone."""

    part: Part
    gates: Tensor  # of all hidden units: packed bits (ceil(U / 8),) uint8, or a (U,) float

    @property
    def task(self) -> int:
        return self.part.task


class Attended(NamedTuple):
    """One network, and what each task attends to."""

    model: Model  # its trunk; and the head and statistics that every task starts from
    tasks: tuple[Own, ...]  # in the order of learning


def sides(links: Sequence[Link], a: Tensor) -> Iterator[tuple[Link, Tensor, Tensor]]:
    """Each link with the gates of its rows and those of its columns; 1 for the head's rows and the net's inputs.

    Args:
        a: (U,) the gates of all hidden units.
    """
    gates = [*a.split([link.units for link in links[:-1]]), a.new_ones(1)]
    for link, feeding, gate in zip(links, [a.new_ones(1), *gates], gates, strict=False):
        yield link, gate, feeding.repeat_interleave(link.layer.weight.shape[1] // len(feeding))


def scale_(links: Sequence[Link], weights: Params, a: Tensor) -> None:
    """Multiplies by its gate, in place, every column that reads a hidden unit."""
    for link, _, columns in islice(sides(links, a), 1, None):
        weights[link.weight].mul_(spread(columns[None], weights[link.weight]))


def gate_gradient(links: Sequence[Link], grads: Params, weights: Params) -> Tensor:
    """(U,) dL/da: over the columns that read a unit, the sum of the gated weights' gradient times the weights."""
    parts = []
    for before, link in pairwise(links):
        product = grads[link.weight] * weights[link.weight]
        parts.append(product.sum([0, *range(2, product.ndim)]).view(before.units, -1).sum(1))
    return torch.cat(parts)


def bind(links: Sequence[Link], params: Params, a: Tensor) -> Params:
    """The parameters of the gated network; whatever belongs to a unit that is off, or reads one, is 0."""
    out = dict(params)
    for link, rows, columns in sides(links, a):
        weight, gate = params[link.weight], spread(columns[None], params[link.weight])
        out[link.weight] = (weight * gate).where((gate > 0) & (spread(rows[:, None], weight) > 0), 0.0)
        for name in link.vectors:
            out[name] = params[name].where(rows.repeat_interleave(len(params[name]) // len(rows)) > 0, 0.0)
    return out


def protected(links: Sequence[Link], params: Params, a: Tensor) -> Params:
    """How much of each trunk parameter is protected, 0 to 1: min(a_i, a_j) of a weight, a_i of a bias, by name."""
    out = {}
    for link, rows, columns in islice(sides(links, a), len(links) - 1):
        weight = params[link.weight]
        out[link.weight] = spread(torch.minimum(rows[:, None], columns), weight).expand_as(weight)
        for name in link.vectors:
            out[name] = rows.repeat_interleave(len(params[name]) // len(rows))
    return out


def annealed(step: int, steps: int, epoch: int, s_max: float) -> float:
    """s at a step of a task (from 0): from 1/s_max up to s_max in each of the nearest whole number of epochs."""
    epochs = max(1, round(steps / epoch))
    place = step * epochs // steps  # the epoch, from 0
    first, end = (-(-edge * steps // epochs) for edge in (place, place + 1))
    share = (step - first) / (end - first - 1) if end - first > 1 else 1.0
    return 1 / s_max + (s_max - 1 / s_max) * share


@dataclass(frozen=True, eq=False)
class HAT(Method):
    """Hard attention to the task.

    Args:
        s_max: how steep gates become within each epoch, at least 1.
        c: strength of the pull to use few units that no earlier task uses; higher leaves more to later tasks.
        gates: hard (on or off when a task ends, and nothing is forgotten), or soft.
    """

    fit: Fit = Fit(lr=2e-3)
    s_max: float = 400.0
    c: float = 0.75
    gates: Gates = "hard"

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Attended, Own, Part, Model, TaskId)
    isolates: ClassVar = True  # with hard gates
    alone: ClassVar = True

    def __post_init__(self) -> None:
        if not 1 <= self.s_max < inf:
            raise Refused(f"method.s_max is {self.s_max}; it must be at least 1, and finite")
        check_finite("c", self.c)
        check_words("method", self)

    def init(self, key: int, background: Examples | None = None) -> Attended:
        if len(self._links()) < 2:
            raise Refused("HAT gates hidden units, and this net has none; add a layer below the head")
        return Attended(start(self.net, self.fit, key), ())

    def learn(self, state: Attended, task: Task, key: int) -> tuple[Attended, Trace]:
        index = index_of(task, [own.task for own in state.tasks])
        state = state._replace(tasks=tuple(own for own in state.tasks if own.task != index))
        links, used = self._links(), self.used(state)
        model = own_head(self.net, self.fit, state.model, task)
        descent, free = self._begin(links, model, used, key)
        steps, epoch = self._lengths(len(task.examples))
        rest, views = 1 - used, descent.layout.views
        c = self.c / max(float(rest.sum()), 1e-12)
        gated, params = views(descent.flat), views(descent.moved)
        e = params[EMBEDDING]
        for step, batch in enumerate(descent.batches(task.examples)):
            a = (annealed(step, steps, epoch, self.s_max) * e).sigmoid()
            descent.flat.copy_(descent.moved)
            scale_(links, gated, a)
            flat = descent.grad(cross_entropy(descent(batch.x), batch.y) + c * (a @ rest))
            grads, slope = views(flat), e.sigmoid()
            da = gate_gradient(links, grads, params).add_(rest, alpha=c)
            scale_(links, grads, a)
            flat.mul_(free)
            torch.mul(da, self.s_max * slope * (1 - slope), out=grads[EMBEDDING])
            descent.step(flat)
            e.clamp_(-MOST, MOST)
        return self._end(state, descent, index), descent.trace

    def ready(self, state: Attended) -> Bound:
        links, tasks = self._links(), {}
        for part, gates in state.tasks:
            params = bind(links, {**state.model.params, **part.head}, self._unpacked(gates))
            tasks[part.task] = Model(params, part.stats, part.id.classes, {})
        return Bound(state.model, tasks)

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Attended, index: int) -> Attended:
        return state._replace(tasks=without(state.tasks, index))

    def used(self, state: Attended) -> Tensor:
        """(U,) a^{<t}: how much any task so far uses each hidden unit, 0 to 1."""
        units = sum(link.units for link in self._links()[:-1])
        none = state.model.params[self._links()[0].weight].new_zeros(units)
        return torch.stack([none, *(self._unpacked(own.gates) for own in state.tasks)]).amax(0)

    def free(self, state: Attended) -> float:
        """The share of the trunk's parameters that later tasks may still move, 0 to 1."""
        held = protected(self._links(), state.model.params, self.used(state)).values()
        return float(1 - sum(part.sum() for part in held) / sum(part.numel() for part in held))

    def _links(self) -> list[Link]:
        advice = "HAT needs a chain (mlp:400-400, conv:16-32); use packnet for other nets"
        return chain(self.net, head_of(self.net, self.fit), advice)

    def _begin(self, links: Sequence[Link], model: Model, used: Tensor, key: int) -> tuple[Descent, Tensor]:
        """A descent that moves e and the weights beneath the gates, and (P,) how freely each may move, 0 to 1."""
        net, e = copy.deepcopy(self.net), normal(fold(key, "gates"), len(used)).to(used)
        net.requires_grad_()  # gates learn from the gradients of frozen weights, too
        net.register_parameter(EMBEDDING, nn.Parameter(e))  # the first of all parameters, which the net does not read
        params = {EMBEDDING: e, **model.params}
        layout = Layout(params)
        still = {name: torch.ones_like(model.params[name]) for name in frozen(self.net, self.fit)}
        held = protected(links, model.params, used) | still
        free = 1 - layout.flat({name: held.get(name, torch.zeros_like(w)) for name, w in params.items()})
        fit = replace(self.fit, moments="fresh", freeze="")
        return Descent(net, model._replace(params=params), fit, key, None, free == 0, layout.flat(params)), free

    def _lengths(self, examples: int) -> tuple[int, int]:
        """Steps of a task, and of one pass over it."""
        size, steps = length(self.fit, examples)
        return steps, ceil(examples / size)

    def _end(self, state: Attended, descent: Descent, index: int) -> Attended:
        """The state after a task: the trunk as it is now, and what the task keeps for itself."""
        learned, params = descent.model, descent.layout.named(descent.moved)
        e, names = params.pop(EMBEDDING), parts_of(head_of(self.net, self.fit))
        head = {name: params.pop(name) for name in names if name in params}
        gates = pack(e > 0) if self.gates == "hard" else (self.s_max * e).sigmoid()
        own = Own(Part(TaskId(index, learned.labels), head, learned.stats), gates)
        trunk = {name: params.get(name, w) for name, w in state.model.params.items()}
        return Attended(state.model._replace(params=trunk), (*state.tasks, own))

    def _unpacked(self, gates: Tensor) -> Tensor:
        """(U,) the gates of a task as numbers, 0 to 1."""
        if gates.is_floating_point():
            return gates
        return unpack(gates, sum(link.units for link in self._links()[:-1])).float()
