"""CPG: when it grows, what it keeps, what it picks; and that nothing but held-back examples decides."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from perdure import nets, streams, tree
from perdure.contract import Answer, Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.fold import live
from perdure.methods.cpg import CPG, RATIOS, Grown, accuracy, bind, fresh, grow, older
from perdure.model import forward
from perdure.ops.chain import widened
from perdure.ops.codec import decode, unpack
from perdure.rng import fold, normal, permutation
from perdure.streams.stream import Lesson
from perdure.train import minimise

FIT = Fit(steps=30, batch=20, lr=0.01)


def _net(rows: int = 2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, rows))
        )


def _task(number: int, n: int = 80, noise: bool = False) -> Task:
    """Two classes far apart; with noise, labels that no network can know."""
    classes = torch.tensor([2 * number, 2 * number + 1])
    y = permutation(fold(1, number), n) % 2
    x = 3 * normal(fold(2, number), 12).view(2, 6)[y] + normal(fold(3, number), 6 * n).view(n, 6)
    shown = permutation(fold(4, number), n) % 2 if noise else y
    return Task(Arrays(x.float(), classes[shown]), TaskId(number, classes))


def _learn(method: CPG, *tasks: Task) -> list[Grown]:
    states = [method.init(7)]
    for place, task in enumerate(tasks):
        states.append(method.learn(states[-1], task, fold(7, place))[0])
    return states


def _answer(method: CPG, state: Grown, task: Task) -> Answer:
    return method.predict(method.ready(state), task.examples.take(torch.arange(len(task.examples))).x, task.id)


# --- growing


def test_a_goal_that_is_reached_grows_nothing_and_a_missed_one_to_the_limit() -> None:
    easy = _learn(CPG(_net(), FIT, goal=0.9), _task(0))[1]
    hard = _learn(CPG(_net(), FIT, goal=1.0, margin=0.0, limit=2.2), _task(0, noise=True))[1]
    never = _learn(CPG(_net(), FIT, goal=1.0, margin=0.0, limit=1.0), _task(0, noise=True))[1]
    assert (easy.size, hard.size, never.size) == (1.0, 2.2, 1.0)
    shapes = {"0.weight": (24, 6), "3.weight": (12, 24)}  # 16 and 8 times sqrt(2.2), rounded
    assert hard.tasks[0].shapes == shapes
    assert {name: tuple(w.shape) for name, w in hard.owner.items()} == shapes
    assert hard.model.params["5.weight"].shape == (2, 12)
    assert hard.model.stats["1.running_var"].shape == (24,)


@pytest.mark.parametrize("size", [1.5, 2.0])
def test_growing_appends_free_units_and_keeps_all_bits(size: float) -> None:
    for net, shape in ((_net(), (6,)), (nets.build("conv:3-5", (1, 8, 8), 2), (1, 8, 8))):
        method = CPG(net, FIT)
        x = normal(1, 80 * torch.Size(shape).numel()).view(80, *shape).float()
        task = Task(Arrays(x, (x.flatten(1).sum(1) > 0).long()), TaskId(0, torch.tensor([0, 1])))
        state = method.learn(method.init(7), task, 7)[0]
        large = grow(net, FIT, state, size * state.size, 3)
        module = widened(net, str(len(net) - 1), size * state.size, "")
        assert {n: p.shape for n, p in module.named_parameters()} == {n: p.shape for n, p in large.model.params.items()}
        assert module.eval()(x).shape == (80, 2)  # the shapes fit one another
        for name, mine in state.owner.items():
            corner = tuple(map(slice, mine.shape))
            assert tree.equal(large.owner[name][corner].clone(), mine)
            assert int((large.owner[name] > 0).sum()) == int((mine > 0).sum())  # what is new is free
            assert tree.equal(large.model.params[name][corner].clone(), state.model.params[name])
            assert (large.model.params[name] != 0).all()
        assert tree.equal(bind(state, state.owner, 1), bind(large, large.owner, 1))
        assert tree.equal(_answer(method, state, task), _answer(method, large, task))


def test_columns_of_a_flattened_convolution_go_with_their_channels() -> None:
    """A net whose new units are 0 computes what the net did: so rows and columns were added in the right places."""
    net = nets.build("conv:3-5", (1, 8, 8), 2)
    x = normal(1, 4 * 64).view(4, 1, 8, 8).float()
    wide = widened(net, str(len(net) - 1), 2.0, "")  # type: ignore[arg-type]
    with torch.no_grad():
        for (_, new), (_, old) in zip(wide.named_parameters(), net.named_parameters(), strict=True):
            new[tuple(map(slice, old.shape))] = old
    assert torch.allclose(wide(x), net(x), atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_old_logits_keep_their_bits_after_growth_and_further_tasks(optimizer: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    fit = replace(FIT, optimizer=optimizer, momentum=momentum, weight_decay=0.1, moments="kept")  # type: ignore[arg-type]
    method = CPG(_net(), fit, goal=0.9, limit=3.0, grow=1.0)
    tasks = [_task(0), _task(1, noise=True), _task(2)]
    states = _learn(method, *tasks)
    assert [state.size for state in states] == [1.0, 1.0, 3.0, 3.0]
    for number, task in enumerate(tasks):
        assert tree.equal(*(bind(states[at], states[at].owner, number + 1) for at in (number + 1, 3)))
        assert tree.equal(*(_answer(method, states[at], task) for at in (number + 1, 3)))
    for before, after in pairwise(states):
        owner = after.owner["0.weight"]
        old = tuple(map(slice, before.owner["0.weight"].shape))
        corner, moved = before.model.params["0.weight"], after.model.params["0.weight"][old]
        new = owner[old] == len(after.tasks)
        assert (corner != moved)[new].all()  # what the task owns was learned
        assert tree.equal(corner[~new], moved[~new])


# --- forgetting


def test_the_last_task_leaves_what_it_owned_and_an_earlier_one_a_gap_in_a_net_that_has_grown() -> None:
    method = CPG(_net(), FIT, goal=0.9, limit=3.0, grow=1.0)
    tasks = [_task(0), _task(1, noise=True), _task(2)]
    state = _learn(method, *tasks)[-1]
    assert state.size == 3.0
    middle, last = method.forget(state, 1), method.forget(state, 2)
    assert [own and own.task for own in middle.tasks] == [0, None, 2]
    assert tree.equal((middle.model, middle.owner), (state.model, state.owner))
    assert [own and own.task for own in last.tasks] == [0, 1]
    begun = fresh(method.net, FIT, 3.0, fold(2, "forgotten")).params
    for name, owner in state.owner.items():
        assert torch.equal(last.owner[name], owner.where(owner < 3, 0))
        assert torch.equal(last.model.params[name], state.model.params[name].where(owner < 3, begun[name]))
    none = method.forget(method.forget(last, 0), 1)
    assert none.tasks == ()
    assert not any(owner.any() for owner in none.owner.values())

    again = method.learn(state, tasks[1], 8)[0]
    assert [own and own.task for own in again.tasks] == [0, None, 2, 1]
    for task in (tasks[0], tasks[2]):
        assert tree.equal(_answer(method, state, task), _answer(method, again, task))


# --- compacting and picking


def test_what_a_task_owns_is_counted_to_the_weight() -> None:
    states = _learn(CPG(_net(), FIT, goal=0.9), _task(0), _task(1), _task(2))
    for t in (1, 2, 3):
        for name, mine in states[t].owner.items():
            before = states[t - 1].owner[name]
            n = int((before == 0).sum())
            assert int((mine == t).sum()) in {n - int(ratio * n) for ratio in (0.0, *RATIOS)}
            assert torch.equal(mine[before > 0], before[before > 0])
    state = _learn(CPG(_net(), FIT, goal=0.0), _task(0))[1]  # whatever is left is good enough
    assert int((state.owner["3.weight"] == 1).sum()) == 128 - 121


def test_a_task_that_misses_its_goal_gives_back_half_at_least() -> None:
    for seed in range(3):
        method = CPG(_net(), FIT, goal=1.0, margin=0.0, limit=1.0)
        state = method.learn(method.init(seed), _task(0, noise=True), seed)[0]
        for mine in state.owner.values():
            assert int((mine == 1).sum()) <= mine.numel() - mine.numel() // 2


def test_compacting_keeps_the_largest_ratio_that_reaches_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([0.9, *(0.9, 0.7, 0.8, 0.9, 0.7, 0.8, 0.79, 0.1, 0.1, 0.1)])  # .1 to .95; .6 is the last at .8
    monkeypatch.setattr("perdure.methods.cpg.accuracy", lambda *_: next(seen))
    state = _learn(CPG(_net(), FIT, goal=0.8, margin=0.0), _task(0))[1]
    assert [int((mine == 1).sum()) for mine in state.owner.values()] == [96 - 57, 128 - 76]
    assert next(seen, None) is None


def test_masks_lie_over_the_weights_of_older_tasks_alone() -> None:
    states = _learn(CPG(_net(), replace(FIT, steps=100), goal=0.9), _task(0), _task(1), _task(2))
    state = states[-1]
    assert state.tasks[0].picks == {}
    dropped = 0
    for t in (2, 3):
        params = bind(state, state.owner, t)
        for name, mine in state.owner.items():
            theirs, own = older(mine, t), mine == t
            picked = unpack(decode(state.tasks[t - 1].picks[name], n := int(theirs.sum())), n)
            W = state.model.params[name]
            expected = torch.zeros_like(W)
            expected[own] = W[own]
            expected[theirs] = torch.where(picked, W[theirs], 0.0)
            assert torch.equal(params[name], expected)
            dropped += int((~picked).sum())
    assert dropped > 0  # some are left out


def test_scores_move_by_the_gradient_at_the_masked_weight_times_the_weight() -> None:
    """One step of sgd on one older and one own weight, against autograd written out."""
    fit = Fit(optimizer="sgd", lr=0.1, steps=1, batch=72)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    method = CPG(net, fit, goal=0.0)
    state = _learn(method, _task(0))[1]
    task, _ = method._hold_back(_task(1), 5)
    draft = method._begin(state, task, 2)
    after, _ = method._train(draft, fit, task, 9)
    x, y, _ = task.examples.take(torch.arange(72))
    W = state.model.params["0.weight"].clone().requires_grad_()  # all picked: the network runs on W
    params = {**draft.model.params, "0.weight": W}
    logits = torch.func.functional_call(net, params, (x,))
    torch.nn.functional.cross_entropy(logits, (y == draft.model.labels[1]).long()).backward()
    theirs = state.owner["0.weight"] == 1
    assert W.grad is not None
    expected = torch.where(theirs, draft.model.params["0.weight"] - 0.1 * W.grad * W, W - 0.1 * W.grad)
    assert torch.allclose(after.model.params["0.weight"], expected, atol=1e-7)
    assert theirs.any()
    assert not theirs.all()


def test_vectors_are_each_tasks_own_and_the_state_grows_by_little() -> None:
    states = _learn(CPG(_net(), FIT, goal=0.9), _task(0), _task(1))
    names = {"0.bias", "1.weight", "1.bias", "3.bias", "5.weight", "5.bias"}
    for own in states[2].tasks:
        assert set(own.part.head) == names
    assert not torch.equal(*(own.part.head["1.weight"] for own in states[2].tasks))
    fixed = 4 * (16 * 3 + 8 + 18) + (4 * 32 + 8) + 8 * 2  # vectors and head, statistics, labels
    coded, owned = (
        tree.nbytes(states[2].tasks[1].picks),
        tree.nbytes(tuple(codes[1] for codes in states[2].masks.values())),
    )
    assert tree.nbytes(states[2]) - tree.nbytes(states[1]) == fixed + coded + owned
    assert coded <= sum((int((mine == 1).sum()) + 7) // 8 + 2 for mine in states[1].owner.values())


# --- what decides


def test_examples_held_back_are_never_trained_on() -> None:
    task = _task(0)
    method = CPG(_net(), FIT, goal=0.5)
    rest, held = method._hold_back(task, 3)
    x = task.examples.raw(torch.arange(80)).clone()
    order = permutation(fold(3, "validation"), 80)
    assert torch.equal(x[order[:8].sort().values], held.raw(torch.arange(8)))
    assert len(rest.examples) == 72
    spoiled = x.clone()
    spoiled[order[:8]] = torch.nan  # goal 0: whatever they say is good enough
    states = [
        CPG(_net(), FIT, goal=0.0).learn(method.init(7), Task(Arrays(data, task.examples.labels), task.id), 3)[0]
        for data in (x, spoiled)
    ]
    assert tree.equal(*states)


def test_the_single_goal_is_a_fresh_network_of_the_original_width_on_the_same_examples() -> None:
    method = CPG(_net(), FIT)
    state = grow(method.net, FIT, method.init(7), 1.5, 0)
    task, held = method._hold_back(_task(0), 3)
    goal = method._goal(task, held, 3)
    model = method._own(method.init(fold(3, "single")).model, task)
    alone, _ = minimise(method.net, model, FIT, task, fold(3, "single"))
    assert goal == accuracy(method.net, alone, held)
    x, y, _ = held.take(torch.arange(len(held)))
    assert goal == float((alone.labels[forward(method.net, alone, x).argmax(1)] == y).double().mean())
    assert state.model.params["0.weight"].shape == (20, 6)
    assert alone.params["0.weight"].shape == (16, 6)


def test_other_exams_change_nothing(tmp_path: Path) -> None:
    def spoiled(lessons: Sequence[Lesson]) -> list[Lesson]:
        n, labels = 50, torch.arange(50) % 10
        return [
            each._replace(exam=Arrays(torch.zeros(n, *each.train.raw(labels[:1]).shape[1:]), labels))
            for each in lessons
        ]

    stream = streams.build("permuted-digits", tasks=2, scenario=Scenario.GG)
    method = CPG(nets.build("mlp:16", (8, 8), 10), FIT)
    files, accuracies = [], []
    for name, exams in (("given", stream), ("spoiled", stream.with_lessons(spoiled))):
        result = live(method, exams, folder=tmp_path / name)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("states/**/*") if path.is_file()})
        accuracies.append(result.to_json()["R"])
    assert files[0]
    assert files[0] == files[1]
    assert accuracies[0] != accuracies[1]


def test_other_names_for_labels_change_no_bit() -> None:
    task = _task(0, noise=True)
    named = Task(Arrays(task.examples.raw(torch.arange(80)), 9 - task.examples.labels), TaskId(0, torch.tensor([8, 9])))
    one, two = (
        _learn(CPG(nets.build("mlp:16-8", (6,), 0), FIT, goal=1.0, margin=0.0), each)[1] for each in (task, named)
    )
    assert one.size == 1.5  # a head without rows grows, too
    assert tree.equal((one.model, one.owner), (two.model, two.owner))
    assert torch.equal(one.tasks[0].part.head["5.weight"], two.tasks[0].part.head["5.weight"].flip(0))
    assert two.tasks[0].part.id.classes.tolist() == [8, 9]


# --- refusals


@pytest.mark.parametrize(
    "options",
    [
        {"goal": 1.5},
        {"goal": "double"},
        {"margin": -0.1},
        {"validation": 0.0},
        {"grow": 0.0},
        {"limit": 0.5},
        {"retrain": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(Refused, match=f"method.{name} is {value!r}; it must "):
        CPG(_net(), FIT, **options)  # type: ignore[arg-type]


def test_a_net_that_cannot_grow_is_named_and_learns_at_limit_1() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(Refused, match=r"1 \(LayerNorm\) is no link of a chain: .*Set method.limit to 1, so that"):
        CPG(net, FIT).init(0)
    with pytest.raises(Refused, match=r"0.bias is frozen, and what is frozen cannot grow; set method.limit to 1"):
        CPG(_net(), replace(FIT, freeze="0.*")).init(0)
    states = _learn(method := CPG(net, replace(FIT, freeze="0.weight"), limit=1.0), _task(0), _task(1, noise=True))
    assert [state.size for state in states] == [1.0, 1.0, 1.0]
    assert "0.weight" not in states[2].owner  # every task sees it as it is
    for number in (0, 1):
        assert torch.equal(bind(states[2], states[2].owner, number + 1)["0.weight"], states[0].model.params["0.weight"])
        then, now = (_answer(method, states[at], _task(number)) for at in (number + 1, 2))
        assert tree.equal(then, now)


def test_too_few_examples_to_hold_any_back_are_refused() -> None:
    method = CPG(_net(), FIT)
    with pytest.raises(Refused, match=r"method.validation 0\.1 holds back 0 of a task's 4 examples"):
        method.learn(method.init(0), _task(0, 4), 0)
