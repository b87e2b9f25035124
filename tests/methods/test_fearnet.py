"""Facts about FearNet: scores, Gaussians, the gate and the loss, each against what the paper writes, one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replayed import learn_all, stream, task
from sklearn.datasets import load_digits
from torch import Tensor, nn

from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods import fearnet
from perdure.methods.fearnet import FearNet, Gaussians, drawn, gaussians, holding, nearness
from perdure.methods.finetune import Finetune
from perdure.methods.ncm import NCM
from perdure.model import Model, forward
from perdure.nets import build
from perdure.nets.mirror import Mirror
from perdure.rng import normal
from perdure.tree import equal

FIT = Fit(lr=0.01, batch=12, steps=60)


def net(*widths: int) -> nn.Module:
    return build("mlp:" + "-".join(map(str, widths)), (2, 4), 0)


# --- HC


@pytest.mark.parametrize("eps", [1e-3, 0.5])
def test_the_score_of_recent_memory_is_that_of_a_loop_over_exemplars(eps):
    x, u, counts = normal(0, 30).view(6, 5), normal(1, 60).view(12, 5), (3, 1, 8)
    x[0] = u[4]
    scores = nearness(x, u, counts, eps).exp()
    for n in range(6):
        beta, first = [], 0
        for count in counts:
            nearest = min(math.dist(x[n].tolist(), u[j].tolist()) for j in range(first, first + count))
            beta.append(1 / (eps + nearest))
            first += count
        assert scores[n].tolist() == pytest.approx([b / sum(beta) for b in beta], rel=1e-4)


# --- the encodings and what is dreamt


@pytest.mark.parametrize("diagonal", [False, True])
def test_every_class_has_the_mean_and_covariance_of_numpy(diagonal):
    z, labels = normal(2, 240).view(60, 4) @ normal(3, 16).view(4, 4), torch.arange(60) % 3 * 5
    labels[-1:] = 99  # a class of one example
    found = gaussians(z, labels, diagonal)
    assert found.labels.tolist() == [0, 5, 10, 99]
    for label, mu, sigma in zip(*found, strict=True):
        own = z[labels == label].numpy()
        np.testing.assert_allclose(mu, own.mean(0))
        whole = np.cov(own, rowvar=False, bias=True)
        np.testing.assert_allclose(sigma, np.diag(whole) if diagonal else whole[np.tril_indices(4)], atol=1e-12)
    assert not found.sigma[3].any()


@pytest.mark.parametrize("diagonal", [False, True])
def test_what_is_drawn_has_the_statistics_it_is_drawn_from(diagonal):
    mix = normal(4, 9).view(3, 3)
    classes = gaussians(normal(5, 600).view(200, 3) @ mix + 2, torch.arange(200) % 2, diagonal)
    z, labels = drawn(classes, 40_000, 6, diagonal)
    assert labels.bincount().tolist() == [40_000, 40_000]
    again = gaussians(z, labels, diagonal)
    scale = float(classes.sigma.abs().max())
    torch.testing.assert_close(again.mu, classes.mu, rtol=0, atol=4 * (scale / 40_000) ** 0.5)
    torch.testing.assert_close(again.sigma, classes.sigma, rtol=0, atol=0.03 * scale)
    assert not torch.equal(z[:40_000] - classes.mu[0], z[40_000:] - classes.mu[1])  # noise of its own for each class


def test_what_is_drawn_stays_in_the_plane_of_few_examples():
    few = normal(7, 16).view(2, 8)  # a line in 8 dimensions: the covariance has rank 1, and no Cholesky factor
    z, _ = drawn(gaussians(few, torch.zeros(2, dtype=torch.int64), False), 50, 8, False)
    along = F.normalize(few[1] - few[0], dim=0)
    away = z - few.mean(0)
    torch.testing.assert_close(away, (away @ along)[:, None] * along, rtol=0, atol=1e-6)
    assert away.norm(dim=1).std() > 0.1


def test_dreams_come_through_the_decoder_as_many_a_class_as_recent_memory_has_of_one():
    """With a decoder that changes nothing dreams are encodings, and have their statistics."""
    method = FearNet(net(8), FIT)
    state, _ = method.learn(method.init(0), task(0, [0, 1]), 0)
    eye = {"decoder.0.weight": torch.eye(8), "decoder.0.bias": torch.zeros(8)}
    state = state._replace(model=state.model._replace(params={**state.model.params, **eye}))
    labels = torch.tensor([4] * 3000 + [5] * 1001)
    recent = fearnet.Memory(torch.zeros(4001, 2, 4), labels, fearnet.Scale(), 4001)
    dreams = method._dreams(state._replace(recent=recent), 1)
    assert dreams.labels.bincount().tolist() == [2001, 2001]
    found = gaussians(dreams.x, dreams.labels, False)
    scale = float(state.classes.sigma.abs().max())
    torch.testing.assert_close(found.mu, state.classes.mu, rtol=0, atol=4 * (scale / 2001) ** 0.5)
    torch.testing.assert_close(found.sigma, state.classes.sigma, rtol=0, atol=0.12 * scale)


# --- mPFC


def written(params: dict[str, Tensor], x: Tensor, lam: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Logits and reconstruction errors of a net with two hidden layers, as the paper writes them."""
    weights = list(params.values())
    (W1, b1, W2, b2, W3, b3), (A0, a0, A1, a1) = weights[:6], weights[6:]
    h0 = x.reshape(len(x), -1)
    h1 = (h0 @ W1.T + b1).clamp(min=0)
    h2 = (h1 @ W2.T + b2).clamp(min=0)
    d1 = (h2 @ A1.T + a1).clamp(min=0)
    d0 = d1 @ A0.T + a0
    return h2 @ W3.T + b3, lam[0] * ((h0 - d0) ** 2).sum(1) + lam[1] * ((h1 - d1) ** 2).sum(1)


