"""Facts about l-MAS: its importance is Hebb's product of activations, which is MAS of each layer of ReLUs alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from penalised import N, lived, task
from torch import Tensor, nn

from perdure.contract import Fit, Task
from perdure.methods.l_mas import LMAS, LMASState
from perdure.methods.mas import MAS, MASState
from perdure.model import Model, start
from perdure.rng import normal

TASKS = [task(number) for number in range(4)]
STILL = Fit("sgd", lr=0.0, steps=1)  # what is learned does not depend on the task


def relus(rows: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, rows))


def importance(body: nn.Module, model: Model, some: Task, **options: Any) -> dict[str, Tensor]:
    """What l-MAS adds for a task, at a model that stays as it is."""
    kept: dict[str, Tensor] = LMAS(body, STILL, **options).learn(LMASState(model, {}), some, 0)[0].importance
    return kept


def hebb(model: Model, x: Tensor) -> dict[str, Tensor]:
    """1/N sum_n |y_i y_j| of `relus`, an example and a pair of neurons at a time."""
    total = {name: torch.zeros_like(param).double() for name, param in model.params.items()}
    for y in x.double():
        for place in (0, 2, 4):
            weight, bias = f"{place}.weight", f"{place}.bias"
            out = model.params[weight].double() @ y + model.params[bias].double()
            out = out.clamp(min=0) if place < 4 else out
            for j in range(len(out)):
                for i in range(len(y)):
                    total[weight][j, i] += abs(float(y[i] * out[j])) / len(x)
                total[bias][j] += abs(float(out[j])) / len(x)
            y = out
    return total


def alone(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The mean over examples of |d |layer(x)|^2 / d theta|, an example at a time by autograd."""
    leaves = dict(layer.named_parameters())
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for one in x:
        grads = torch.autograd.grad(layer(one[None]).square().sum(), list(leaves.values()))
        for name, grad in zip(leaves, grads, strict=True):
            total[name] += grad.abs() / len(x)
    return total


def test_it_is_the_product_of_activations() -> None:
    method = LMAS(relus(), Fit(steps=20), lam=3.0)
    (state,) = lived(method, TASKS[:1])
    for name, whole in hebb(state.model, TASKS[0].examples.x).items():
        torch.testing.assert_close(state.importance[name].double(), whole, rtol=1e-5, atol=1e-6)


def test_twice_it_is_the_gradient_of_the_squared_norm_of_each_layer_alone() -> None:
    """The paper's statement for layers of ReLUs; by autograd, each layer on a detached input."""
    body = relus()
    model = start(body, STILL, 5)
    body.load_state_dict(model.params)
    kept, y = importance(body, model, TASKS[0]), TASKS[0].examples.x
    for place, layer in ((0, body[:2]), (2, body[2:4]), (4, body[4:])):  # type: ignore[index]
        for name, grads in zip(("weight", "bias"), alone(layer, y).values(), strict=True):
            torch.testing.assert_close(2 * kept[f"{place}.{name}"], grads)
        y = layer(y).detach()


def test_a_network_of_one_layer_is_its_own_local_version() -> None:
    """There it is half of what MAS has; in deeper ones it is something else."""
    for body, same in ((nn.Linear(4, 3), True), (relus(), False)):
        model = start(body, STILL, 5)
        whole = MAS(body, STILL).learn(MASState(model, {}), TASKS[0], 0)[0].importance
        for name, part in importance(body, model, TASKS[0]).items():
            last = name in ("4.weight", "4.bias")
            assert torch.allclose(2 * part, whole[name], rtol=1e-4) == (same or last)


def test_a_layer_does_not_know_what_comes_after_it() -> None:
    model = start(relus(), STILL, 5)
    other = model._replace(
        params={name: 3 * param if name[0] == "4" else param for name, param in model.params.items()}
    )
    one, two = (importance(relus(), at, TASKS[0]) for at in (model, other))
    assert all(torch.equal(one[name], two[name]) == (name[0] != "4") for name in one)


