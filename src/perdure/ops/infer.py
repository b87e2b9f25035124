"""Which task is an input from? Every learned task answers, and the one that is surest wins.

    task(x) = argmin_t H(softmax(logits_t(x)))

Each example is judged on its own. Entropies are compared as they are: among tasks with different numbers of labels, the
one with fewer can be surer.

Reference: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perdure.contract import Answer, TaskId
from perdure.model import Model, answer


class Bound(NamedTuple):
    """A model for every task, by its index; `start` answers before the first."""

    start: Model
    tasks: Mapping[int, Model]


class Made(Mapping[int, Model]):
    """Models by the index of their task, each made when it is asked for: many tasks cost no more memory than the last.

    Args:
        indices: of the tasks learned, in the order of learning.
        make: the model of the task at a place in that order.
    """

    def __init__(self, indices: Sequence[int], make: Callable[[int], Model]) -> None:
        self.places = {index: place for place, index in enumerate(indices)}
        self.make = lru_cache(1)(make)

    def __getitem__(self, index: int) -> Model:
        return self.make(self.places[index])

    def __contains__(self, index: object) -> bool:
        return index in self.places

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def entropy(logits: Tensor) -> Tensor:
    """(B,) float64, the entropy in nats of softmax(logits) (B, n). In double: in float two sure answers tie at 0."""
    logs = logits.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def lowest_entropy(answers: Mapping[int, Answer]) -> Answer:
    """One answer from those of every learned task, by task index, each on its own labels.

    Its columns are the sorted union of the labels: those of the chosen task hold its logits, the others -inf. A label
    that several tasks share is one column. The first task wins a tie.
    """
    indices, given = list(answers), list(answers.values())
    chosen = torch.stack([entropy(own.logits) for own in given]).argmin(0)  # (B,)
    labels = torch.cat([own.labels for own in given]).unique()
    tasks = torch.tensor(indices).to(chosen.device)[chosen]
    return routed(tasks, labels, lambda task, rows: answers[task]._replace(logits=answers[task].logits[rows]))


def routed(tasks: Tensor, labels: Tensor, own: Callable[[int, Tensor], Answer]) -> Answer:
    """One answer in which each input is answered by its task, and in doubt as that task says, or by its entropy.

    Args:
        tasks: (B,) the index of each input's task.
        labels: (n,) sorted, of all tasks: the columns. Those that are not the chosen task's hold -inf.
        own: the answer of a task to some rows of the batch.
    """
    logits = torch.full((len(tasks), len(labels)), -torch.inf, device=tasks.device)
    doubt = torch.zeros(len(tasks), dtype=torch.float64, device=tasks.device)
    for task in tasks.unique().tolist():
        rows = (tasks == task).nonzero()  # (b, 1)
        part = own(task, rows[:, 0])
        logits = logits.to(part.logits)
        logits[rows, torch.searchsorted(labels, part.labels)] = part.logits
        doubt[rows[:, 0]] = entropy(part.logits) if part.doubt is None else part.doubt
    return Answer(logits, labels, tasks, doubt)


def respond(net: nn.Module, bound: Bound, x: Tensor, id: TaskId | None) -> Answer:
    """The answer of the given task's model, or of the surest one; an id that was never learned has no labels."""
    if not bound.tasks:
        return answer(net, bound.start, x, id)
    if id is None:
        return lowest_entropy({index: answer(net, model, x) for index, model in bound.tasks.items()})
    if id.index in bound.tasks:
        return answer(net, bound.tasks[id.index], x, id)
    return Answer(x.new_zeros(len(x), 0), bound.start.labels[:0])
