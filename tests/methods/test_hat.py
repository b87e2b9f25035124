"""HAT: gradients against autograd, what is protected against loops, and what never changes."""

from dataclasses import replace
from itertools import pairwise
from math import cosh

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from perdure import tree
from perdure.contract import Fit, Refused, Task, TaskId
from perdure.data import Arrays
from perdure.methods.hat import HAT, Attended, annealed, bind, gate_gradient, protected, scale_
from perdure.model import own_head
from perdure.nets import build
from perdure.ops.chain import Link, chain
from perdure.ops.codec import unpack
from perdure.rng import fold, normal, permutation, uniform

FIT = Fit(steps=30, batch=20, lr=0.02)


def _net(rows: int = 2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, rows))
        )


def _conv() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*features, nn.BatchNorm1d(12), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))


def _task(number: int, n: int = 60) -> Task:
    classes = torch.tensor([2 * number, 2 * number + 1])
    y = permutation(fold(1, number), n) % 2
    centres = 2 * normal(fold(2, number), 12).view(2, 6)
    x = centres[y] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), classes[y]), TaskId(number, classes))


def _learn(method: HAT, *tasks: Task) -> list[Attended]:
    states = [method.init(7)]
    for place, task in enumerate(tasks):
        states.append(method.learn(states[-1], task, fold(7, place))[0])
    return states


def _links(net: nn.Sequential) -> list[Link]:
    return chain(net, str(len(net) - 1), "")


