"""NCM, nearest class mean: a running mean of every class, over features that never change.

    phi(x) = the input of the head of a net that is not trained
    n_y   <- n_y + m,    mu_y <- mu_y + sum_{x in B_y} (phi(x) - mu_y) / n_y      for the m examples B_y of y in a batch
    logit  = -1/2 |phi(x) - mu_y|^2

With a net that is one linear layer (`linear`) the inputs are the features; with `fit.start` net they are those of a
backbone as it is given, else those of random weights. Nothing is trained, so nothing is forgotten: a mean is the same
in whatever order its examples come.

Reference: T. Mensink, J. Verbeek, F. Perronnin, G. Csurka, "Distance-based image classification: generalizing to new
    classes at near-zero cost", IEEE TPAMI 2013.
Deviations: no metric is learned. Examples come by once, in batches of `fit.batch`; the rest of `fit` has no part in it.
    The trace is the mean of 1/2 |phi(x) - mu_y|^2 over every batch before its update.
Memory: class, a mean and a count for each, beside the network without its head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Task, TaskId, Trace
from perdure.model import Model, features, head_of, narrow, parts_of, start
from perdure.train import BATCH, Diverged, length

EXACT = "donot_use_mm_for_euclid_dist"  # of differences: |a|^2 + |b|^2 - 2ab would lose small ones far from 0


class NCMState(NamedTuple):
    """A network without a head, and where each class lies among its features."""

    params: dict[str, Tensor]  # by parameter name
    stats: dict[str, Tensor]  # buffers by name
    labels: Tensor  # (C,) int64, the labels seen
    mu: Tensor  # (C, d)
    counts: Tensor  # (C,) int64


@dataclass(frozen=True, eq=False)
class NCM(Method):
    """Nearest class mean over frozen features."""

    memory: ClassVar = "class"
    states: ClassVar = (NCMState,)

    def init(self, key: int, background: Examples | None = None) -> NCMState:
        model, name = start(self.net, self.fit, key), head_of(self.net, self.fit)
        params = {other: w for other, w in model.params.items() if other not in parts_of(name)}
        width = model.params[parts_of(name)[0]].shape[1]
        none = torch.zeros(0, dtype=torch.int64)
        return NCMState(params, model.stats, none, torch.zeros(0, width), none)

    def learn(self, state: NCMState, task: Task, key: int) -> tuple[NCMState, Trace]:
        device, home = state.labels.device, task.examples.labels.device
        length(self.fit, len(task.examples))  # refuses a task that is empty
        examples, shown = task.examples.materialise(), task.examples.labels.unique().to(device)
        labels = torch.cat([state.labels, shown[~torch.isin(shown, state.labels)]])
        mu, counts = state.mu.new_zeros(len(labels), state.mu.shape[1]), state.counts.new_zeros(len(labels))
        mu[: len(state.mu)], counts[: len(state.counts)] = state.mu, state.counts
        losses = []
        for rows in torch.arange(len(examples), device=home).split(self.fit.batch or BATCH):
            x, y = (part.to(device) for part in examples.take(rows)[:2])
            place = (y[:, None] == labels).int().argmax(1)
            away = self.features(state, x) - mu[place]  # (B, d)
            losses.append(away.square().sum(1).mean() / 2)
            counts += place.bincount(minlength=len(counts))
            mu += torch.zeros_like(mu).index_add_(0, place, away) / counts.clamp(min=1)[:, None]
        if not bool(mu.isfinite().all()):
            raise Diverged("the mean of a class is not finite: the features of an example are not. Look at the inputs")
        return state._replace(labels=labels, mu=mu, counts=counts), Trace(torch.stack(losses).float().cpu())

    def features(self, state: NCMState, x: Tensor) -> Tensor:
        """(B, d) phi of inputs x (B, ...)."""
        return features(self.net, self.fit, Model(state.params, state.stats, state.labels, {}), x)

    def predict(self, ready: NCMState, x: Tensor, id: TaskId | None = None) -> Answer:
        far = torch.cdist(self.features(ready, x), ready.mu, compute_mode=EXACT)
        return narrow(Answer(-far.square() / 2, ready.labels), id)
