"""Facts about learning without forgetting: it equals its paper's loop, and the teacher is what came before the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, stream, task
from sklearn.datasets import load_digits
from torch import Tensor, nn

from perdure.contract import Fit, Method, Refused, Scale, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods import lwf
from perdure.methods.finetune import Finetune
from perdure.methods.lwf import LwF
from perdure.model import forward, start, with_outputs
from perdure.nets import build
from perdure.ops.distil import distance
from perdure.rng import fold
from perdure.train import Descent, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=20, epochs=2)
BOUNDED = [Scenario.GG, Scenario.GNS, Scenario.GNU]
APART = [task(0, [0, 1], 50), task(1, [2, 3, 4], 50), task(2, [5, 6], 50), task(3, [6, 1], 50), task(4, [0, 1], 50)]


class ByHand:
    """The paper's procedure on plain tensors; only the start values and the order of the examples are ours."""

    def __init__(self, method: LwF, names: list[int]) -> None:
        self.method, self.names = method, names  # a label for each row
        self.leaves = [tensor.clone() for tensor in method.init(0).model.params.values()]
        self.heads: list[list[int]] = []  # of each task; all labels so far where they compete together

    def logits(self, x: Tensor, leaves: list[Tensor]) -> Tensor:
        W, b, V, c = leaves
        return torch.tanh(x.flatten(1) @ W.T + b) @ V.T + c

    def descend(self, loss: Callable[[list[Tensor]], Tensor], rows: list[int] | None = None) -> float:
        """One step, of all that there is or of some rows of the head."""
        leaves = [leaf.clone().requires_grad_() for leaf in self.leaves]
        value = loss(leaves)
        for leaf, grad in zip(self.leaves, torch.autograd.grad(value, leaves), strict=True):
            if rows is None:
                leaf -= self.method.fit.lr * grad
            elif len(leaf) == len(self.names):
                leaf[rows] -= self.method.fit.lr * grad[rows]
        return float(value.detach())

    def learn(self, some: Task, key: int, apart: bool) -> list[float]:
        own, x = some.id.classes.tolist(), SCALE(some.examples.x)
        old = self.logits(x, self.leaves)
        recorded = [old[:, [self.names.index(label) for label in head]].softmax(1) for head in self.heads]
        new = [label for label in own if label not in self.names]
        self.names = self.names + new
        self.leaves[2:] = [F.pad(leaf, (0, 0) * (leaf.ndim - 1) + (0, len(new))) for leaf in self.leaves[2:]]
        fresh = [self.names.index(label) for label in own if not any(label in head for head in self.heads)]
        competing = own if apart else self.names
        t, option = 1 + len(self.heads), self.method

        def learned(z: Tensor, rows: Tensor) -> Tensor:
            columns = [self.names.index(label) for label in competing]
            places = torch.tensor([competing.index(label) for label in some.examples.labels[rows].tolist()])
            return F.cross_entropy(z[:, columns], places)

        def kept(z: Tensor, rows: Tensor, head: list[int], then: Tensor) -> Tensor:
            rivals = head if apart else head + [label for label in self.names if label not in head]
            y = z[:, [self.names.index(label) for label in rivals]].softmax(1) ** (1 / option.tau)
            y, wanted = y / y.sum(1, keepdim=True), then[rows] ** (1 / option.tau)
            wanted = F.pad(wanted / wanted.sum(1, keepdim=True), (0, len(rivals) - len(head)))
            return -(wanted * y.log()).sum(1).mean()

        def total(z: Tensor, rows: Tensor) -> Tensor:
            every = list(zip(self.heads, recorded, strict=True))
            if option.balance == "heads":  # one that several tasks share counts once
                every = [pair for place, pair in enumerate(every) if pair[0] not in self.heads[:place]]
            old = option.lam * sum((kept(z, rows, *pair) for pair in every), torch.zeros(()))
            if option.balance == "share" and self.heads:
                return learned(z, rows) / t + (1 - 1 / t) * old / len(self.heads)
            return learned(z, rows) + old

        losses = []
        if self.heads and fresh:
            warm = replace(option.fit, epochs=None, steps=option.head_steps or 1)
            for rows in order(some, warm, fold(key, "head")) if option.head_steps else []:
                losses.append(self.descend(lambda leaves: learned(self.logits(x[rows], leaves), rows), fresh))  # noqa: B023
        for rows in order(some, option.fit, key):
            losses.append(self.descend(lambda leaves: total(self.logits(x[rows], leaves), rows)))  # noqa: B023
        if apart:
            self.heads.append(own)
        else:
            seen = {*own, *(label for head in self.heads for label in head)}
            self.heads = [[label for label in self.names if label in seen]] * t
        return losses


