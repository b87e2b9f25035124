"""EWC-ER: elastic weight consolidation with a rehearsal memory, the anchor and the exemplars of all old tasks.

    L    = mean over [B_t ; B_M] of CE(f(x), y) + lam/2 sum A (theta - C)^2       B_M ~ M, |B_M| = |B_t|
    A   <- A + F        C <- C + F / A (theta - C)                                 after each task
    M_r <- x_n,    r ~ U{0..n-1}, if r < slots                                     after each step (reservoir)

F is the diagonal Fisher of the task at theta, where its learning ended; exemplars do not enter it. The penalty is that
of EWC and the memory that of ER, draws included: with lam 0 it is ER, with 0 slots it is EWC, bit for bit.

Reference: J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv 1612.00796;
    A. Chaudhry et al., "On tiny episodic memories in continual learning", 2019, arXiv 1902.10486. EWC with exemplars
    is a baseline (EWC-S) of A. Chaudhry et al., "Riemannian walk for incremental learning", 2018, arXiv 1801.10112.
Deviations: those of ER. Exemplars are a reservoir of all examples, while EWC-S chooses some of each class.
Memory: constant, three times the network and `slots` exemplars as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scale, Scenario, Task, TaskId, Trace, check_finite
from perdure.model import Model, answer, grow, start
from perdure.ops.anchor import Pull
from perdure.ops.fisher import Kind, check_fisher, diagonal
from perdure.ops.memory import Memory
from perdure.ops.rehearsal import Exemplars, Rehearsal, check_slots, without
from perdure.rng import fold
from perdure.train import competing


class EWCERState(NamedTuple):
    """What is known after some tasks; A and C are empty before the first."""

    model: Model
    precision: dict[str, Tensor]  # A, by parameter name
    anchor: dict[str, Tensor]  # C
    exemplars: Exemplars


@dataclass(frozen=True, eq=False)
class EWCER(Method):
    """Elastic weight consolidation and experience replay.

    Args:
        lam: strength of the penalty on old tasks; where exemplars hold them too, less is needed than in EWC alone.
            With sgd, lr * lam * A above 2 diverges.
        slots: exemplars in memory; with 0 nothing is replayed.
        fisher: exact, sampled (one label an example), empirical (the true label), or auto: exact where the network
            is made of Linear layers, else sampled on 5,000 examples.
        fisher_examples: at most so many examples a task for the Fisher; all of them when not given.
    """

    lam: float = 3.0
    slots: int = 1000
    fisher: Kind = "auto"
    fisher_examples: int | None = None

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # F needs to know where a task ends
    rehearses: ClassVar = True
    states: ClassVar = (EWCERState, Model, Exemplars, Memory, Scale)
    off: ClassVar = {"lam": 0.0, "slots": 0}

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        check_fisher(self.fisher, self.fisher_examples)
        check_slots(self.slots)

    def init(self, key: int, background: Examples | None = None) -> EWCERState:
        return EWCERState(start(self.net, self.fit, key), {}, {}, without(self.slots))

    def learn(self, state: EWCERState, task: Task, key: int) -> tuple[EWCERState, Trace]:
        model = grow(self.net, self.fit, state.model, task)
        rehearsal = Rehearsal(self.net, model, self.fit, task, key, state.exemplars)
        descent, examples = rehearsal.descent, rehearsal.examples
        theta, layout = descent.flat, descent.layout
        held = bool(self.lam and state.precision)
        A = layout.flat(state.precision) if held else torch.zeros_like(theta)
        C = layout.flat(state.anchor) if held else torch.zeros_like(theta)
        pull = Pull(descent, self.lam * A, C) if held else None
        for batch, *old in rehearsal.batches():
            descent.follow(rehearsal.loss(batch, *old), pull)
        state, trace = state._replace(model=descent.model, exemplars=rehearsal.exemplars), descent.trace
        if not self.lam:
            return state, trace
        classes, draw = competing(self.fit, task), fold(key, "fisher")
        F = layout.flat(diagonal(self.net, state.model, examples, self.fisher, draw, classes, self.fisher_examples))
        A += F
        C += F / A.clamp_min(torch.finfo(A.dtype).tiny) * (theta - C)  # where A is 0, C does not matter
        return state._replace(precision=layout.named(A), anchor=layout.named(C)), trace

    def predict(self, ready: EWCERState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)