def test_weights_of_neurons_that_are_never_active_together_are_free() -> None:
    model = start(relus(), STILL, 5)
    model.params["0.bias"][2] = -1e3  # silent
    kept = importance(relus(), model, TASKS[0])
    assert not kept["0.weight"][2].any()
    assert not kept["0.bias"][2]
    assert not kept["2.weight"][:, 2].any()
    assert kept["2.weight"].any()


class Skip(nn.Module):
    """A layer beside another, and both given the same."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.one, self.other, self.head = (nn.Linear(4, n) for n in (4, 4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x).tanh()
        return self.head(F.relu(self.one(y) + self.other(y)))  # type: ignore[no-any-return]


def test_other_layers_hand_on_what_the_next_is_given() -> None:
    """Batch norm, convolutions and pooling, and a layer whose outputs go two ways, which counts them once."""
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 2, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    x, skip = TASKS[0].examples.x, Skip()
    chains = {conv: {"1": conv[:3], "3": conv[3:6], "6": conv[6:]}}
    for body, blocks in chains.items():
        model = start(body, STILL, 5)
        body.load_state_dict(model.params | model.stats)
        kept, y = importance(body, model, TASKS[0]), x
        body.eval()
        model = LMAS(body, STILL).learn(LMASState(model, {}), TASKS[0], 0)[0].model  # its batch statistics
        body.load_state_dict(model.params | model.stats)
        for place, block in blocks.items():
            for name, grads in zip(("weight", "bias"), alone(block, y).values(), strict=True):
                torch.testing.assert_close(2 * kept[f"{place}.{name}"], grads, rtol=1e-4, atol=1e-5)
            y = block(y).detach()
    model = start(skip, STILL, 5)
    skip.load_state_dict(model.params)
    kept = importance(skip, model, TASKS[0])
    y = skip.into(x).tanh().detach()
    grads = alone(nn.Sequential(skip.into, nn.Tanh()), x)
    torch.testing.assert_close(2 * kept["into.weight"], grads["0.weight"])
    handed = F.relu(skip.one(y) + skip.other(y)).detach()
    for name in ("one", "other"):
        torch.testing.assert_close(kept[f"{name}.weight"], handed.T @ y.abs() / N)


def test_over_tasks_it_is_a_sum() -> None:
    states = lived(LMAS(relus(), Fit(steps=20), lam=3.0), TASKS)
    own = [hebb(state.model, each.examples.x) for state, each in zip(states, TASKS, strict=True)]
    for name, kept in states[-1].importance.items():
        whole = torch.stack([each[name] for each in own]).sum(0)
        torch.testing.assert_close(kept.double(), whole, rtol=1e-5, atol=1e-6)


def test_a_limit_takes_so_many_examples() -> None:
    model, x = start(relus(), STILL, 5), TASKS[0].examples.x
    one = importance(relus(), model, TASKS[0], omega_examples=1)["2.bias"]
    each = [hebb(model, alone[None])["2.bias"].float() for alone in x]
    assert any(torch.allclose(one, own) for own in each)
    assert not torch.allclose(one, torch.stack(each).mean(0))


def test_rows_grown_later_are_held_by_later_tasks_only() -> None:
    tasks = [task(0, (0, 1)), task(1, (2, 3))]
    one, two = lived(LMAS(relus(2), Fit(steps=30, compete="seen")), tasks)
    own = hebb(two.model, tasks[1].examples.x)
    assert [len(state.importance["4.weight"]) for state in (one, two)] == [2, 4]
    torch.testing.assert_close(two.importance["4.weight"][2:].double(), own["4.weight"][2:])
    torch.testing.assert_close(
        two.importance["4.bias"][:2].double(), one.importance["4.bias"].double() + own["4.bias"][:2]
    )


def test_the_users_module_keeps_no_hook() -> None:
    body = relus()
    x = normal(9, 20).view(5, 4).float()
    before = body(x)
    lived(LMAS(body, Fit(steps=5)), TASKS[:2])
    assert not any(layer._forward_pre_hooks for layer in body.modules())
    assert torch.equal(body(x), before)
