"""Facts about EWC with a rehearsal memory: without the one it is the other, and together they keep most."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, on_permuted_digits, stream
from torch.func import functional_call

from perdure.contract import Fit, Method, Refused, Scenario
from perdure.methods.er import ER, ERState
from perdure.methods.ewc import EWC
from perdure.methods.ewc_er import EWCER
from perdure.methods.finetune import Finetune
from perdure.nets import build
from perdure.ops.fisher import diagonal
from perdure.rng import fold
from perdure.train import for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=2)
SCENARIOS = (Scenario.GG, Scenario.GNS, Scenario.GNU)


def lived(method: Method, scenario: Scenario) -> tuple[list[Any], list[torch.Tensor]]:
    """Every state, and every loss."""
    states, losses = [method.init(0)], []
    for number, some in enumerate(stream(scenario)):
        state, trace = method.learn(states[-1], some, number)
        states.append(state)
        losses.append(trace.loss)
    return states, losses


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_without_a_penalty_it_is_er_and_without_slots_ewc_bit_for_bit(scenario: Scenario, optimizer: Any) -> None:
    """GG too, where exemplars compete within the task they came from."""
    fit, body = for_scenario(replace(FIT, optimizer=optimizer, moments="kept", weight_decay=0.01), scenario), net(6)
    for whole, part in (
        (EWCER(body, fit, lam=0.0, slots=30), ER(body, fit, slots=30)),
        (EWCER(body, fit, lam=5.0, slots=0), EWC(body, fit, lam=5.0)),
        (EWCER(body, fit, **EWCER.off), Finetune(body, fit)),
    ):
        (ours, losses), (theirs, expected) = lived(whole, scenario), lived(part, scenario)
        assert equal(tuple(losses), tuple(expected))
        for state, other in zip(ours, theirs, strict=True):
            rest = {"model": other} if isinstance(part, Finetune) else other._asdict()
            assert all(equal(getattr(state, name), rest[name]) for name in state._fields if name in rest)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_both_it_is_neither(scenario: Scenario) -> None:
    fit = for_scenario(FIT, scenario)
    whole, *parts = (
        lived(method, scenario)[0][-1].model.params["3.weight"]
        for method in (EWCER(net(6), fit, slots=30), ER(net(6), fit, slots=30), EWC(net(6), fit))
    )
    assert not any(torch.equal(whole, part) for part in parts)


def test_a_step_follows_the_written_objective() -> None:
    """The mean loss of the batch and its exemplars, and every old task's penalty, one term a task, in float64."""
    tasks, lam = stream(Scenario.GNS, 3), 20.0
    method = EWCER(net(2), FIT, lam=lam, slots=15)
    states, fishers = [method.init(0)], []
    for number, some in enumerate(tasks[:2]):
        states.append(method.learn(states[-1], some, number)[0])
        fishers.append(diagonal(method.net, states[-1].model, some.examples, "exact", fold(number, "fisher")))
    n, before = len(tasks[2].examples), states[-1].model.params
    one = method.with_(fit=Fit("sgd", lr=1.0, steps=1, batch=n))
    after = one.learn(states[-1], tasks[2], 7)[0].model.params
    drawn = ER(net(2), one.fit, slots=15)  # the same draws, without a penalty: what its step adds is the penalty's
    plain = drawn.learn(ERState(states[-1].model, states[-1].exemplars), tasks[2], 7)[0]
    leaves = {name: param.double().requires_grad_() for name, param in before.items()}
    penalty = sum(
        lam / 2 * (f[name].double() * (leaf - state.model.params[name].double()) ** 2).sum()
        for state, f in zip(states[1:], fishers, strict=True)
        for name, leaf in leaves.items()
    )
    assert isinstance(penalty, torch.Tensor)
    for name, grads in zip(leaves, torch.autograd.grad(penalty, list(leaves.values())), strict=True):
        torch.testing.assert_close((plain.model.params[name] - after[name]).double(), grads, rtol=1e-4, atol=1e-5)
    loss = F.cross_entropy(functional_call(net(2), before, (SCALE(tasks[2].examples.x),)), tasks[2].examples.labels)
    assert float((loss - method.learn(states[-1], tasks[2], 7)[1].loss[0]).abs()) > 1e-4  # exemplars are in the batch


def test_exemplars_do_not_enter_the_fisher() -> None:
    tasks = stream(Scenario.GNS, 2)
    method = EWCER(net(2), FIT, slots=15)
    first = method.learn(method.init(0), tasks[0], 0)[0]
    second = method.learn(first, tasks[1], 1)[0]
    own = diagonal(method.net, second.model, tasks[1].examples, "exact", fold(1, "fisher"))
    for name, kept in second.precision.items():
        torch.testing.assert_close(kept, first.precision[name] + own[name])


def test_bytes_are_constant_and_those_of_both() -> None:
    states, _ = lived(EWCER(net(2), FIT, slots=70), Scenario.GNS)
    params = sum(param.nbytes for param in states[1].model.params.values())
    sizes = {nbytes(state) - nbytes(state.model) for state in states[1:]}
    assert sizes == {2 * params + 70 * (8 + 8 + 4)}  # A and C; a stored input, its label, its set


def test_old_states_stay_as_they_were() -> None:
    method, tasks = EWCER(net(2), FIT, slots=20), stream(Scenario.GNS)
    state, _ = learn_all(method, tasks[:2])
    before = copy.deepcopy(state)
    method.learn(state, tasks[2], 2)
    assert equal(state, before)


def test_it_keeps_more_than_finetune_and_than_either_part() -> None:
    """Permuted digits, three tasks, a memory of 60: mean accuracy in the end, each part at its best strength."""
    mlp, fit = build("mlp:64", (64,), 10), for_scenario(Fit(lr=0.005, batch=20, epochs=6), Scenario.GNS)
    penalised, replayed, both = (
        on_permuted_digits(EWCER(mlp, fit, lam=lam, slots=slots), Scenario.GNS)
        for lam, slots in ((10.0, 0), (0.0, 60), (3.0, 60))
    )
    assert both > on_permuted_digits(Finetune(mlp, fit), Scenario.GNS) + 0.2
    assert both > max(penalised, replayed) + 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"slots": -1}, r"method.slots is -1; it must not be negative \(0 replays nothing\)"),
        ({"fisher": "batched"}, "fisher is 'batched'; use one of auto, exact, sampled, empirical"),
        ({"fisher_examples": 0}, "method.fisher_examples is 0; use at least 1, or leave it out"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        EWCER(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert EWCER.scenarios == set(SCENARIOS)
