"""Facts about masks on top of one another: the gradient over them is autograd's, and searches find what loops find."""

from collections.abc import Callable
from copy import deepcopy
from math import ceil, log2

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Refused
from perdure.model import evaluation
from perdure.ops import superpose
from perdure.ops.codec import pack
from perdure.ops.infer import entropy
from perdure.ops.masks import constants, maskable
from perdure.ops.superpose import (
    FEW,
    SEARCHES,
    Objective,
    Stack,
    binary,
    bind,
    counted,
    gradients,
    one_shot,
    products,
    superposed,
    surplus,
    sweep,
    unpacked,
)
from perdure.rng import bits, fold, integers, normal, uniform
from perdure.tree import equal

Params = dict[str, Tensor]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 13), nn.ReLU(), nn.Linear(13, 7, bias=False))


def conv() -> nn.Module:
    """Groups, strides and padding, normalisation, an activation in place, and one layer that runs twice."""
    twice = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        twice,
        twice,
        nn.Flatten(),
        nn.Linear(24, 7),
    )


class Aside(networks.Spare):
    """An MLP that calls a layer and does not use what it says."""

    def forward(self, x: Tensor) -> Tensor:
        self.spare(torch.cat([x, x[:, :3]], 1))
        return super().forward(x)


class Steps(nn.Module):
    """A layer called on every step of every input at once: (B T, d), or the first step of all before the second."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned, self.inner, self.out = turned, nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.inner((x.transpose(0, 1) if self.turned else x).reshape(-1, 4)))
        steps = rows.view(3, -1, 5) if self.turned else rows.view(-1, 3, 5).transpose(0, 1)
        return self.out(torch.cummax(steps, 0).values.mean(0))


class Places(nn.Module):
    """A layer that never sees an input, only three fixed rows."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.out = nn.Linear(2, 4), nn.Linear(4, 3)
        self.register_buffer("rows", torch.linspace(-1, 1, 6).view(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x * self.code(self.rows).sum(0)))


class Functions(nn.Module):
    """No layer is called: their weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.inner.weight)), self.out.weight)


class Bytes(nn.Sequential):
    """An MLP of whole numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)


NETS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "conv": conv}
OBJECTIVES = {"entropy": entropy, "surplus": surplus(3)}
WIDE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {f"wide {kind}": (NETS[kind](), (2, 4, 4)) for kind in NETS}
LAYERED = {  # each masked weight meets each input in calls of one layer
    **WIDE,
    **{kind: networks.NETS[kind][:2] for kind in ("mlp", "linear", "dropout", "spare", "plain norm", "norm")},
    **{kind: networks.NETS[kind][:2] for kind in ("conv", "sequence", "twice")},
    "aside": (Aside(), (4,)),
    "steps": (Steps(turned=False), (3, 4)),
}
OTHER = {
    **{kind: networks.NETS[kind][:2] for kind in ("tied", "decoder", "coupled")},
    "turned": (Steps(turned=True), (3, 4)),
    "places": (Places(), (4,)),
    "functions": (Functions(), (4,)),
}


def inputs(n: int, shape: tuple[int, ...] = (2, 4, 4)) -> Tensor:
    return normal(7, n * torch.Size(shape).numel()).view(n, *shape).float()


def drawn(net: nn.Module, k: int, key: int = 0) -> tuple[Stack, list[Params]]:
    """k random masks over constants, with statistics of their own: packed, and as floats."""
    weights, masks, stats = constants(net, 1), [], []
    for place in range(k):
        masks.append(
            {
                name: (uniform(fold(key, place, name), weights[name].numel()) < 0.5).view(weights[name].shape)
                for name in maskable(net)
            }
        )
        noise = {
            name: normal(fold(key, place, name), buffer.numel()).view(buffer.shape).to(buffer)
            for name, buffer in net.named_buffers()
        }
        stats.append({name: part.abs() + 0.5 if "var" in name else part / 3 for name, part in noise.items()})
    packed = {name: torch.stack([pack(mask[name]) for mask in masks]) for name in masks[0]}
    counts = {name: counted(part, weights[name].shape) for name, part in packed.items()}
    floats = [{name: mask.float() for name, mask in own.items()} for own in masks]
    return Stack(weights, packed, counts, tuple(stats)), floats


