"""iCaRL: a network learns features, and a few exemplars of every class say where the class lies among them.

    L     = mean over X and P of sum_y BCE(sigmoid f_y(x), q_y)     X the task, P the exemplars of classes before it
    q_y   = [x is of class y]  for the classes of the task,  sigmoid f'_y(x)  for the others, f' before the task
    phi   = the input of the head, |phi| = 1
    p_k   = argmin over x of class y, not chosen yet, of |mu - (phi(x) + sum_{j<k} phi(p_j)) / k|,   k = 1 .. m
    m     = floor(slots / classes so far); p_1 .. p_m are the exemplars of a class, and the first of them stay longest
    logit_y = 20 phi(x)^T mu_y,        mu_y the mean of phi over the exemplars of y, to length 1: the nearest mean wins

Reference: S.-A. Rebuffi, A. Kolesnikov, G. Sperl, C. H. Lampert, "iCaRL: incremental classifier and representation
    learning", 2016, arXiv 1611.07725.
Deviations: the loss is the sum over outputs, as the paper has it; the authors' code takes the mean over 100, so that a
    rate of theirs is 100 times one of these. How many classes will come is not known here, and a mean over those so far
    would slow down each of them. Only outputs of classes that were seen are in the sum; each is judged on its own, so
    none compete (`fit.compete` has no part in it), also where the exam gives the task. The classes of a task are those
    it shows: where one comes again, its labels teach it, its exemplars are chosen anew from the old ones and the new
    examples, and mu counts an old exemplar for as many examples as it stands for. Images are not mirrored. The paper
    has no logits, only the nearest mean; before any task the network's own outputs answer.
Memory: constant, the network and `slots` exemplars as they are stored, allocated when the first task is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scale, Task, TaskId, Trace
from perdure.data import Concat, View, blocks
from perdure.model import Model, answer, classes_of, features, forward, grow, narrow, rows_of, start
from perdure.ops.memory import Memory, keep
from perdure.rng import fold, uniform
from perdure.train import Descent, length

SHARP = 20.0  # of logits, for entropies that mean something: on digits and MNIST labels are likeliest at 10 to 28


class ICaRLState(NamedTuple):
    """A network and its exemplars, class after class, the best of each first."""

    model: Model
    memory: Memory | None  # none before the first task, which gives the inputs their shape
    counts: Tensor  # (C,) int64, how many examples each class has shown

    @property
    def classes(self) -> Tensor:
        """(C,) int64, the classes so far, in the order of the memory."""
        return self.counts if self.memory is None else self.memory.examples.labels.unique_consecutive()


class Means(NamedTuple):
    """What an exam needs: a network, and where every class lies among its features."""

    model: Model
    mu: Tensor  # (C, d) of length 1
    classes: Tensor  # (C,)


def herd(phi: Tensor, mu: Tensor, m: int) -> Tensor:
    """(m,) rows of phi (n, d), m <= n, picked one by one so that the mean of those so far stays nearest to mu (d,).

    |k mu - s - phi|^2, for s the sum of the k - 1 picked, is smallest where phi^T (k mu - s) - |phi|^2 / 2 is largest;
    a pick moves that by phi^T (mu - phi(pick)). Of equals the first is picked.
    """
    score = phi @ mu - phi.square().sum(1) / 2
    picks = []
    for _ in range(m):
        picks.append(pick := score.argmax())
        score[pick] = -torch.inf
        score.addmv_(phi, mu - phi[pick])
    return torch.stack(picks) if picks else phi.new_zeros(0, dtype=torch.int64)


def joined(memory: Memory | None, examples: Examples) -> Concat:
    """The exemplars, and then a task."""
    home = examples.labels.device
    olds = [] if memory is None else [memory._replace(x=memory.x.to(home), labels=memory.labels.to(home)).examples]
    return Concat([*olds, examples])


def filled(slots: int, memory: Memory) -> Memory:
    """The same exemplars in as many slots as there are, those behind them free."""
    free = slots - len(memory.labels)
    x = torch.cat([memory.x, memory.x.new_zeros(free, *memory.x.shape[1:])])
    return memory._replace(x=x, labels=F.pad(memory.labels, (0, free)))


def between(olds: int, news: int, key: int) -> Tensor:
    """(olds + news,) an order for old rows and then new ones: the new as they came, the old at random among them."""
    return torch.cat([uniform(key, olds) * news, torch.arange(news)]).argsort(stable=True)


def check_filled(task: Task, classes: Tensor) -> None:
    """Raises Refused where a class of a task is not among those (C,) of which there are examples."""
    named = classes_of(task).to(classes.device)
    if len(empty := named[~torch.isin(named, classes)]):
        raise Refused(
            f"class {int(empty[0])} of the task has no examples, so that nothing would be its mean; give it at "
            "least one, or leave it out of the classes of the task"
        )


@dataclass(frozen=True, eq=False)
class ICaRL(Method):
    """Nearest mean of exemplars, in features that are distilled.

    Args:
        slots: exemplars in memory, shared evenly by the classes so far (the paper's K): at least one for each.
    """

    slots: int = 2000

    rehearses: ClassVar = True
    states: ClassVar = (ICaRLState, Model, Memory, Scale)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise Refused(f"method.slots is {self.slots}; every class is known by its exemplars: use at least one each")

    def init(self, key: int, background: Examples | None = None) -> ICaRLState:
        return ICaRLState(start(self.net, self.fit, key), None, torch.zeros(0, dtype=torch.int64))

    def vet(self, tasks: Sequence[Task]) -> None:
        classes = torch.zeros(0, dtype=torch.int64)
        for task in tasks:
            classes = torch.cat([classes, task.examples.labels.cpu()]).unique()
            check_filled(task, classes)
        self._check_room(classes)

    def learn(self, state: ICaRLState, task: Task, key: int) -> tuple[ICaRLState, Trace]:
        length(self.fit, len(task.examples))  # refuses an empty task, whatever is in memory
        known, labels = state.classes, task.examples.labels.to(state.counts.device)
        shown = labels.unique()
        classes = torch.cat([known, shown[~torch.isin(shown, known)]])
        check_filled(task, classes)
        self._check_room(classes)
        descent = Descent(self.net, grow(self.net, self.fit, state.model, task), self.fit, key, classes)
        examples = task.examples.materialise(descent.device)
        pool = joined(state.memory, examples)
        olds, home = len(pool) - len(examples), examples.labels.device
        order = between(olds, len(examples), fold(key, "between"))
        mixed = View(pool, order.to(home)).materialise(descent.device)
        q = self._targets(state, mixed, classes, shown)
        for batch in descent.batches(mixed):
            loss = F.binary_cross_entropy_with_logits(descent(batch.x), q[batch.rows.to(q.device)], reduction="sum")
            descent.follow(loss / len(batch.rows))
        model, counts = descent.model, F.pad(state.counts, (0, len(classes) - len(known)))
        rows = self._exemplars(model, pool, classes, counts, shown)
        memory = filled(self.slots, keep(View(pool, rows), descent.device))
        return ICaRLState(model, memory, counts + (labels == classes[:, None]).sum(1)), descent.trace

    def _check_room(self, classes: Tensor) -> None:
        """Raises Refused where a class would have no exemplar."""
        if len(classes) > self.slots:
            raise Refused(
                f"method.slots is {self.slots}, and there are {len(classes)} classes, which need one exemplar each; "
                f"raise it to at least {len(classes)}"
            )

    def _targets(self, state: ICaRLState, mixed: Examples, classes: Tensor, shown: Tensor) -> Tensor:
        """(N, C) q: the labels of the classes that a task shows, for all others what the network before it answers."""
        device = state.model.labels.device
        q = (mixed.labels.to(device)[:, None] == classes.to(device)).float()
        old = classes[~torch.isin(classes, shown)]
        columns, rows = rows_of(classes, old), rows_of(state.model.labels, old)
        if len(old):
            for x, _, places in blocks(mixed, device):
                q[places[:, None], columns] = forward(self.net, state.model, x)[:, rows].sigmoid().to(q)
        return q

    def _exemplars(self, model: Model, pool: Concat, classes: Tensor, counts: Tensor, shown: Tensor) -> Tensor:
        """(n,) where in a pool, of exemplars and then a task, the next exemplars are, class after class.

        Args:
            counts: (C,) how many examples each class had shown before the task.
        """
        olds, m, rows = len(pool) - len(pool.parts[-1]), self.slots // len(classes), []
        for y, count in zip(classes.tolist(), counts.tolist(), strict=True):
            places = (pool.labels == y).nonzero()[:, 0]
            if y in shown:
                phi = self._features(model, pool, places)
                stands = torch.where(places < olds, count / (places < olds).sum(), 1.0).to(phi)  # for so many examples
                picks = herd(phi, stands @ phi / stands.sum(), min(m, len(places)))
                places = places[picks.to(places.device)]
            rows.append(places[:m])
        return torch.cat(rows)

    def phi(self, model: Model, x: Tensor) -> Tensor:
        """(B, d) what the head sees of inputs x (B, ...), to length 1."""
        return F.normalize(features(self.net, self.fit, model, x), dim=1)

    def _features(self, model: Model, examples: Examples, places: Tensor) -> Tensor:
        """(n, d) phi of the examples at places (n,)."""
        parts = blocks(examples, model.labels.device, places)
        return torch.cat([self.phi(model, x) for x, *_ in parts])

    def ready(self, state: ICaRLState) -> Means:
        """Where the classes lie: each by the mean of its exemplars."""
        if state.memory is None:
            return Means(state.model, torch.zeros(0, 0), state.classes)
        exemplars = state.memory.examples
        phi = self._features(state.model, exemplars, torch.arange(len(exemplars), device=exemplars.labels.device))
        member = exemplars.labels == (classes := state.classes)[:, None]  # (C, M)
        return Means(state.model, F.normalize(member.to(phi) @ phi, dim=1), classes)

    def predict(self, ready: Means, x: Tensor, id: TaskId | None = None) -> Answer:
        if not len(ready.classes):
            return answer(self.net, ready.model, x, id)
        phi = self.phi(ready.model, x)
        return narrow(Answer(SHARP * phi @ ready.mu.T, ready.classes), id)