def _gated(net: nn.Module, params: dict[str, Tensor], links: list[Link], a: Tensor, x: Tensor) -> Tensor:
    """The logits with h <- a h before each layer that reads hidden units."""
    gates = a.split([link.units for link in links[:-1]])
    handles = []
    for link, gate in zip(links[1:], gates, strict=True):

        def pre(layer: nn.Module, inputs: tuple[Tensor], gate: Tensor = gate) -> tuple[Tensor]:
            wide = gate.repeat_interleave(inputs[0].shape[1] // len(gate))
            return (inputs[0] * wide.view(1, -1, *[1] * (inputs[0].ndim - 2)),)

        handles.append(link.layer.register_forward_pre_hook(pre))
    try:
        out: Tensor = functional_call(net, params, (x,))
        return out
    finally:
        for handle in handles:
            handle.remove()


NETS = {"mlp": (_net, (4, 6)), "conv": (_conv, (4, 1, 4, 4))}


@pytest.mark.parametrize("kind", NETS)
def test_gradients_of_weights_and_gates_are_those_of_autograd(kind: str) -> None:
    made, shape = NETS[kind]
    net = made().double().eval()
    links = _links(net)
    params = {name: p.detach() for name, p in net.named_parameters()}
    a = uniform(3, sum(link.units for link in links[:-1]))
    x, y = normal(4, torch.Size(shape).numel()).view(shape), torch.tensor([0, 1, 1, 0])
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    gate = a.clone().requires_grad_()
    names = [link.weight for link in links]
    loss = cross_entropy(_gated(net, leaves, links, gate, x), y)
    *weights, felt = torch.autograd.grad(loss, [*(leaves[name] for name in names), gate])

    bound = tree.transform(params, torch.clone)
    scale_(links, bound, a)
    bound = {name: p.requires_grad_() for name, p in bound.items()}
    loss = cross_entropy(functional_call(net, bound, (x,)), y)
    grads = dict(zip(names, torch.autograd.grad(loss, [bound[name] for name in names]), strict=True))
    assert torch.allclose(gate_gradient(links, grads, params), felt, rtol=1e-10, atol=1e-12)
    assert (felt != 0).sum() > len(felt) / 2  # a ReLU may be dead
    scale_(links, grads, a)
    for name, expected in zip(names, weights, strict=True):
        assert torch.allclose(grads[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", NETS)
def test_bind_is_the_gated_network(kind: str) -> None:
    made, shape = NETS[kind]
    net = made().double().eval()
    links = _links(net)
    params = {name: p.detach() for name, p in net.named_parameters()}
    x = normal(4, torch.Size(shape).numel()).view(shape)
    soft = uniform(3, sum(link.units for link in links[:-1]))
    for a in (soft, (soft > 0.4).double()):
        out = functional_call(net, bind(links, params, a), (x,))
        assert torch.allclose(out, _gated(net, params, links, a, x), rtol=1e-12, atol=1e-14)
    first, gate = bind(links, params, a)[links[0].weight], a[: links[0].units]
    assert not first[gate == 0].any()  # rows of units that are off


@pytest.mark.parametrize("kind", NETS)
def test_what_is_protected_equals_a_loop_over_weights(kind: str) -> None:
    net = NETS[kind][0]()
    links = _links(net)
    params = dict(net.named_parameters())
    a = uniform(3, sum(link.units for link in links[:-1]))
    held = protected(links, params, a)
    assert set(held) == {name for name in params if not name.startswith(links[-1].name + ".")}
    gates = a.split([link.units for link in links[:-1]])
    for place, (link, gate) in enumerate(zip(links[:-1], gates, strict=True)):
        rows, columns = params[link.weight].shape[:2]
        for i in range(rows):
            for j in range(columns):
                before = float(gates[place - 1][j * len(gates[place - 1]) // columns]) if place else 1.0
                assert (held[link.weight][i, j] == min(float(gate[i]), before)).all()
        for name in link.vectors:
            k = len(params[name]) // rows
            assert held[name].tolist() == [float(gate[i // k]) for i in range(len(params[name]))]


def test_s_rises_from_1_over_s_max_to_s_max_in_every_epoch() -> None:
    seen = [annealed(step, 10, 5, 400.0) for step in range(10)]
    expected = [1 / 400 + (400 - 1 / 400) * b / 4 for b in range(5)]
    assert seen == pytest.approx(2 * expected)
    stretched = [annealed(step, 13, 5, 400.0) for step in range(13)]  # 2.6 epochs: three, the last of which is whole
    assert [place for place, s in enumerate(stretched) if s == 400.0] == [4, 8, 12]
    assert [place for place, s in enumerate(stretched) if s == 1 / 400] == [0, 5, 9]
    assert [annealed(step, 3, 1, 400.0) for step in range(3)] == [400.0] * 3
    assert annealed(0, 3, 50, 400.0) == 1 / 400


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_of_sgd_is_that_of_the_paper(decay: float) -> None:
    """The whole objective by autograd, the factor on dL/de and on dL/dw written out as in the paper."""
    s_max, lr, c = 3.0, 0.1, 0.75
    fit = Fit(optimizer="sgd", lr=lr, steps=1, batch=60, weight_decay=decay)
    net = _net()
    net[1] = nn.Identity()  # batch statistics would be those of the step
    method = HAT(net, fit, s_max=s_max, c=c, gates="soft")
    one, two = _learn(method, _task(0), _task(1))[1:]
    links, used = method._links(), method.used(one)
    params = own_head(net, fit, one.model, _task(1)).params
    e = normal(fold(fold(7, 1), "gates"), len(used)).float()
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()} | {"e": e.clone().requires_grad_()}
    x, y, _ = _task(1).examples.take(torch.arange(60))
    a = (s_max * leaves["e"]).sigmoid()
    loss = cross_entropy(_gated(net, leaves, links, a, x), y - 2) + c * (a * (1 - used)).sum() / (1 - used).sum()
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    factor = torch.tensor([s_max * (cosh(s_max * v) + 1) / (s_max * (cosh(v) + 1)) for v in e.tolist()])
    after = e - lr * (grads["e"] * factor + decay * e)
    assert torch.allclose(two.tasks[1].gates, (s_max * after).sigmoid(), atol=1e-6)
    for name, held in protected(links, params, used).items():
        moved = params[name] - lr * (grads[name] * (1 - held) + decay * params[name])
        assert torch.allclose(two.model.params[name], moved, atol=1e-6)


def test_the_factor_times_the_slope_of_the_gate_is_s_max_sigma_prime() -> None:
    e = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for s in (1 / 400, 0.5, 3.0, 8.0):  # |s e| <= 50: nothing is clamped
        a = (s * e).sigmoid()
        paper = s * a * (-s * e).sigmoid() * 400 * (torch.cosh(s * e) + 1) / (s * (torch.cosh(e) + 1))
        ours = 400 * e.sigmoid() * (1 - e.sigmoid())
        assert torch.allclose(paper, ours, rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_tasks_use_keeps_its_bits_and_the_rest_moves(optimizer: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    fit = replace(FIT, optimizer=optimizer, momentum=momentum, weight_decay=0.1, moments="kept")  # type: ignore[arg-type]
    method = HAT(_net(), fit)
    states = _learn(method, _task(0), _task(1), _task(2))
    for before, after in pairwise(states):
        for name, held in protected(method._links(), before.model.params, method.used(before)).items():
            assert set(held.unique().tolist()) <= {0.0, 1.0}
            was, now = before.model.params[name], after.model.params[name]
            assert torch.equal(was[held == 1].view(torch.int32), now[held == 1].view(torch.int32))
            assert (was[held == 0] != now[held == 0]).all()
    for number in range(3):
        x = _task(number).examples.take(torch.arange(60)).x
        then, now = (method.predict(method.ready(states[at]), x, _task(number).id) for at in (number + 1, 3))
        assert tree.equal(then, now)
        assert tree.equal(*(method.ready(states[at]).tasks[number].params for at in (number + 1, 3)))


@pytest.mark.parametrize("by", ["fit", "net"])
def test_gates_learn_from_weights_that_are_frozen_and_these_keep_their_bits(by: str) -> None:
    net, fit, still = _net(), Fit(steps=1, batch=20, optimizer="sgd", lr=0.1), ("3.weight", "3.bias")
    (_, moved), task = _learn(HAT(_net(), fit, gates="soft"), _task(0)), _task(0)
    if by == "net":
        for name, param in net.named_parameters():
            param.requires_grad_(name not in still)
    else:
        fit = replace(fit, freeze="3.*")
    method = HAT(net, fit, gates="soft")
    begun, state = _learn(method, task)
    assert torch.equal(state.tasks[0].gates, moved.tasks[0].gates)
    kept = {name for name, w in state.model.params.items() if torch.equal(w, begun.model.params[name])}
    assert kept.issuperset(still)
    assert "0.weight" not in kept
    assert not any(torch.equal(moved.model.params[name], begun.model.params[name]) for name in still)


def test_use_adds_up_and_freedom_shrinks() -> None:
    method = HAT(_net(), FIT)
    states = _learn(method, _task(0), _task(1), _task(2))
    gates = [unpack(own.gates, 18) for own in states[-1].tasks]
    assert not torch.equal(gates[0], gates[1])
    for t in range(4):
        used = torch.stack([torch.zeros(18, dtype=torch.bool), *gates[:t]]).any(0)
        assert torch.equal(method.used(states[t]), used.float())
        first, second = int(used[:10].sum()), int(used[10:].sum())
        held = 6 * first + 3 * first + first * second + second  # weights, vectors, weights, bias
        assert method.free(states[t]) == pytest.approx(1 - held / (60 + 30 + 80 + 8), abs=1e-6)


def test_units_that_only_a_forgotten_task_used_are_free_again() -> None:
    method = HAT(_net(), FIT)
    state = _learn(method, _task(0), _task(1), _task(2))[-1]
    left = method.forget(state, 1)
    gates = [unpack(own.gates, 18) for own in state.tasks]
    assert torch.equal(method.used(left), (gates[0] | gates[2]).float())
    assert tree.equal(left, Attended(state.model, (state.tasks[0], state.tasks[2])))
    again = method.learn(state, _task(1), 8)[0]
    assert tree.equal(again, method.learn(left, _task(1), 8)[0])  # as if it had been forgotten first


def test_a_strong_pull_uses_fewer_units() -> None:
    used = [float(HAT(_net(), FIT).used(_learn(HAT(_net(), FIT, c=c), _task(0))[1]).sum()) for c in (0.0, 30.0)]
    assert used[1] < used[0]


def test_a_task_costs_a_bit_a_unit_its_head_and_statistics() -> None:
    sizes = {}
    for gates in ("hard", "soft"):
        states = _learn(HAT(_net(), FIT, gates=gates), _task(0), _task(1))  # type: ignore[arg-type]
        sizes[gates] = tree.nbytes(states[2]) - tree.nbytes(states[1])
    others = 4 * (2 * 8 + 2) + (4 * 20 + 8) + 8 * 2  # head, statistics, labels
    assert sizes == {"hard": others + 3, "soft": others + 4 * 18}


def test_hard_gates_are_the_embeddings_above_0() -> None:
    hard, soft = (_learn(HAT(_net(), FIT, gates=gates), _task(0))[1].tasks[0].gates for gates in ("hard", "soft"))  # type: ignore[arg-type]
    assert torch.equal(unpack(hard, 18), soft > 0.5)


def test_tasks_are_learned_and_the_surest_answers_without_an_id() -> None:
    method = HAT(build("mlp:40-40", (6,), 0), replace(FIT, steps=200))
    ready = method.ready(_learn(method, _task(0), _task(1), _task(2))[-1])
    for number in range(3):
        x, y, _ = _task(number).examples.take(torch.arange(60))
        own = [method.predict(ready, x, _task(task).id) for task in range(3)]
        assert (own[number].labels[own[number].logits.argmax(1)] == y).float().mean() > 0.95
        surest = [torch.distributions.Categorical(logits=answer.logits.double()).entropy() for answer in own]
        inferred = method.predict(ready, x)
        assert inferred.task is not None
        assert torch.equal(inferred.task, torch.stack(surest).argmin(0))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layer(x)
        return out


SHARED = nn.Linear(6, 6)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(_Residual(), nn.Linear(6, 2)), r"0 \(_Residual\) is no link of a chain: only Linear"),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)), r"1 \(LayerNorm\) is no link of a chain"),
        (nn.Sequential(nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 2)), r"1 \(Softmax\) is no link of a chain"),
        (
            nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.Linear(4, 2)),
            r"0 \(BatchNorm1d\) is no link of a chain",
        ),
        (nn.Sequential(nn.Linear(6, 4), nn.Linear(6, 2)), "does not read the 4 units of 0"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Linear(4, 2)), r"0 \(Conv2d\) is no link of a chain"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED, nn.Linear(6, 2)), "it is used twice"),
        (nn.Linear(6, 2), "this net has none; add a layer below the head"),
    ],
)
def test_nets_that_are_no_chain_are_refused_by_name(net: nn.Module, message: str) -> None:
    with pytest.raises(Refused, match=message):
        HAT(net, FIT).init(0)


@pytest.mark.parametrize("options", [{"s_max": 0.5}, {"c": -1.0}, {"gates": "firm"}, {"s_max": float("inf")}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(Refused, match=f"method.{name} is {value!r}; "):
        HAT(_net(), FIT, **options)  # type: ignore[arg-type]
