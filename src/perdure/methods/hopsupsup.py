"""HopSupSup: masks on the units of a network of random weights, all kept in Hopfield memories that never grow.

    W      signed constants from a key; m in {0, 1} scales each unit where its layer is normalised
    learn  min_s L_t(f(x, W, m)), m = 1[s >= 0], straight-through, from s = 0; then each layer stores z = 2m - 1:
           M <- M + (z z' - I - z h' - h z') / d,  h = M z            Storkey's rule, simplified
           M <- M + (z z' - I) / d                                    Hebb's
    infer  at steps t = 1 ... T, from s = the mean of all z stored, by momentum:
           min_s (1 - t/T) H(f(x, W, m)) + gamma (t/T) E(z)           E = -1/2 sum_layers z' M z, so dE/dz = -M z

The entropy H of the outputs draws the search towards the mask that suits the inputs, the energy E then into one that is
stored, and that mask answers. The narrower the layers, the more often the search ends in a mixture of masks.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769 (appendix); A. Storkey, "Increasing
the capacity of a Hopfield network without sacrificing functionality", 1997.
Deviations: A step of the search takes the next 64 of the inputs asked together, over and over (the paper: the next of
a test set's 30 to 34 batches). No mask is kept, not even to begin from (the authors' code does; the sum is enough): a
given id narrows the labels, and finds no mask. The slopes of H are weighed by sqrt(d / 2048): they fall with the width
as weights do, those of E do not. All outputs compete in learning, whatever `fit.compete` says; moments are fresh. Batch
norm goes by the batch in exams too, as in the authors' code, but an input asked alone by the mean of all statistics.
Memory: d x d numbers for each layer of d units, whatever the number of tasks: 33.6 MB for two of 2,048. As plain bits a
mask of these is 512 bytes, all of them fewer up to 65,536 tasks, far more than such memories can hold.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from perdure.contract import Answer, Examples, Fit, Method, Refused, Scenario, Task, TaskId, Trace, check_words
from perdure.model import Model, check_classes, evaluation, extended, index_of, narrow, start, with_outputs
from perdure.ops.infer import entropy
from perdure.ops.masks import NORMS, Threshold, Through, check_constants, constants, learn_masks, maskable, with_spare
from perdure.optimiser import Optimiser
from perdure.rng import fold, permutation
from perdure.train import Descent, Layout
from perdure.tree import to

BATCH, SEARCH = 64, Fit(optimizer="sgd", momentum=0.9, weight_decay=1e-4)  # inputs a step of the search, and how
WIDTH = 2048  # of the layers for which gamma and the rate are the paper's

Params = dict[str, Tensor]
Storage = Literal["storkey", "hebbian"]


class Memories(NamedTuple):
    """Everything known after some tasks. A layer goes by the name of its scale."""

    seed: int  # the key of W
    labels: Tensor  # (n,) int64: the label of each row of the head
    tasks: tuple[int, ...]  # the index of each that was learned
    hopfield: Params  # M (d, d) by layer
    total: Params  # (d,) by layer: the sum of all z stored
    stats: Params  # buffers of the network: their mean over the tasks


class Prepared(NamedTuple):
    """What exams need: the state, and the network that its key makes."""

    state: Memories
    weights: Params
    alone: nn.Module  # normalises by the statistics of the state
    together: nn.Module  # normalises inputs by one another


def units(net: nn.Module) -> dict[str, int]:
    """The scales of normalisation layers, by parameter name, each with its number of units.

    Raises:
        Refused: there is none.
    """
    norms = {f"{path}.weight": layer.weight for path, layer in net.named_modules() if isinstance(layer, NORMS)}
    if sizes := {name: scale.numel() for name, scale in norms.items() if scale is not None}:
        return sizes
    raise Refused(
        "HopSupSup masks units where a layer normalises and scales them, and this net has no such layer; "
        "use net bn-mlp:2048-2048"
    )


def store(M: Tensor, z: Tensor, rule: Storage) -> Tensor:
    """The memory M (d, d) with one more pattern z (d,) of -1 and 1."""
    change = z.outer(z) - torch.eye(len(z), device=z.device)
    if rule == "storkey":
        cross = z.outer(M @ z)
        change -= cross + cross.T
    return M + change / len(z)


@dataclass(frozen=True, eq=False)
class HopSupSup(Method):
    """A mask a task over random units, recalled from memories of fixed size: inputs asked together must share a task.

    Args:
        storage: how a memory takes up a mask: storkey, or hebbian, which holds fewer.
        outputs: of the network, at least; those that no label uses yet make the entropy tell more.
        gamma: weight of the energy.
        rate: learning rate of the search.
        steps: of the search, T.
    """

    fit: Fit = Fit(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    storage: Storage = "storkey"
    outputs: int = 10
    gamma: float = 1.5e-3
    rate: float = 500.0
    steps: int = 30

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "constant"
    states: ClassVar = (Memories,)
    alone: ClassVar = True
    pools: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)
        for name, least in {"outputs": 1, "gamma": 0, "rate": 0, "steps": 1}.items():
            if (value := getattr(self, name)) < least:
                raise Refused(f"method.{name} is {value}; it must be at least {least}")

    def init(self, key: int, background: Examples | None = None) -> Memories:
        check_constants(self.net, self.fit)
        maskable(self.net)
        sizes, model = units(self.net), start(self.net, self.fit, key)
        hopfield = {name: torch.zeros(d, d) for name, d in sizes.items()}
        total = {name: torch.zeros(d) for name, d in sizes.items()}
        return Memories(fold(key, "constants"), model.labels, (), hopfield, total, model.stats)

    def learn(self, state: Memories, task: Task, key: int) -> tuple[Memories, Trace]:
        check_classes(task)
        if (index := index_of(task, state.tasks)) in state.tasks:
            raise Refused(
                f"task {index} is learned already, and HopSupSup cannot learn one again: with two masks of a task in "
                "its memories, the search ends between them. Roll back to a state before it, and learn it from there"
            )
        labels, k = extended(state.labels, task), len(state.tasks) + 1
        net, weights = self._network(state._replace(labels=labels))

        flat, stats = Layout(weights).flat(weights), to(start(net, self.fit, 0).stats, labels.device)
        model = Model(weights, stats, with_spare(labels, self.outputs), {})
        descent = Descent(net, model, replace(self.fit, moments="fresh"), key, moved=torch.zeros_like(flat))
        masks = learn_masks(Through(descent, flat, state.total, Threshold()), descent, task.examples)

        z = {name: 2 * mask.flatten().float() - 1 for name, mask in masks.items()}
        hopfield = {name: store(M, z[name], self.storage) for name, M in state.hopfield.items()}
        total = {name: before + z[name] for name, before in state.total.items()}
        new, old = descent.model.stats, state.stats
        mean = {name: old[name].lerp(s, 1 / k) if s.is_floating_point() else s for name, s in new.items()}
        return Memories(state.seed, labels, (*state.tasks, index), hopfield, total, mean), descent.trace

    def ready(self, state: Memories) -> Prepared:
        net, weights = self._network(state)
        together = copy.deepcopy(evaluation(net))
        for layer in together.modules():
            if isinstance(layer, _BatchNorm):
                layer.running_mean = layer.running_var = None  # without these it goes by the batch
        return Prepared(state, weights, evaluation(net), together)

    def predict(self, ready: Prepared, x: Tensor, id: TaskId | None = None) -> Answer:
        logits, labels = outputs(ready, self.recall(ready, x), x), ready.state.labels
        return narrow(Answer(logits[:, : len(labels)], labels), id)

    def recall(self, ready: Prepared, x: Tensor) -> Params:
        """The masks (d,) of zeros and ones by layer that are found for inputs x (B, ...) of one task."""
        state, size = ready.state, min(BATCH, len(x))
        scores = {name: total / max(1, len(state.tasks)) for name, total in state.total.items()}
        search, order = Optimiser(SEARCH, list(scores.values())), permutation(state.seed, len(x))
        for t in range(1, self.steps + 1 if state.tasks else 0):
            rows, share = order[(torch.arange(size) + (t - 1) * size) % len(x)].to(x.device), t / self.steps
            masks = {name: (s >= 0).to(s).requires_grad_() for name, s in scores.items()}
            with torch.enable_grad():
                H = entropy(outputs(ready, masks, x[rows])).mean()
            grads = []
            for (name, m), slope in zip(masks.items(), torch.autograd.grad(H, list(masks.values())), strict=True):
                pull = -2 * (state.hopfield[name] @ (2 * m.detach() - 1))  # dE/dm = 2 dE/dz
                grads.append((1 - share) * sqrt(len(m) / WIDTH) * slope + self.gamma * share * pull)
            search.step(grads, self.rate)
        return {name: (s >= 0).to(s) for name, s in scores.items()}

    def _network(self, state: Memories) -> tuple[nn.Module, Params]:
        """The network with all its outputs, and its weights: as the head grows, earlier rows stay what they were."""
        net = with_outputs(self.net, self.fit, max(self.outputs, len(state.labels)))
        return net, to(constants(net, state.seed), state.labels.device)


def outputs(ready: Prepared, masks: Params, x: Tensor) -> Tensor:
    """All logits (B, rows) of inputs x (B, ...) under masks (d,) by layer."""
    params = {**ready.weights, **{name: m.view_as(ready.weights[name]) for name, m in masks.items()}}
    net, stats = (ready.alone, ready.state.stats) if len(x) == 1 else (ready.together, {})
    logits: Tensor = functional_call(net, {**params, **stats}, (x,))
    return logits
