"""Facts about RWalk: its Fisher moves and is never summed up, its scores are per divergence walked, and are halved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from penalised import N, lived, net, on_permuted_digits, slope, task
from replayed import net as rows
from replayed import stream
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task
from perdure.methods.er import ER, ERState
from perdure.methods.finetune import Finetune
from perdure.methods.rwalk import RWalk, RWalkState, scaled
from perdure.ops.fisher import diagonal
from perdure.train import for_scenario

BATCH, INTERVAL, STEPS = 10, 4, 30  # the last interval has two steps
TASKS = [task(number) for number in range(3)]
OPTIMISERS: dict[str, tuple[Fit, Any]] = {
    "sgd": (Fit("sgd", lr=0.1), lambda theta: torch.optim.SGD([theta], lr=0.1)),
    "momentum": (Fit("sgd", lr=0.03, momentum=0.9), lambda theta: torch.optim.SGD([theta], lr=0.03, momentum=0.9)),
    "adam": (Fit("adam", lr=0.01), lambda theta: torch.optim.Adam([theta], lr=0.01)),
}


def loss_at(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss of the network with flat parameters (P,)."""
    shapes = [(name, param.shape) for name, param in net().named_parameters()]
    parts = theta.split([shape.numel() for _, shape in shapes])
    params = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
    return F.cross_entropy(functional_call(net(), params, (x.to(theta),)), y)


def flat(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts.values()]).double()


class Walked(NamedTuple):
    """A life as the paper writes it, in float64 and flat, (P,)."""

    theta: Tensor
    fisher: Tensor
    score: Tensor


def written(method: RWalk, optimiser: Any, tasks: list[Task], wrong: str = "") -> Walked:
    """RWalk by torch's own autograd, an example at a time for the Fisher; `wrong` names a mistake of public code."""
    theta = flat(method.init(5).model.params)
    fisher = score = unit_f = unit_s = torch.zeros_like(theta)
    for number, each in enumerate(tasks):
        leaf, anchor, mark = nn.Parameter(theta.clone()), theta, theta
        made, w, lost, summed = optimiser(leaf), torch.zeros_like(theta), torch.zeros_like(theta), 0
        for step in range(STEPS):
            rows = torch.arange(step * BATCH, (step + 1) * BATCH) % N
            x, y = each.examples.x[rows], each.examples.labels[rows]
            loss = loss_at(leaf, x, y)
            (g,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            made.zero_grad()
            (loss + method.lam * ((unit_f + unit_s) * (leaf - anchor) ** 2).sum()).backward()
            before = leaf.detach().clone()
            made.step()
            after = leaf.detach().clone()
            lost = lost - g * (after - before)
            if (step + 1) % INTERVAL == 0 or step + 1 == STEPS:
                squares = torch.zeros_like(theta)
                for one in range(BATCH):
                    (own,) = torch.autograd.grad(loss_at(leaf, x[one : one + 1], y[one : one + 1]), leaf)
                    squares += own**2 / BATCH
                summed = summed + squares
                newest = summed if wrong == "never cleared" else squares
                alpha = method.alpha if fisher.any() else 1.0
                fisher = alpha * newest + (1 - alpha) * fisher
                share = 1.0 if wrong == "no half" else 0.5
                lost = lost if wrong == "no bound" else torch.relu(lost)
                w = w + lost / (share * fisher * (after - mark) ** 2 + method.eps)
                mark, lost = after, torch.zeros_like(theta)
        theta = leaf.detach().clone()
        score = w if number == 0 else score + (score + w) / 2 if wrong == "added" else (score + w) / 2
        unit_f, unit_s = ((part - part.min()) / (part.max() - part.min()) for part in (fisher, score))
    return Walked(theta, fisher, score)


def made(name: str, **options: Any) -> tuple[RWalk, Any]:
    """A method that takes its examples in order, so that a hand-written loop can follow it."""
    fit, optimiser = OPTIMISERS[name]
    settings = {**vars(fit), "steps": STEPS, "batch": BATCH, "order": "arrival"}
    return RWalk(net(), Fit(**settings), **{"interval": INTERVAL, "alpha": 0.6, "eps": 1e-4, **options}), optimiser


def apart(state: RWalkState, path: Walked) -> tuple[float, float, float]:
    """The largest differences in theta, F and s, relative to the largest value."""
    ours = (flat(state.model.params), flat(state.fisher), flat(state.score))
    return tuple(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, path, strict=True))  # type: ignore


@pytest.mark.parametrize("name", OPTIMISERS)
def test_it_is_the_written_loop(name: str) -> None:
    method, optimiser = made(name)
    assert max(apart(lived(method, TASKS)[-1], written(method, optimiser, TASKS))) < 2e-3


@pytest.mark.parametrize(("wrong", "place"), [("never cleared", 1), ("no half", 2), ("no bound", 2), ("added", 2)])
def test_the_mistakes_of_public_code_are_another_method(wrong: str, place: int) -> None:
    method, optimiser = made("momentum")
    assert apart(lived(method, TASKS)[-1], written(method, optimiser, TASKS, wrong))[place] > 0.02


