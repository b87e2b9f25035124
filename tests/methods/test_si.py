"""Facts about SI: its importance is the path integral of the task's loss alone, whatever moves the weights."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from penalised import N, lived, net, on_permuted_digits, slope, task
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task
from perdure.methods.finetune import Finetune
from perdure.methods.si import SI, SIState
from perdure.rng import fold

BATCH = 10


class Path(NamedTuple):
    """A life as the paper writes it, one parameter at a time."""

    params: dict[str, Tensor]
    importance: dict[str, Tensor]
    omega: dict[str, Tensor]  # of the last task
    share: dict[str, Tensor]  # what it adds to the importance, before 0 bounds anything


OPTIMISERS: dict[str, tuple[Fit, Any]] = {
    "sgd": (Fit("sgd", lr=0.1), lambda params: torch.optim.SGD(params, lr=0.1)),
    "momentum": (
        Fit("sgd", lr=0.05, momentum=0.9),
        lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    ),
    "adam": (Fit("adam", lr=0.01), lambda params: torch.optim.Adam(params, lr=0.01)),
    "adamw": (
        Fit("adamw", lr=0.01, weight_decay=0.1),
        lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    ),
    "rmsprop": (Fit("rmsprop", lr=0.005), lambda params: torch.optim.RMSprop(params, lr=0.005)),
    "clip": (Fit("sgd", lr=0.5, clip=0.3), lambda params: torch.optim.SGD(params, lr=0.5)),
}


def written(method: SI, optimiser: Any, tasks: list[Task], alone: bool = True, state: SIState | None = None) -> Path:
    """SI by torch's own autograd on the written loss. `alone`: g is of the task's loss, and not of the whole."""
    state = state or method.init(5)
    params = {name: param.clone() for name, param in state.model.params.items()}
    importance = state.importance or {name: torch.zeros_like(param) for name, param in params.items()}
    for each in tasks:
        leaves = {name: nn.Parameter(param.clone()) for name, param in params.items()}
        anchor, omega = params, {name: torch.zeros_like(param) for name, param in params.items()}
        made = optimiser(list(leaves.values()))
        for step in range(method.fit.steps or 0):
            rows = torch.arange(step * BATCH, (step + 1) * BATCH) % N
            batch = each.examples.take(rows)
            loss = F.cross_entropy(functional_call(net(), leaves, (batch.x,)), batch.y)
            penalty = sum((importance[name] * (leaf - anchor[name]) ** 2).sum() for name, leaf in leaves.items())
            whole = loss + method.c * penalty
            g = torch.autograd.grad(loss if alone else whole, list(leaves.values()), retain_graph=True)
            made.zero_grad()
            whole.backward()
            if method.fit.clip is not None:
                nn.utils.clip_grad_norm_(list(leaves.values()), method.fit.clip)
            before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
            made.step()
            for (name, leaf), pull in zip(leaves.items(), g, strict=True):
                omega[name] -= pull * (leaf.detach() - before[name])
        params = {name: leaf.detach() for name, leaf in leaves.items()}
        share = {name: omega[name] / ((params[name] - anchor[name]) ** 2 + method.xi) for name in params}
        importance = {name: torch.relu(importance[name] + share[name]) for name in params}
    return Path(params, importance, omega, share)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a) / max(float(x.abs().max()) for x in b.values())


def made(name: str, **options: Any) -> tuple[SI, Any]:
    """A method that takes its examples in order, so that a hand-written loop can follow it."""
    fit, optimiser = OPTIMISERS[name]
    settings = {**vars(fit), "steps": 30, "batch": BATCH, "order": "arrival"}
    return SI(net(), Fit(**settings), **options), optimiser


@pytest.mark.parametrize("name", OPTIMISERS)
def test_it_is_the_written_loop(name: str) -> None:
    method, optimiser = made(name, c=2.0, xi=0.01)
    tasks = [task(number) for number in range(3)]
    state, path = lived(method, tasks)[-1], written(method, optimiser, tasks)
    assert apart(state.importance, path.importance) < 1e-3
    assert apart(state.model.params, path.params) < 1e-3


@pytest.mark.parametrize("name", ["sgd", "adam", "clip"])
def test_the_gradient_is_that_of_the_tasks_loss_alone(name: str) -> None:
    """With the penalty's in it, a second task would come out otherwise."""
    method, optimiser = made(name, c=5.0, xi=0.01)
    tasks = [task(0), task(1)]
    state = lived(method, tasks)[-1]
    assert apart(state.importance, written(method, optimiser, tasks).importance) < 1e-3
    assert apart(state.importance, written(method, optimiser, tasks, alone=False).importance) > 0.02


def test_zero_bounds_the_sum_and_not_the_share_of_a_task() -> None:
    """A weight that raised the loss, as under a strong decay, loses importance, but never falls below none."""
    fit = Fit("sgd", lr=0.05, weight_decay=1.0, steps=30, batch=BATCH, order="arrival")
    method, optimiser = SI(net(), fit, c=1e-6), partial(torch.optim.SGD, lr=0.05, weight_decay=1.0)
    fitted = lived(SI(net(), Fit("sgd", lr=1.0, steps=300, batch=N)), [task(0)])[0].model
    share = written(method, optimiser, [task(0)], state=SIState(fitted, {})).share
    flat = torch.cat([part.flatten() for part in share.values()])
    old = float(-flat[flat < 0].median())
    state = SIState(fitted, {name: torch.full_like(param, old) for name, param in fitted.params.items()})
    after = method.learn(state, task(0), 0)[0].importance
    ours = torch.cat([after[name].flatten() for name in share])
    assert bool((ours[flat < 0] < old).all())  # bounding the share itself would leave what there was
    assert bool((ours[flat < -1.01 * old] == 0).all())
    assert min(int((flat < -1.01 * old).sum()), int((flat > 0).sum())) > 5
    torch.testing.assert_close(ours, (old + flat).clamp_min(0), rtol=1e-3, atol=1e-4 * old)