def order(some: Task, fit: Fit, key: int) -> list[Tensor]:
    """The rows of every batch."""
    blank = Descent(net(), start(net(2), FIT, 0)._replace(labels=some.examples.labels.unique()), fit, key)
    batches = []
    for batch in blank.batches(some.examples):
        blank.step(torch.zeros_like(blank.flat))
        batches.append(batch.rows)
    return batches


CASES = {  # scenario, tasks, rows at the start, what else
    "task": (Scenario.GG, APART, 0, {"lam": 0.7}),
    "task, by tasks": (Scenario.GG, APART, 0, {"balance": "tasks", "tau": 3.0}),
    "task, by share": (Scenario.GG, APART, 0, {"balance": "share"}),
    "task, warm": (Scenario.GG, APART, 0, {"head_steps": 5}),
    "task, same labels": (Scenario.GG, stream(Scenario.GNS), 2, {"balance": "tasks"}),
    "domain": (Scenario.GNS, stream(Scenario.GNS), 2, {}),
    "domain, by tasks": (Scenario.GNS, stream(Scenario.GNS), 2, {"balance": "tasks", "lam": 0.3}),
    "domain, by share": (Scenario.GNS, stream(Scenario.GNS), 2, {"balance": "share"}),
    "class": (Scenario.GNU, APART, 0, {"tau": 1.0}),
    "class, by tasks": (Scenario.GNU, APART, 0, {"balance": "tasks"}),
    "class, by share": (Scenario.GNU, APART, 0, {"balance": "share", "lam": 4.0}),
    "class, warm": (Scenario.GNU, APART, 0, {"head_steps": 5}),
    "class, all rows": (Scenario.GNU, [APART[2], *APART[:2]], 7, {"head_steps": 5, "fit": replace(FIT, compete="all")}),
    "class, apart": (Scenario.GNU, APART, 0, {"fit": replace(FIT, compete="task")}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_loop_of_its_paper(case: str) -> None:
    """Tasks of several sizes, some of whose labels came before; batches of 20, 20 and 10."""
    scenario, tasks, rows, options = CASES[case]
    method = LwF(net(rows), **{"fit": FIT, **options})
    method = replace(method, fit=for_scenario(method.fit, scenario))
    state, hand = method.init(0), ByHand(method, [*range(rows)])
    for number, some in enumerate(tasks):
        losses = hand.learn(some, number, method.fit.compete == "task")
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=2e-6, atol=1e-6)
    assert state.model.labels.tolist() == hand.names
    for param, leaf in zip(state.model.params.values(), hand.leaves, strict=True):
        torch.testing.assert_close(param, leaf, rtol=1e-5, atol=2e-6)
    assert {tuple(sorted(head)) for head in state.heads} == {tuple(sorted(head)) for head in hand.heads}
    assert list(state.tasks) == [sum(set(other) == set(head) for other in hand.heads) for head in state.heads]


@pytest.mark.parametrize("options", [{"lam": 0.0}, {"lam": 0.0, "balance": "share", "tau": 5.0}])
@pytest.mark.parametrize("scenario", BOUNDED)
def test_at_strength_0_it_is_finetune_bit_for_bit(scenario: Scenario, options: dict[str, Any]) -> None:
    fit = for_scenario(replace(FIT, optimizer="adam", moments="kept"), scenario)
    state, traces = learn_all(LwF(net(2), fit, **options), stream(scenario))
    model, expected = learn_all(Finetune(net(2), fit), stream(scenario))
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))


@pytest.mark.parametrize("scenario", BOUNDED)
def test_the_first_task_is_finetunes(scenario: Scenario) -> None:
    """With rows that were there before anything was learned, too: their answers are nobody's."""
    fit, tasks = for_scenario(FIT, scenario), stream(scenario)
    options = {"lam": 50.0, "balance": "tasks", "head_steps": 5}
    for rows in (0, 6):
        state, (trace, second, _) = learn_all(LwF(net(rows), fit, **options), tasks)
        model, (expected, other, _) = learn_all(Finetune(net(rows), fit), tasks)
        assert equal(trace, expected)
        assert not equal(second, other)
        assert not equal(state.model, model)