def test_with_alpha_1_its_fisher_is_that_of_the_last_batch() -> None:
    method = RWalk(net(), Fit(steps=15, batch=N), alpha=1.0)
    state = lived(method, TASKS)[-1]
    own = diagonal(net(), state.model, TASKS[-1].examples, "empirical", 0)
    for name, kept in state.fisher.items():
        torch.testing.assert_close(kept, own[name], rtol=1e-4, atol=1e-8)


SCENARIOS = [Scenario.GG, Scenario.GNS, Scenario.GNU]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_without_a_strength_its_exemplars_are_those_of_er(name: str, scenario: Scenario) -> None:
    fit, _ = OPTIMISERS[name]
    fit = replace(for_scenario(fit, scenario), steps=20, batch=12)
    head = 2 if scenario is Scenario.GNS else 0
    ours, plain = RWalk(rows(head), fit, lam=0.0, slots=30), ER(rows(head), fit, slots=30)
    for state, er in zip(lived(ours, stream(scenario)), lived(plain, stream(scenario)), strict=True):
        assert tree.equal(state.model, er.model)
        assert tree.equal(state.exemplars, er.exemplars)


def test_the_gain_is_that_of_the_batch_and_its_exemplars() -> None:
    """One interval of one step from a score of zero: w = lr g^2 / (1/2 F (lr g)^2 + eps), g over both."""
    fit = Fit("sgd", lr=0.1, steps=1, batch=12)
    method = RWalk(rows(2), fit, lam=0.0, slots=30, interval=1, alpha=1.0, eps=0.5)
    (one, two) = stream(Scenario.GNS, 2)
    before = method.learn(method.init(5), one, 0)[0]
    after = method.learn(before._replace(score={}, fisher={}), two, 1)[0]
    moved = ER(rows(2), fit, slots=30)
    er = moved.learn(ERState(before.model, before.exemplars), two, 1)[0]
    for name, s in after.score.items():
        step = er.model.params[name] - before.model.params[name]  # -lr g
        torch.testing.assert_close(s, step**2 / 0.1 / (0.5 * after.fisher[name] * step**2 + 0.5), rtol=1e-4, atol=1e-9)


def test_exemplars_stay_out_of_the_fisher() -> None:
    """The Fisher of the last batch is that of its own examples, whatever was replayed beside them."""
    method = RWalk(rows(2), Fit(steps=15, batch=60), alpha=1.0, slots=30)
    tasks = stream(Scenario.GNS)
    state = lived(method, tasks)[-1]
    own = diagonal(rows(2), state.model, tasks[-1].examples, "empirical", 0)
    for name, kept in state.fisher.items():
        torch.testing.assert_close(kept, own[name], rtol=1e-4, atol=1e-8)


def test_it_keeps_examples_only_where_it_is_asked_to() -> None:
    assert not RWalk(net()).rehearses
    assert RWalk(net(), slots=1).rehearses
    assert lived(RWalk(net(), Fit(steps=5)), TASKS)[-1].exemplars.memory is None


def test_the_newest_batch_counts_alpha_times() -> None:
    """Where nothing moves and a batch is the task, the Fisher of each task is one number that returns."""
    method = RWalk(net(), Fit("sgd", lr=0.0, steps=3, batch=N), interval=1, alpha=0.6)
    states = lived(method, TASKS[:2])
    one, two = (diagonal(net(), states[0].model, each.examples, "empirical", 0) for each in TASKS[:2])
    for name, kept in states[1].fisher.items():
        torch.testing.assert_close(kept, 0.4**3 * one[name] + (1 - 0.4**3) * two[name], rtol=1e-4, atol=1e-8)


def test_old_scores_are_halved() -> None:
    """A task that moves nothing has no score of its own."""
    one = lived(RWalk(net(), Fit(steps=10)), TASKS[:1])[0]
    assert float(flat(one.score).max()) > 0
    two = RWalk(net(), Fit("sgd", lr=0.0, steps=10)).learn(one, TASKS[1], 0)[0]
    assert all(torch.equal(two.score[name], old / 2) for name, old in one.score.items())


def test_no_score_is_negative_whatever_moves_the_weights() -> None:
    method = RWalk(net(), Fit("adamw", weight_decay=1.0, lr=0.05, steps=60))
    assert all(bool((flat(state.score) >= 0).all()) for state in lived(method, TASKS))


@pytest.mark.parametrize("times", [(1e3, 1.0), (1.0, 1e-3)])
def test_each_term_counts_alike_whatever_its_scale(times: tuple[float, float]) -> None:
    method = RWalk(net(), Fit("sgd", lr=0.1, steps=20, batch=N), lam=3.0)
    one = lived(method, TASKS[:1])[0]
    terms = ({n: part * k for n, part in term.items()} for term, k in zip((one.fisher, one.score), times, strict=True))
    two, same = (
        method.learn(state, TASKS[1], 1)[0].model
        for state in (one, one._replace(**dict(zip(("fisher", "score"), terms, strict=True))))
    )
    for name, param in two.params.items():
        torch.testing.assert_close(param, same.params[name], rtol=1e-4, atol=1e-6)


