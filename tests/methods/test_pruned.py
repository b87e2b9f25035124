"""Pruned networks: which weights go, against brute force; zeros that stay; and what is stored of what is left."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from shared_weights import FIT, lesson, lived, network
from torch import Tensor, nn

from perdure import tree
from perdure.contract import Fit, Refused, TaskId
from perdure.methods.independent import Independent
from perdure.methods.pruned import Pruned, bind, drop, keep, retrain
from perdure.model import answer, own_head
from perdure.ops.codec import encode
from perdure.rng import fold, normal
from perdure.train import minimise

LAYERS = ("0.weight", "3.weight", "5.weight")
WEIGHTS = 6 * 16 + 16 * 8 + 8 * 2


def _weights() -> dict[str, Tensor]:
    shapes = {"wide": (9, 7), "narrow": (4, 3, 2), "one": (1, 1)}
    return {
        name: normal(fold(3, name), Tensor(size=shape).numel()).view(shape).float() * (place + 1)
        for place, (name, shape) in enumerate(shapes.items())
    }


# --- which weights go


@pytest.mark.parametrize("cutoff", ["same", "deviation"])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 1.0])
def test_the_largest_are_kept_of_all_layers_together(cutoff: str, share: float) -> None:
    weights = _weights()
    weights["wide"][0] = 0.0  # cut before
    weights["narrow"].flatten()[5] = -weights["narrow"].flatten()[4]  # a tie
    ranked = []
    for name, w in weights.items():
        alive = [value for value in w.flatten().tolist() if value]
        unit = (sum(value * value for value in alive) / len(alive)) ** 0.5 if cutoff == "deviation" else 1.0
        ranked += [(-abs(value) / unit, len(ranked), name, place) for place, value in enumerate(w.flatten().tolist())]
    stay = {(name, place) for _, _, name, place in sorted(ranked)[: max(1, round(share * len(ranked)))]}
    masks = keep(weights, share, cutoff)  # type: ignore[arg-type]
    assert {(n, p) for n, mask in masks.items() for p, kept in enumerate(mask.flatten().tolist()) if kept} == stay
    assert {name: mask.shape for name, mask in masks.items()} == {name: w.shape for name, w in weights.items()}


def test_by_deviation_the_scale_of_a_layer_does_not_count_and_by_one_cut_off_it_does() -> None:
    weights = {"a": normal(1, 400).float().view(20, 20), "b": 100 * normal(2, 400).float().view(20, 20)}
    shares = {
        cutoff: {n: int(m.sum()) for n, m in keep(weights, 0.5, cutoff).items()} for cutoff in ("same", "deviation")
    }  # type: ignore[arg-type]
    assert shares["same"]["b"] > 390
    assert abs(shares["deviation"]["a"] - shares["deviation"]["b"]) < 40
    scaled = keep({"a": weights["a"], "b": weights["b"] / 128}, 0.5, "deviation")
    assert tree.equal(scaled, keep(weights, 0.5, "deviation"))


def test_layers_of_zeros_are_cut_before_any_other() -> None:
    weights = {"dead": torch.zeros(3, 3), "alive": normal(1, 9).float().view(3, 3)}
    for cutoff in ("same", "deviation"):
        masks = keep(weights, 0.5, cutoff)  # type: ignore[arg-type]
        assert not masks["dead"].any()
        assert masks["alive"].all()


# --- what a task's network is


def test_a_life_is_training_cutting_and_retraining_as_written_by_hand() -> None:
    method = Pruned(network(), replace(FIT, moments="kept"), density=0.25, rounds=2, retrain=0.4, rate=0.5)
    task, key = lesson(0, (0, 1)), fold(7, 0)
    before, after = lived(method, task)
    fresh = replace(FIT, moments="fresh")
    model, _ = minimise(
        method.net, own_head(method.net, FIT, before.start, task), replace(fresh, steps=18), task, fold(key, "train")
    )
    for j, left in ((1, 0.5), (2, 0.25)):
        weights = {name: model.params[name] for name in LAYERS}
        masks = keep(weights, left, "deviation")
        assert sum(int(mask.sum()) for mask in masks.values()) == round(left * WEIGHTS)
        model = drop(model, masks)
        slow = replace(fresh, steps=6, lr=0.5 * FIT.lr)
        model, _ = retrain(method.net, model, masks, slow, task, fold(key, "retrain", j))
    bound = method.ready(after).tasks[0]
    assert tree.equal(
        (dict(sorted(bound.params.items())), bound.stats), (dict(sorted(model.params.items())), model.stats)
    )
    trace = method.learn(before, task, key)[1]
    assert len(trace.loss) == 30


def test_at_rate_0_what_is_left_are_the_values_of_the_network_that_was_not_pruned() -> None:
    method = Pruned(network(), FIT, density=0.3, cutoff="same", rounds=3, retrain=0.2, rate=0.0)
    task, key = lesson(0, (0, 1)), fold(7, 0)
    own = method.ready(lived(method, task)[1]).tasks[0]
    trained = minimise(
        method.net,
        own_head(method.net, FIT, method.init(7).start, task),
        replace(FIT, steps=24),
        task,
        fold(key, "train"),
    )[0]
    masks = keep({name: trained.params[name] for name in LAYERS}, 0.3, "same")
    for name, w in own.params.items():
        assert torch.equal(w, trained.params[name].where(masks[name], 0.0) if name in LAYERS else trained.params[name])


@pytest.mark.parametrize(
    "fit",
    [
        Fit(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.1, steps=20, batch=20),
        Fit(optimizer="adamw", lr=0.01, weight_decay=0.1, steps=20, batch=20),
        Fit(optimizer="adam", lr=0.01, weight_decay=0.1, steps=20, batch=20),
    ],
    ids=["sgd", "adamw", "adam"],
)
def test_what_was_pruned_stays_zero_and_what_survives_goes_on_from_its_value(fit: Fit) -> None:
    net, task = network(2), lesson(0, (0, 1))
    dense = Independent(net, fit).init(4).start
    masks = keep({name: dense.params[name] for name in LAYERS}, 0.3, "same")
    bare = drop(dense, masks)
    after, _ = retrain(net, bare, masks, fit, task, 0)
    for name, mask in masks.items():
        assert not after.params[name][~mask].any()
        assert (after.params[name][mask] != bare.params[name][mask]).any()
    assert not torch.equal(after.params["0.bias"], bare.params["0.bias"])
    fewer = keep({name: after.params[name] for name in LAYERS}, 0.1, "same")
    assert all((fewer[name] <= masks[name]).all() for name in masks)  # no weight comes back


def test_retraining_gives_back_what_cutting_took() -> None:
    fit, tasks = replace(FIT, steps=200), [lesson(t, (2 * t, 2 * t + 1)) for t in range(3)]
    right = {}
    for rate in (0.0, 1.0):
        method = Pruned(network(), fit, density=0.2, rate=rate)
        ready = method.ready(lived(method, *tasks)[-1])
        found = []
        for task in tasks:
            x, y, _ = task.examples.take(torch.arange(60))
            given = method.predict(ready, x, task.id)
            found.append((given.labels[given.logits.argmax(1)] == y).double().mean())
        right[rate] = float(torch.stack(found).mean())
    assert right[1.0] > right[0.0] + 0.1
    assert right[1.0] > 0.9, right


# --- what is stored


def test_bits_come_back_from_a_mask_and_the_values_in_its_places() -> None:
    weights = _weights()
    masks = keep(weights, 0.4, "same")
    codes = {name: encode(mask) for name, mask in masks.items()}
    values = {name: weights[name][mask] for name, mask in masks.items()}
    others = {name: normal(fold(5, name), w.numel()).view(w.shape).float() for name, w in weights.items()}
    back = bind(others | {"bias": torch.ones(3)}, codes, values)
    assert tree.equal(back, {n: w.where(masks[n], 0.0) for n, w in weights.items()} | {"bias": torch.ones(3)})
    for wrong in (values["wide"][:1], values["wide"][0], torch.cat([values["wide"], values["one"]])):
        with pytest.raises(Refused, match="the values of wide are not those of its mask"):
            bind(others, codes, values | {"wide": wrong})


def test_a_task_costs_its_mask_four_bytes_a_weight_that_is_left_and_what_is_not_pruned() -> None:
    method = Pruned(network(), FIT, density=0.125)
    states = lived(method, *(lesson(t, (2 * t, 2 * t + 1)) for t in range(3)))
    assert tree.nbytes(states[0]) == tree.nbytes(states[0].start)
    rest = 4 * (16 + 16 + 16 + 8 + 2) + 4 * (16 + 16) + 8 + 8 * 2  # biases and scales, statistics, labels
    for before, after in pairwise(states):
        own = after.own[-1]
        assert set(own.part.head) == set(own_head(method.net, FIT, states[0].start, lesson(0, (0, 1))).params) - set(
            LAYERS
        )
        assert sum(map(len, own.values.values())) == WEIGHTS // 8
        assert tree.nbytes(after) - tree.nbytes(before) == rest + 4 * (WEIGHTS // 8) + tree.nbytes(own.masks)


def test_ten_lenets_at_a_twelfth_take_the_bytes_of_one() -> None:
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    method = Pruned(net, Fit(steps=6, batch=20))
    task = lesson(0, tuple(range(10)))
    inputs = normal(5, 60 * 784).view(60, 784).float()
    (own,) = method.learn(method.init(0), task._replace(examples=type(task.examples)(inputs, task.examples.labels)), 0)[
        0
    ].own
    assert 10 * tree.nbytes(own) < 1.2 * 4 * sum(w.numel() for w in net.parameters())


# --- what does not change


def test_each_task_has_a_network_of_its_own_that_never_changes() -> None:
    method, tasks = Pruned(network(), FIT), [lesson(t, (2 * t, 2 * t + 1)) for t in range(3)]
    states = lived(method, *tasks)
    for t in range(3):
        assert tree.equal(states[3].own[t], states[t + 1].own[t])
    alone = method.learn(method.init(7), tasks[2], fold(7, 2))[0]
    assert tree.equal(alone.own[0], states[3].own[2])  # whatever came before
    assert tree.equal(method.forget(states[3], 1), states[3]._replace(own=(states[3].own[0], states[3].own[2])))
    again = method.learn(states[3], tasks[0], fold(7, 0))[0]
    assert [own.task for own in again.own] == [1, 2, 0]
    assert tree.equal(again.own[2], states[3].own[0])


def test_the_surest_network_answers_where_the_id_is_withheld() -> None:
    method, tasks = Pruned(network(), FIT, density=0.5), [lesson(t, (2 * t, 2 * t + 1)) for t in range(3)]
    ready = method.ready(lived(method, *tasks)[-1])
    x = torch.cat([task.examples.take(torch.arange(20)).x for task in tasks])
    free = method.predict(ready, x)
    each = torch.stack(
        [
            torch.distributions.Categorical(logits=answer(method.net, model, x).logits.double()).entropy()
            for model in ready.tasks.values()
        ]
    )
    assert torch.equal(free.task, each.argmin(0))


def test_what_is_frozen_is_neither_pruned_nor_stored_again() -> None:
    method = Pruned(network(), replace(FIT, freeze="0.*"), density=0.05)
    state = lived(method, lesson(0, (0, 1)))[1]
    (own,) = state.own
    assert set(own.values) == {"3.weight", "5.weight"}
    assert not {"0.weight", "0.bias"} & own.part.head.keys()
    assert torch.equal(method.ready(state).tasks[0].params["0.weight"], state.start.params["0.weight"])
    assert sum(map(len, own.values.values())) == round(0.05 * (16 * 8 + 8 * 2))
    head = lived(Pruned(network(3), replace(FIT, freeze="5.*")), lesson(0, (0, 2)))[1].own[0]
    assert head.part.head["5.weight"].shape == (2, 8)  # rows of its labels, as they began


def test_convolutions_are_pruned_too() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    own = lived(Pruned(net, FIT, density=0.5), lesson(0, (0, 1)))[1].own[0]
    assert sum(map(len, own.values.values())) == 16


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.0}, "density"),
        ({"retrain": 1.0}, "retrain"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"rate": -1.0}, "rate"),
        ({"cutoff": "layer"}, "use one of deviation, same"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(Refused, match=match):
        Pruned(network(), FIT, **options)  # type: ignore[arg-type]


def test_no_more_rounds_than_steps_and_no_fewer_than_one() -> None:
    for steps in (2, 3, 6, 7, 31):
        method = Pruned(network(), replace(FIT, steps=steps))
        state, trace = method.learn(method.init(0), lesson(0, (0, 1)), 0)
        assert len(trace.loss) == steps
        assert sum(map(len, state.own[0].values.values())) == WEIGHTS // 12
    with pytest.raises(Refused, match="at least 2 steps"):
        lived(Pruned(network(), replace(FIT, steps=1)), lesson(0, (0, 1)))


def test_nothing_to_prune_is_refused() -> None:
    with pytest.raises(Refused, match="no weight to prune"):
        Pruned(network(), replace(FIT, freeze="*")).init(0)


def test_whose_network_it_is_comes_back_from_the_store_as_it_was() -> None:
    state = lived(Pruned(network(), FIT), lesson(0, (0, 1)), lesson(4, (2, 3)))[-1]
    plain, tensors = tree.pack(state)
    assert tree.equal(tree.unpack(plain, tensors, (*Pruned.states,)), state)
    assert [own.part.id.index for own in state.own] == [0, 4]
    assert isinstance(state.own[0].part.id, TaskId)
