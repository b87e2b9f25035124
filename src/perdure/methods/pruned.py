"""Pruned: a network of its own for every task, of which only the largest weights are kept.

For the t-th task, with d the density and r the rounds:

    train      W <- argmin L_t(W)                                          all weights, from fresh values
    for j = 1 ... r
      prune    m = 1 where |w| > c s_l, with s_l the deviation of the weights left in its layer, and the one c that
               keeps d^(j/r) of all weights;  W <- W m
      retrain  W <- argmin L_t(W m)                                        from the values they have

    bind(W, m, v) = v in the places of m, else 0

Most weights of a trained network can go if the others are trained once more, and cutting in steps costs less than
cutting at once. So a network a task costs little: at a twelfth of the weights, ten take the bytes of one. A withheld id
is inferred: the task with the lowest entropy answers.

Reference: S. Han, J. Pool, J. Tran, W. Dally, "Learning both weights and connections for efficient neural networks",
2015, arXiv 1506.02626.
Deviations: the paper prunes one network; one a task is the use that `independent` makes of networks. There c is found
by hand for each layer; here it is one for all, so that the density is exact, and s_l is about 0. Parameters of one
dimension (biases, scales) are kept, and not counted. `fit` says how long training and retraining take together; the
paper retrains at a tenth of the rate, which for a thousand steps is too low. Dropout stays as it is. Units that no
weight leads to are not removed: their weights cost nothing. Each phase has moments of its own, whatever `fit.moments`
says. Inference by entropy is not in the paper.
Memory: the start values, and for each task a coded mask, four bytes for each weight that is kept, what else of its
network moved, and statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

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
    check_share,
    check_words,
)
from perdure.model import Model, Part, grown, head_of, index_of, own_head, parts_of, start, without
from perdure.ops.channels import cut
from perdure.ops.codec import encode, restored
from perdure.ops.infer import Bound, Made, respond
from perdure.ops.select import largest
from perdure.rng import fold
from perdure.train import frozen, length, minimise

Params = dict[str, Tensor]
Cutoff = Literal["deviation", "same"]


class Own(NamedTuple):
    """The network of one task."""

    part: Part  # among its `head`: whatever moved and was not pruned
    masks: Params  # coded, by name: which weights are kept
    values: Params  # those, (m,) by name, in order of place

    @property
    def task(self) -> int:
        return self.part.task


class Networks(NamedTuple):
    """All networks so far."""

    start: Model  # what each starts from; it answers before the first task
    own: tuple[Own, ...]  # in the order of learning


def bind(params: Params, masks: Params, values: Params) -> Params:
    """Parameters, those that have a coded mask with the values in its places and 0 elsewhere.

    Raises:
        Refused: a mask is damaged, as far as its code tells, or has more or fewer places than there are values.
    """
    out = dict(params)
    for name, code in masks.items():
        w = torch.zeros_like(params[name], memory_format=torch.contiguous_format)
        mask = restored(code, w.numel()).view(w.shape)
        if values[name].shape != (int(mask.sum()),):
            raise Refused(f"the values of {name} are not those of its mask; restore its file from a copy")
        w[mask] = values[name]
        out[name] = w
    return out


def keep(weights: Params, share: float, cutoff: Cutoff) -> Params:
    """Bool, by name: the share of all weights that is largest, of equal ones the first in order.

    By `deviation` each is measured by that of its layer, about 0; weights of 0 were cut before and have no part in it.
    """
    layers = [w.flatten() for w in weights.values()]
    if cutoff == "deviation":
        least = torch.finfo(layers[0].dtype).tiny
        squares = [w.double().square().sum() / w.count_nonzero().clamp(min=1) for w in layers]
        layers = [w / square.sqrt().clamp(min=least) for w, square in zip(layers, squares, strict=True)]
    measured = torch.cat(layers)
    kept = largest(measured, max(1, round(share * len(measured)))).split([len(w) for w in layers])
    return {name: mask.view(w.shape) for (name, w), mask in zip(weights.items(), kept, strict=True)}


def drop(model: Model, masks: Params) -> Model:
    """The model with weights at 0 where their mask does not keep them."""
    return model._replace(params=model.params | {name: model.params[name].where(m, 0.0) for name, m in masks.items()})


def retrain(net: nn.Module, model: Model, masks: Params, fit: Fit, task: Task, key: int) -> tuple[Model, Trace]:
    """The model trained on from its values; what a mask leaves out keeps its bits."""
    held = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in model.params.items()}
    held |= {name: ~mask for name, mask in masks.items()}
    return minimise(net, model, fit, task, key, torch.cat([part.flatten() for part in held.values()]))


@dataclass(frozen=True, eq=False)
class Pruned(Method):
    """One network a task, of which few weights are left; a task learned again gets a new one.

    Weights that `fit.freeze` names are not pruned.

    Args:
        density: the share of all weights that is kept (0 to 1).
        cutoff: what a weight must exceed to be kept: the same number of deviations of its layer everywhere, or the same
            size, which answers better where all layers are wide, and can empty a small one.
        rounds: how often weights are cut and the others retrained; 1 cuts at once. Never more than steps allow.
        retrain: the share of the steps spent on retraining, all rounds together (0 to 1).
        rate: the learning rate while retraining, as a share of `fit.lr`.
    """

    fit: Fit = Fit(weight_decay=1e-4)
    density: float = 1 / 12
    cutoff: Cutoff = "deviation"
    rounds: int = 3
    retrain: float = 0.7
    rate: float = 1.0

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Networks, Own, Part, Model, TaskId)
    isolates: ClassVar = True
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_share("retrain", self.retrain)
        if self.rounds < 1:
            raise Refused(f"method.rounds is {self.rounds}; it must be at least 1")
        check_finite("rate", self.rate)
        check_words("method", self)

    def init(self, key: int, background: Examples | None = None) -> Networks:
        model = start(self.net, self.fit, key)
        if not self._pruned(model):
            raise Refused("there is no weight to prune: fit.freeze leaves none that may move; freeze fewer")
        return Networks(model, ())

    def learn(self, state: Networks, task: Task, key: int) -> tuple[Networks, Trace]:
        index = index_of(task, [own.task for own in state.own])
        long, short, rounds = self._phases(len(task.examples))
        model = own_head(self.net, self.fit, state.start, task)
        model, trace = minimise(self.net, model, long, task, fold(key, "train"))
        losses = [trace.loss]
        for j in range(1, rounds + 1):
            weights = {name: model.params[name] for name in self._pruned(model)}
            masks = keep(weights, self.density ** (j / rounds), self.cutoff)
            model, trace = retrain(self.net, drop(model, masks), masks, short, task, fold(key, "retrain", j))
            losses.append(trace.loss)
        others = tuple(own for own in state.own if own.task != index)
        return state._replace(own=(*others, self._coded(index, model, masks))), Trace(torch.cat(losses))

    def ready(self, state: Networks) -> Bound:
        head = head_of(self.net, self.fit)

        def made(place: int) -> Model:
            part, masks, values = state.own[place]
            rows = len(part.id.classes)
            params = grown(cut(state.start.params, head, rows), head, rows) | part.head
            return Model(bind(params, masks, values), part.stats, part.id.classes, {})

        return Bound(state.start, Made([own.task for own in state.own], made))

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def forget(self, state: Networks, index: int) -> Networks:
        return state._replace(own=without(state.own, index))

    def _pruned(self, model: Model) -> Sequence[str]:
        """The weights that are pruned: those of two or more dimensions that may move."""
        still = frozen(self.net, self.fit)
        return [name for name, w in model.params.items() if w.ndim > 1 and name not in still]

    def _phases(self, examples: int) -> tuple[Fit, Fit, int]:
        """How to train, how to retrain once, and how often."""
        total = length(self.fit, examples)[1]
        if total < 2:
            raise Refused("pruning trains and retrains: give fit at least 2 steps a task")
        rounds = min(self.rounds, total - 1)
        once = min(max(1, round(total * self.retrain / rounds)), (total - 1) // rounds)
        fit = replace(self.fit, epochs=None, moments="fresh")
        return replace(fit, steps=total - rounds * once), replace(fit, steps=once, lr=self.rate * self.fit.lr), rounds

    def _coded(self, index: int, model: Model, masks: Params) -> Own:
        """What is kept of a network."""
        still = frozen(self.net, self.fit) - set(parts_of(head_of(self.net, self.fit)))
        rest = {name: w for name, w in model.params.items() if name not in masks and name not in still}
        codes = {name: encode(mask) for name, mask in masks.items()}
        values = {name: model.params[name][mask] for name, mask in masks.items()}
        return Own(Part(TaskId(index, model.labels), rest, model.stats), codes, values)