def test_scaling_is_over_the_whole_network() -> None:
    assert scaled(torch.tensor([2.0, 6.0, 3.0])).tolist() == [0, 1, 0.25]
    assert not scaled(torch.zeros(3)).any()
    assert not scaled(torch.full((3,), 5.0)).any()


def test_two_steps_follow_the_written_objective() -> None:
    """loss = L + lam sum (|F| + |s|) (theta - theta_{t-1})^2, without a half."""
    state = lived(RWalk(net(), Fit(steps=30, lr=1e-2)), TASKS[:2])[-1]
    method = RWalk(net(), Fit("sgd", lr=0.05, steps=2, batch=N), lam=4.0)
    after = method.learn(state, TASKS[2], 0)[0].model.params
    units = [(part - part.min()) / (part.max() - part.min()) for part in (flat(state.fisher), flat(state.score))]
    theta = before = flat(state.model.params)
    for _ in range(2):
        leaf = theta.clone().requires_grad_()
        loss = loss_at(leaf, TASKS[2].examples.x, TASKS[2].examples.labels)
        (grad,) = torch.autograd.grad(loss + 4 * (sum(units) * (leaf - before) ** 2).sum(), leaf)
        theta = theta - 0.05 * grad
    torch.testing.assert_close(flat(after), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"lam": 100.0}, {"lam": 0.0}])
def test_the_first_task_has_no_penalty(options: dict[str, float]) -> None:
    fit = Fit(steps=20)
    state = RWalk(net(), fit, **options).learn(RWalk(net(), fit).init(5), task(0), 3)[0]
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)
    assert bool(state.fisher) == bool(state.score) == bool(options["lam"])


def test_a_great_strength_freezes() -> None:
    """At rest 2 lam (theta - anchor) = -dL/dtheta where |F| is 1; ten times the strength, a tenth of the way."""
    moved = {}
    for lam in (1e2, 1e3):
        method = RWalk(net(), Fit("sgd", lr=0.25 / lam, steps=400, batch=N, freeze="2.bias"), lam=lam)
        begun = method.init(5)
        model = begun.model
        fisher = {name: torch.full_like(param, 7.0) for name, param in model.params.items()}
        fisher["2.bias"].zero_()  # the least
        score = {name: torch.zeros_like(param) for name, param in model.params.items()}
        after = method.learn(begun._replace(fisher=fisher, score=score), task(0), 0)[0].model.params
        away = {name: after[name] - param for name, param in model.params.items()}
        for name, grad in slope(after, 0).items():
            if name != "2.bias":
                torch.testing.assert_close(2 * lam * away[name], -grad, rtol=0, atol=4e-7 * lam + 1e-5)
        moved[lam] = max(float(part.abs().max()) for part in away.values())
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)


def test_batch_statistics_are_those_of_the_moment() -> None:
    """The Fisher is taken in evaluation mode, with the running statistics of the network that learns."""
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    state = lived(RWalk(body, Fit(steps=10, batch=N), alpha=1.0), TASKS[:1])[0]
    own = diagonal(body, state.model, TASKS[0].examples, "empirical", 0)
    for name, kept in state.fisher.items():
        torch.testing.assert_close(kept, own[name], rtol=1e-4, atol=1e-8)


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    method = RWalk(nn.Linear(4, 2), Fit("sgd", lr=1e-2, steps=50, batch=N, compete="task"), lam=10.0)
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    assert [len(state.score["weight"]) for state in (one, two)] == [2, 4]
    assert torch.equal(two.score["weight"][:2], one.score["weight"] / 2)  # its logits did not compete
    plain, _ = Finetune(nn.Linear(4, 2), method.fit).learn(one.model, task(1, (2, 3)), 1)
    free, _ = method.learn(one, task(1, (2, 3)), 1)
    assert torch.equal(free.model.params["weight"], plain.params["weight"])


def test_its_memory_is_constant_and_three_networks() -> None:
    states = lived(RWalk(net(), Fit(steps=5)), TASKS)
    assert len({tree.nbytes(state) for state in states}) == 1
    parts = tree.components(states[0])
    assert parts["fisher"] == parts["score"] == sum(param.nbytes for param in states[0].model.params.values())
    assert parts.keys() == {"model", "fisher", "score"}


def test_it_remembers_what_finetune_forgets() -> None:
    hits = on_permuted_digits(RWalk)
    assert hits[0] > 0.8  # finetune is below 0.5 there
    assert hits.mean() > 0.77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"interval": 0}, "interval is 0; use at least 1 step"),
        ({"alpha": 1.1}, "alpha is 1.1; it is the share of the newest batch, from 0 to 1"),
        ({"alpha": float("nan")}, "alpha is nan; it is the share of the newest batch"),
        ({"eps": 0.0}, "eps is 0.0; a damping is finite and positive"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        RWalk(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert RWalk.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
