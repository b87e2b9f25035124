"""Facts about SCP: its importance is how far the mean answer of a batch moves, in all directions, with each weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalised import N, lived, net, on_permuted_digits, slope, task
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.scp import SCP, SCPState
from perdure.model import Model, start
from perdure.ops.sensitivity import chosen
from perdure.rng import fold, normal, permutation

C = 3
TASKS = [task(number) for number in range(4)]
STILL = Fit("sgd", lr=0.0, steps=1)  # what is learned does not depend on the task


def mean_answer(params: dict[str, Tensor], x: Tensor) -> Tensor:
    said: Tensor = functional_call(net().double(), params, (x.double(),))
    return said.mean(0)


def jacobian(model: Model, x: Tensor) -> Tensor:
    """(C, P) of the mean answer to a batch."""
    leaves = {name: param.double().requires_grad_() for name, param in model.params.items()}
    rows = [torch.autograd.grad(mean_answer(leaves, x)[c], list(leaves.values())) for c in range(C)]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def kept(model: Model, key: int = 0, **options: Any) -> Tensor:
    """(P,) the importance of the first task at a model."""
    state = SCP(net(), STILL, **options).learn(SCPState(model, {}), TASKS[0], key)[0]
    return torch.cat([part.flatten() for part in state.importance.values()]).double()


def drawn() -> Model:
    return start(net(), STILL, 5)


@pytest.mark.parametrize("size", [1, 7, N, 1000])
def test_exact_it_is_the_mean_over_batches_of_a_backward_pass_for_each_logit(size: int) -> None:
    order = chosen(TASKS[0].examples, N, fold(3, "gamma"))
    batches = TASKS[0].examples.x[order].split(size)
    whole = sum(len(x) / N / C * jacobian(drawn(), x).square().sum(0) for x in batches)
    torch.testing.assert_close(kept(drawn(), key=3, size=size), torch.as_tensor(whole), rtol=1e-5, atol=1e-8)


def test_over_tasks_it_is_a_sum() -> None:
    method = SCP(net(), Fit(steps=20), lam=3.0, size=N)
    states = lived(method, TASKS)
    own = [jacobian(s.model, each.examples.x).square().mean(0) for s, each in zip(states, TASKS, strict=True)]
    flat = torch.cat([part.flatten() for part in states[-1].importance.values()])
    torch.testing.assert_close(flat.double(), torch.stack(own).sum(0), rtol=1e-5, atol=1e-7)


def test_slices_approach_it_as_one_over_the_root_of_their_number() -> None:
    exact = kept(drawn(), size=N)

    def error(slices: int) -> float:
        runs = [kept(drawn(), key, size=N, slices=slices) - exact for key in range(40)]
        return float(torch.stack(runs).square().mean().sqrt())

    assert error(4) / error(64) == pytest.approx(4, rel=0.2)
    many = kept(drawn(), size=N, slices=4000)
    assert float(many.sum()) == pytest.approx(float(exact.sum()), rel=0.05)


def test_the_exact_one_has_no_variance() -> None:
    one, other = (kept(drawn(), key, size=N) for key in (1, 2))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    assert float((kept(drawn(), 1, size=N, slices=10) - kept(drawn(), 2, size=N, slices=10)).abs().max()) > 1e-2


def test_slices_averaged_before_the_square_are_too_small() -> None:
    """The common mistake: one backward pass of the mean of L slices gives 1 / L of it."""
    slices, J = 50, jacobian(drawn(), TASKS[0].examples.x)
    xi = normal(8, 400 * slices * C).view(400, slices, C)
    wrong = ((xi / xi.norm(dim=2, keepdim=True)).mean(1) @ J).square().mean(0)
    assert float(wrong.sum() / kept(drawn(), size=N).sum()) == pytest.approx(1 / slices, rel=0.15)


def test_it_is_how_far_the_mean_answer_moves() -> None:
    """By central differences along every single parameter."""
    model = drawn()
    double, place = {name: param.double() for name, param in model.params.items()}, 0
    found = kept(model, size=N)
    for name, param in double.items():
        for index in range(param.numel()):
            ends = []
            for step in (1e-4, -1e-4):
                moved = {**double, name: param.clone()}
                moved[name].view(-1)[index] += step
                ends.append(mean_answer(moved, TASKS[0].examples.x))
            far = float((ends[0] - ends[1]).square().sum()) / (2e-4) ** 2 / C
            assert float(found[place]) == pytest.approx(far, rel=1e-3, abs=1e-7)
            place += 1


def test_closed_form_of_a_linear_network() -> None:
    state = lived(SCP(nn.Linear(4, C), Fit(steps=5), size=N), TASKS[:1])[0]
    mean = TASKS[0].examples.x.mean(0)
    torch.testing.assert_close(state.importance["weight"], mean.square().expand(C, 4) / C)
    torch.testing.assert_close(state.importance["bias"], torch.full((C,), 1 / C))


def test_a_limit_takes_so_many_examples() -> None:
    each = [jacobian(drawn(), x[None]).square().mean(0) for x in TASKS[0].examples.x]
    one = kept(drawn(), gamma_examples=1)
    assert any(torch.allclose(one, own, rtol=1e-4, atol=1e-7) for own in each)


@pytest.mark.parametrize("slices", [None, 5])
def test_labels_do_not_enter(slices: int | None) -> None:
    method = SCP(net(), STILL, slices=slices)
    wrong = Task(Arrays(TASKS[0].examples.x, TASKS[0].examples.labels[permutation(3, N)]), TASKS[0].id)
    (true, first), (other, second) = (method.learn(SCPState(drawn(), {}), each, 0) for each in (TASKS[0], wrong))
    assert not torch.equal(first.loss, second.loss)
    assert tree.equal(true, other)


def test_two_steps_follow_the_written_objective() -> None:
    """loss = L + lam sum Gamma (theta - theta_{t-1})^2, without a half."""
    states = lived(SCP(net(), Fit(steps=30, lr=1e-2), lam=20.0), TASKS[:3])
    before, Gamma = states[-1].model.params, states[-1].importance
    method = SCP(net(), Fit("sgd", lr=0.05, steps=2, batch=N), lam=20.0)
    after = method.learn(states[-1], TASKS[3], 0)[0].model.params
    examples, theta = TASKS[3].examples, {name: param.double() for name, param in before.items()}
    for _ in range(2):
        leaves = {name: param.clone().requires_grad_() for name, param in theta.items()}
        logits = functional_call(net().double(), leaves, (examples.x.double(),))
        loss = F.cross_entropy(logits, examples.labels)
        for name, leaf in leaves.items():
            loss = loss + 20.0 * (Gamma[name] * (leaf - before[name]) ** 2).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        theta = {name: theta[name] - 0.05 * grad for name, grad in zip(leaves, grads, strict=True)}
    for name, param in after.items():
        torch.testing.assert_close(param.double(), theta[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"lam": 100.0}, {"lam": 0.0}])
def test_the_first_task_has_no_penalty(options: dict[str, float]) -> None:
    fit = Fit(steps=20)
    state = SCP(net(), fit, **options).learn(SCP(net(), fit).init(5), task(0), 3)[0]
    model, _ = Finetune(net(), fit).learn(Finetune(net(), fit).init(5), task(0), 3)
    assert tree.equal(state.model, model)
    assert bool(state.importance) == bool(options["lam"])


def test_a_great_strength_freezes() -> None:
    """At rest 2 lam Gamma (theta - anchor) = -dL/dtheta; ten times the strength, a tenth of the way."""
    moved = {}
    for lam in (1e2, 1e3):
        method = SCP(net(), Fit("sgd", lr=0.25 / lam, steps=400, batch=N), lam=lam)
        model = method.init(5).model
        ones = {name: torch.ones_like(param) for name, param in model.params.items()}
        after = method.learn(SCPState(model, ones), task(0), 0)[0].model.params
        for name, grad in slope(after, 0).items():
            torch.testing.assert_close(
                2 * lam * (after[name] - model.params[name]), -grad, rtol=0, atol=4e-7 * lam + 1e-5
            )
        moved[lam] = max(float((after[name] - param).abs().max()) for name, param in model.params.items())
    assert moved[1e2] / moved[1e3] == pytest.approx(10, rel=0.1)


def test_only_the_logits_that_competed_are_held() -> None:
    method = SCP(nn.Linear(4, 4), Fit(steps=10, compete="task"))
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    assert one.importance["weight"].any(1).tolist() == [True, True, False, False]
    assert torch.equal(two.importance["weight"][:2], one.importance["weight"][:2])
    assert two.importance["weight"][2:].any(1).all()


def test_its_memory_is_constant_and_two_networks() -> None:
    states = lived(SCP(net(), Fit(steps=5)), TASKS)
    assert len({tree.nbytes(state) for state in states}) == 1
    parts = tree.components(states[0])
    assert parts["importance"] == sum(param.nbytes for param in states[0].model.params.values())
    assert parts.keys() == {"model", "importance"}


def test_it_remembers_what_finetune_forgets() -> None:
    hits = on_permuted_digits(SCP)
    assert hits[0] > 0.85  # finetune is below 0.5 there
    assert hits.mean() > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "lam is -1.0; a strength is finite and not negative"),
        ({"slices": 0}, "slices is 0; use at least 1, or none for all directions at once"),
        ({"size": 0}, "size is 0; use at least 1"),
        ({"gamma_examples": -2}, "gamma_examples is -2; use at least 1, or none for all examples"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        SCP(net(), **options)


def test_it_needs_to_know_where_a_task_ends() -> None:
    assert SCP.scenarios == {Scenario.GG, Scenario.GNS, Scenario.GNU}