@pytest.mark.parametrize("scenario", BOUNDED)
def test_the_teacher_answers_once_a_task(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input of a task once, whatever the epochs; none of the first."""
    asked: list[tuple[Any, int]] = []
    monkeypatch.setattr(lwf, "forward", lambda net, model, x: asked.append((model, len(x))) or forward(net, model, x))
    method = LwF(net(2), for_scenario(replace(FIT, epochs=4), scenario))
    state = method.init(0)
    for number, classes in enumerate(([0, 1], [2, 3], [0, 3]) if scenario is not Scenario.GNS else ([0, 1],) * 3):
        asked.clear()
        after, _ = method.learn(state, task(number, classes, 300), number)
        assert sum(n for _, n in asked) == (300 if number else 0)
        assert all(model is state.model for model, _ in asked)
        state = after


def test_the_teacher_is_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with noise and running statistics: the teacher's logits are those that it would answer with."""
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 2)
    )
    method, tasks = LwF(body, for_scenario(FIT, Scenario.GNS)), stream(Scenario.GNS)
    state, _ = method.learn(method.init(0), tasks[0], 0)
    answered = method.predict(state, tasks[1].examples.take(torch.arange(60)).x).logits
    given: list[Tensor] = []
    monkeypatch.setattr(lwf, "distance", lambda z, then, tau: given.append(then) or distance(z, then, tau))
    method.learn(state, tasks[1], 1)
    for rows, then in zip(order(tasks[1], method.fit, 1), given, strict=True):
        torch.testing.assert_close(then, answered[rows])


@pytest.mark.parametrize(("scenario", "same"), [(Scenario.GG, 2), (Scenario.GNS, 1)])
def test_where_the_teacher_is_old_answers_pull_nowhere(scenario: Scenario, same: int) -> None:
    """The first step is finetune's, however strong they are, and in GG, where it moves new rows only, the second."""
    fit, tasks = for_scenario(replace(FIT, epochs=None, batch=60), scenario), stream(scenario)
    state, _ = learn_all(LwF(net(2), replace(fit, steps=30)), tasks[:1])
    for steps, alike in ((same, True), (same + 1, False)):
        fit = replace(fit, steps=steps)
        ours = LwF(net(2), fit, lam=100.0).learn(state, tasks[1], 1)[0].model.params
        plain = Finetune(net(2), fit).learn(state.model, tasks[1], 1)[0].params
        apart = max(float((ours[name] - plain[name]).abs().max()) for name in ours)
        assert (apart < 1e-5) == alike
        assert alike or apart > 1e-3


def test_with_old_answers_alone_nothing_moves() -> None:
    """A task of one class among its own logits has nothing to learn, and old answers hold where they are."""
    method = LwF(net(), for_scenario(FIT, Scenario.GG), balance="tasks")
    state, _ = learn_all(method, stream(Scenario.GG, 2))
    after, _ = method.learn(state, task(2, [9]), 2)
    for name, param in state.model.params.items():
        torch.testing.assert_close(after.model.params[name][: len(param)], param, rtol=0, atol=2e-6)


