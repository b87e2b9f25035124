"""LwF, learning without forgetting: on the inputs of a new task, go on answering as the network did before it.

    loss = L_t(theta) + lam sum_h n_h KD_h(theta)              h: the heads of the tasks before t
    KD_h = mean over B_t of -sum_{c in h} q_c log p_c          q = softmax(z' / tau), p = softmax(z / tau)

z' is what the network answered to the task's inputs when the task came, which is computed once. Nothing is kept of old
tasks but the network and their labels. A head is a set of labels that compete among themselves: each task's own (GG),
where p and q are softmaxes within it, or all there are, where p is one over all of them and q is 0 for labels that the
network had not learned. n_h is 1, or the number of tasks that head h learned.

Reference: Z. Li, D. Hoiem, "Learning without forgetting", 2016, arXiv 1606.09282.
Deviations: the paper's heads are those of tasks, apart from one another. Where all labels compete they are one head, as
    in G. M. van de Ven, A. S. Tolias, 2018, arXiv 1809.10635 (with `fit.compete` task they are apart there too). New
    rows start at zero, and `head_steps` of them alone come first only if asked for; the paper has such a warm-up.
Memory: constant, the network: it is its own teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Refused, Scenario, Task, TaskId, Trace, check_finite, unknown
from perdure.data import blocks
from perdure.model import Model, answer, classes_of, forward, grow, head_of, parts_of, rows_of, start
from perdure.ops.distil import distance
from perdure.ops.rivals import Sets, enlist
from perdure.rng import fold
from perdure.train import Descent, Layout, competing, length, minimise

Balance = Literal["heads", "tasks", "share"]


class LwFState(NamedTuple):
    """A network, and which of its labels competed among themselves."""

    model: Model
    heads: Sets  # the labels of each head; one of all labels learned where all compete, none before the first task
    tasks: tuple[int, ...]  # how many tasks each head learned


class Old(NamedTuple):
    """H old heads of one size."""

    rows: Tensor  # (H, n) of the network's head: the m that are old, then those that only compete with them
    m: int
    strength: Tensor  # (H,) lam n_h


@dataclass(frozen=True, eq=False)
class LwF(Method):
    """Learning without forgetting.

    Args:
        lam: strength of the old answers (the paper's lambda_o).
        tau: temperature that softens them. The distance is not multiplied by tau^2; where another's is, `lam` is.
        balance: what counts once: every old head (the paper), or every old task (tasks). With share all tasks, the new
            one among them, have equal shares in a mean instead of a sum, which is 1/t of tasks.
        head_steps: steps at the start of each later task in which only the new rows of the head move, by the loss of
            the task alone. They come on top of the others, with moments of their own and at `fit.lr`.
    """

    lam: float = 1.0
    tau: float = 2.0
    balance: Balance = "heads"
    head_steps: int = 0

    scenarios: ClassVar = frozenset({Scenario.GG, Scenario.GNS, Scenario.GNU})  # the teacher is where a task ends
    states: ClassVar = (LwFState, Model)
    off: ClassVar = {"lam": 0.0, "head_steps": 0}
    fails: ClassVar = {
        Scenario.GNU: "39 % on split digits; er has 98 % (perdure run split-digits lwf --scenario gnu --fit.steps 500)"
    }

    def __post_init__(self) -> None:
        check_finite("lam", self.lam)
        if not 0 < self.tau < float("inf"):
            raise Refused(f"method.tau is {self.tau}; a temperature is finite and positive (1 softens nothing)")
        if self.balance not in get_args(Balance):
            raise unknown("balance", self.balance, get_args(Balance))
        if self.head_steps < 0:
            raise Refused(f"method.head_steps is {self.head_steps}; it must not be negative (0 for no warm-up)")

    def init(self, key: int, background: Examples | None = None) -> LwFState:
        return LwFState(start(self.net, self.fit, key), (), ())

    def learn(self, state: LwFState, task: Task, key: int) -> tuple[LwFState, Trace]:
        model, first = self._warm(state, grow(self.net, self.fit, state.model, task), task, key)
        model, trace = self._distilled(state, model, task, key)
        return after(state, model, task, competing(self.fit, task)), Trace(torch.cat([first.loss, trace.loss]))

    def _warm(self, state: LwFState, model: Model, task: Task, key: int) -> tuple[Model, Trace]:
        """The model after steps in which only the rows of labels never learned move; none for the first task."""
        known, classes = torch.tensor([*chain(*state.heads)]).to(model.labels), classes_of(task).to(model.labels)
        new = rows_of(model.labels, classes[~torch.isin(classes, known)])
        if not self.head_steps or not state.heads or not len(new):
            return model, Trace(torch.zeros(0))
        layout = Layout(model.params)
        hold = torch.ones(sum(layout.sizes), dtype=torch.bool, device=new.device)
        for name in {*parts_of(head_of(self.net, self.fit))} & {*model.params}:
            layout.views(hold)[name][new] = False
        fit = replace(self.fit, epochs=None, steps=self.head_steps, schedule="constant", warmup=0, moments="fresh")
        warm, trace = minimise(self.net, model._replace(moments={}), fit, task, fold(key, "head"), hold)
        return model._replace(params=warm.params), trace

    def _distilled(self, state: LwFState, model: Model, task: Task, key: int) -> tuple[Model, Trace]:
        """Learns a task beside the old answers; the first, or at strength 0, without."""
        if not self.lam or not state.heads:
            return minimise(self.net, model, self.fit, task, key)
        length(self.fit, len(task.examples))  # refuses an empty task before its teacher answers
        classes = competing(self.fit, task)
        descent = Descent(self.net, model, self.fit, key)
        examples = task.examples.materialise(descent.device)
        teacher = self._answers(state.model, examples, descent.device)
        rival = descent.flat.new_zeros(len(model.labels))  # added to the logits of the new task's head
        if classes is not None:
            rival[~torch.isin(model.labels, classes.to(model.labels))] = -torch.inf
        heads, t = self._old(state, model.labels, classes is None), 1 + sum(state.tasks)
        for batch in descent.batches(examples):
            z, then = descent(batch.x), teacher[batch.rows]
            loss = F.cross_entropy(z + rival, batch.y)
            for rows, m, strength in heads:
                ours = z.index_select(1, rows.flatten()).view(-1, rows.shape[1])  # (B H, n)
                theirs = then.index_select(1, rows[:, :m].flatten()).view(-1, m)
                loss = loss + (strength * distance(ours, theirs, self.tau).view(-1, len(rows)).mean(0)).sum()
            descent.follow(loss / t if self.balance == "share" else loss)
        return descent.model, descent.trace

    def _answers(self, model: Model, examples: Examples, where: torch.device) -> Tensor:
        """(N, C_old) what a model answers to all inputs of a task."""
        return torch.cat([forward(self.net, model, x) for x, *_ in blocks(examples, where)])

    def _old(self, state: LwFState, labels: Tensor, together: bool) -> list[Old]:
        """The old heads, those of one size at a time; `together` where all labels compete with the old ones."""
        strength = [self.lam * (1 if self.balance == "heads" else tasks) for tasks in state.tasks]
        old = []
        for m in sorted({len(head) for head in state.heads}):
            which = [place for place, head in enumerate(state.heads) if len(head) == m]
            rows = rows_of(labels, torch.tensor([state.heads[place] for place in which]).flatten()).view(-1, m)
            if together:
                everyone = torch.arange(len(labels), device=rows.device)
                rows = torch.cat([rows[0], everyone[~torch.isin(everyone, rows)]])[None]
            old.append(Old(rows, m, torch.tensor([strength[place] for place in which], device=rows.device)))
        return old

    def predict(self, ready: LwFState, x: Tensor, id: TaskId | None = None) -> Answer:
        return answer(self.net, ready.model, x, id)


def after(state: LwFState, model: Model, task: Task, classes: Tensor | None) -> LwFState:
    """The state after a task has been learned by a model, where `classes` competed: None for all labels."""
    if classes is None:
        learned = {*chain(*state.heads), *classes_of(task).tolist()}
        head = tuple(label for label in model.labels.tolist() if label in learned)
        return LwFState(model, (head,), (1 + sum(state.tasks),))
    heads, own = enlist(state.heads, classes)
    tasks = [*state.tasks, *[0] * (len(heads) - len(state.heads))]
    tasks[own] += 1
    return LwFState(model, heads, tuple(tasks))
