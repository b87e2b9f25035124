"""Facts about the loop: it equals plain torch, its schedules have closed forms, and what is held keeps its bits."""

import copy
from dataclasses import replace
from itertools import chain
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perdure import train
from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.model import Model, forward, grow, start
from perdure.rng import integers, normal
from perdure.train import FEW, Descent, Diverged, Layout, competing, for_scenario, length, minimise, watching
from perdure.tree import equal


def examples(n: int, *shape: int, classes: int = 3, key: int = 0) -> Arrays:
    numbers = normal(key, n * torch.Size(shape).numel())
    return Arrays(numbers.reshape(n, *shape).float(), integers(key + 1, classes, n))


def mlp(rows: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, rows))


def learned(net, model, fit, data, key=0, **options):
    """A descent at its end, and its batches."""
    descent = Descent(net, model, fit, key, **options)
    batches = []
    for batch in descent.batches(data):
        batches.append((batch.x.clone(), batch.y.clone()))
        descent.step(descent.grad(F.cross_entropy(descent(batch.x), batch.y)))
    return descent, batches


def stock(fit: Fit, params):
    common = {"lr": fit.lr, "weight_decay": fit.weight_decay}
    match fit.optimizer:
        case "sgd":
            return torch.optim.SGD(params, momentum=fit.momentum, nesterov=fit.nesterov, **common)
        case "adam":
            return torch.optim.Adam(params, **common)
        case "adamw":
            return torch.optim.AdamW(params, **common)
    return torch.optim.RMSprop(params, momentum=fit.momentum, **common)


def by_hand(net, model, fit, batches):
    """Plain torch on the same batches: the module after it, and the losses."""
    net = copy.deepcopy(net).train()
    with torch.no_grad():
        for name, param in net.named_parameters():
            param.copy_(model.params[name])
    optimizer, losses = stock(fit, net.parameters()), []
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if fit.clip:
            nn.utils.clip_grad_norm_(net.parameters(), fit.clip)
        optimizer.step()
        losses.append(loss.item())
    return net, losses


def assert_close(params, net, atol=1e-6):
    for name, param in net.named_parameters():
        torch.testing.assert_close(params[name], param.detach(), rtol=1e-5, atol=atol)


