"""RWalk, Riemannian walk: each weight is held by its Fisher, and by what it did for the loss for every step it took.

    loss = L_t(theta) + lam sum (|F| + |s|) (theta - theta_{t-1})^2        |.|: scaled to 0..1 over the whole network

While a task is learned, after every interval of steps, in which theta moved by Delta and F' is the Fisher of its last
batch:

    F <- alpha F' + (1 - alpha) F                                          F moves with theta, through all tasks
    w <- w + max(0, -sum g Delta_step) / (1/2 F Delta^2 + eps)             from w = 0; the sum is over the interval

    s <- 1/2 (s + w)                                                       after a task; s = w after the first

g is the gradient of L_t alone, so that the sum is the loss that the interval lost; what it is divided by is how far
the network's answers moved, as a Kullback-Leibler divergence. F is never summed up: it starts anew from each batch, and
is the mean square of single examples' gradients. With `slots` L_t is the mean over a batch and as many exemplars.

Reference: A. Chaudhry, P. K. Dokania, T. Ajanthan, P. H. S. Torr, "Riemannian walk for incremental learning:
    understanding forgetting and intransigence", 2018, arXiv 1801.10112.
Deviations: the authors' code squares gradients of whole batches and never clears their sum, adds 1/2 (s + w) to s, and
    has no 1/2 before F: here it is as written above. An interval that the end of a task cuts short counts as well. The
    exemplars, which the paper adds where the id is hidden and chooses class by class, are a reservoir as ER has it, and
    stay out of F.
Memory: constant, three times the network, for a task starts at its anchor, and `slots` exemplars as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scale, Scenario, Task, TaskId, Trace, check_finite
from perdure.data import View
from perdure.model import Model, answer, grow, start
from perdure.ops.fisher import diagonal
from perdure.ops.memory import Memory
from perdure.ops.rehearsal import Exemplars, Rehearsal, check_slots, without
from perdure.ops.sensitivity import factors
from perdure.train import competing, length, minimise


class RWalkState(NamedTuple):
    """What is known after some tasks; F and s are empty before the first."""

    model: Model
    fisher: dict[str, Tensor]  # F, by parameter name
    score: dict[str, Tensor]  # s
    exemplars: Exemplars


@dataclass(frozen=True, eq=False)
class RWalk(Method):
    """Riemannian walk.

    Args:
        lam: strength of the penalty on old tasks. With sgd, lr * lam above 1/2 may diverge.
        interval: steps between two looks at how far the weights have moved.
        alpha: how much of the moving Fisher is the newest batch's (0 to 1).
        eps: damping, in nats: bounds the score of weights that hardly moved.
        slots: exemplars in memory, replayed beside each batch; with 0 none is kept.
    """

    lam: float = 1.0
    interval: int = 10
    alpha: float = 0.9
    eps: float = 1e-3
    slots: int = 0

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the anchor is where a task ends
    states: ClassVar = (RWalkState, Model, Exemplars, Memory, Scale)
    off: ClassVar = {"lam": 0.0, "slots": 0}
    fails: ClassVar = {
        Scenario.GNU: "20 % on split digits without exemplars, see --method.slots: the last task alone (perdure run "
        "split-digits rwalk --scenario gnu)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        if self.interval < 1:
            raise Refused(f"method.interval is {self.interval}; use at least 1 step")
        if not 0 <= self.alpha <= 1:
            raise Refused(f"method.alpha is {self.alpha}; it is the share of the newest batch, from 0 to 1")
        if not 0 < self.eps < inf:
            raise Refused(f"method.eps is {self.eps}; a damping is finite and positive")
        check_slots(self.slots)

    @property
    def rehearses(self) -> bool:  # type: ignore[override]  # as its options have it
        """Whether its state holds examples as they were given."""
        return self.slots > 0

    def init(self, key: int, background: Examples | None = None) -> RWalkState:
        return RWalkState(start(self.net, self.fit, key), {}, {}, without(self.slots))

    def learn(self, state: RWalkState, task: Task, key: int) -> tuple[RWalkState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        if not self.lam and not self.slots:
            model, trace = minimise(self.net, model, self.fit, task, key)
            return state._replace(model=model), trace
        rehearsal = Rehearsal(self.net, model, self.fit, task, key, state.exemplars)
        descent, examples, classes = rehearsal.descent, rehearsal.examples, competing(self.fit, task)
        theta, layout, anchor = descent.flat, descent.layout, descent.flat.clone()
        factored, (_, steps) = factors(self.net, model, examples), length(self.fit, len(examples))
        known = bool(state.fisher)
        F, s = (layout.flat(part) if known else torch.zeros_like(theta) for part in (state.fisher, state.score))
        S = 2 * self.lam * (scaled(F) + scaled(s))
        w, lost = torch.zeros_like(theta), torch.zeros_like(theta)
        away, spare = torch.zeros_like(theta), torch.empty_like(theta)  # theta - anchor
        mark = away.clone()  # the same where the interval began
        for step, (batch, *old) in enumerate(rehearsal.batches(), 1):
            g = descent.grad(rehearsal.loss(batch, *old))
            descent.step(torch.addcmul(g, S, away, out=spare))
            further = torch.sub(theta, anchor, out=spare)
            lost.addcmul_(g, away.sub_(further))  # -Delta_step
            away, spare = further, away
            if step % self.interval == 0 or step == steps:
                now = Model(layout.views(theta), dict(descent.net.named_buffers()), model.labels, {})
                latest = View(examples, batch.rows)
                newest = diagonal(self.net, now, latest, "empirical", 0, classes, factored=factored)
                F.lerp_(layout.flat(newest), self.alpha if known else 1.0)
                known = True
                walked = mark.sub_(away).square_().mul_(F).div_(2)  # 1/2 F Delta^2
                w += lost.clamp_min_(0).div_(walked.add_(self.eps))
                lost.zero_()
                mark.copy_(away)
        s = (s + w) / 2 if state.score else w
        state = state._replace(fisher=layout.named(F), score=layout.named(s))
        return state._replace(model=descent.model, exemplars=rehearsal.exemplars), descent.trace

    def predict(self, ready: RWalkState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)


def scaled(v: Tensor) -> Tensor:
    """(P,) the same with its least value at 0 and its largest at 1; that of a new row of the head is 0."""
    low, high = torch.aminmax(v)
    return (v - low) / (high - low).clamp_min(torch.finfo(v.dtype).tiny)