def by_autograd(
    net: nn.Module, stack: Stack, masks: list[Params], x: Tensor, objective: Objective, places: list[int] | None = None
) -> Tensor:
    """(k,) the gradient of the mean objective by an explicit alpha, at 1/k."""
    places = list(range(len(masks))) if places is None else places
    alpha = torch.full((len(places),), 1 / len(places), requires_grad=True)
    mixed = {
        name: stack.weights[name] * sum(a * masks[place][name] for a, place in zip(alpha, places, strict=True))
        for name in stack.bits
    }
    stats = {
        name: torch.stack([stack.stats[place][name].double() for place in places]).mean(0).to(buffer.dtype)
        for name, buffer in net.named_buffers()
    }
    logits = functional_call(evaluation(net), {**stack.weights, **mixed, **stats}, (x,))
    return torch.autograd.grad(objective(logits).mean(), alpha)[0]


# ------------------------------------------------------------------------------------------------------ packed masks


@pytest.mark.parametrize("columns", [1, 64, 1 << 18])  # many tiles, few, one
def test_counts_and_products_are_those_of_a_loop(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superpose, "COLUMNS", columns)
    for k, shape in ((1, (3,)), (5, (7, 11)), (9, (4, 2, 3, 3)), (3, (8, 2))):
        size = torch.Size(shape)
        masks = (uniform(fold(2, k), k * size.numel()) < 0.4).view(k, *shape)
        packed = torch.stack([pack(mask) for mask in masks])
        vectors = normal(3, 4 * size.numel()).view(4, -1).float()
        assert counted(packed, size).tolist() == masks.long().sum(0).tolist()
        expected = [
            [sum(v for v, m in zip(row, mask, strict=True) if m) for mask in masks.flatten(1).tolist()]
            for row in vectors.tolist()
        ]
        torch.testing.assert_close(products(packed, vectors), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_unpacked_bits_are_those_that_were_packed() -> None:
    mask = (bits(4, 45) & 1).bool()
    packed = pack(mask)[None]
    assert unpacked(packed, 0, 6)[0, :45].tolist() == mask.tolist()
    assert unpacked(packed, 2, 4)[0].tolist() == mask[16:32].tolist()


@pytest.mark.parametrize("kind", NETS)
def test_a_mask_is_bound_and_all_are_superposed_as_in_a_loop(kind: str) -> None:
    net = NETS[kind]()
    stack, masks = drawn(net, 5)
    for place, own in enumerate(masks):
        expected = {name: w * own[name] if name in own else w for name, w in stack.weights.items()}
        assert list(bind(stack, place)) == list(stack.weights)
        assert all(torch.equal(w, expected[name]) for name, w in bind(stack, place).items())
    for name, w in superposed(stack).items():
        mean = sum(own[name] for own in masks) / 5 if name in masks[0] else torch.ones_like(w)
        torch.testing.assert_close(w, stack.weights[name] * mean)


# ----------------------------------------------------------------------------------------------------- the gradient g


def test_every_network_that_masks_cover_is_tried() -> None:
    assert set(networks.NETS) - set(LAYERED | OTHER) == {"recurrent", "attention"}
    for kind in ("recurrent", "attention"):
        with pytest.raises(Refused, match="does not cover"):
            maskable(networks.NETS[kind][0])


@pytest.mark.parametrize("objective", [entropy, surplus(2)], ids=["entropy", "surplus"])
@pytest.mark.parametrize("kind", LAYERED | OTHER)
@pytest.mark.parametrize(
    ("n", "pool"),
    [(1, 1), (FEW, 1), (FEW + 1, 1), (20, 1), (20, 20), (20, 8), (20, 2), (9, 100)],  # by weights; by inputs
)
def test_g_is_the_gradient_by_alpha(n: int, pool: int, kind: str, objective: Objective) -> None:
    net, shape = deepcopy((LAYERED | OTHER)[kind])
    x, (stack, masks) = inputs(n, shape), drawn(net, 6)
    got = gradients(net, stack, x, objective, pool)
    expected = [by_autograd(net, stack, masks, run, objective) for run in x.split(pool)]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-6)
    assert n == 1 or got.abs().max() > 0.001


