"""Which task is an input from? Every learned task answers, and the one that is surest wins.

    task(x) = argmin_t H(softmax(logits_t(x)))

Each example is judged on its own. Entropies are compared as they are: among tasks with different numbers of labels, the
one with fewer can be surer.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perdure.contract import Answer


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
    labels = torch.cat([answer.labels for answer in given]).unique()
    chosen = torch.stack([entropy(answer.logits) for answer in given]).argmin(0)  # (B,)
    logits = given[0].logits.new_full((len(chosen), len(labels)), -torch.inf)
    for place, answer in enumerate(given):
        rows = (chosen == place).nonzero()
        logits[rows, torch.searchsorted(labels, answer.labels)] = answer.logits[rows[:, 0]]
    return Answer(logits, labels, indices.to(chosen.device)[chosen])
