"""Facts about online EWC: its running Fisher is a sum that fades, in the penalty as in the update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalised import N, fishers, lived, net, on_permuted_digits, slope, task
from torch import nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scenario
from perdure.methods.ewc import EWC
from perdure.methods.finetune import Finetune
from perdure.methods.online_ewc import OnlineEWC, OnlineState
from perdure.ops.fisher import diagonal
from perdure.rng import fold

TASKS = [task(number) for number in range(4)]


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.0])
def test_the_running_fisher_is_a_sum_that_fades(gamma: float) -> None:
    method = OnlineEWC(net(), Fit(steps=20), lam=3.0, gamma=gamma)
    states = lived(method, TASKS)
    own = fishers(method, states, TASKS)
    for name, kept in states[-1].precision.items():
        written = sum(gamma ** (3 - k) * each[name].double() for k, each in enumerate(own))
        torch.testing.assert_close(kept.double(), torch.as_tensor(written), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_two_steps_follow_the_written_objective(gamma: float) -> None:
    """loss = L + lam/2 sum_k gamma^(t-k) F_k (theta - theta_{t-1})^2: gamma has faded the last Fisher too."""
    states = lived(OnlineEWC(net(), Fit(steps=30, lr=1e-2), lam=50.0, gamma=gamma), TASKS[:3])
    before, own = states[-1].model.params, fishers(OnlineEWC(net()), states, TASKS[:3])
    method = OnlineEWC(net(), Fit("sgd", lr=0.5, steps=2, batch=N), lam=50.0, gamma=gamma)
    after = method.learn(states[-1], TASKS[3], 0)[0].model.params
    examples, theta = TASKS[3].examples, {name: param.double() for name, param in before.items()}
    for _ in range(2):
        leaves = {name: param.clone().requires_grad_() for name, param in theta.items()}
        logits = functional_call(net().double(), leaves, (examples.take(torch.arange(N)).x.double(),))
        loss = F.cross_entropy(logits, examples.labels)
        for k, importance in enumerate(own):
            for name, leaf in leaves.items():
                loss = loss + 25.0 * gamma ** (3 - k) * (importance[name] * (leaf - before[name]) ** 2).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        theta = {name: theta[name] - 0.5 * grad for name, grad in zip(leaves, grads, strict=True)}
    for name, param in after.items():
        torch.testing.assert_close(param.double(), theta[name], rtol=1e-5, atol=1e-6)


def test_with_gamma_1_the_second_task_is_ewcs() -> None:
    """Until a third task their penalties are the same, and so is A; only the anchor differs then."""
    fit = Fit(steps=30)
    ours, theirs = OnlineEWC(net(), fit, lam=20.0, gamma=1.0), EWC(net(), fit, lam=20.0)
    (_, state), other = lived(ours, TASKS[:2]), theirs.init(5)
    for number in range(2):
        other, _ = theirs.learn(other, TASKS[number], fold(5, number))
    for name, param in state.model.params.items():
        torch.testing.assert_close(param, other.model.params[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state.precision[name], other.precision[name], rtol=1e-3, atol=1e-7)


def test_normalised_each_task_counts_alike() -> None:
    """Labels that a confident network knows have a small Fisher; normalised, the mean of each is 1."""
    raw, even = (OnlineEWC(net(), Fit(steps=100, lr=0.05), lam=0.1, gamma=0.5, normalise=n) for n in (False, True))

    def mean(state: OnlineState) -> float:
        return float(torch.cat([part.flatten() for part in state.precision.values()]).mean())

    assert [mean(state) for state in lived(even, TASKS)] == pytest.approx([1, 1.5, 1.75, 1.875], rel=1e-5)
    one, same = lived(raw, TASKS[:1])[0], lived(even, TASKS[:1])[0]
    for name, own in one.precision.items():
        torch.testing.assert_close(own / mean(one), same.precision[name])
    assert mean(one) < 0.1


def test_a_fisher_of_zeros_stays_zero() -> None:
    """One label leaves nothing to learn: no gradient, no importance, no NaN."""
    method = OnlineEWC(nn.Linear(4, 1), Fit(steps=3), normalise=True)
    state = lived(method, [task(0, (0,))])[0]
    assert not any(part.any() for part in state.precision.values())


@pytest.mark.parametrize("options", [{"lam": 100.0}, {"lam": 0.0}])
def test_the_first_task_has_no_penalty(options: dict[str, float]) -> None:
    fit = Fit(steps=20)
    state = OnlineEWC(net(), fit, **options).learn(OnlineEWC(net(), fit).init(5), task(0), 3)[0]
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)
    assert bool(state.precision) == bool(options["lam"])


def test_a_great_strength_freezes() -> None:
    """At rest lam gamma F* (theta - anchor) = -dL/dtheta; on a stable step ten times the strength, a tenth the way."""
    moved = {}
    for lam in (1e2, 1e3):
        method = OnlineEWC(net(), Fit("sgd", lr=1 / lam, steps=400, batch=N), lam=lam, gamma=0.5)
        model = method.init(5).model
        ones = {name: torch.ones_like(param) for name, param in model.params.items()}
        after = method.learn(OnlineState(model, ones), task(0), 0)[0].model.params
        for name, grad in slope(after, 0).items():
            torch.testing.assert_close(
                0.5 * lam * (after[name] - model.params[name]), -grad, rtol=0, atol=2e-7 * lam + 1e-5
            )
        moved[lam] = max(float((after[name] - param).abs().max()) for name, param in model.params.items())
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    fit, tasks = Fit(steps=30, compete="seen"), [task(0, (0, 1)), task(1, (2, 3))]
    method = OnlineEWC(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), fit, lam=10.0, gamma=0.5)
    one, two = lived(method, tasks)
    own = diagonal(method.net, two.model, tasks[1].examples, "exact", 0)
    assert [len(state.precision["2.weight"]) for state in (one, two)] == [2, 4]
    torch.testing.assert_close(two.precision["2.weight"][2:], own["2.weight"][2:])
    torch.testing.assert_close(two.precision["2.bias"][:2], 0.5 * one.precision["2.bias"] + own["2.bias"][:2])


def test_its_memory_is_constant_and_two_networks() -> None:
    states = lived(OnlineEWC(net(), Fit(steps=5)), TASKS)
    assert len({tree.nbytes(state) for state in states}) == 1
    parts = tree.components(states[0])
    assert parts["precision"] == sum(param.nbytes for param in states[0].model.params.values())
    assert parts.keys() == {"model", "precision"}


def test_it_remembers_what_finetune_forgets() -> None:
    hits = on_permuted_digits(OnlineEWC)
    assert min(hits) > 0.8  # finetune is below 0.5 on the first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"gamma": 1.1}, "gamma is 1.1; it is the share that stays, from 0 to 1"),
        ({"gamma": float("nan")}, "gamma is nan; it is the share that stays"),
        ({"fisher": "batched"}, "fisher is 'batched'; use one of auto, exact, sampled, empirical"),
        ({"fisher_examples": 0}, "method.fisher_examples is 0; use at least 1, or leave it out"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        OnlineEWC(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert OnlineEWC.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
