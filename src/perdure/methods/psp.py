"""PSP: all tasks train the same weights, each through a random context of its own, so that they hardly meet.

    y = W (C_t x)     in every layer; C_t a random rotation, or random signs, of its input channels

    bind     W' <- W C_t            the weights as task t sees them
    learn    min L_t(W')            from what earlier tasks left
    release  W <- W' C_t^T          C_t C_t^T = 1

What the other tasks left in W reaches task t as W_s C_s^T C_t x: for random contexts, noise of mean 0. It grows with
their number and shrinks with the width of the layer. A withheld id is inferred: the task with the lowest entropy
answers.

Reference: B. Cheung, A. Terekhov, Y. Chen, P. Agrawal, B. Olshausen, "Superposition of many models into one", 2019,
arXiv 1902.05522; rotations as in M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
Deviations: a step moves W', where the paper moves W along (dL/dW') C_t^T. For signs both are the same under every
optimiser, for rotations under sgd; others scale their steps by what is usual along the axes of W', not of W. Moments
are fresh for each task, whatever `fit.moments` says. Contexts of a convolution act on its input channels, alike at
all places of the kernel. Biases, which have no input to key, and normalisation are each task's own (the comparison
with SupSup has no biases). A task's labels are the first rows of the head, in order. Contexts are drawn and not
learned. Inference by entropy is not in the paper, which is given the id.
Memory: the network and a key; for each task its vectors and statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, Task, TaskId, Trace, check_words
from perdure.model import Model, Part, check_classes, classes_of, grown, head_of, index_of, start
from perdure.ops.channels import cut, matrices, signs, spread
from perdure.ops.infer import Bound, Made, respond
from perdure.rng import fold, normal
from perdure.train import minimise

Params = dict[str, Tensor]
Keys = Literal["binary", "rotation"]


class Superposition(NamedTuple):
    """All tasks in one set of weights."""

    seed: int  # the key of all contexts
    model: Model  # W, and the vectors and statistics that every task starts from
    parts: tuple[Part, ...]  # in the order of learning


def rotation(key: int, n: int) -> Tensor:
    """(n, n) float64, an orthogonal matrix; all of them are equally likely (F. Mezzadri, 2007, math-ph/0609050)."""
    q, r = torch.linalg.qr(normal(key, n * n).view(n, n))
    out: Tensor = q * r.diagonal().sign()
    return out


def bind(params: Params, context: Params) -> Params:
    """W C for each weight W (out, in, ...) that has a context: signs (in,), or a rotation (in, in)."""
    out = dict(params)
    for name, c in context.items():
        w = params[name]
        out[name] = w * spread(c[None], w) if c.ndim == 1 else torch.tensordot(w, c, ([1], [0])).movedim(-1, 1)
    return out


def release(params: Params, context: Params) -> Params:
    """W' C^T: what `bind` bound, let go; bit for bit where contexts are signs."""
    return bind(params, {name: c if c.ndim == 1 else c.T for name, c in context.items()})


@dataclass(frozen=True, eq=False)
class PSP(Method):
    """Parameter superposition: no weight is added for a task, and forgetting is noise that grows slowly.

    Args:
        keys: the contexts: random signs of the input channels, or random rotations (they are drawn anew when needed,
            at the cost of a decomposition for each layer).
    """

    keys: Keys = "binary"

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})
    memory: ClassVar = "task"
    states: ClassVar = (Superposition, Part, Model, TaskId)
    alone: ClassVar = True

    def __post_init__(self) -> None:
        check_words("method", self)

    def init(self, key: int, background: Examples | None = None) -> Superposition:
        matrices(self.net)
        return Superposition(fold(key, "context"), start(self.net, self.fit, key), ())

    def learn(self, state: Superposition, task: Task, key: int) -> tuple[Superposition, Trace]:
        check_classes(task)
        index, classes = index_of(task, [part.task for part in state.parts]), classes_of(task)
        head, rows = head_of(self.net, self.fit), len(classes)
        shared = grown(state.model.params, head, rows)
        context = self._context(state, index)
        bound = cut(bind(shared, context), head, rows)

        fit = replace(self.fit, moments="fresh")
        begun = Model(bound, state.model.stats, classes.to(state.model.labels.device), {})
        model, trace = minimise(self.net, begun, fit, task, key)

        for name, w in release({name: model.params[name] for name in context}, context).items():
            if not torch.equal(model.params[name], bound[name]):  # what did not move keeps its bits
                shared[name] = torch.cat([w, shared[name][len(w) :]])
        own = {name: w for name, w in model.params.items() if name not in context}
        others = tuple(part for part in state.parts if part.task != index)
        part = Part(TaskId(index, model.labels), own, model.stats)
        return Superposition(state.seed, state.model._replace(params=shared), (*others, part)), trace

    def ready(self, state: Superposition) -> Bound:
        def own(place: int) -> Model:
            part = state.parts[place]
            context = self._context(state, part.id.index)
            shared = {name: state.model.params[name] for name in context}
            weights = cut(shared, head_of(self.net, self.fit), len(part.id.classes))
            return Model({**bind(weights, context), **part.head}, part.stats, part.id.classes, {})

        make = own if self.keys == "binary" else cache(own)  # rotations take longer to draw than to use
        return Bound(state.model, Made([part.task for part in state.parts], make))

    def predict(self, ready: Bound, x: Tensor, id: TaskId | None = None) -> Answer:
        return respond(self.net, ready, x, id)

    def _context(self, state: Superposition, index: int) -> Params:
        """C_t for each weight, drawn from the key, its name and the task's index."""
        draw, out = signs if self.keys == "binary" else rotation, {}
        for name in matrices(self.net):
            w = state.model.params[name]
            out[name] = draw(fold(state.seed, index, name), w.shape[1]).to(w)
        return out
