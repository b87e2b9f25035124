"""Which task is an input from? Every learned task answers, and the one that is surest wins.

    task(x) = argmin_t H(softmax(logits_t(x)))

Each example is judged on its own. Entropies are compared as they are: among tasks with different numbers of labels, the
one with fewer can be surer.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perdure.contract import Answer, TaskId
from perdure.model import Model, answer


class Bound(NamedTuple):
    """A model for every task, by its index; `start` answers before the first."""

    start: Model
    tasks: dict[int, Model]


def entropy(logits: Tensor) -> Tensor:
    """(B,) float64, the entropy in nats of softmax(logits) (B, n). In double: in float two sure answers tie at 0."""
    logs = logits.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def lowest_entropy(answers: Mapping[int, Answer]) -> Answer:
    """One answer from those of every learned task, by task index, each on its own labels.

    Its columns are the sorted union of the labels: those of the chosen task hold its logits, the others -inf. A label
    that several tasks share is one column. The first task wins a tie.
    """
    indices, given = torch.tensor(list(answers)), list(answers.values())
    labels = torch.cat([own.labels for own in given]).unique()
    chosen = torch.stack([entropy(own.logits) for own in given]).argmin(0)  # (B,)
    logits = given[0].logits.new_full((len(chosen), len(labels)), -torch.inf)
    for place, own in enumerate(given):
        rows = (chosen == place).nonzero()
        logits[rows, torch.searchsorted(labels, own.labels)] = own.logits[rows[:, 0]]
    return Answer(logits, labels, indices.to(chosen.device)[chosen])


def respond(net: nn.Module, bound: Bound, x: Tensor, id: TaskId | None) -> Answer:
    """The answer of the given task's model, or of the surest one; an id that was never learned has no labels."""
    if not bound.tasks:
        return answer(net, bound.start, x, id)
    if id is None:
        return lowest_entropy({index: answer(net, model, x) for index, model in bound.tasks.items()})
    if id.index in bound.tasks:
        return answer(net, bound.tasks[id.index], x, id)
    return Answer(x.new_zeros(len(x), 0), bound.start.labels[:0])
