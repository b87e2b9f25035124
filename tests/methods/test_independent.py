"""Facts about one network a task: each is what finetune makes of its task, and none ever changes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.independent import Independent, Networks
from perdure.model import with_outputs
from perdure.rng import fold, normal, permutation
from perdure.train import for_scenario

FIT = Fit(steps=30, batch=20, lr=0.01)


def _net(rows: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    return with_outputs(net, Fit(), rows)


def _task(number: int, classes: tuple[int, ...], n: int = 60) -> Task:
    labels = torch.tensor(classes)[permutation(fold(1, number), n) % len(classes)]
    centres = 2 * normal(fold(2, number), 6 * 2).view(2, 6)
    x = centres[(labels == classes[-1]).long()] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor(classes)))


def _tasks(scenario: Scenario) -> list[Task]:
    return [_task(t, (0, 1) if scenario is Scenario.GNS else (2 * t, 2 * t + 1)) for t in range(3)]


def _method(scenario: Scenario = Scenario.GG, begin: str = "fresh", fit: Fit = FIT) -> Independent:
    net = _net(2 if scenario is Scenario.GNS else 0)
    return Independent(net, for_scenario(fit, scenario), begin=begin)  # type: ignore[arg-type]


def _learn(method: Independent, tasks: list[Task]) -> list[Networks]:
    states = [method.init(7)]
    for task in tasks:
        assert task.id is not None
        states.append(method.learn(states[-1], task, fold(7, task.id.index))[0])
    return states


# --- what each network is


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_a_fresh_network_is_finetune_on_its_task_alone_bit_for_bit(scenario: Scenario) -> None:
    """With the same keys for `init` and for `learn`, and whatever was learned before."""
    method, tasks = _method(scenario), _tasks(scenario)
    alone = Finetune(method.net, method.fit)
    for order in (tasks, tasks[::-1]):
        state = method.init(7)
        for number, task in enumerate(order):
            state, trace = method.learn(state, task, number)
            model, expected = alone.learn(alone.init(7), task, number)
            assert tree.equal(state.own[-1].model, model)
            assert tree.equal(trace, expected)


def test_from_the_previous_it_is_what_finetune_went_through_bit_for_bit() -> None:
    """Where labels are shared: each network, its statistics too, is finetune's after that task."""
    method, tasks = _method(Scenario.GNS, "previous"), _tasks(Scenario.GNS)
    line = Finetune(method.net, method.fit)
    model, states = line.init(7), _learn(method, tasks)
    for number, task in enumerate(tasks):
        model, _ = line.learn(model, task, fold(7, number))
        assert tree.equal(states[-1].own[number].model, model)


def test_from_the_previous_known_labels_keep_their_rows_and_new_ones_start_at_zero() -> None:
    still = _method(Scenario.GNU, "previous", replace(FIT, optimizer="sgd", lr=0.0))
    state = _learn(_method(Scenario.GNU, "previous"), [_task(0, (0, 1))])[1]
    (_, first), (_, second) = still.learn(state, _task(1, (1, 2)), 1)[0].own
    assert second.labels.tolist() == [1, 2]
    assert tree.equal(second.params["4.weight"], torch.stack([first.params["4.weight"][1], torch.zeros(16)]))
    assert tree.equal(second.params["0.weight"], first.params["0.weight"])


@pytest.mark.parametrize("compete", ["task", "seen", "all"])
def test_only_a_tasks_own_labels_have_rows(compete: str) -> None:
    method = Independent(_net(6), replace(FIT, compete=compete))  # type: ignore[arg-type]
    state = _learn(method, _tasks(Scenario.GNU))[-1]
    assert [own.model.labels.tolist() for own in state.own] == [[0, 1], [2, 3], [4, 5]]
    assert [len(own.model.params["4.weight"]) for own in state.own] == [2, 2, 2]


# --- what never changes, and what it costs


@pytest.mark.parametrize("begin", ["fresh", "previous"])
def test_old_logits_keep_their_bits_and_nothing_is_forgotten(begin: str) -> None:
    fit = replace(FIT, steps=80, optimizer="adamw", weight_decay=0.1, moments="kept")
    method, tasks = _method(Scenario.GG, begin, fit), _tasks(Scenario.GG)
    states = _learn(method, tasks)
    for number, task in enumerate(tasks):
        x, y, _ = task.examples.take(torch.arange(60))
        then, now = (method.predict(method.ready(states[at]), x, task.id) for at in (number + 1, 3))
        assert tree.equal(then, now)
        assert (now.labels[now.logits.argmax(1)] == y).float().mean() > 0.9


@pytest.mark.parametrize("moments", ["fresh", "kept"])
def test_a_task_costs_exactly_one_network(moments: str) -> None:
    states = _learn(_method(fit=replace(FIT, moments=moments)), _tasks(Scenario.GG))  # type: ignore[arg-type]
    network = 4 * (6 * 16 + 16 + 16 + 16 + 16 * 2 + 2) + 4 * (16 + 16) + 8  # parameters, then statistics
    labels = 2 * 8
    sizes = [tree.nbytes(state) for state in states]
    assert [after - before for before, after in pairwise(sizes)] == [network + labels] * 3


def test_a_task_learned_again_gets_a_new_network() -> None:
    method, (one, two, _) = _method(), _tasks(Scenario.GG)
    before, (again, trace) = (state := _learn(method, [one, two])[-1]), method.learn(state, one, 99)
    assert [own.task for own in again.own] == [1, 0]
    assert tree.equal(again.own[0], before.own[1])
    assert not tree.equal(again.own[1], before.own[0])
    assert tree.nbytes(again) == tree.nbytes(before)
    assert len(trace.loss) == 30


# --- answers


def test_a_withheld_id_is_inferred_from_the_surest_network() -> None:
    method = _method(Scenario.GNU, fit=replace(FIT, steps=200))
    tasks = [_task(number, (2 * number, 2 * number + 1)) for number in (2, 0)]
    ready = method.ready(_learn(method, tasks)[-1])
    for task in tasks:
        assert task.id is not None
        x = task.examples.take(torch.arange(60)).x
        answer = method.predict(ready, x)
        assert answer.labels.tolist() == [0, 1, 4, 5]
        assert answer.task is not None
        chosen, own = answer.task == task.id.index, method.predict(ready, x, task.id)
        assert chosen.float().mean() > 0.6
        columns = torch.isin(answer.labels, own.labels)
        assert torch.equal(answer.logits[chosen][:, columns], own.logits[chosen])
        assert (answer.logits[chosen][:, ~columns] == -torch.inf).all()


def test_before_any_task_the_start_values_answer_and_an_unknown_id_has_no_answer() -> None:
    x, id = torch.ones(3, 6), TaskId(3, torch.tensor([0, 1]))
    shared, grows = _method(Scenario.GNS), _method()
    assert shared.predict(shared.ready(shared.init(7)), x).labels.tolist() == [0, 1]
    assert grows.predict(grows.ready(grows.init(7)), x, id).logits.shape == (3, 0)
    learned = shared.ready(_learn(shared, _tasks(Scenario.GNS))[-1])
    assert shared.predict(learned, x, id).labels.tolist() == []


def test_another_beginning_is_refused() -> None:
    with pytest.raises(Refused, match=r"method.begin is 'old'; use one of fresh, previous"):
        _method(begin="old")
