"""Facts about MAS: its importance is the mean |gradient| of single examples' squared outputs, whatever their labels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from penalised import N, lived, net, task
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Fit, Task
from perdure.data import Arrays
from perdure.methods.mas import MAS, MASState
from perdure.model import Model, start

TASKS = [task(number) for number in range(4)]
STILL = Fit("sgd", lr=0.0, steps=1)  # what is learned does not depend on the task


def squared_norm(body: nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    said: Tensor = functional_call(body.double(), params, (x.double(),))
    return said.square().sum()


def written(body: nn.Module, model: Model, examples: Arrays) -> dict[str, Tensor]:
    """Omega of one task, an example at a time in float64."""
    leaves = {name: param.double().requires_grad_() for name, param in model.params.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for x in examples.x:
        grads = torch.autograd.grad(squared_norm(body, leaves, x[None]), list(leaves.values()))
        for name, grad in zip(leaves, grads, strict=True):
            total[name] += grad.abs() / len(examples)
    return total


def test_the_importance_is_the_sum_over_tasks_of_the_loop_over_examples() -> None:
    states = lived(MAS(net(), Fit(steps=20), lam=3.0), TASKS)
    own = [written(net(), state.model, each.examples) for state, each in zip(states, TASKS, strict=True)]
    for name, kept in states[-1].importance.items():
        whole = torch.stack([each[name] for each in own]).sum(0)
        torch.testing.assert_close(kept.double(), whole, rtol=1e-5, atol=1e-6)


def test_it_is_the_slope_of_the_squared_norm() -> None:
    """By central differences along every single parameter, for one example."""
    one = Arrays(TASKS[0].examples.x[:1], TASKS[0].examples.labels[:1])
    state = MAS(net(), STILL).learn(MAS(net()).init(5), Task(one, TASKS[0].id), 0)[0]
    double = {name: param.double() for name, param in state.model.params.items()}
    for name, kept in state.importance.items():
        for place in range(kept.numel()):
            ends = []
            for step in (1e-4, -1e-4):
                moved = {**double, name: double[name].clone()}
                moved[name].view(-1)[place] += step
                ends.append(float(squared_norm(net(), moved, one.x)))
            assert float(kept.view(-1)[place]) == pytest.approx(abs(ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-6)


def test_closed_form_of_a_linear_network() -> None:
    state = lived(MAS(nn.Linear(4, 3), Fit(steps=20)), TASKS[:1])[0]
    x = TASKS[0].examples.x
    f = F.linear(x, state.model.params["weight"], state.model.params["bias"])
    torch.testing.assert_close(state.importance["weight"], 2 * f.abs().T @ x.abs() / N)
    torch.testing.assert_close(state.importance["bias"], 2 * f.abs().mean(0))


def test_opposite_answers_do_not_cancel() -> None:
    """The common mistake, the absolute value of a batch's gradient, would leave nothing for the bias here."""
    x = TASKS[0].examples.x
    both = Task(Arrays(torch.cat([x, -x]), TASKS[0].examples.labels.repeat(2)), TASKS[0].id)
    method = MAS(nn.Linear(4, 3), STILL)
    model = start(method.net, method.fit, 5)
    model.params["bias"].zero_()
    kept = method.learn(MASState(model, {}), both, 0)[0].importance
    assert float(F.linear(both.examples.x, model.params["weight"]).mean(0).abs().max()) < 1e-6
    torch.testing.assert_close(kept["bias"], 2 * F.linear(x, model.params["weight"]).abs().mean(0))


def test_a_limit_takes_so_many_examples() -> None:
    model = start(net(), STILL, 5)
    x, y = TASKS[0].examples.x, TASKS[0].examples.labels
    double = Task(Arrays(x.repeat(2, 1), y.repeat(2)), TASKS[0].id)
    one, whole, twice = (
        MAS(net(), STILL, omega_examples=limit).learn(MASState(model, {}), some, 0)[0].importance["2.bias"]
        for limit, some in ((1, TASKS[0]), (None, TASKS[0]), (None, double))
    )
    each = [written(net(), model, Arrays(alone[None], y[:1]))["2.bias"].float() for alone in x]
    assert any(torch.allclose(one, own) for own in each)
    torch.testing.assert_close(whole, torch.stack(each).mean(0))
    torch.testing.assert_close(twice, whole)


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    method = MAS(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), Fit(steps=30, compete="seen"))
    one, two = lived(method, [task(0, (0, 1)), task(1, (2, 3))])
    own = written(net_of(4), two.model, task(1, (2, 3)).examples)
    assert [len(state.importance["2.weight"]) for state in (one, two)] == [2, 4]
    torch.testing.assert_close(two.importance["2.weight"][2:].double(), own["2.weight"][2:])
    torch.testing.assert_close(
        two.importance["2.bias"][:2].double(), one.importance["2.bias"].double() + own["2.bias"][:2]
    )


def net_of(rows: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, rows))
