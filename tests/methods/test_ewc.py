"""Facts about EWC: its gradient is that of the written objective, and its constant state is all the penalties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalised import N, fishers, lived, net, on_permuted_digits, slope, task
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scenario
from perdure.data import Arrays
from perdure.methods.ewc import EWC, EWCState
from perdure.methods.finetune import Finetune
from perdure.model import Model
from perdure.ops.fisher import diagonal
from perdure.rng import fold, normal
from perdure.train import Diverged


def penalty(params: dict[str, Tensor], lam: float, states: list[EWCState], importance: list[dict[str, Tensor]]) -> Any:
    """sum_k lam/2 F_k (theta - theta_k)^2 as it is written, one term a task, in float64."""
    return sum(
        lam / 2 * (f[name].double() * (param - state.model.params[name].double()) ** 2).sum()
        for state, f in zip(states, importance, strict=True)
        for name, param in params.items()
    )


def test_one_kept_quadratic_has_the_gradient_of_all_penalties() -> None:
    tasks = [task(number) for number in range(5)]
    method = EWC(net(), Fit(steps=50, lr=1e-2), lam=3.0)
    states = lived(method, tasks)
    for key in range(3):
        params = {
            name: (param + normal(fold(key, name), param.numel()).view_as(param)).double().requires_grad_()
            for name, param in states[-1].model.params.items()
        }
        whole = penalty(params, 3.0, states, fishers(method, states, tasks))
        for name, grads in zip(params, torch.autograd.grad(whole, list(params.values())), strict=True):
            kept = 3.0 * states[-1].precision[name] * (params[name].detach().float() - states[-1].anchor[name])
            assert float((kept - grads).abs().max()) < 1e-6 * float(grads.abs().max())


def test_a_step_follows_the_written_objective() -> None:
    tasks = [task(number) for number in range(3)]
    method = EWC(net(), Fit(steps=30, lr=1e-2), lam=50.0)
    states = lived(method, tasks)
    one = method.with_(fit=Fit("sgd", lr=1.0, steps=1, batch=N))
    after = one.learn(states[-1], task(3), 0)[0].model.params
    before = states[-1].model.params
    params = {name: param.double().requires_grad_() for name, param in before.items()}
    examples = task(3).examples
    logits = functional_call(net().double(), params, (examples.take(torch.arange(N)).x.double(),))
    loss = F.cross_entropy(logits, examples.labels) + penalty(params, 50.0, states, fishers(method, states, tasks))
    for name, grads in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
        torch.testing.assert_close((before[name] - after[name]).double(), grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_strength_is_finetune_bit_for_bit(optimizer: Any) -> None:
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    fit = Fit(optimizer, steps=20, batch=8, moments="kept", weight_decay=0.01)
    method, plain = EWC(body, fit, **EWC.off), Finetune(body, fit)
    state, model = method.init(5), plain.init(5)
    for number in range(3):
        state, trace = method.learn(state, task(number), number)
        model, other = plain.learn(model, task(number), number)
        assert tree.equal(state.model, model)
        assert torch.equal(trace.loss, other.loss)
    x = normal(9, 20).view(5, 4).float()
    assert torch.equal(method.predict(method.ready(state), x).logits, plain.predict(plain.ready(model), x).logits)


def test_the_first_task_has_no_penalty() -> None:
    fit = Fit(steps=20)
    state, _ = EWC(net(), fit, lam=1e6).learn(EWC(net(), fit).init(5), task(0), 3)
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)
    held = {name: f > 0 for name, f in state.precision.items()}
    assert all(held[name].any() and torch.equal(state.anchor[name][where], model.params[name][where])
               for name, where in held.items())  # fmt: skip


def still(lam: float, lr: float, steps: int = 400) -> tuple[Model, Model]:
    """The model before and after a task learned under a penalty of even precision 1."""
    method = EWC(net(), Fit("sgd", lr=lr, steps=steps, batch=N), lam=lam)
    model = method.init(5).model
    ones = {name: torch.ones_like(param) for name, param in model.params.items()}
    return model, method.learn(EWCState(model, ones, model.params), task(0), 0)[0].model


def test_a_great_strength_freezes() -> None:
    """At rest lam A (theta - C) = -dL/dtheta: ten times the strength, a tenth of the way."""
    moved = {}
    for lam in (1e2, 1e3, 1e4):
        before, after = still(lam, lr=0.5 / lam)
        away = {name: after.params[name] - param for name, param in before.params.items()}
        moved[lam] = max(float(part.abs().max()) for part in away.values())
        for name, grad in slope(after.params, 0).items():
            torch.testing.assert_close(lam * away[name], -grad, rtol=0, atol=2e-7 * lam + 1e-5)
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)
    assert moved[1e4] < 1e-4


def test_beyond_the_bound_of_the_step_it_says_what_to_do() -> None:
    """Descent along lam A (theta - C) is stable while lr lam A < 2."""
    before, after = still(1e3, lr=1.9e-3)
    assert max(float((after.params[name] - param).abs().max()) for name, param in before.params.items()) < 1e-3
    with pytest.raises(Diverged, match="lower the method's strength"):
        still(1e3, lr=2.5e-3)


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    fit, tasks = Fit(steps=30, compete="seen"), [task(0, (0, 1)), task(1, (2, 3)), task(2, (0, 3))]
    method = EWC(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), fit, lam=10.0)
    one, two, three = lived(method, tasks)
    assert [len(state.precision["2.weight"]) for state in (one, two, three)] == [2, 4, 4]
    own = diagonal(method.net, two.model, tasks[1].examples, "exact", 0)
    torch.testing.assert_close(two.precision["2.weight"][2:], own["2.weight"][2:])
    torch.testing.assert_close(two.anchor["2.bias"][2:], two.model.params["2.bias"][2:])
    torch.testing.assert_close(two.precision["2.bias"][:2], one.precision["2.bias"] + own["2.bias"][:2])


def test_only_the_logits_that_competed_are_held() -> None:
    method = EWC(nn.Linear(4, 4), Fit(steps=10, compete="task"))
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    assert one.precision["weight"].any(1).tolist() == [True, True, False, False]
    assert torch.equal(two.precision["weight"][:2], one.precision["weight"][:2])
    assert two.precision["weight"][2:].any(1).all()


def test_an_input_that_is_never_lit_stays_finite() -> None:
    dark = [each._replace(examples=Arrays(each.examples.x * torch.tensor([1.0, 1, 1, 0]), each.examples.labels))
            for each in (task(0), task(1))]  # fmt: skip
    state = lived(EWC(net(), Fit(steps=10), lam=1e4), dark)[-1]
    assert not state.precision["0.weight"][:, 3].any()
    assert all(bool(leaf.isfinite().all()) for _, leaf in tree.leaves(state))


def test_its_memory_is_constant_and_its_arguments_stay() -> None:
    method = EWC(net(), Fit(steps=5))
    states = lived(method, [task(number) for number in range(4)])
    assert len({tree.nbytes(state) for state in states}) == 1
    assert tree.components(states[0]).keys() == {"model", "precision", "anchor"}
    copy = tree.transform(states[0], torch.clone)
    method.learn(states[0], task(1), 1)
    assert tree.equal(states[0], copy)


def test_it_remembers_what_finetune_forgets() -> None:
    forgotten, kept = on_permuted_digits(Finetune), on_permuted_digits(EWC)
    assert forgotten[0] < 0.5
    assert kept[0] > 0.85
    assert kept[-1] > 0.8  # and it still learns
    assert kept.mean() > forgotten.mean() + 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"lam": float("nan")}, "method.lam is nan; it must be finite and not negative"),
        ({"fisher": "batched"}, "fisher is 'batched'; use one of auto, exact, sampled, empirical"),
        ({"fisher_examples": 0}, "method.fisher_examples is 0; use at least 1, or leave it out"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        EWC(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert EWC.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
