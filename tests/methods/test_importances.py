"""Facts about all importances, on one softmax regression and on one quadratic: closed forms, and loops by autograd.

A matrix theta (3, d) holds all weights; the bias of the regression is its last column, whose input is 1. The quadratic
is given c_i e_i as example i, and its loss is half the squared distance to the labels: alone, each weight descends
h/2 (theta - top)^2, where h = c_i^2 / N. Its Fisher is still that of a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import pi, sqrt
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from penalised import lived
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from perdure.contract import Fit, Method, Task, TaskId
from perdure.data import Arrays
from perdure.methods.ewc import EWC
from perdure.methods.ewc_er import EWCER
from perdure.methods.l_mas import LMAS
from perdure.methods.mas import MAS
from perdure.methods.online_ewc import OnlineEWC
from perdure.methods.rwalk import RWalk
from perdure.methods.scp import SCP
from perdure.methods.si import SI
from perdure.rng import integers, normal

RATE, STEPS, BATCH, DECAY = 0.4, 7, 4, 0.2
Form = Callable[[Tensor, Tensor, Tensor], Tensor]  # of theta (3, d), x (N, d) and y (N,)
Path = Callable[..., tuple[Tensor, Tensor]]  # theta, and -sum g Delta so far, at each step: (STEPS + 1, 3, d)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class Problem(NamedTuple):
    start: Tensor
    x: tuple[Tensor, ...]  # of both tasks
    y: tuple[Tensor, ...]
    loss: Callable[[Tensor, Tensor], Tensor]

    def lived(self, kind: type[Method], fit: dict[str, Any], **options: Any) -> list[Any]:
        """The state after each task; all examples make a step, unless `fit` says otherwise."""
        layer = nn.Linear(4, 3, bias=self.start.shape[1] > 4).double()
        vector_to_parameters(torch.cat([self.start[:, :4].flatten(), self.start[:, 4:].flatten()]), layer.parameters())
        whole = Fit("sgd", lr=RATE, steps=STEPS, batch=len(self.y[0]), start="net")
        shown = [Arrays(x[:, :4].float(), y) for x, y in zip(self.x, self.y, strict=True)]
        tasks = [Task(examples, TaskId(number, torch.arange(3))) for number, examples in enumerate(shown)]
        return lived(kind(nn.Sequential(Double(), layer), replace(whole, **fit), **options), tasks)


REGRESSION = Problem(
    normal(5, 15).view(3, 5),
    tuple(torch.cat([normal(key, 48).view(12, 4).float().double(), torch.ones(12, 1)], 1) for key in (1, 2)),
    tuple(integers(key, 3, 12) for key in (3, 4)),
    F.cross_entropy,
)
QUADRATIC = Problem(  # a decay leads a few of its weights away from their tops, where bounds at 0 show
    torch.tensor([[4.0, -0.5, 0.4, 0.47], [0.2, 0.6, -0.4, 0.1], [0.1, -0.5, 0.3, 0.2]]).double(),
    (torch.tensor([0.5, 1.0, 1.5, 2.0]).double().diag(),) * 2,
    (torch.tensor([0, 1, 2, 0]), torch.tensor([0, 2, 1, 0])),
    lambda f, y: (f - F.one_hot(y, 3)).square().sum(1).mean() / 2,
)


@pytest.fixture(params=[REGRESSION, QUADRATIC], ids=["regression", "quadratic"])
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Problem:
    for module in ("methods.si", "ops.anchor", "ops.rehearsal"):
        monkeypatch.setattr(f"perdure.{module}.cross_entropy", request.param.loss)
    some: Problem = request.param
    return some


def matrix(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([param.view(3, -1) for param in params.values()], 1)


same = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-12)


def exact(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """E_{y ~ p} (d log p_y / d theta_ci)^2 = p_c (1 - p_c) x_i^2"""
    p = (x @ theta.T).softmax(1)
    return (p * (1 - p)).T @ x**2 / len(x)


def empirical(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(d log p_y / d theta_ci)^2 = (1[y = c] - p_c)^2 x_i^2"""
    return ((F.one_hot(y, 3) - (x @ theta.T).softmax(1)) ** 2).T @ x**2 / len(x)


