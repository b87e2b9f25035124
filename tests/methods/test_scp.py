"""Facts about SCP: its importance is how far the mean answer of a batch moves, in all directions, with each weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penalised import N, lived, net, task
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Task
from perdure.data import Arrays
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "method.lam is -1.0; it must be finite and not negative"),
        ({"slices": 0}, "method.slices is 0; it must be at least 1"),
        ({"size": 0}, "method.size is 0; it must be at least 1"),
        ({"gamma_examples": -2}, "method.gamma_examples is -2; use at least 1, or leave it out"),
    ],
)
def test_it_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        SCP(net(), **options)
