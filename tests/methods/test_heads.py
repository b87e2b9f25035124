"""Facts about heads on a frozen trunk: the trunk is made once, and a task costs its head and statistics."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.heads import Headed, Heads, bind
from perdure.model import evaluation, with_outputs
from perdure.ops.trunk import Origin
from perdure.rng import fold, normal, permutation
from perdure.train import for_scenario

FIT = Fit(steps=30, batch=20, lr=0.01)
HEAD = ("3.weight", "3.bias")


def _net(rows: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_outputs(nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)), FIT, rows)


def _task(number: int, classes: tuple[int, ...], n: int = 60) -> Task:
    labels = torch.tensor(classes)[permutation(fold(1, number), n) % len(classes)]
    centres = 2 * normal(fold(2, number), 6 * 2).view(2, 6)
    x = centres[(labels == classes[-1]).long()] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor(classes)))


def _tasks(shared: bool = False) -> list[Task]:
    return [_task(t, (0, 1) if shared else (2 * t, 2 * t + 1)) for t in range(3)]


def _learn(method: Heads, tasks: list[Task]) -> list[Headed]:
    states = [method.init(7)]
    for task in tasks:
        assert task.id is not None
        states.append(method.learn(states[-1], task, fold(7, task.id.index))[0])
    return states


def _trunk(state: Headed) -> dict[str, torch.Tensor]:
    return {name: w for name, w in state.trunk.model.params.items() if name not in HEAD}


# --- where the trunk is from


def test_the_first_task_is_finetune_bit_for_bit_and_its_trunk_is_kept() -> None:
    method, task = Heads(_net(), for_scenario(FIT, Scenario.GG)), _task(0, (0, 1))
    (state, trace), line = method.learn(method.init(7), task, 1), Finetune(method.net, method.fit)
    model, expected = line.learn(line.init(7), task, 1)
    x = task.examples.take(torch.arange(60)).x
    assert tree.equal(trace, expected)
    assert tree.equal(method.predict(method.ready(state), x, task.id), line.predict(model, x, task.id))
    assert tree.equal(_trunk(state), {name: w for name, w in model.params.items() if name not in HEAD})


def test_a_random_trunk_is_the_start_values_and_that_of_the_net_is_its_own() -> None:
    net = _net(2)
    for origin, expected in (("random", Finetune(net, FIT).init(7).params), ("net", dict(net.named_parameters()))):
        states = _learn(Heads(net, FIT, trunk=origin), _tasks())  # type: ignore[arg-type]
        for state in states:
            assert all(torch.equal(w, expected[name]) for name, w in _trunk(state).items())


def test_a_background_makes_the_trunk_before_any_task() -> None:
    method, background = Heads(_net(), FIT), _task(9, (3, 8))
    state, bare = method.init(7, background.examples), method.init(7)
    assert (state.trunk.made, bare.trunk.made) == (True, False)
    model = Finetune(method.net, FIT).learn(bare.trunk.model, background._replace(id=None), fold(7, "background"))[0]
    assert tree.equal(_trunk(state), {name: w for name, w in model.params.items() if name not in HEAD})
    after, _ = method.learn(state, _task(0, (0, 1)), 1)
    assert tree.equal(after.trunk, state.trunk)
    assert tree.equal(Heads(_net(), FIT, trunk="random").init(7, background.examples).trunk.model, bare.trunk.model)


# --- what never changes


@pytest.mark.parametrize(
    "fit",
    [
        replace(FIT, optimizer="adamw", weight_decay=0.3, moments="kept"),
        replace(FIT, optimizer="sgd", momentum=0.9, weight_decay=0.1, moments="kept"),
    ],
    ids=["adamw", "sgd"],
)
def test_the_trunk_and_old_answers_keep_their_bits(fit: Fit) -> None:
    method, tasks = Heads(_net(), fit), _tasks()
    states = _learn(method, tasks)
    for number, task in enumerate(tasks):
        assert tree.equal(states[number + 1].trunk, states[1].trunk)
        x, y, _ = task.examples.take(torch.arange(60))
        then, now = (method.predict(method.ready(states[at]), x, task.id) for at in (number + 1, 3))
        assert tree.equal(then, now)
        assert (now.labels[now.logits.argmax(1)] == y).float().mean() > 0.75


def test_a_later_head_is_a_linear_classifier_on_the_features() -> None:
    """Without normalisation the head learns as it would alone on what the trunk makes of the inputs."""
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    method, tasks = Heads(net, FIT), _tasks(shared=True)
    states = _learn(method, tasks[:2])
    trunk = evaluation(nn.Sequential(net[0], net[1]))
    trunk[0].load_state_dict({name[2:]: w for name, w in states[1].trunk.model.params.items() if name[0] == "0"})
    x, y, _ = tasks[1].examples.take(torch.arange(60))
    alone = Finetune(nn.Linear(16, 2), FIT)
    begun = alone.init(0)._replace(
        params={name[2:]: states[1].trunk.model.params[name] for name in ("2.weight", "2.bias")}
    )
    model, _ = alone.learn(begun, Task(Arrays(trunk(x), y), tasks[1].id), fold(7, 1))
    for name, w in model.params.items():
        torch.testing.assert_close(states[2].parts[1].head[f"2.{name}"], w, rtol=1e-4, atol=1e-5)


def test_statistics_are_each_tasks_own_and_begin_at_the_trunks() -> None:
    still = Heads(_net(), replace(FIT, steps=1))
    state = _learn(Heads(_net(), FIT), _tasks())[1]
    task = _task(1, (2, 3))
    after, _ = still.learn(state, task, 1)
    begun = state.trunk.model.stats["1.running_mean"]
    batch = task.examples.take(permutation(fold(1, "order", 0), 60)[:20]).x
    seen = batch @ state.trunk.model.params["0.weight"].T + state.trunk.model.params["0.bias"]
    torch.testing.assert_close(after.parts[1].stats["1.running_mean"], 0.9 * begun + 0.1 * seen.mean(0))
    assert torch.equal(after.trunk.model.stats["1.running_mean"], begun)


# --- what it costs


def test_a_task_costs_exactly_its_head_and_statistics() -> None:
    states = _learn(Heads(_net(), FIT), _tasks())
    part = 4 * (16 * 2 + 2) + 4 * (16 + 16) + 8 + 2 * 8  # head, statistics, names of labels
    sizes = [tree.nbytes(state) for state in states]
    shared = 4 * 2 * 16 + 8  # the first task's statistics are also those that later ones begin at
    assert [after - before for before, after in pairwise(sizes)] == [part - shared, part, part]


def test_a_task_learned_again_gets_a_new_head_on_the_same_trunk() -> None:
    method, (one, two, _) = Heads(_net(), FIT), _tasks()
    state = _learn(method, [one, two])[-1]
    again, _ = method.learn(state, one, 99)
    assert [part.id.index for part in again.parts] == [1, 0]
    assert tree.equal((again.trunk, again.parts[0]), (state.trunk, state.parts[1]))
    assert not tree.equal(again.parts[1], state.parts[0])


# --- answers


def test_bind_puts_the_head_in_its_place() -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    assert bind({"w": one, "head": two}, {"head": three}) == {"w": one, "head": three}


def test_a_withheld_id_is_inferred_and_an_unknown_one_has_no_answer() -> None:
    method, tasks = Heads(_net(), replace(FIT, steps=200)), _tasks()
    ready = method.ready(_learn(method, tasks)[-1])
    for task in tasks:
        assert task.id is not None
        x = task.examples.take(torch.arange(60)).x
        answer, own = method.predict(ready, x), method.predict(ready, x, task.id)
        assert answer.labels.tolist() == [0, 1, 2, 3, 4, 5]
        assert answer.task is not None
        chosen = answer.task == task.id.index
        assert chosen.any()
        assert torch.equal(answer.logits[chosen][:, torch.isin(answer.labels, own.labels)], own.logits[chosen])
    assert method.predict(ready, x, TaskId(5, torch.tensor([0, 1]))).labels.tolist() == []


@pytest.mark.parametrize("trunk", ["first", "random"])
def test_heads_that_are_learned_alone_have_a_rate_of_their_own(trunk: Origin) -> None:
    tasks = _tasks()
    own, line = Heads(_net(), FIT, trunk=trunk, head_lr=0.03), Heads(_net(), FIT, trunk=trunk)
    states = _learn(own, tasks)
    for number, task in enumerate(tasks):
        alone = number > 0 or trunk == "random"
        as_given = line.with_(fit=replace(FIT, lr=0.03)) if alone else line
        assert tree.equal(states[number + 1], as_given.learn(states[number], task, fold(7, task.id.index))[0])
    with pytest.raises(Refused, match=r"method.head_lr is -1; it must be finite and not negative"):
        Heads(_net(), head_lr=-1)


def test_another_trunk_is_refused() -> None:
    with pytest.raises(Refused, match=r"method.trunk is 'last'; use one of first, random, net"):
        Heads(_net(), trunk="last")  # type: ignore[arg-type]