@pytest.mark.parametrize("kind", LAYERED | OTHER)
def test_many_inputs_are_taken_at_once_where_layers_tell_them_apart(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = deepcopy((LAYERED | OTHER)[kind])
    x, (stack, _) = inputs(20, shape), drawn(net, 6)
    first, passes = gradients(net, stack, x, entropy), []

    def counting(*args: object) -> Tensor:
        passes.append(len(args[2]))
        return together(*args)

    together = superpose._together
    monkeypatch.setattr(superpose, "_together", counting)
    assert torch.equal(gradients(net, stack, x, entropy), first)
    assert passes == ([] if kind in LAYERED else [FEW, FEW, 20 - 2 * FEW])


def test_inputs_may_be_whole_numbers() -> None:
    net, x = Bytes(), integers(8, 256, 20 * 4).view(20, 4)
    stack, _ = drawn(net, 6)
    whole, real = gradients(net, stack, x.byte(), entropy), gradients(net, stack, x.float(), entropy)
    assert whole.any()
    assert torch.equal(whole, real)


@pytest.mark.parametrize("n", [2, 20])
@pytest.mark.parametrize("kind", NETS)
def test_g_over_some_of_the_masks_is_the_gradient_by_their_alpha(kind: str, n: int) -> None:
    net, x, places = NETS[kind](), inputs(n), [1, 2, 5]
    stack, masks = drawn(net, 6)
    got = gradients(net, stack, x, entropy, masks=torch.tensor(places))
    expected = [by_autograd(net, stack, masks, row[None], entropy, places) for row in x]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("kind", NETS)
def test_the_alphas_times_g_sum_to_the_weights_times_their_own_gradient(kind: str, n: int) -> None:
    net, x = NETS[kind](), inputs(n)
    stack, _ = drawn(net, 6)
    mixed = superposed(stack)
    leaves = {name: mixed[name].requires_grad_() for name in stack.bits}
    stats = {name: sum(own[name] for own in stack.stats) / 6 for name in stack.stats[0]}
    for row, g in zip(x, gradients(net, stack, x, entropy), strict=True):
        value = entropy(functional_call(evaluation(net), {**mixed, **leaves, **stats}, (row[None],))).sum()
        slopes = torch.autograd.grad(value, list(leaves.values()))
        expected = sum((w * slope).sum() for w, slope in zip(leaves.values(), slopes, strict=True))
        assert g.mean().item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_users_net_and_the_stack_stay_as_they_are() -> None:
    net = conv()
    stack, _ = drawn(net, 6)
    before, again = {name: p.clone() for name, p in net.state_dict().items()}, drawn(net, 6)[0]
    for n in (2, 20):
        for search in SEARCHES.values():
            search(net, stack, inputs(n), entropy)
    assert equal(dict(net.state_dict()), before)
    assert equal(stack, again)
    assert not any(w.requires_grad for w in stack.weights.values())
    assert all(p.grad is None for p in net.parameters())


def test_surplus_is_the_share_of_unused_outputs_and_has_the_gradient_of_g() -> None:
    logits = normal(9, 4 * 7).view(4, 7).float().requires_grad_()
    value, shares = surplus(3)(logits), logits.detach().softmax(1)
    torch.testing.assert_close(value.float(), shares[:, 3:].sum(1).log())
    slope = torch.autograd.grad(value.sum(), logits)[0]  # of log sum exp, by the logits that no label uses
    torch.testing.assert_close(slope, torch.cat([torch.zeros(4, 3), shares[:, 3:]], 1))
    lower = logits.detach() - torch.tensor([0.0, 0, 0, 1, 1, 1, 1])
    assert (surplus(3)(lower) < value).all()
    torch.testing.assert_close(surplus(3)(logits + 5), value)  # as the answer, it does not go by the size of logits


# ---------------------------------------------------------------------------------------------------------- searches


@pytest.mark.parametrize("told", OBJECTIVES)
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("n", "pool"), [(5, 1), (20, 1), (20, 6)])
def test_one_shot_takes_the_lowest_g_and_a_sweep_the_lowest_objective(n: int, pool: int, kind: str, told: str) -> None:
    net, x, objective = NETS[kind](), inputs(n), OBJECTIVES[told]
    stack, masks = drawn(net, 6)
    quick, whole = one_shot(net, stack, x, objective, pool), sweep(net, stack, x, objective, pool)
    assert quick.shape == whole.shape == (n,)
    for start in range(0, n, pool):
        run = x[start : start + pool]
        steepest = by_autograd(net, stack, masks, run, objective).argmin()
        values = [
            objective(functional_call(evaluation(net), {**bind(stack, place), **stack.stats[place]}, (run,))).mean()
            for place in range(6)
        ]
        assert quick[start : start + pool].tolist() == [int(steepest)] * len(run)
        assert whole[start : start + pool].tolist() == [min(range(6), key=lambda place: values[place])] * len(run)
    assert kind == "conv" or min(len(set(found.tolist())) for found in (quick, whole)) > 1