def test_the_base_is_learned_by_the_loss_of_the_paper():
    """Against a loop of its own: every weight after ten steps of sgd."""
    fit = Fit("sgd", lr=0.01, batch=10, steps=10, order="arrival")
    method, lesson = FearNet(net(6, 5), fit, lam0=0.7, lam=0.3), task(0, [0, 1])
    first = method.init(3)._replace()
    params = {name: w.double().requires_grad_() for name, w in first.model.params.items()}
    head = [name for name in params if name.startswith("net") and params[name].shape[0] == 0]
    for name in head:
        params[name] = torch.zeros(2, *params[name].shape[1:], dtype=torch.float64).requires_grad_()
    losses = []
    for step in range(10):
        batch = lesson.examples.take(torch.arange(10) + 10 * (step % 6))
        logits, errors = written(params, batch.x.double(), (0.7, 0.3))
        losses.append(F.cross_entropy(logits, batch.y) + errors.mean())
        grads = torch.autograd.grad(losses[-1], list(params.values()))
        with torch.no_grad():
            for w, grad in zip(params.values(), grads, strict=True):
                w -= 0.01 * grad
    state, trace = method.learn(first, lesson, 4)
    torch.testing.assert_close(trace.loss.double(), torch.stack(losses).detach(), rtol=1e-5, atol=1e-5)
    for name, w in state.model.params.items():
        torch.testing.assert_close(w.double(), params[name].detach(), rtol=1e-4, atol=1e-5)
    x = lesson.examples.take(torch.arange(60)).x
    z = holding(method.mirror, state.model).both(x)[1][-1]
    assert equal(state.classes, gaussians(z, lesson.examples.labels, False))
    assert state.recent is None


def test_a_sleep_learns_both_memories_and_empties_one(monkeypatch):
    mixed = []
    whole = fearnet._mixed
    monkeypatch.setattr(fearnet, "_mixed", lambda *given: mixed.append(whole(*given)) or mixed[-1])
    method, tasks = (
        FearNet(net(16, 8), FIT, sleep=2),
        [task(number, [2 * number, 2 * number + 1]) for number in range(4)],
    )
    base, _ = method.learn(method.init(0), tasks[0], 0)
    day, _ = method.learn(base, tasks[1], 1)
    assert equal((day.model, day.classes), (base.model, base.classes))  # awake mPFC rests
    assert (day.awake, day.recent.x.dtype) == (1, torch.uint8)
    assert equal(day.recent.x, tasks[1].examples.x)
    assert sorted(mixed[0].labels.tolist()) == [0] * 60 + [1] * 60  # two classes of mPFC, 30 dreams of each
    night, _ = method.learn(day, tasks[2], 2)
    assert (night.awake, night.recent) == (0, None)
    assert mixed[1].labels.bincount().tolist()[2:] == tasks[1].examples.labels.bincount().tolist()[2:] + [
        int((tasks[2].examples.labels == label).sum()) for label in (4, 5)
    ]
    assert mixed[1].labels.bincount().tolist()[:2] == [30, 30]
    rows = [row for some in tasks[1:3] for row in some.examples.take(torch.arange(60)).x.flatten(1).tolist()]
    real = mixed[1].x[mixed[1].labels >= 2].flatten(1).tolist()
    assert sorted(real) == sorted(rows)
    z = holding(method.mirror, night.model).both(mixed[1].x)[1][-1]
    torch.testing.assert_close(night.classes, gaussians(z, mixed[1].labels, False))
    labels = method.predict(method.ready(night), torch.zeros(1, 2, 4)).labels
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4, 5]
    dawn, _ = method.learn(night, tasks[3], 3)
    answer = method.predict(method.ready(dawn), torch.cat([t.examples.take(torch.arange(60)).x for t in tasks]))
    right = answer.labels[answer.logits.argmax(1)] == torch.cat([t.examples.labels for t in tasks])
    assert [float(part.float().mean()) > 0.7 for part in right.split(60)] == [True] * 4