def outputs(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """|d |f|^2 / d theta_ci| = 2 |f_c x_i|, and of l-MAS half of it"""
    return 2 * (x @ theta.T).abs().T @ x.abs() / len(x)


def shift(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """E_xi (d (xi . mean f) / d theta_ci)^2 = E xi_c^2 (mean x_i)^2 = (mean x_i)^2 / 3"""
    return (x.mean(0) ** 2 / 3).expand(3, -1)


def loop(said: Callable[[Tensor, int], Tensor], power: Callable[[Tensor], Tensor], mean_first: bool = False) -> Form:
    """The mean over examples of the power of the gradient of each scalar that is said of logits f (3,) and a label."""

    def form(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        leaf, grads = theta.clone().requires_grad_(), []
        for one, label in zip(x, y.tolist(), strict=True):
            scalars = said(leaf @ one, label)
            grads.append(torch.stack([torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in scalars]))
        every = torch.stack(grads)  # (N, scalars, 3, d)
        return power(every.mean(0)).sum(0) if mean_first else power(every).mean(0).sum(0)

    return form


class Importance(NamedTuple):
    kind: type[Method]
    options: dict[str, Any]
    closed: Form
    brute: Form
    shares: tuple[float, float] = (1, 1)  # of the first task and of the second, after both
    pull: float = 2  # the penalty's slope is so many times lam I (theta - theta_1)


any_label = loop(lambda f, y: f.softmax(0).detach().sqrt() * f.log_softmax(0), torch.square)  # y counts p_y times
own_label = loop(lambda f, y: f.log_softmax(0)[y : y + 1], torch.square)
norm = loop(lambda f, y: f.square().sum()[None], torch.abs)
each_logit = loop(lambda f, y: f / sqrt(3), torch.square, mean_first=True)
FISHERS = {"exact": (exact, any_label), "auto": (exact, any_label), "empirical": (empirical, own_label)}
IMPORTANCES = {
    f"{name} {fisher}": Importance(kind, {"lam": 0.7, "fisher": fisher, **options}, *forms, shares, pull)
    for name, kind, options, shares, pull in (
        ("ewc", EWC, {}, (1.0, 1.0), 1.0),
        ("ewc-er", EWCER, {"slots": 5}, (1.0, 1.0), 1.0),
        ("online-ewc", OnlineEWC, {"gamma": 0.6}, (0.6, 1.0), 0.6),
    )
    for fisher, forms in FISHERS.items()
} | {
    "mas": Importance(MAS, {"lam": 0.1}, outputs, norm),
    "l-mas": Importance(LMAS, {"lam": 0.1}, lambda *at: outputs(*at) / 2, lambda *at: norm(*at) / 2),
    "scp": Importance(SCP, {"lam": 0.5}, shift, each_logit),
    "rwalk": Importance(RWalk, {"interval": STEPS, "alpha": 0.9}, empirical, own_label, (0.1, 0.9)),
}


@pytest.mark.parametrize("form", ["closed", "brute"])
@pytest.mark.parametrize("name", IMPORTANCES)
def test_it_is_its_closed_form_and_its_loop_where_each_task_ended(problem: Problem, name: str, form: str) -> None:
    row = IMPORTANCES[name]
    states, own = problem.lived(row.kind, {}, **row.options), []
    for number, state in enumerate(states):
        own.append(getattr(row, form)(matrix(state.model.params), problem.x[number], problem.y[number]))
    same(matrix(states[0][1]), own[0])
    same(matrix(states[1][1]), row.shares[0] * own[0] + row.shares[1] * own[1])


@pytest.mark.parametrize("problem", [QUADRATIC], ids=["quadratic"], indirect=True)
@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "rwalk"])
def test_what_is_left_of_the_way_are_powers(problem: Problem, name: str) -> None:
    """First (1 - a h)^k to the top; then (1 - a (h + S))^k to where the task balances a penalty of slope S."""
    row = IMPORTANCES[name]
    options = {**row.options, **({"slots": 0} if "slots" in row.options else {})}
    one, two = (matrix(state.model.params) for state in problem.lived(row.kind, {}, **options))
    h, top = (problem.x[0] ** 2).mean(0), F.one_hot(problem.y[0], 3).T / problem.x[0].diag()
    same(one, top + (1 - RATE * h) ** STEPS * (problem.start - top))
    S = row.pull * options["lam"] * row.closed(one, problem.x[0], problem.y[0])
    same(two, solved(problem, 1, one, S, decay=0)[0][-1])


def test_scp_is_the_mean_over_all_directions() -> None:
    """A point drawn evenly from a sphere has an even height and an even angle (Archimedes), so that a grid will do."""
    z, angle = torch.cartesian_prod((2 * torch.arange(50) + 1) / 50 - 1, 2 * pi / 3 * torch.arange(3)).double().T
    xi = torch.stack([(1 - z**2).sqrt() * angle.cos(), (1 - z**2).sqrt() * angle.sin(), z], 1)
    definition = loop(lambda f, y: xi @ f / sqrt(len(xi)), torch.square, mean_first=True)
    kept = matrix(REGRESSION.lived(SCP, {})[0].importance)
    wanted = definition(REGRESSION.start, REGRESSION.x[0], REGRESSION.y[0])
    torch.testing.assert_close(kept, wanted, rtol=1e-3, atol=0)


def solved(some: Problem, number: int, start: Tensor, S: Tensor, decay: float = DECAY) -> tuple[Tensor, Tensor]:
    """Descent on h/2 (theta - top)^2 + S/2 (theta - start)^2 + v/2 theta^2, which is least at m, from d = start - m.

    theta_k = m + q^k d with q = 1 - a (h + S + v). So g_k = h (m - top + q^k d) and -Delta_k = (1 - q) q^k d, and the
    sum of their product is two geometric series.
    """
    h, top = (some.x[number] ** 2).mean(0), F.one_hot(some.y[number], 3).T / some.x[number].diag()
    m = (h * top + S * start) / (h + S + decay)
    q, d = 1 - RATE * (h + S + decay), start - m
    qk = q ** torch.arange(STEPS + 1).view(-1, 1, 1)
    return m + qk * d, h * d * ((m - top) * (1 - qk) + d * (1 - qk**2) / (1 + q))


def stepped(slope: Form, some: Problem, number: int, start: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The same by any slope of the loss, a step at a time."""
    thetas, lost = [start], [torch.zeros_like(start)]
    for k in range(STEPS):
        rows = torch.arange(k * BATCH, (k + 1) * BATCH) % len(some.y[number])
        g = slope(thetas[-1], some.x[number][rows], some.y[number][rows])
        thetas.append(thetas[-1] - RATE * (g + S * (thetas[-1] - start) + DECAY * thetas[-1]))
        lost.append(lost[-1] - g * (thetas[-1] - thetas[-2]))
    return torch.stack(thetas), torch.stack(lost)


def written(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The slope of cross-entropy: the mean of (p_c - 1[y = c]) x_i"""
    return ((x @ theta.T).softmax(1) - F.one_hot(y, 3)).T @ x / len(x)


def autograd(loss: Callable[[Tensor, Tensor], Tensor], theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(x @ leaf.T, y), leaf)[0]


def si(path: Path, fisher: Form, some: Problem, c: float, xi: float) -> list[Tensor]:
    """theta and Omega after both tasks."""
    theta, Omega = some.start, torch.zeros_like(some.start)
    for number in range(2):
        thetas, lost = path(some, number, theta, 2 * c * Omega)
        theta, Omega = thetas[-1], (Omega + lost[-1] / ((thetas[-1] - theta) ** 2 + xi)).relu()
    return [theta, Omega]


def rwalk(path: Path, fisher: Form, some: Problem, lam: float, alpha: float, eps: float, interval: int) -> list[Tensor]:
    """theta, the Fisher and the scores s after both tasks."""
    theta, (S, moving, s) = some.start, torch.zeros(3, *some.start.shape).double()
    for number, (x, y) in enumerate(zip(some.x, some.y, strict=True)):
        (thetas, lost), w = path(some, number, theta, S), torch.zeros_like(theta)
        for j in range(0, STEPS, interval):
            k = min(j + interval, STEPS)
            rows = torch.arange((k - 1) * BATCH, k * BATCH) % len(y)
            moving = moving.lerp(fisher(thetas[k], x[rows], y[rows]), alpha if number or j else 1.0)
            w += (lost[k] - lost[j]).relu() / (moving / 2 * (thetas[k] - thetas[j]) ** 2 + eps)
        theta, s = thetas[-1], (s + w) / 2 if number else w
        S = 2 * lam * torch.stack([(v - v.min()) / (v.max() - v.min()) for v in (moving, s)]).sum(0)
    return [theta, moving, s]


WAYS: dict[str, tuple[Problem, Path, Form]] = {
    "regression, written": (REGRESSION, partial(stepped, written), empirical),
    "regression, by autograd": (REGRESSION, partial(stepped, partial(autograd, REGRESSION.loss)), own_label),
    "quadratic, solved": (QUADRATIC, solved, empirical),
    "quadratic, by autograd": (QUADRATIC, partial(stepped, partial(autograd, QUADRATIC.loss)), own_label),
}


@pytest.mark.parametrize(("problem", "path", "fisher"), WAYS.values(), ids=WAYS, indirect=["problem"])
@pytest.mark.parametrize(
    ("form", "kind", "options"),
    [(si, SI, {"c": 1.0, "xi": 0.01}), (rwalk, RWalk, {"lam": 0.8, "alpha": 0.6, "eps": 0.01, "interval": 3})],
    ids=["si", "rwalk"],
)
def test_a_path_has_its_importance(
    problem: Problem, path: Path, fisher: Form, form: Any, kind: type[Method], options: dict[str, Any]
) -> None:
    """Over two tasks, under a decay and by minibatches; the solved one from the start values alone."""
    fit = {"batch": BATCH, "order": "arrival", "weight_decay": DECAY}
    model, *kept = problem.lived(kind, fit, **options)[-1]
    for ours, wanted in zip((model.params, *kept), form(path, fisher, problem, **options), strict=False):
        same(matrix(ours), wanted)


def test_the_path_integral_sums_to_the_loss_that_was_lost(problem: Problem) -> None:
    """But for a rest of the order of the rate: half the rate, half the rest."""
    rests = []
    for parts in (16, 32):
        state = problem.lived(SI, {"lr": RATE / parts, "steps": STEPS * parts}, xi=1.0)[0]
        theta = matrix(state.model.params)
        omega = matrix(state.importance) * ((theta - problem.start) ** 2 + 1)
        before, after = (problem.loss(problem.x[0] @ at.T, problem.y[0]) for at in (problem.start, theta))
        rests.append(float(omega.sum() / (before - after)) - 1)
    assert 0 < rests[0] < 0.05
    assert rests[0] / rests[1] == pytest.approx(2, rel=0.05)