def test_plain_descent_has_the_sum_of_squares() -> None:
    """Delta = -lr g, so omega = lr sum g^2: no weight raises the loss."""
    method, optimiser = made("sgd")
    model = method.init(5).model
    leaves = {name: nn.Parameter(param.clone()) for name, param in model.params.items()}
    squares = {name: torch.zeros_like(param) for name, param in model.params.items()}
    for step in range(30):
        batch = task(0).examples.take(torch.arange(step * BATCH, (step + 1) * BATCH) % N)
        loss = F.cross_entropy(functional_call(net(), leaves, (batch.x,)), batch.y)
        for (name, leaf), g in zip(leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            squares[name] += 0.1 * g**2
            leaf.data -= 0.1 * g
    state = lived(method, [task(0)])[0]
    for name, square in squares.items():
        distance = (state.model.params[name] - model.params[name]) ** 2
        torch.testing.assert_close(state.importance[name] * (distance + 0.1), square, rtol=1e-3, atol=1e-6)
    assert all(bool((omega >= 0).all()) for omega in written(method, optimiser, [task(0)]).omega.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_omega_sums_to_the_loss_that_was_lost(optimizer: Any) -> None:
    """Of full-batch descent in small steps, whoever takes them: half the step, half the rest."""
    rest = []
    for halves in range(2):
        lr = (0.05 if optimizer == "sgd" else 0.002) / 2**halves
        method = SI(net(), Fit(optimizer, lr=lr, steps=60 * 2**halves, batch=N), xi=1.0)
        before = method.init(5).model
        state, trace = method.learn(SIState(before, {}), task(0), 0)
        examples = task(0).examples
        x = examples.take(torch.arange(N)).x
        end = F.cross_entropy(functional_call(net(), state.model.params, (x,)), examples.labels)
        omega = sum(
            float((kept * ((state.model.params[name] - before.params[name]) ** 2 + 1.0)).double().sum())
            for name, kept in state.importance.items()
        )
        lost = float(trace.loss[0] - end)
        assert lost > 0.05
        assert omega == pytest.approx(lost, rel=0.05)
        rest.append(abs(omega - lost))
    assert rest[0] / rest[1] == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("options", [{"c": 100.0}, {"c": 0.0}])
def test_the_first_task_has_no_penalty(options: dict[str, float]) -> None:
    fit = Fit(steps=20)
    state = SI(net(), fit, **options).learn(SI(net(), fit).init(5), task(0), 3)[0]
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)
    assert bool(state.importance) == bool(options["c"])


def test_a_great_strength_freezes() -> None:
    """At rest 2 c Omega (theta - anchor) = -dL/dtheta (there is no 1/2): ten times the strength, a tenth of the way."""
    moved = {}
    for c in (1e2, 1e3):
        method = SI(net(), Fit("sgd", lr=0.25 / c, steps=400, batch=N), c=c)
        model = method.init(5).model
        ones = {name: torch.ones_like(param) for name, param in model.params.items()}
        after = method.learn(SIState(model, ones), task(0), 0)[0].model.params
        for name, grad in slope(after, 0).items():
            torch.testing.assert_close(2 * c * (after[name] - model.params[name]), -grad, rtol=0, atol=4e-7 * c + 1e-5)
        moved[c] = max(float((after[name] - param).abs().max()) for name, param in model.params.items())
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)


def test_what_never_moved_has_no_importance() -> None:
    method = SI(net(), Fit("adamw", weight_decay=0.1, steps=20, freeze="0.*"))
    one, two = lived(method, [task(0), task(1)])
    assert not two.importance["0.weight"].any()
    assert two.importance["2.weight"].any()
    assert torch.equal(one.model.params["0.weight"], two.model.params["0.weight"])


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    """A row of a new label starts at 0 with no importance, so its second task is like a first."""
    method = SI(nn.Linear(4, 2), Fit("sgd", lr=1e-3, steps=300, batch=N, compete="task"), c=100.0)
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    assert [len(state.importance["weight"]) for state in (one, two)] == [2, 4]
    assert torch.equal(two.importance["weight"][:2], one.importance["weight"])  # its logits did not compete
    plain = Finetune(nn.Linear(4, 2), method.fit)
    model, _ = plain.learn(one.model, task(1, (2, 3)), fold(5, 1))
    torch.testing.assert_close(two.model.params["weight"], model.params["weight"])


def test_its_memory_is_constant_and_two_networks() -> None:
    method = SI(net(), Fit(steps=5))
    states = lived(method, [task(number) for number in range(4)])
    assert len({tree.nbytes(state) for state in states}) == 1
    parts = tree.components(states[0])
    assert parts["importance"] == sum(param.nbytes for param in states[0].model.params.values())
    assert parts.keys() == {"model", "importance"}


def test_it_remembers_what_finetune_forgets() -> None:
    hits = on_permuted_digits(SI, c=10.0)
    assert min(hits) > 0.65  # finetune is below 0.5 on the first
    assert hits.mean() > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": -1.0}, "method.c is -1.0; it must be finite and not negative"),
        ({"xi": 0.0}, "xi is 0.0; a damping is finite and positive"),
        ({"xi": float("nan")}, "xi is nan; a damping is finite and positive"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        SI(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert SI.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