def test_a_frozen_layer_keeps_its_bits_asleep_too():
    method = FearNet(net(16, 8), replace(FIT, freeze="1.*"), sleep=1)
    states = [method.init(0)]
    for number, lesson in enumerate(stream(Scenario.GNU)):
        states.append(method.learn(states[-1], lesson, number)[0])
    for before, after in pairwise(states):
        assert equal(before.model.params["net.1.weight"], after.model.params["net.1.weight"])
        assert not equal(before.model.params["net.3.weight"], after.model.params["net.3.weight"])


# --- BLA, and what it decides


def by_the_paper(p: float, hc: dict[int, float], mpfc: dict[int, float]) -> int:
    """The label, by P(A), P_HC and P_mPFC."""
    psi = p / (1 - p) * max(hc.values())
    return max(hc, key=hc.get) if psi > max(mpfc.values()) else max(mpfc, key=mpfc.get)


@pytest.mark.parametrize("scenario", [Scenario.GNU, Scenario.GNS])
def test_the_label_is_that_of_the_paper_one_by_one(scenario):
    method, tasks = FearNet(net(16, 8), FIT), stream(scenario)
    state, _ = learn_all(method, tasks)
    x = torch.cat([some.examples.take(torch.arange(60)).x for some in tasks] + [normal(9, 480).view(60, 2, 4).float()])
    answer = method.predict(method.ready(state), x)
    mpfc = forward(method.mirror, state.model, x)[:, :-1].softmax(1)
    sides = forward(method.judge, state.gate, x).double().softmax(1)  # the logistic of the difference
    u = state.recent.examples.take(torch.arange(120)).x.flatten(1)
    chosen = set()
    for n in range(len(x)):
        shown = [k for k in answer.labels.tolist() if k in state.recent.labels]
        nearest = {k: (u[state.recent.labels == k] - x[n].flatten()).norm(dim=1).min() for k in shown}
        beta = {k: 1 / (method.eps + float(distance)) for k, distance in nearest.items()}
        hc = {k: b / sum(beta.values()) for k, b in beta.items()}
        old = dict(zip(state.model.labels.tolist(), mpfc[n].tolist(), strict=True))
        p = float(sides[n, 1])
        if 1e-9 < p < 1 - 1e-9:
            assert int(answer.labels[answer.logits[n].argmax()]) == by_the_paper(p, hc, old)
            chosen.add(p > 0.5)
            odds = p / (1 - p)
            score = {k: max(odds * hc.get(k, 0), old.get(k, 0)) for k in hc | old}
            found = dict(zip(answer.labels.tolist(), answer.logits[n].exp().tolist(), strict=True))
            assert found == pytest.approx(score, rel=1e-3, abs=1e-6)
    assert chosen == {True, False}


def test_the_greater_score_wins_by_hand():
    old, new = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.5, 1.5]]).log()
    answer = fearnet._either(old, torch.tensor([4, 2]), new, torch.tensor([2, 9]))
    assert answer.labels.tolist() == [4, 2, 9]
    assert answer.logits.exp().flatten().tolist() == pytest.approx([0.7, 0.5, 1.5])


DIGITS = load_digits()
X, Y = torch.from_numpy(DIGITS.data).float() / 4 - 1.2, torch.from_numpy(DIGITS.target)


def digits(classes: list[list[int]], rows: slice) -> list[Task]:
    tasks = []
    for number, own in enumerate(classes):
        hit = torch.isin(Y[rows], torch.tensor(own))
        tasks.append(Task(Arrays(X[rows][hit], Y[rows][hit]), TaskId(number, torch.tensor(own))))
    return tasks