@pytest.mark.parametrize("scenario", BOUNDED)
def test_the_stronger_the_nearer_to_what_was_answered(scenario: Scenario) -> None:
    """Old answers to the inputs of a new task, after it: how far they went from the teacher's."""
    fit, tasks = for_scenario(Fit(lr=0.01, steps=150), scenario), stream(scenario)
    state, _ = learn_all(LwF(net(2), fit), tasks[:1])
    x = tasks[1].examples.take(torch.arange(60)).x

    def old(model: Any) -> Tensor:
        return forward(net(2), model, x)[:, :2].softmax(1)

    far = []
    for lam in (0.0, 1.0, 10.0, 100.0):
        after, _ = LwF(net(2), fit, lam=lam).learn(state, tasks[1], 1)
        far.append(float((old(after.model) - old(state.model)).abs().mean()))
    assert far == sorted(far, reverse=True)
    assert far[-1] < 0.2 * far[0]


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNU])
def test_a_warm_up_moves_new_rows_alone(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under decay, kept moments, batch statistics and a schedule; the loss falls as that of a linear model does."""
    body = with_outputs(
        nn.Sequential(nn.Flatten(), nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2)), Fit(), 0
    )
    fit = Fit(lr=0.02, steps=10, batch=60, moments="kept", weight_decay=0.1, schedule="cosine", warmup=3)
    method, tasks = LwF(body, for_scenario(fit, scenario), head_steps=40), stream(scenario)
    state, _ = method.learn(method.init(0), tasks[0], 0)
    begun: list[Any] = []
    monkeypatch.setattr(lwf, "Descent", lambda net, model, *rest: begun.append(model) or Descent(net, model, *rest))
    _, trace = method.learn(state, tasks[1], 1)
    _, fresh = method.learn(state._replace(model=state.model._replace(moments={})), tasks[1], 1)
    warm, _ = begun
    assert equal(trace.loss[:40], fresh.loss[:40])  # its moments are its own
    assert not equal(trace.loss[40:], fresh.loss[40:])
    assert len(trace.loss) == 40 + 10
    assert float(trace.loss[39]) < 0.5 * float(trace.loss[0])
    head = {"4.weight", "4.bias"}
    for name, param in state.model.params.items():
        assert equal(warm.params[name][: len(param)], param)
        assert len(warm.params[name]) - len(param) == (2 if name in head else 0)
    assert all(bool((warm.params[name][2:] != 0).all()) for name in head)
    assert equal(warm.stats, state.model.stats)
    for slot, kept in state.model.moments.items():
        for name, tensor in kept.items():
            grown = warm.moments[slot][name]
            assert equal(grown[: len(tensor)] if tensor.ndim else grown, tensor)
            assert not tensor.ndim or not grown[len(tensor) :].any()


def test_labels_that_are_known_need_no_warm_up() -> None:
    tasks = stream(Scenario.GNS)
    _, traces = learn_all(LwF(net(2), for_scenario(FIT, Scenario.GNS), head_steps=7), tasks)
    assert [len(trace.loss) for trace in traces] == [6, 6, 6]


@pytest.mark.parametrize(
    ("scenario", "compete", "heads", "tasks"),
    [
        (Scenario.GG, "scenario", ((0, 1), (2, 3), (4, 5)), (1, 1, 1)),
        (Scenario.GNS, "scenario", ((0, 1),), (3,)),
        (Scenario.GNU, "scenario", ((0, 1, 2, 3, 4, 5),), (3,)),
        (Scenario.GNU, "task", ((0, 1), (2, 3), (4, 5)), (1, 1, 1)),
    ],
)
def test_it_keeps_a_network_and_the_names_of_labels(scenario: Scenario, compete: Any, heads: Any, tasks: Any) -> None:
    method = LwF(net(2), for_scenario(replace(FIT, compete=compete), scenario))
    state, _ = learn_all(method, stream(scenario))
    assert (state.heads, state.tasks) == (heads, tasks)
    model, _ = learn_all(Finetune(net(2), method.fit), stream(scenario))
    assert nbytes(state) == nbytes(model)


def on_digits(method: Method, scenario: Scenario) -> Tensor:
    """(5,) the accuracy on each of five pairs of digits, learned one after the other."""
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).byte(), torch.from_numpy(digits.target)
    tasks = []
    for number in range(5):
        rows = (y // 2 == number).nonzero()[:, 0]
        labels = y[rows] % 2 if scenario is Scenario.GNS else y[rows]
        tasks.append(Task(Arrays(x[rows], labels, Scale(0.0, 1 / 16)), TaskId(number, labels.unique())))
    state, _ = learn_all(method, tasks)
    hits = []
    for some in tasks:
        given = some.id if scenario is Scenario.GG else None
        answer = method.predict(state, some.examples.take(torch.arange(len(some.examples))).x, given)
        hits.append((answer.labels[answer.logits.argmax(1)] == some.examples.labels).float().mean())
    return torch.stack(hits)


@pytest.mark.parametrize(("scenario", "gain"), [(Scenario.GG, 0.015), (Scenario.GNS, 0.02), (Scenario.GNU, 0.15)])
def test_it_remembers_where_finetune_forgets(scenario: Scenario, gain: float) -> None:
    """Split digits: one pair looks enough like the others that answers to it keep those to them."""
    mlp = build("mlp:48", (64,), 2 if scenario is Scenario.GNS else 0)
    fit = for_scenario(Fit(optimizer="sgd", lr=0.1, momentum=0.9, batch=32, epochs=15), scenario)
    forgotten = on_digits(Finetune(mlp, fit), scenario)
    kept = on_digits(LwF(mlp, fit, balance="tasks"), scenario)
    assert float(kept[:4].mean() - forgotten[:4].mean()) > gain
    assert float(kept.mean() - forgotten.mean()) > gain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"lam": float("nan")}, "lam is nan"),
        ({"tau": 0.0}, "tau is 0.0; a temperature is finite and positive"),
        ({"tau": float("inf")}, "tau is inf"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"balance": "task"}, "unknown balance 'task'; did you mean tasks"),
        ({"head_steps": -1}, "head_steps is -1; it must not be negative"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        LwF(net(2), **options)


@pytest.mark.parametrize("number", [0, 1])
def test_an_empty_task_is_refused(number: int) -> None:
    tasks = stream(Scenario.GNS)
    some = tasks[number]
    tasks[number] = Task(Arrays(some.examples.x[:0], some.examples.labels[:0], SCALE), some.id)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(LwF(net(2), FIT), tasks)


def test_a_strength_that_diverges_says_so() -> None:
    with pytest.raises(Refused, match=r"training diverged\. Lower fit.lr"):
        learn_all(LwF(net(2), Fit(optimizer="sgd", lr=10.0, steps=300), lam=1e30), stream(Scenario.GNS))