@pytest.mark.parametrize(("n", "pool"), [(3, 1), (12, 1), (8, 8), (11, 4)])
def test_binary_keeps_the_better_half_until_one_is_left(n: int, pool: int) -> None:
    net, x = mlp(), inputs(n)
    stack, masks = drawn(net, 11)
    got = binary(net, stack, x, entropy, pool)
    for start in range(0, n, pool):
        run, left = x[start : start + pool], list(range(11))
        while len(left) > 1:
            g = by_autograd(net, stack, masks, run, entropy, left).tolist()
            order = sorted(range(len(left)), key=lambda i: g[i])
            left = sorted(left[i] for i in order[: ceil(len(left) / 2)])
        assert got[start : start + pool].tolist() == left * len(run)
    assert n == 8 or len(set(got.tolist())) > 1


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 9, 33, 36, 64, 65])
def test_binary_takes_a_gradient_for_every_halving(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, sizes = nn.Linear(8, 3), []
    stack, _ = drawn(net, k)

    def counting(*args: object) -> Tensor:
        g = gradients(*args)
        sizes.append(g.shape[1])
        return g

    monkeypatch.setattr(superpose, "gradients", counting)
    place = binary(net, stack, normal(1, 16 * 8).view(16, 8).float(), entropy, pool=16)
    assert place.unique().numel() == 1
    assert len(sizes) == ceil(log2(k))
    assert sizes == [ceil(k / 2**step) for step in range(len(sizes))]
    if k == 36:
        assert sizes == [36, 18, 9, 5, 3, 2]


@pytest.mark.parametrize("search", SEARCHES)
def test_the_first_wins_a_tie(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    stack, _ = drawn(net, 5)
    none = Stack(stack.weights, {name: torch.zeros_like(packed) for name, packed in stack.bits.items()}, *stack[2:])
    monkeypatch.setattr(superpose, "gradients", lambda net, stack, x, *_: x.new_zeros(len(x), len(stack)))
    assert SEARCHES[search](net, none, inputs(12), entropy).tolist() == [0] * 12


def test_binary_goes_by_place_in_a_later_tie_too(monkeypatch: pytest.MonkeyPatch) -> None:
    falling = iter([torch.tensor([[0.0, -1.0, -2.0, -3.0, -4.0]]), torch.zeros(1, 3), torch.zeros(1, 2)])
    monkeypatch.setattr(superpose, "gradients", lambda *_: next(falling))
    assert binary(mlp(), drawn(mlp(), 5)[0], inputs(4), entropy, pool=4).tolist() == [2] * 4


@pytest.mark.parametrize("search", SEARCHES)
def test_a_single_mask_is_everyones(search: str) -> None:
    net = conv()
    stack, _ = drawn(net, 1)
    assert SEARCHES[search](net, stack, inputs(12), entropy, 5).tolist() == [0] * 12