OPTIMISERS = [
    Fit(optimizer="sgd", lr=0.1),
    Fit(optimizer="sgd", lr=0.1, weight_decay=0.01),
    Fit(optimizer="sgd", lr=0.05, momentum=0.9),
    Fit(optimizer="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    Fit(optimizer="adam", lr=0.01),
    Fit(optimizer="adam", lr=0.01, weight_decay=0.1),
    Fit(optimizer="adamw", lr=0.01, weight_decay=0.1),
    Fit(optimizer="rmsprop", lr=0.01),
    Fit(optimizer="rmsprop", lr=0.01, momentum=0.9, weight_decay=0.01),
]


def name_of(fit: Fit) -> str:
    return f"{fit.optimizer}-{fit.momentum}-{fit.nesterov}-{fit.weight_decay}"


# ---------------------------------------------------------------------------------------------- equal to plain torch


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_a_descent_is_plain_torch(fit):
    net, fit = mlp(), replace(fit, batch=8, steps=25)
    model = start(net, fit, 3)
    descent, batches = learned(net, model, fit, examples(30, 6))
    plain, losses = by_hand(net, model, fit, batches)
    assert len(batches) == 25
    assert_close(descent.model.params, plain)
    torch.testing.assert_close(descent.trace.loss, torch.tensor(losses), rtol=1e-5, atol=1e-6)


def test_the_trace_is_the_loss_of_each_batch_before_its_step():
    net, fit = mlp(), Fit(optimizer="sgd", lr=0.5, batch=4, steps=3, order="arrival")
    data, model = examples(12, 6), start(mlp(), fit, 0)
    descent = Descent(net, model, fit, 0)
    before = []
    for batch in descent.batches(data):
        before.append(F.cross_entropy(forward(net, descent.model, batch.x), batch.y))
        descent.step(descent.grad(F.cross_entropy(descent(batch.x), batch.y)))
    assert descent.trace.loss.dtype == torch.float32
    torch.testing.assert_close(descent.trace.loss, torch.stack(before))


class Transposed(nn.Module):
    """Weights used in ways whose gradients come back with strides unlike their own."""

    def __init__(self) -> None:
        super().__init__()
        self.cube = nn.Parameter(normal(9, 4 * 5 * 6).reshape(4, 5, 6).float())
        self.all = nn.Parameter(torch.ones(5, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.einsum("bi,jki->bj", x, self.cube) + self.all.t().sum())


class Last(nn.Module):
    """A convolution on channels-last images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x):
        return self.head(self.conv(x.to(memory_format=torch.channels_last)).contiguous().flatten(1))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()))


class Recurrent(nn.Module):
    """An LSTM keeps references to its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Unused(nn.Module):
    """A layer that the forward pass forgets, and a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.head, self.gain = nn.Linear(6, 6), nn.Linear(6, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.head(x) * self.gain


NETS = {
    "einsum, transposed sum": (Transposed, (6,)),
    "channels last": (Last, (3, 5, 5)),
    "tied": (Tied, (6,)),
    "lstm": (Recurrent, (2, 3)),
    "unused": (Unused, (6,)),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("kind", NETS)
def test_any_module_learns_as_in_plain_torch(kind, optimizer):
    make, shape = NETS[kind]
    net = make()
    fit = Fit(optimizer=optimizer, lr=0.01, batch=5, steps=8, start="net", head="head")
    model = start(net, fit, 0)
    descent, batches = learned(net, model, fit, examples(20, *shape))
    plain, _ = by_hand(net, model, fit, batches)
    assert_close(descent.model.params, plain, atol=1e-5)


def test_gradients_of_foreign_strides_are_written_in_the_parameters_own_layout():
    net = Transposed()
    fit = Fit(start="net", head="head")
    descent = Descent(net, start(net, fit, 0), fit, 0)
    x = examples(5, 6).x
    loss = descent(x).square().sum()
    raw = dict(zip(descent.layout.shapes, torch.autograd.grad(loss, descent.leaves, retain_graph=True), strict=True))
    assert raw["all"].stride() != descent.net.all.stride()  # the trap is there
    named = descent.layout.named(descent.grad(loss))
    for name, gradient in raw.items():
        assert equal(named[name], gradient.contiguous())


def test_a_gradient_is_zero_where_the_loss_does_not_look_and_goes_where_it_is_sent():
    net, fit = Unused(), Fit(head="head")
    descent = Descent(net, start(net, fit, 0), fit, 0)
    x = examples(4, 6).x
    named = descent.layout.named(descent.grad(descent(x).sum()))
    assert equal(named["spare.weight"], torch.zeros(6, 6))
    elsewhere = torch.full_like(descent.flat, 7.0)
    assert descent.grad(descent(x).sum(), onto=elsewhere) is elsewhere
    added = {name: gradient + 7.0 for name, gradient in named.items()}
    assert equal(descent.layout.named(elsewhere), added)
    assert equal(descent.layout.named(descent.grad(descent(x).sum())), named)


# --------------------------------------------------------------------------------------------- the user's own module


class Noisy(nn.Module):
    """Dropout, batch normalisation, a buffer and a frozen layer."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.body, self.norm, self.noise = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(p)
        self.head = nn.Linear(5, 3)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.noise(self.norm(self.body(x))))


def test_the_users_module_is_left_as_it_was():
    net = Noisy().eval()
    net.norm.train()
    before = copy.deepcopy(net.state_dict())
    modes, wanted = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    fit = Fit(steps=4, batch=5)
    model = start(net, fit, 0)
    kept = copy.deepcopy(model)
    minimise(net, model, fit, Task(examples(20, 6), None), 1)
    assert equal(dict(net.state_dict()), dict(before))
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(p.grad is None for p in net.parameters())
    assert equal(model, kept)


def test_dropout_repeats_with_the_key_and_leaves_the_callers_generator_alone():
    net, fit = Noisy(), Fit(steps=6, batch=5, order="arrival")
    model, data, outer = start(Noisy(), fit, 0), Task(examples(20, 6), None), torch.get_rng_state()
    one = minimise(net, model, fit, data, 1)
    assert torch.equal(torch.get_rng_state(), outer)
    torch.rand(3)
    assert equal(one, minimise(net, model, fit, data, 1))
    assert not equal(one, minimise(net, model, fit, data, 2))
    descent = Descent(net, model, fit, 1)
    x = examples(20, 6).x
    assert not equal(descent(x).detach(), descent(x).detach())


def test_statistics_of_batch_normalisation_are_in_the_model_and_at_work_in_the_exam():
    net, fit = Noisy(p=0.0), Fit(optimizer="sgd", lr=0.1, steps=7, batch=5, start="net", freeze="body.*")
    model = start(net, fit, 0)
    descent, batches = learned(net, model, fit, examples(20, 6))
    plain, _ = by_hand(net, model, fit, batches)
    after = descent.model
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(after.stats[name], buffer)
    assert after.stats["norm.num_batches_tracked"] == 7
    assert model.stats["norm.num_batches_tracked"] == 0
    x = examples(9, 6, key=5).x
    torch.testing.assert_close(forward(net, after, x), plain.eval()(x).detach())


def test_a_pre_trained_net_starts_from_its_own_values():
    net = mlp()
    fit = Fit(start="net", optimizer="sgd", lr=0.1, steps=1, batch=30)
    data = examples(30, 6)
    model, trace = minimise(net, start(net, fit, 9), fit, Task(data, None), 0)
    loss = F.cross_entropy(net(data.x), data.labels)
    assert trace.loss[0].item() == pytest.approx(loss.item(), rel=1e-5)
    gradient = torch.autograd.grad(loss, net[0].weight)[0]
    torch.testing.assert_close(model.params["0.weight"], net[0].weight.detach() - 0.1 * gradient)


# ------------------------------------------------------------------------------------------------ schedule, clipping


def rates(fit: Fit, steps: int) -> list[float]:
    """The learning rate of each step, read off the way that one weight takes down a slope of 1."""
    net = nn.Linear(1, 1, bias=False).double()
    model = Model({"weight": torch.zeros(1, 1, dtype=torch.float64)}, {}, torch.arange(1), {})
    descent = Descent(net, model, replace(fit, steps=steps, batch=1), 0)
    out, before = [], 0.0
    for _ in descent.batches(Arrays(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))):
        descent.step(descent.grad(descent(torch.ones(1, 1, dtype=torch.float64)).sum()))
        out.append(before - descent.flat.item())
        before = descent.flat.item()
    return out


