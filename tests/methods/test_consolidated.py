"""Facts that mas, l-mas and scp share: each adds an importance, and pulls by it alone (`ops.anchor.consolidate`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalised import N, lived, net, on_permuted_digits, slope, task
from torch import nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Method, Refused, Scenario, Task
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.l_mas import LMAS
from perdure.methods.mas import MAS
from perdure.methods.scp import SCP
from perdure.rng import permutation

STRENGTHS: dict[type[Method], float] = {MAS: 0.5, LMAS: 0.5, SCP: 20.0}
TASKS = [task(number) for number in range(4)]
STILL = Fit("sgd", lr=0.0, steps=1)
each = pytest.mark.parametrize("kind", STRENGTHS)
BODIES = [net(), nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))]


@pytest.mark.parametrize("method", [*(kind(body, STILL) for kind in (MAS, LMAS) for body in BODIES), SCP(net(), STILL)])
def test_labels_do_not_enter(method: Method) -> None:
    wrong = Task(Arrays(TASKS[0].examples.x, TASKS[0].examples.labels[permutation(3, N)]), TASKS[0].id)
    (true, first), (other, second) = (method.learn(method.init(5), some, 0) for some in (TASKS[0], wrong))
    assert not torch.equal(first.loss, second.loss)
    assert tree.equal(true, other)


@each
def test_two_steps_follow_the_written_objective(kind: type[Method]) -> None:
    """loss = L + lam sum I (theta - theta_{t-1})^2, without a half."""
    lam = STRENGTHS[kind]
    state = lived(kind(net(), Fit(steps=30, lr=1e-2), lam=lam), TASKS[:3])[-1]
    before = state.model.params
    method = kind(net(), Fit("sgd", lr=0.05, steps=2, batch=N), lam=lam)
    after = method.learn(state, TASKS[3], 0)[0].model.params
    examples, theta = TASKS[3].examples, {name: param.double() for name, param in before.items()}
    for _ in range(2):
        leaves = {name: param.clone().requires_grad_() for name, param in theta.items()}
        logits = functional_call(net().double(), leaves, (examples.x.double(),))
        loss = F.cross_entropy(logits, examples.labels)
        for name, leaf in leaves.items():
            loss = loss + lam * (state.importance[name] * (leaf - before[name]) ** 2).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        theta = {name: theta[name] - 0.05 * grad for name, grad in zip(leaves, grads, strict=True)}
    for name, param in after.items():
        torch.testing.assert_close(param.double(), theta[name], rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("lam", [100.0, 0.0])
def test_the_first_task_has_no_penalty(kind: type[Method], lam: float) -> None:
    fit = Fit(steps=20)
    method, plain = kind(net(), fit, lam=lam), Finetune(net(), fit)
    state, _ = method.learn(method.init(5), task(0), 3)
    model, _ = plain.learn(plain.init(5), task(0), 3)
    assert tree.equal(state.model, model)
    assert bool(state.importance) == bool(lam)


@each
def test_a_great_strength_freezes(kind: type[Method]) -> None:
    """At rest 2 lam I (theta - anchor) = -dL/dtheta; ten times the strength, a tenth of the way."""
    moved = {}
    for lam in (1e2, 1e3):
        method = kind(net(), Fit("sgd", lr=0.25 / lam, steps=400, batch=N), lam=lam)
        begun = method.init(5)
        model = begun.model
        ones = {name: torch.ones_like(param) for name, param in model.params.items()}
        after = method.learn(begun._replace(importance=ones), task(0), 0)[0].model.params
        for name, grad in slope(after, 0).items():
            torch.testing.assert_close(
                2 * lam * (after[name] - model.params[name]), -grad, rtol=0, atol=4e-7 * lam + 1e-5
            )
        moved[lam] = max(float((after[name] - param).abs().max()) for name, param in model.params.items())
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)


@each
def test_only_the_logits_that_competed_are_held(kind: type[Method]) -> None:
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    one, two = (state.importance["2.weight"] for state in _apart(kind(body, Fit(steps=10, compete="task"))))
    assert one.any(1).tolist() == [True, True, False, False]
    assert torch.equal(two[:2], one[:2])
    assert two[2:].any(1).all()


def _apart(method: Method) -> list:
    """The states after two tasks of different labels."""
    return lived(method, [task(0, (0, 1)), task(1, (2, 3))])


@each
def test_its_memory_is_constant_and_two_networks(kind: type[Method]) -> None:
    states = lived(kind(net(), Fit(steps=5)), TASKS)
    assert len({tree.nbytes(state) for state in states}) == 1
    parts = tree.components(states[0])
    assert parts["importance"] == sum(param.nbytes for param in states[0].model.params.values())
    assert parts.keys() == {"model", "importance"}


@pytest.mark.parametrize(("kind", "mean"), [(MAS, 0.77), (LMAS, 0.77), (SCP, 0.8)])
def test_it_remembers_what_finetune_forgets(kind: type[Method], mean: float) -> None:
    hits = on_permuted_digits(kind)
    assert hits[0] > 0.85  # finetune is below 0.5 there
    assert hits.mean() > mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"lam": float("nan")}, "method.lam is nan; it must be finite and not negative"),
        ({"omega_examples": 0}, "method.omega_examples is 0; use at least 1, or leave it out"),
    ],
)
@pytest.mark.parametrize("kind", [MAS, LMAS])
def test_it_refuses_what_cannot_be(kind: type[Method], options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        kind(net(), **options)


@each
def test_it_needs_to_know_where_a_task_ends(kind: type[Method]) -> None:
    assert kind.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
