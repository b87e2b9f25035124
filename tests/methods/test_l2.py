"""Facts about L2: its anchor is where the last task ended, and its pull has a closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penalised import N, lived, net, slope, task
from torch import Tensor, nn

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.l2 import L2, L2State
from perdure.train import Diverged


def test_two_steps_by_hand() -> None:
    """The pull is nil at the first step of a task, which starts at its anchor, and lam (theta - anchor) at the next."""
    before = lived(L2(net(), Fit(steps=30)), [task(0), task(1)])[-1]
    method = L2(net(), Fit("sgd", lr=0.5, steps=2, batch=N), lam=0.7)
    after = method.learn(before, task(2), 0)[0].model.params
    theta = before.model.params
    one = {name: theta[name] - 0.5 * grad for name, grad in slope(theta, 2).items()}
    two = {name: one[name] - 0.5 * (grad + 0.7 * (one[name] - theta[name])) for name, grad in slope(one, 2).items()}
    for name, param in after.items():
        torch.testing.assert_close(param, two[name], rtol=1e-5, atol=1e-6)


def test_on_a_flat_loss_it_is_a_geometric_return() -> None:
    """Where the loss asks for a constant slope s, k steps of rate r end s/lam (1 - (1 - r lam)^k) away."""
    body = nn.Linear(1, 2)
    method = L2(body, Fit("sgd", lr=0.1, steps=7, batch=1), lam=2.0)
    params = {"weight": torch.tensor([[50.0], [-50.0]]), "bias": torch.tensor([50.0, -50.0])}
    state = L2State(method.init(0).model._replace(params=params), 1)
    wrong = Task(Arrays(torch.ones(1, 1), torch.tensor([1])), TaskId(1, torch.arange(2)))  # p - y is (1, -1) there
    after = method.learn(state, wrong, 0)[0].model.params
    for name, param in params.items():
        away = -torch.tensor([1.0, -1.0]).view_as(param) / 2.0 * (1 - 0.8**7)
        torch.testing.assert_close(after[name], param + away)


@pytest.mark.parametrize("lam", [0.0, 100.0])
def test_the_first_task_has_no_anchor(lam: float) -> None:
    fit = Fit(steps=20)
    state = L2(net(), fit, lam=lam).learn(L2(net(), fit).init(5), task(0), 3)[0]
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)


def still(lam: float, lr: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before and after a second task."""
    method = L2(net(), Fit("sgd", lr=lr, steps=400, batch=N), lam=lam)
    before = L2State(method.init(5).model, 1)
    return before.model.params, method.learn(before, task(0), 0)[0].model.params


def test_a_great_strength_freezes() -> None:
    """At rest lam (theta - anchor) = -dL/dtheta: ten times the strength, a tenth of the way."""
    moved = {}
    for lam in (1e2, 1e3, 1e4):
        before, after = still(lam, lr=0.5 / lam)
        moved[lam] = max(float((after[name] - before[name]).abs().max()) for name in before)
        for name, grad in slope(after, 0).items():
            torch.testing.assert_close(lam * (after[name] - before[name]), -grad, rtol=0, atol=2e-7 * lam + 1e-5)
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)
    assert moved[1e4] < 1e-4


def test_beyond_the_bound_of_the_step_it_says_what_to_do() -> None:
    with pytest.raises(Diverged, match="lower the method's strength"):
        still(1e3, lr=2.5e-3)


def test_the_anchor_is_the_last_task_and_no_earlier_one() -> None:
    """A life is the same from any state with these weights, whatever came before."""
    fit = Fit("sgd", lr=0.1, steps=30)
    method = L2(net(), fit, lam=1.0)
    one, two = lived(method, [task(0), task(1)])
    again, _ = method.learn(L2State(two.model, 1), task(2), 7)
    assert tree.equal(again.model, method.learn(two, task(2), 7)[0].model)
    assert one.tasks == 1
    assert two.tasks == 2


def test_rows_of_new_labels_are_free() -> None:
    method = L2(nn.Linear(4, 2), Fit("sgd", lr=0.01, steps=300, batch=N), lam=100.0)
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    assert two.model.labels.tolist() == [0, 1, 2, 3]
    moved = two.model.params["weight"] - torch.cat([one.model.params["weight"], torch.zeros(2, 4)])
    assert float(moved[:2].abs().max()) < 0.02
    assert float(moved[2:].abs().max()) > 0.2


def test_its_memory_is_the_network() -> None:
    states = lived(L2(net(), Fit(steps=5)), [task(number) for number in range(3)])
    assert [tree.nbytes(state) for state in states] == [tree.nbytes(states[0].model)] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"lam": float("inf")}, "method.lam is inf; it must be finite and not negative"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        L2(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert L2.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