def test_schedules_have_closed_forms():
    fit = Fit(optimizer="sgd", lr=0.4)
    assert rates(fit, 3) == pytest.approx([0.4] * 3)
    assert rates(replace(fit, warmup=4), 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert rates(replace(fit, schedule="cosine"), 5) == pytest.approx([0.2 * (1 + cos(pi * t / 5)) for t in range(5)])
    assert rates(replace(fit, schedule="cosine", warmup=2), 6) == pytest.approx(
        [0.2, 0.4, *(0.2 * (1 + cos(pi * t / 4)) for t in range(4))]
    )
    assert rates(replace(fit, schedule="cosine", warmup=3), 2) == pytest.approx([0.4 / 3, 0.8 / 3])


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_clipping_is_that_of_torch(clip):
    net, fit = mlp(), Fit(optimizer="sgd", lr=0.5, clip=clip, steps=10, batch=6)
    model = start(net, fit, 1)
    descent, batches = learned(net, model, fit, examples(20, 6))
    assert_close(descent.model.params, by_hand(net, model, fit, batches)[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_following_a_loss_is_stepping_along_its_gradient_bit_for_bit(optimizer):
    net = Unused()
    fit = Fit(
        optimizer=optimizer, momentum=0.9 if optimizer in ("sgd", "rmsprop") else 0.0, weight_decay=0.1, head="head"
    )
    model = start(net, fit, 1)
    one, two, mixed = (Descent(net, model, fit, 0) for _ in range(3))
    x = examples(5, 6).x
    for step in range(4):
        for descent, follows in ((one, True), (two, False), (mixed, step % 2 == 0)):
            loss = descent(x).square().sum()
            if follows:
                descent.follow(loss)
            else:
                descent.step(descent.grad(loss))
    assert equal(one.flat, two.flat)
    assert equal(one.flat, mixed.flat)
    assert equal(one.moments, two.moments)


def test_a_clipped_step_is_as_long_as_the_clip_and_a_short_gradient_keeps_its_bits():
    net = mlp()
    fit = Fit(optimizer="sgd", lr=1.0, clip=0.01)
    descent = Descent(net, start(net, fit, 1), fit, 0)
    before, gradient = descent.flat.clone(), torch.ones_like(descent.flat)
    descent.step(gradient.clone())
    assert (descent.flat - before).norm().item() == pytest.approx(0.01, rel=1e-4)
    before = descent.flat.clone()
    descent.step(gradient * 1e-5)
    assert equal(descent.flat, before - gradient * 1e-5)


# ----------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_kept_moments_continue_as_if_nothing_had_ended(fit):
    net, fit = mlp(), replace(fit, batch=5, steps=6, order="arrival", moments="kept")
    data = examples(60, 6)
    halves = [Arrays(data.x[:30], data.labels[:30]), Arrays(data.x[30:], data.labels[30:])]
    model = start(net, fit, 0)
    whole, _ = minimise(net, model, replace(fit, steps=12), Task(data, None), 1)
    for half in halves:
        model, _ = minimise(net, model, fit, Task(half, None), 1)
    assert equal(model, whole)


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_fresh_moments_leave_nothing_in_the_model(fit):
    fit = replace(fit, batch=5, steps=3)
    model, _ = minimise(mlp(), start(mlp(), fit, 0), fit, Task(examples(15, 6), None), 1)
    assert model.moments == {}


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_kept_moments_of_new_rows_start_at_zero(fit):
    net, fit = mlp(3), replace(fit, batch=5, steps=6, moments="kept")
    model, _ = minimise(net, start(net, fit, 0), fit, Task(examples(30, 6), None), 1)
    more = examples(30, 6, classes=5, key=7)
    grown = grow(net, fit, model, Task(more, TaskId(1, torch.arange(5))))
    for slot, tensors in model.moments.items():
        for name, tensor in tensors.items():
            kept = grown.moments[slot][name]
            assert equal(kept[: len(tensor)] if name else kept, tensor)
            assert not kept[len(tensor) :].any() if name else True
    after, _ = minimise(net, grown, fit, Task(more, None), 2)
    # The same continuation by a stock optimiser on tensors of its own, with the grown moments put in by hand.
    plain, names = mlp(5), list(grown.params)
    descent, batches = learned(net, grown, fit, more, key=2)
    with torch.no_grad():
        for name, param in plain.named_parameters():
            param.copy_(grown.params[name])
    optimizer = stock(fit, plain.parameters())
    for name, param in zip(names, plain.parameters(), strict=True):
        for slot, tensors in grown.moments.items():
            optimizer.state[param][slot] = tensors.get("", tensors.get(name)).clone()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    assert_close(after.params, plain)
    assert equal(after, descent.model)


def test_moments_of_another_shape_are_refused():
    net, fit = mlp(), Fit(moments="kept", steps=2, batch=5)
    task = Task(examples(10, 6), None)
    model, _ = minimise(net, start(net, fit, 0), fit, task, 1)
    for wrong in (torch.zeros(5, 7), torch.zeros(6, 6), torch.zeros(5)):
        moments = {**model.moments, "exp_avg": {**model.moments["exp_avg"], "0.weight": wrong}}
        with pytest.raises(Refused, match=r"0.weight has shape \(5, 6\), but what is kept for it has shape"):
            minimise(net, model._replace(moments=moments), fit, task, 2)
    moments = {**model.moments, "exp_avg": {"0.weight": model.moments["exp_avg"]["0.weight"]}}
    with pytest.raises(Refused, match=r"0.bias has shape \(5,\), but what is kept for it has shape None"):
        minimise(net, model._replace(moments=moments), fit, task, 2)


def test_layout_names_and_flattens():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7.0), "c": torch.zeros(0, 3)}
    layout = Layout(tensors)
    flat = layout.flat(tensors)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert equal(layout.named(flat), tensors)
    layout.views(flat)["b"].zero_()
    assert flat[6] == 0


# ------------------------------------------------------------------------------------------------------ what is held


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_frozen_parameters_keep_their_bits_under_decay_and_kept_moments(fit):
    net, fit = mlp(), replace(fit, steps=5, batch=6, weight_decay=0.1, moments="kept", clip=1.0)
    task = Task(examples(30, 6), None)
    model, _ = minimise(net, start(net, fit, 0), fit, task, 1)
    model.params["0.weight"][0, :3] = torch.tensor([0.0, -0.0, 1e-42])
    after, _ = minimise(net, model, replace(fit, freeze="0.*, 2.bias"), task, 2)
    for name in ("0.weight", "0.bias", "2.bias"):
        assert equal(after.params[name], model.params[name]), name
    assert (after.params["2.weight"] != model.params["2.weight"]).all()


def test_entries_that_are_held_keep_their_bits_and_the_others_move_as_if_alone():
    net, fit = mlp(), Fit(optimizer="adamw", lr=0.01, weight_decay=0.1, steps=5, batch=6)
    model, task = start(net, fit, 0), Task(examples(30, 6), None)
    hold = torch.zeros(Layout(model.params).flat(model.params).shape, dtype=torch.bool)
    hold[::2] = True
    after, _ = minimise(net, model, fit, task, 1, hold)
    before, moved = (Layout(model.params).flat(params) for params in (model.params, after.params))
    assert equal(moved[hold], before[hold])
    assert (moved[~hold] != before[~hold]).any()
    assert equal(minimise(net, model, fit, task, 1, torch.zeros_like(hold)), minimise(net, model, fit, task, 1))


def test_parameters_without_gradient_are_frozen():
    net, fit = Noisy(), Fit(steps=5, batch=6, weight_decay=0.1)
    model = start(net, fit, 0)
    after, _ = minimise(net, model, fit, Task(examples(30, 6), None), 1)
    assert equal(after.params["body.weight"], model.params["body.weight"])
    assert not equal(after.params["head.weight"], model.params["head.weight"])


def test_a_pattern_that_freezes_nothing_is_refused():
    fit = Fit(freeze="0.*,body.*")
    with pytest.raises(Refused, match=r"'body.\*', which matches no parameter; there are 0.weight, 0.bias, 2.weight"):
        Descent(mlp(), start(mlp(), fit, 0), fit, 0)


# ----------------------------------------------------------------------------------- what is moved in place of weights


def moving(fit: Fit, steps: int, moved, hold=None, moments=None, first=0):
    """A descent that moves (P,) numbers along gradients that the test makes up, one for each step from `first` on."""
    net = mlp()
    model = start(net, fit, 3)._replace(moments=moments or {})
    descent = Descent(net, model, fit, 0, hold=hold, moved=moved)
    for step in range(first, first + steps):
        descent.step(normal(100 + step, len(moved)).float())
    assert equal(descent.model.params, model.params)
    return descent


def moved_by_torch(fit: Fit, steps: int, moved, hold=None):
    """The same by a stock optimiser; held entries take no part."""
    param = nn.Parameter(moved.clone() if hold is None else moved[~hold].clone())
    optimizer = stock(fit, [param])
    for step in range(steps):
        gradient = normal(100 + step, len(moved)).float()
        param.grad = gradient if hold is None else gradient[~hold]
        if fit.clip:
            nn.utils.clip_grad_norm_([param], fit.clip)
        optimizer.step()
    return param.detach()


MOVED = normal(4, sum(param.numel() for param in mlp().parameters())).float()


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_what_is_moved_goes_where_a_stock_optimiser_would_take_it(fit, clip):
    fit, moved = replace(fit, clip=clip), MOVED.clone()
    descent = moving(fit, 6, moved)
    assert descent.moved is moved
    torch.testing.assert_close(moved, moved_by_torch(fit, 6, MOVED), rtol=1e-5, atol=1e-6)
    assert (moved != MOVED).all()


@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_what_is_moved_with_kept_moments_goes_on_as_if_nothing_had_ended(fit):
    fit, whole, parts = replace(fit, moments="kept"), MOVED.clone(), MOVED.clone()
    moving(fit, 6, whole)
    moments = moving(fit, 4, parts).model.moments
    moving(fit, 2, parts, moments=moments, first=4)
    assert equal(parts, whole)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("fit", OPTIMISERS, ids=name_of)
def test_entries_of_what_is_moved_can_be_held_and_the_others_go_as_if_alone(fit, clip):
    fit, moved = replace(fit, clip=clip), MOVED.clone()
    hold = torch.arange(len(moved)) % 3 == 0
    moving(fit, 6, moved, hold)
    assert equal(moved[hold], MOVED[hold])
    torch.testing.assert_close(moved[~hold], moved_by_torch(fit, 6, MOVED, hold), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_network_whatever_is_moved():
    net, fit, data = mlp(), Fit(lr=0.1), examples(9, 6)
    model = start(net, fit, 3)
    plain, descent = Descent(net, model, fit, 0), Descent(net, model, fit, 0, moved=MOVED.clone())
    expected = plain.grad(F.cross_entropy(plain(data.x), data.labels)).clone()
    for _ in range(3):
        gradient = descent.grad(F.cross_entropy(descent(data.x), data.labels))
        assert equal(gradient, expected)
        descent.step(gradient)


def test_what_is_moved_and_no_longer_finite_ends_with_a_message():
    descent = moving(Fit(optimizer="sgd", lr=0.1), 1, MOVED.clone())
    descent.moved[5] = torch.inf
    with pytest.raises(Diverged, match="the weights are no longer finite after 1 steps"):
        _ = descent.model


# ------------------------------------------------------------------------------------------------ batches and labels


def sizes_and_rows(fit: Fit, n: int, key: int = 0):
    descent = Descent(mlp(), start(mlp(), fit, 0), fit, key)
    rows = []
    for batch in descent.batches(examples(n, 6)):
        rows.append(batch.rows.tolist())
        descent.step(descent.grad(descent(batch.x).sum()))
    return [len(some) for some in rows], rows


def test_epochs_and_steps_count_the_partial_batch():
    assert sizes_and_rows(Fit(batch=4, epochs=2), 10)[0] == [4, 4, 2, 4, 4, 2]
    assert sizes_and_rows(Fit(batch=4, steps=4), 10)[0] == [4, 4, 2, 4]
    assert sizes_and_rows(Fit(batch=4, steps=2), 10)[0] == [4, 4]
    assert sizes_and_rows(Fit(steps=3), 10)[0] == [10, 10, 10]


def test_length():
    assert length(Fit(), 5000) == (128, 1000)
    assert length(Fit(), 50) == (50, 1000)
    assert length(Fit(epochs=3), 130) == (128, 6)
    assert length(Fit(epochs=3), 129) == (127, 6)  # no last batch of one example
    assert length(Fit(), 127 * 128 + 1) == (126, 1000)
    assert length(Fit(batch=128, epochs=3), 129) == (128, 6)
    assert [length(Fit(), n)[0] for n in (1, 2, 3)] == [1, 2, 3]
    assert length(Fit(batch=10, epochs=2), 95) == (10, 20)
    assert length(Fit(batch=10, steps=7), 10) == (10, 7)
    with pytest.raises(Refused, match=r"fit.batch is 10, but a task has 9 examples; use at most that"):
        length(Fit(batch=10), 9)
    with pytest.raises(Refused, match="the task holds no examples"):
        length(Fit(), 0)


def test_an_epoch_shows_every_example_once_in_a_new_order():
    _, rows = sizes_and_rows(Fit(batch=4, epochs=3), 10, key=5)
    epochs = [list(chain(*rows[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    descent = Descent(mlp(), start(mlp(), Fit(), 0), Fit(), 5)
    assert [descent.order(10, epoch).tolist() for epoch in range(3)] == epochs
    assert sizes_and_rows(Fit(batch=4, epochs=3), 10, key=5)[1] == rows
    assert sizes_and_rows(Fit(batch=4, epochs=3), 10, key=6)[1] != rows


def test_order_of_arrival():
    _, rows = sizes_and_rows(Fit(batch=4, epochs=2, order="arrival"), 6)
    assert rows == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("block", [1, 30, 60, 1 << 20])
def test_batches_do_not_depend_on_how_many_are_gathered_at_once(block, monkeypatch):
    expected = sizes_and_rows(Fit(batch=4, steps=9), 10)
    monkeypatch.setattr(train, "BLOCK", block)
    assert sizes_and_rows(Fit(batch=4, steps=9), 10) == expected


def test_only_logits_that_compete_move():
    net, fit = mlp(4), Fit(optimizer="sgd", lr=0.1, steps=5, batch=5)
    model = start(net, fit, 0)._replace(labels=torch.tensor([7, 2, 9, 4]))
    data = Arrays(examples(20, 6).x, torch.tensor([4, 7]).repeat(10))
    descent, batches = learned(net, model, fit, data, classes=torch.tensor([4, 7]))
    assert all(y.max() <= 1 for _, y in batches)
    after = descent.model
    assert equal(after.params["2.weight"][[1, 2]], model.params["2.weight"][[1, 2]])
    assert (after.params["2.bias"][[0, 3]] != model.params["2.bias"][[0, 3]]).all()
    # The same as a net that has these two rows alone.
    small = {**model.params, "2.weight": model.params["2.weight"][[3, 0]], "2.bias": model.params["2.bias"][[3, 0]]}
    plain, _ = by_hand(mlp(2), Model(small, {}, torch.tensor([4, 7]), {}), fit, batches)
    torch.testing.assert_close(after.params["2.weight"][[3, 0]], plain[2].weight.detach())


def test_targets_are_places_among_the_labels_that_compete():
    net = mlp(4)
    model = start(net, Fit(), 0)._replace(labels=torch.tensor([7, 2, 9, 4]))
    labels = torch.tensor([2, 9, 2, 7])
    assert Descent(net, model, Fit(), 0).targets(labels).tolist() == [1, 2, 1, 0]
    assert Descent(net, model, Fit(), 0, torch.tensor([2, 7, 9])).targets(labels).tolist() == [0, 2, 0, 1]
    for wrong in (-1, 3, 10):
        with pytest.raises(Refused, match="a label is out of range: the labels that compete are 7, 2, 9, 4"):
            Descent(net, model, Fit(), 0).targets(torch.tensor([2, wrong]))
    with pytest.raises(Refused, match="the labels that compete are 2, 4"):
        Descent(net, model, Fit(), 0, torch.tensor([2, 4])).targets(labels)


def test_whose_logits_compete():
    task = Task(examples(5, 6), TaskId(0, torch.tensor([1, 2])))
    assert competing(Fit(compete="task"), task).tolist() == [1, 2]
    assert competing(Fit(compete="seen"), task) is None
    assert competing(Fit(compete="task"), Task(task.examples, None)) is None


def test_a_scenario_decides_what_fit_leaves_open():
    assert for_scenario(Fit(), Scenario.GG).compete == "task"
    assert for_scenario(Fit(), Scenario.GNU).compete == "seen"
    assert for_scenario(Fit(compete="all"), Scenario.GG).compete == "all"
    flow = for_scenario(Fit(), Scenario.NNS)
    assert for_scenario(flow, Scenario.NNS) == flow
    assert (flow.epochs, flow.order, flow.compete) == (1, "arrival", "seen")
    for rate in (Fit(schedule="cosine"), Fit(warmup=3)):
        with pytest.raises(Refused, match=r"fit.schedule and fit.warmup have no meaning in scenario nns"):
            for_scenario(rate, Scenario.NNS)
    for name in ("steps", "epochs"):
        with pytest.raises(Refused, match=rf"fit.{name} has no meaning in scenario nns"):
            for_scenario(Fit(**{name: 5}), Scenario.NNS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "steps": 1}, "fit.epochs and fit.steps are both given; give one of them"),
        ({"epochs": 0}, "fit.epochs is 0; it must be at least 1"),
        ({"steps": 0}, "fit.steps is 0; it must be at least 1"),
        ({"batch": 0}, "fit.batch is 0; it must be at least 1"),
        ({"lr": -1.0}, "fit.lr is -1.0; it must be finite and not negative"),
        ({"weight_decay": -0.1}, "fit.weight_decay is -0.1; it must be finite and not negative"),
        ({"momentum": -0.1}, "fit.momentum is -0.1; it must be finite and not negative"),
        ({"warmup": -1}, "fit.warmup is -1; it must be finite and not negative"),
        ({"clip": 0.0}, "fit.clip is 0.0; it must be finite and positive"),
        ({"clip": float("inf")}, "fit.clip is inf; it must be finite and positive"),
        ({"lr": float("nan")}, "fit.lr is nan; it must be finite and not negative"),
        ({"optimizer": "lamb"}, "fit.optimizer is 'lamb'; use one of sgd, adam, adamw, rmsprop"),
        ({"optimizer": None}, "fit.optimizer is None; use one of sgd, adam, adamw, rmsprop"),
        ({"compete": "most"}, "fit.compete is 'most'; use one of scenario, task, seen, all"),
        ({"nesterov": True}, "fit.nesterov needs fit.optimizer sgd and a positive fit.momentum"),
    ],
)
def test_a_fit_that_means_nothing_is_refused(options, message):
    with pytest.raises(Refused, match=message):
        Fit(**options)


# ------------------------------------------------------------------------------------------------ divergence, progress


def test_a_divergent_run_ends_with_a_message():
    fit = Fit(optimizer="sgd", lr=1e20, steps=50, batch=5)
    with pytest.raises(
        Diverged, match=r"after \d+ steps: training diverged. Lower fit.lr \(now 1e\+20\), set fit.clip"
    ):
        minimise(mlp(), start(mlp(), fit, 0), fit, Task(examples(20, 6), None), 0)


def test_a_run_whose_very_last_step_diverges_ends_with_a_message():
    fit = Fit(optimizer="sgd", lr=3e38, steps=1, batch=5)
    data = Arrays(examples(5, 6).x * 1e6, examples(5, 6).labels)
    with pytest.raises(Diverged, match="the weights are no longer finite after 1 steps"):
        minimise(mlp(), start(mlp(), fit, 0), fit, Task(data, None), 0)


def test_a_watcher_sees_progress_inside_the_block_only():
    fit, seen = Fit(steps=7, batch=5), []
    task, model = Task(examples(10, 6), None), start(mlp(), Fit(), 0)
    with watching(seen.append):
        _, trace = minimise(mlp(), model, fit, task, 0)
    assert [(moment.step, moment.steps) for moment in seen] == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert seen[-1].loss == pytest.approx(trace.loss[-1].item())
    minimise(mlp(), model, fit, task, 0)
    assert len(seen) == 4


def test_a_frozen_parameter_has_no_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fit = Fit(optimizer="sgd", freeze="0.*")
    descent = Descent(net, start(net, fit, 0), fit, 0)
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    grads = descent.layout.views(descent.grad(F.cross_entropy(descent(x), y)))
    assert all((not view.any()) == name.startswith("0.") for name, view in grads.items())


def test_a_net_that_is_frozen_whole_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    fit = Fit(optimizer="adam", weight_decay=0.1, freeze="*")
    descent = Descent(net, begun := start(net, fit, 0), fit, 0)
    descent.follow(F.cross_entropy(descent(torch.ones(2, 3)), torch.tensor([0, 1])))
    assert equal(descent.model.params, begun.params)


def test_a_new_buffer_for_every_step_is_not_kept() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    fit = Fit(optimizer="sgd", lr=0.1)
    descent = Descent(net, start(net, fit, 0), fit, 0)
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    before, total = descent.flat.clone(), torch.zeros_like(descent.flat)
    for _ in range(3 * FEW):
        grads = descent.grad(F.cross_entropy(descent(x), y)) * 2
        descent.step(grads)
        total += grads
    assert len(descent._views) <= FEW
    assert torch.allclose(descent.flat, before - 0.1 * total)