def test_a_gate_that_always_knew_would_answer_all_that_this_one_does():
    """Labels of HC and mPFC differ, so that a label is right only where the right memory gave it."""
    method = FearNet(build("mlp:60-30", (64,), 0), Fit(steps=150))
    state, _ = learn_all(method, digits([[0, 1, 2, 3, 4], [5, 6], [7]], slice(0, 1200)))
    x, y = X[1200:][Y[1200:] < 8], Y[1200:][Y[1200:] < 8]
    answer = method.predict(method.ready(state), x)
    right = answer.labels[answer.logits.argmax(1)] == y
    sides = [
        method.predict(method.ready(state), x, TaskId(0, torch.tensor(own))) for own in ([0, 1, 2, 3, 4], [5, 6, 7])
    ]
    hits = [side.labels[side.logits.argmax(1)] == y for side in sides]
    oracle = torch.where(y < 5, *hits)
    assert bool((right <= oracle).all())
    assert oracle.float().mean() > right.float().mean() > 0.8
    told = forward(method.judge, state.gate, x).argmax(1) == (y >= 5)
    assert told.float().mean() > 0.85


def test_on_digits_one_pair_at_a_time_it_beats_finetune_and_holds_against_class_means():
    pairs, right = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], {}
    fit = Fit(steps=200)
    for name, method in {
        "finetune": Finetune(build("mlp:60-30", (64,), 0), fit),
        "ncm": NCM(build("linear", (64,), 0), fit),
        "fearnet": FearNet(build("mlp:60-30", (64,), 0), fit, sleep=3),
    }.items():
        state, _ = learn_all(method, digits(pairs, slice(0, 1200)))
        answer = method.predict(method.ready(state), X[1200:])
        right[name] = float((answer.labels[answer.logits.argmax(1)] == Y[1200:]).float().mean())
    assert right["finetune"] < 0.3
    assert right["fearnet"] > right["ncm"] - 0.05
    assert right["fearnet"] > 0.8


# --- what it is given


def test_options_out_of_range_are_refused():
    for option, value in (("sleep", 0), ("lam0", -1.0), ("lam", float("inf")), ("eps", 0.0), ("eps", -1.0)):
        with pytest.raises(Refused, match=f"method.{option} is {value}"):
            FearNet(net(8), **{option: value})


@pytest.mark.parametrize(
    "odd",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(8, 2)),
        build("conv:4", (1, 8, 8), 2),
        nn.Sequential(nn.Linear(8, 4), nn.GLU(), nn.Linear(2, 2)),
    ],
)
def test_a_net_that_has_no_mirror_is_refused(odd):
    with pytest.raises(Refused, match="use mlp:400-400"):
        FearNet(odd, FIT).init(0)


def test_inputs_that_the_decoder_could_not_make_are_refused_before_work():
    method = FearNet(nn.Sequential(nn.AvgPool1d(2), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), FIT)
    lesson = Task(Arrays(torch.zeros(20, 8), torch.arange(20) % 2), None)
    with pytest.raises(Refused, match="an input has 8 numbers, but the first Linear layer of the net takes 4"):
        method.learn(method.init(0), lesson, 0)


def test_a_mirror_leaves_the_net_as_it_was_and_the_generator_too():
    body, before = net(5, 3), torch.get_rng_state()
    method = FearNet(body, FIT)
    method.init(0)
    assert equal(torch.get_rng_state(), before)
    assert [(a.in_features, a.out_features) for a in method.mirror.decoder] == [(5, 8), (3, 5)]
    assert isinstance(method.mirror, Mirror)
    assert method.mirror.net is not body


def test_the_state_takes_what_the_docstring_says():
    for diagonal, wide in ((False, 8 + 36), (True, 16)):
        method = FearNet(net(16, 8), FIT, diagonal=diagonal)
        state, _ = method.learn(method.init(0), task(0, [0, 1]), 0)
        assert isinstance(state.classes, Gaussians)
        assert isinstance(state.model, Model)
        assert state.classes.mu.numel() + state.classes.sigma.numel() == 2 * wide


def test_a_task_without_examples_is_refused_first_and_later():
    method, nothing = FearNet(net(8), FIT), Task(Arrays(torch.zeros(0, 2, 4), torch.zeros(0, dtype=torch.int64)), None)
    for state in (method.init(0), method.learn(method.init(0), task(0, [0, 1]), 0)[0]):
        with pytest.raises(Refused, match="the task holds no examples"):
            method.learn(state, nothing, 1)
