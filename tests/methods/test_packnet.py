"""PackNet: what the paper says, counted; and what happens at its edges."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from perdure import tree
from perdure.contract import Fit, Refused, Scale, Task, TaskId
from perdure.data import Arrays
from perdure.methods.packnet import Packed, PackNet, bind, held, prune
from perdure.model import Model, own_head, start
from perdure.ops.owners import at_rest
from perdure.rng import bits, fold, normal, permutation
from perdure.train import length

FIT = Fit(steps=30, batch=20, lr=0.01)


def _net(rows: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)]
    if rows != 2:
        with pytest.warns(UserWarning, match="zero-element"):
            layers[-1] = nn.Linear(8, rows)
    return nn.Sequential(*layers)


def _task(number: int, classes: tuple[int, ...], n: int = 60) -> Task:
    labels = torch.tensor(classes)[permutation(fold(1, number), n) % len(classes)]
    centres = 2 * normal(fold(2, number), 6 * 2).view(2, 6)
    x = centres[(labels == classes[-1]).long()] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor(classes)))


def _learn(method: PackNet, *tasks: Task) -> list[Packed]:
    states = [method.init(7)]
    for place, task in enumerate(tasks):
        states.append(method.learn(states[-1], task, fold(7, place))[0])
    return states


def _three(method: PackNet) -> list[Packed]:
    return _learn(method, _task(0, (0, 1)), _task(1, (2, 3)), _task(2, (4, 5)))


# --- the pieces, against loops


def test_prune_equals_a_loop_over_weights() -> None:
    shapes = {"a": (5, 7), "b": (4, 3, 2), "tiny": (1, 2), "bias": (5,)}
    sizes = {name: int(torch.tensor(shape).prod()) for name, shape in shapes.items()}
    params = {name: (normal(fold(1, name), sizes[name]) * 3).round().view(shape) for name, shape in shapes.items()}
    owner = {name: (bits(fold(2, name), sizes[name]) % 3).abs().byte().view(shape) for name, shape in shapes.items()}
    owner["tiny"] = torch.tensor([[2, 1]], dtype=torch.uint8)
    before = tree.transform((params, owner), torch.clone)
    for share in (0.25, 0.5, 0.75):
        model, left = prune(Model(params, {}, torch.arange(2), {}), owner, 2, share, ["a", "b", "tiny"])
        assert tree.equal((params, owner), before)
        for name, weights in params.items():
            flat, own = weights.flatten().tolist(), owner[name].flatten().tolist()
            mine = [place for place, whose in enumerate(own) if whose == 2]
            count = int(share * len(mine)) if name != "bias" else 0
            for place in sorted(mine, key=lambda place: (abs(flat[place]), place))[:count]:
                flat[place], own[place] = 0.0, 0
            assert model.params[name].flatten().tolist() == flat
            assert left[name].flatten().tolist() == own
    assert left["tiny"].tolist() == [[2, 1]]  # floor(0.75 * 1) = 0: a layer of one weight gives nothing back


def test_bind_shows_a_task_its_own_and_earlier_weights() -> None:
    params = {"w": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}
    owner = {"w": torch.tensor([[0, 1, 2], [3, 2, 1]], dtype=torch.uint8)}
    assert bind(params, owner, 1)["w"].tolist() == [[0, 2, 0], [0, 0, 6]]
    assert bind(params, owner, 2)["w"].tolist() == [[0, 2, 3], [0, 5, 6]]
    assert bind(params, owner, 3)["w"].tolist() == [[0, 2, 3], [4, 5, 6]]


def test_a_task_may_move_its_own_weights_and_its_head() -> None:
    params = {"w": torch.zeros(2, 2), "head": torch.zeros(2)}
    owner = {"w": torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8)}
    assert held(Model(params, {}, torch.arange(2), {}), owner, 2).tolist() == [True, True, False, False, False, False]


# --- what is counted


@pytest.mark.parametrize("q", [0.5, 0.75])
def test_the_free_share_shrinks_by_q_each_task(q: float) -> None:
    states = _learn(PackNet(_net(), FIT, prune=q), *(_task(t, (2 * t, 2 * t + 1)) for t in range(5)))
    for name, size in (("0.weight", 96), ("3.weight", 128)):
        free = size
        for t in range(1, 6):
            own = states[t].owner[name]
            assert int((own == t).sum()) == free - int(q * free)
            free = int(q * free)
            assert int((own == 0).sum()) == free
    if q == 0.5:
        assert int((states[5].owner["3.weight"] == 0).sum()) == 128 // 32  # five tasks leave 3.1 %


def test_a_task_costs_its_head_its_statistics_and_a_mask_of_what_no_earlier_one_owns() -> None:
    states = _three(PackNet(_net(), FIT))
    assert tree.components(states[0]) == {"model": tree.nbytes(states[0].model)}
    fixed = 4 * (2 * 8 + 2) + 4 * (16 + 16) + 8 + 8 * 2  # head, statistics, labels
    for before, after in pairwise(states):
        t = len(after.parts)
        free = [int((mine == 0).sum()) for mine in before.owner.values()]
        coded = tuple(masks[t - 1] for masks in after.masks.values())
        assert tree.nbytes(after) - tree.nbytes(before) == fixed + tree.nbytes(coded)
        assert all(
            len(code) <= (n + 7) // 8 + 1 for code, n in zip(coded, free, strict=True)
        )  # a bit each, and a header


def test_training_and_retraining_share_the_steps_of_fit() -> None:
    for fit in (FIT, replace(FIT, steps=None, epochs=5)):
        method, task = PackNet(_net(), fit), _task(0, (0, 1))
        long, short = method._phases(60)
        total = length(fit, 60)[1]
        assert (long.steps, short.steps) == (total * 2 // 3, total // 3)
        _, trace = method.learn(method.init(0), task, 0)
        assert len(trace.loss) == total


# --- what never changes


@pytest.mark.parametrize(
    "fit",
    [
        FIT,
        replace(FIT, optimizer="adamw", weight_decay=0.3, moments="kept"),
        replace(FIT, optimizer="sgd", momentum=0.9, weight_decay=0.1, moments="kept"),
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_owned_weights_keep_their_bits(fit: Fit) -> None:
    states = _three(PackNet(_net(), fit))
    for t in (1, 2, 3):
        before, after = states[t], states[-1]
        assert tree.equal(
            bind(before.model.params, before.owner, t),
            bind(after.model.params, after.owner, t),
        )
        assert tree.equal(before.parts, after.parts[:t])
        moved = [(after.model.params[name][own > t] != 0).any() for name, own in after.owner.items() if own.ndim > 1]
        assert all(moved) == (t < 3)  # later tasks do learn


def test_free_weights_are_zero_and_only_survivors_are_retrained() -> None:
    for state in _three(PackNet(_net(), replace(FIT, weight_decay=0.1)))[1:]:
        for name, own in state.owner.items():
            assert not state.model.params[name][own == 0].any()
            assert state.model.params[name][own > 0].all() or own.ndim == 1


def test_vectors_belong_to_the_first_task_and_statistics_to_each() -> None:
    states = _three(PackNet(_net(), FIT))
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert (states[1].owner[name] == 1).all()
        assert not torch.equal(states[0].model.params[name], states[1].model.params[name])
        assert torch.equal(states[1].model.params[name], states[3].model.params[name])
    means = [part.stats["1.running_mean"] for part in states[3].parts]
    assert not torch.allclose(means[0], means[1])
    assert torch.equal(states[3].model.stats["1.running_mean"], torch.zeros(16))


def test_old_logits_keep_their_bits_and_the_method_forgets_nothing() -> None:
    method = PackNet(_net(), replace(FIT, steps=120, optimizer="adamw", weight_decay=0.1))
    states = _three(method)
    for number in range(3):
        task = _task(number, (2 * number, 2 * number + 1))
        x, y, _ = task.examples.take(torch.arange(60))
        then, now = (method.predict(method.ready(states[at]), x, task.id) for at in (number + 1, 3))
        assert tree.equal(then, now)
        assert (now.labels[now.logits.argmax(1)] == y).float().mean() > 0.9


def test_weights_that_fit_freezes_are_never_pruned() -> None:
    fit = replace(FIT, freeze="0.*")
    states = _three(PackNet(_net(), fit))
    assert tree.equal(states[0].model.params["0.weight"], states[3].model.params["0.weight"])
    assert (states[3].owner["0.weight"] == 1).all()  # seen by every task
    net = _net()
    net[3].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    states = _three(PackNet(net, FIT))
    assert tree.equal(states[0].model.params["3.weight"], states[3].model.params["3.weight"])


# --- heads and answers


def test_every_task_has_a_head_of_its_own_that_starts_at_the_nets_rows() -> None:
    method = PackNet(_net(2), FIT)
    state = method.init(7)
    begun = own_head(method.net, FIT, state.model, _task(0, (1, 4)))  # the net has rows for 0 and 1
    weight = state.model.params["5.weight"]
    assert torch.equal(begun.params["5.weight"], torch.stack([weight[1], torch.zeros(8)]))
    assert begun.labels.tolist() == [1, 4]
    learned = _learn(method, _task(0, (0, 1)), _task(1, (0, 1)))[2]
    one, two = (part.head["5.weight"] for part in learned.parts)
    assert not torch.equal(one, two)
    assert torch.equal(learned.model.params["5.weight"], weight)


def test_before_any_task_the_start_model_answers_if_it_knows_labels() -> None:
    x = torch.ones(3, 6)
    known, grows = PackNet(_net(2), FIT), PackNet(_net(), FIT)
    answer = known.predict(known.ready(known.init(7)), x)
    assert answer.labels.tolist() == [0, 1]
    assert answer.task is None
    for id in (None, TaskId(0, torch.tensor([0, 1]))):
        assert grows.predict(grows.ready(grows.init(7)), x, id).logits.shape == (3, 0)


def test_an_id_never_learned_has_no_answer() -> None:
    method = PackNet(_net(), FIT)
    ready = method.ready(_three(method)[-1])
    answer = method.predict(ready, torch.ones(3, 6), TaskId(3, torch.tensor([0, 1])))
    assert (answer.logits.shape, answer.labels.tolist()) == ((3, 0), [])


def test_a_withheld_id_is_inferred_as_the_tasks_index_in_any_order() -> None:
    method = PackNet(_net(), replace(FIT, steps=200))
    tasks = [_task(number, (2 * number, 2 * number + 1)) for number in (2, 0)]
    ready = method.ready(_learn(method, *tasks)[-1])
    for task in tasks:
        assert task.id is not None
        x = task.examples.take(torch.arange(60)).x
        answer = method.predict(ready, x)
        assert answer.labels.tolist() == [0, 1, 4, 5]
        assert answer.task is not None
        assert set(answer.task.tolist()) <= {0, 2}
        chosen = answer.task == task.id.index
        assert chosen.float().mean() > 0.6
        own = method.predict(ready, x, task.id)
        rows = torch.isin(answer.labels, own.labels)
        assert torch.equal(answer.logits[chosen][:, rows], own.logits[chosen])
        assert (answer.logits[chosen][:, ~rows] == -torch.inf).all()


def test_the_last_task_leaves_what_it_owned_and_an_earlier_one_a_gap() -> None:
    method = PackNet(_net(), FIT)
    *_, two, three = _three(method)
    last, middle = method.forget(three, 2), method.forget(three, 1)
    fresh = start(method.net, FIT, fold(2, "forgotten")).params
    for name, owner in three.owner.items():
        assert torch.equal(last.owner[name], two.owner[name])
        kept = owner != 3
        assert torch.equal(last.model.params[name][kept], three.model.params[name][kept])
        assert torch.equal(last.model.params[name][~kept], fresh[name][~kept])
    assert tree.equal((middle.model, middle.owner), (three.model, three.owner))
    assert [part and part.task for part in middle.parts] == [0, None, 2]

    assert tree.equal(method.forget(middle, 2).owner, method.forget(two, 1).owner)  # nobody builds on it now
    none = method.forget(method.forget(method.forget(three, 0), 1), 2)
    assert none.parts == ()
    for name, owner in three.owner.items():
        assert not none.owner[name].any()
        assert torch.equal(none.model.params[name], fresh[name].where(owner > 0, 0.0))


def test_a_task_learned_again_owns_what_is_free_and_no_longer_what_it_owned() -> None:
    method = PackNet(_net(), FIT)
    *_, two, three = _three(method)
    again, _ = method.learn(three, _task(2, (4, 5, 6)), 8)  # the last: in its old place
    assert [part and part.task for part in again.parts] == [0, 1, 2]
    for name, owner in again.owner.items():
        assert torch.equal(owner.clamp(max=2), two.owner[name].where(owner != 3, 2))
        assert (owner == 3).sum() == (three.owner[name] == 3).sum()
    again, _ = method.learn(three, _task(0, (0, 1)), 8)
    assert [part and part.task for part in again.parts] == [None, 1, 2, 0]
    for name, owner in again.owner.items():
        assert torch.equal(owner.where(owner != 4, 0), three.owner[name])


def test_a_task_without_an_id_takes_no_other_ones_place() -> None:
    method, unnamed = PackNet(_net(), FIT), _task(7, (6, 7))._replace(id=None)
    state, _ = method.learn(method.forget(_three(method)[-1], 0), unnamed, 8)
    assert [part and part.task for part in state.parts] == [None, 1, 2, 3]


# --- refusals


def test_a_full_network_is_refused_rather_than_trained_in_vain() -> None:
    method = PackNet(nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2)), FIT, prune=0.5)
    state = method.init(7)
    for t in range(4):  # 12 -> 6 -> 3 -> 1 -> 0 free weights
        state, _ = method.learn(state, _task(t, (0, 1)), t)
    assert [int((state.owner["0.weight"] == t).sum()) for t in range(5)] == [0, 6, 3, 2, 1]
    with pytest.raises(Refused) as caught:
        method.learn(state, _task(4, (0, 1)), 4)
    assert str(caught.value) == (
        "the network is full: in 0.weight all 12 weights are owned by the 4 tasks before this one. "
        "Use a wider net, or raise method.prune (now 0.5)"
    )


def test_more_tasks_than_a_byte_can_count_are_refused() -> None:
    method = PackNet(_net(), FIT)
    state = _learn(method, _task(0, (0, 1)))[-1]
    full = state._replace(parts=state.parts * 255, masks=at_rest(state.owner, 255))
    with pytest.raises(Refused, match="at most 255 tasks"):
        method.learn(full, _task(0, (0, 1)), 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_shares_lie_between_0_and_1(share: float) -> None:
    for name in ("prune", "retrain"):
        with pytest.raises(Refused, match=f"method.{name} is {share}; it must lie between 0 and 1, both excluded"):
            PackNet(_net(), **{name: share})


def test_one_step_cannot_be_shared() -> None:
    method = PackNet(_net(), Fit(steps=1))
    with pytest.raises(Refused, match="give fit at least 2 steps a task"):
        method.learn(method.init(0), _task(0, (0, 1)), 0)


@pytest.mark.parametrize("net", [nn.Linear(6, 2), nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))])
def test_a_net_with_nothing_to_pack_is_refused(net: nn.Module) -> None:
    with pytest.raises(Refused, match="packs the weights below the head, and this net has none that may move"):
        PackNet(net, FIT).init(0)


# --- the main point, on real data


def test_permuted_digits_are_kept() -> None:
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(column) for column in load_digits(return_X_y=True))
    order = permutation(1, len(x))
    train, exam = order[:1400], order[1400:]
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    method = PackNet(net, Fit(steps=200, batch=50, lr=2e-3))
    state = method.init(0)

    def view(task: int, rows: Tensor) -> Arrays:
        pixels = torch.arange(64) if task == 0 else permutation(fold(5, task), 64)
        return Arrays(x[rows][:, pixels].float(), y[rows].long(), Scale(0.0, 1 / 16))

    ids, accuracy = [TaskId(task, torch.arange(10)) for task in range(4)], {}
    for task in range(4):
        state, _ = method.learn(state, Task(view(task, train), ids[task]), fold(9, task))
        ready = method.ready(state)
        for old in range(task + 1):
            batch = view(old, exam).take(torch.arange(len(exam)))
            right = method.predict(ready, batch.x, ids[old]).logits.argmax(1) == batch.y
            accuracy[task, old] = float(right.float().mean())
    assert all(accuracy[task, old] == accuracy[old, old] for task, old in accuracy)
    assert min(accuracy.values()) > 0.9
