"""GEM, gradient episodic memory: no step may raise the loss on the memory of any past task.

    g_k = grad L_k(theta)                               on the memory of task k, G = (g_1, ..., g_K)
    v   = argmin  1/2 |g + G^T v|^2  with v >= gamma    where some g.g_k < 0, else 0
    g  <- g + G^T v

With gamma 0 that is the g~ nearest to g with g~.g_k >= 0 for all k. With gamma it is the one nearest to
h = g + gamma sum_k g_k: a step that rehearses every task by gamma, and is then made to hurt none. The dual has a
variable a past task and needs nothing but products of gradients; it is solved exactly, by its active set.

Reference: D. Lopez-Paz, M. Ranzato, "Gradient episodic memory for continual learning", 2017, arXiv 1706.08840.
Deviations: a memory is a uniform draw from its task; the paper keeps the last examples that came by, which in a
    shuffled order is the same. Gradients on the memory are those of the network in evaluation mode, without dropout and
    with the running normalisation statistics, so that one batched pass takes all of them. No ridge is added to the dual
    (public code adds 0.001, which lets constraints be violated). The gradient is projected whatever the optimiser makes
    of it; the paper's is plain sgd. Where only the task's own logits compete (GG), those of an exemplar compete within
    the task it came from.
Memory: task, `slots` exemplars of each as they are stored, beside the network; those of a task that is learned again
    are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from perdure.contract import Answer, Examples, Method, Refused, Scale, Scenario, Task, TaskId, Trace, check_finite
from perdure.data import View
from perdure.model import Model, answer, evaluation, grow, index_of, recurrent, start
from perdure.ops.memory import Memory, filed, keep
from perdure.ops.rivals import Sets, rivals
from perdure.rng import fold, permutation
from perdure.train import BLOCK, Descent, competing, minimise

Dual = NDArray[np.float64]
PART = 1 << 14  # parameters in one sum
UNCOUNTED = -100  # a target that is left out of the loss


class GEMState(NamedTuple):
    """A network and what it remembers of every task."""

    model: Model
    memory: tuple[Memory, ...]  # one a task
    sets: Sets  # the sets of labels that compete among themselves; none where all labels compete
    which: tuple[int, ...]  # the set of each task
    tasks: tuple[int, ...]  # the index of each


def nearest(P: Dual, q: Dual, size: float) -> Dual:
    """(K,) the u >= 0 that minimises |h + G^T u|, for P = G G^T (K, K), q = G h (K,) and size = |h|.

    Exact, as an active set is: of the constraints that are violated the worst joins those that hold as equations; where
    a weight would become negative, the way there ends where the first of them is zero, and that one leaves. The
    distance falls each time, so no set comes twice. A gradient that others span is never violated when they hold, so
    that P may be singular; what is at right angles but for 1e-7 is rounding.

    Reference: C. L. Lawson, R. J. Hanson, "Solving least squares problems", 1974, chapter 23.
    """
    lengths = np.sqrt(P.diagonal())
    unit = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    P, q = P * unit * unit[:, None], q * unit / (size or 1.0)  # only angles are left
    u, active = np.zeros_like(q), np.zeros(len(q), dtype=bool)
    for _ in range(10 * len(q)):  # far more than it takes; rounding may not turn in circles
        slack = np.where(active, 0.0, P @ u + q)
        if slack.min() >= -1e-7:
            break
        active[slack.argmin()] = True
        while active.any():
            solved = np.zeros_like(u)
            solved[active] = np.linalg.solve(P[np.ix_(active, active)], -q[active])
            out = np.flatnonzero(active & (solved <= 0))
            if not len(out):
                u = solved
                break
            share = u[out] / np.maximum(u[out] - solved[out], 1e-300)
            u += share.min() * (solved - u)
            active[out[share.argmin()]] = False
            u = np.where(active, u.clip(0.0), 0.0)
    return u * unit * size


def gram(G: Tensor) -> Tensor:
    """(K, K) float64: G G^T for G (K, P), block by block, so that sums stay short and no copy is made."""
    return torch.stack([(part @ part.T).double() for part in G.split(PART, 1)]).sum(0)


def project(g: Tensor, G: Tensor, margin: float = 0.0, out: Tensor | None = None) -> Tensor:
    """(P,) the step for g (P,) that has no negative product with a row of G (K, P): g itself where it has none.

    Args:
        margin: least weight of every row, once one is violated.
        out: (P,) where to write it; may be g.
    """
    with torch.autocast(g.device.type, enabled=False):
        products = G @ g
        if not bool((products < 0).any()):
            return g if out is None else out.copy_(g)
        P, q, low = gram(G).cpu().numpy(), products.double().cpu().numpy(), np.full(len(G), margin)
        squared = float(torch.dot(g, g)) + 2 * low @ q + low @ P @ low  # of h
        v = low + nearest(P, q + P @ low, np.sqrt(max(squared, 0.0)))
        return torch.addmv(g, G.T, torch.from_numpy(v).to(g), out=out)


@dataclass(frozen=True, eq=False)
class GEM(Method):
    """Gradient episodic memory.

    Args:
        slots: exemplars that a task leaves in memory, or all it has; with 0 nothing is remembered.
        margin: least weight of every past task in a step that would hurt one of them (the paper's gamma); with 0 the
            step is the nearest one that hurts none.
    """

    slots: int = 256
    margin: float = 0.5

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # a memory is filled where a task ends
    memory: ClassVar = "task"
    rehearses: ClassVar = True
    states: ClassVar = (GEMState, Model, Memory, Scale)
    off: ClassVar = {"slots": 0}

    def __post_init__(self) -> None:
        if self.slots < 0:
            raise Refused(f"method.slots is {self.slots}; it must not be negative (0 remembers nothing)")
        check_finite("margin", self.margin)

    def init(self, key: int, background: Examples | None = None) -> GEMState:
        return GEMState(start(self.net, self.fit, key), (), (), (), ())

    def learn(self, state: GEMState, task: Task, key: int) -> tuple[GEMState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not self.slots:
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        rows = permutation(fold(key, "memory"), len(task.examples))[: self.slots].sort().values
        rows = rows.to(task.examples.labels.device)
        index, memory = index_of(task, state.tasks), keep(View(task.examples, rows), model.labels.device)
        after = GEMState(model, *filed(state[1:], index, memory, competing(self.fit, task)))
        if len(after.tasks) > 1:
            model, trace = self._constrained(after, task, key)
        else:
            model, trace = minimise(self.net, model, self.fit, task, key)
        return after._replace(model=model), trace

    def _constrained(self, state: GEMState, task: Task, key: int) -> tuple[Model, Trace]:
        """Learns the last task that the state knows of under the constraints of all before it."""
        classes, bias = rivals(state.model.labels, state.sets)
        descent = Descent(self.net, state.model, self.fit, key, classes)
        rival = descent.flat.new_zeros(len(state.which), 1) if bias is None else bias[list(state.which)]
        slopes = self._slopes(descent, state.memory[:-1], rival[:-1])
        for batch in descent.batches(task.examples):
            g = descent.grad(F.cross_entropy(descent(batch.x) + rival[-1], batch.y))
            descent.step(project(g, slopes(), self.margin, out=g))
        return descent.model, descent.trace

    def _slopes(self, descent: Descent, memories: tuple[Memory, ...], rival: Tensor) -> Callable[[], Tensor]:
        """What gives (K, P) the gradients on K memories where the descent is; rival (K, n) is added to their logits."""
        sizes = torch.tensor([memory.seen for memory in memories], device=rival.device)
        places = torch.arange(int(sizes.max()), device=rival.device)
        batches = [memory.examples.take(places % memory.seen) for memory in memories]  # what repeats does not count
        x = torch.stack([batch.x for batch in batches]).to(descent.device)  # (K, M, ...)
        y = torch.stack([descent.targets(batch.y) for batch in batches])
        y.masked_fill_(places >= sizes[:, None], UNCOUNTED)
        net, layout = evaluation(self.net), descent.layout
        G = descent.flat.new_zeros(len(memories), len(descent.flat))  # what is frozen stays zero
        parts = dict(zip(layout.shapes, G.split(layout.sizes, 1), strict=True))
        moving = {name: leaf.data for name, leaf in descent.net.named_parameters() if leaf.requires_grad}
        still = {name: leaf.data for name, leaf in descent.net.named_parameters() if name not in moving}
        still |= dict(descent.net.named_buffers())

        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor, rival: Tensor) -> Tensor:
            logits = functional_call(net, params | still, (x,))
            logits = logits if descent.rows is None else logits[:, descent.rows]
            return F.cross_entropy(logits + rival, y, ignore_index=UNCOUNTED)

        at_once = max(1, BLOCK // max(1, x[0].numel()))

        def each(params: dict[str, Tensor], x: Tensor, y: Tensor, rival: Tensor) -> dict[str, Tensor]:
            alone = [grad(loss)(params, *memory) for memory in zip(x, y, rival, strict=True)]
            return {name: torch.stack([slope[name] for slope in alone]) for name in params}

        every = each if recurrent(net) else vmap(grad(loss), in_dims=(None, 0, 0, 0))

        def slopes() -> Tensor:
            for few in torch.arange(len(memories)).split(at_once):
                span = slice(int(few[0]), int(few[-1]) + 1)
                for name, slope in every(moving, x[span], y[span], rival[span]).items():
                    parts[name][span].copy_(slope.flatten(1))
            return G

        return slopes

    def predict(self, ready: GEMState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
