"""Facts about masks: what is beneath them, how many weights they keep, and which way their scores go."""

import copy
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Fit, Refused
from perdure.data import Arrays
from perdure.model import Model, start
from perdure.nets import build
from perdure.ops.masks import (
    Largest,
    Rule,
    Threshold,
    Through,
    beneath,
    constants,
    erdos_renyi_budgets,
    learn_masks,
    maskable,
    start_scores,
    uniform_budgets,
)
from perdure.rng import fold, integers, normal
from perdure.train import Descent
from perdure.tree import equal

Params = dict[str, Tensor]
FIT = Fit(optimizer="rmsprop", lr=0.01, batch=12, steps=7)


def conv_net() -> nn.Module:
    """Strides, groups, padding, dilation, normalisation, and layers with and without a bias."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 9, 3, padding=2, groups=3, dilation=2, bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(9 * 16, 4),
    )


def shapes_of(net: nn.Module) -> dict[str, torch.Size]:
    return {name: net.get_parameter(name).shape for name in maskable(net)}


def images(n: int) -> Arrays:
    return Arrays(normal(5, n * 2 * 64).view(n, 2, 8, 8).float(), integers(6, 4, n))


def begun(net: nn.Module, rule: Rule, fit: Fit = FIT, free: tuple[str, ...] = ()) -> tuple[Through, Descent, Tensor]:
    """A descent on scores over constants; W (P,) comes along."""
    weights, scores = constants(net, 1), start_scores(net, 2)
    stats = start(net, fit, 0).stats
    flat = torch.cat([w.flatten() for w in weights.values()])
    moved = torch.cat([scores.get(name, w).flatten() for name, w in weights.items()])
    descent = Descent(net, Model(weights, stats, torch.arange(4), {}), fit, 3, moved=moved)
    return Through(descent, flat, scores, rule, free), descent, flat


def straight_through(rule: Rule, scores: Params, weights: Params) -> Params:
    """The masked weights, such that autograd takes the step from scores to masks for the identity."""
    slopes = {name: score.abs() if rule.signed else score for name, score in scores.items()}
    masks = rule.masks(scores)
    return {name: weights[name] * (masks[name].float() + slope - slope.detach()) for name, slope in slopes.items()}


# ------------------------------------------------------------------------------------------------- what takes a mask


def test_weights_of_linear_and_convolution_layers_take_a_mask_with_the_inputs_of_one_output() -> None:
    assert maskable(conv_net()) == {"0.weight": 2 * 9, "3.weight": 2 * 9, "6.weight": 144}
    assert maskable(nn.Linear(5, 3)) == {"weight": 5}
    assert maskable(nn.Sequential(nn.Conv1d(4, 6, 5, groups=2), nn.LayerNorm(3), nn.GroupNorm(2, 6))) == {
        "0.weight": 2 * 5
    }


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(3, 2)


class Doubled(nn.Linear):
    """A Linear layer with one parameter more."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.gate = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 2)), r"0 \(Embedding\) has parameters .* cover: weight\. "),
        (nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2)), r"0 \(LSTM\) .*: weight_ih_l0, weight_hh_l0, bias_ih_l0"),
        (Bare(), r"the net \(Bare\) has parameters that a mask does not cover: scale\. Masks cover Linear"),
        (nn.Sequential(nn.Linear(2, 3), Doubled()), r"1 \(Doubled\) .*: weight, bias, gate"),
        (nn.Sequential(nn.PReLU(), nn.Linear(3, 2)), r"0 \(PReLU\) .*: weight\. "),
        (nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))), r"1 .*: bias\. "),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.Linear(3, 2)), r"0 is a transposed convolution"),
    ],
)
def test_other_parameters_are_refused_by_name(net: nn.Module, message: str) -> None:
    with pytest.raises(Refused, match=message):
        maskable(net)


# ------------------------------------------------------------------------------------------------- what lies beneath


def test_constants_are_signed_roots_of_two_by_the_fan_in_and_the_rest_does_nothing() -> None:
    net = conv_net()
    weights = constants(net, 1)
    assert list(weights) == [name for name, _ in net.named_parameters()]
    for name, fan in maskable(net).items():
        assert weights[name].shape == net.get_parameter(name).shape
        assert weights[name].unique().tolist() == pytest.approx([-sqrt(2 / fan), sqrt(2 / fan)], rel=1e-7)
    assert {name: w.unique().tolist() for name, w in weights.items() if name not in maskable(net)} == {
        "0.bias": [0.0],
        "1.weight": [1.0],
        "1.bias": [0.0],
        "6.bias": [0.0],
    }
    assert equal(beneath(net), {name: w for name, w in weights.items() if name not in maskable(net)})


def test_signs_are_even_and_independent() -> None:
    net = nn.Sequential(nn.Linear(200, 100, bias=False), nn.Linear(100, 200, bias=False))
    one, two, other = (w.sign() for w in (*constants(net, 1).values(), constants(net, 2)["0.weight"]))
    for sample in (one, two, one.flatten() * two.flatten(), one * other, one[1:] * one[:-1], one[:, 1:] * one[:, :-1]):
        assert abs(sample.mean().item()) < 4 / sqrt(sample.numel())  # four standard deviations


def test_rows_are_the_same_for_any_number_of_outputs_and_whatever_was_drawn_before() -> None:
    few = constants(build("mlp:8", (6,), 3), 1)
    torch.manual_seed(3)
    torch.rand(9)
    many = constants(build("mlp:8", (6,), 50), 1)
    assert equal({name: w[:3] if name.startswith("3.") else w for name, w in many.items()}, few)
    scores = start_scores(build("mlp:8", (6,), 50), 1)
    assert equal(scores["3.weight"][:3], start_scores(build("mlp:8", (6,), 3), 1)["3.weight"])


def test_scores_start_uniform_over_one_by_the_root_of_the_fan_in() -> None:
    net = nn.Linear(400, 100)
    scores = start_scores(net, 1)["weight"].flatten() * sqrt(400)
    quantiles = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    torch.testing.assert_close(scores.quantile(quantiles), 2 * quantiles - 1, rtol=0, atol=0.02)
    assert scores.abs().max() <= 1
    assert not equal(start_scores(net, 1), start_scores(net, 2))


# ----------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("spec", "shape", "outputs", "weights", "kept"),
    [
        ("resnet18:20", (3, 32, 32), 5, 1_090_940, [2_868, 5_736, 11_212, 21_944, 42_670, 81_394]),
        ("resnet50:64", (3, 224, 224), 10, 23_475_392, [51_149, 102_298, 204_596, 402_968, 795_696, 1_566_816]),
    ],
)
def test_erdos_renyi_budgets_are_those_of_the_papers_networks(
    spec: str, shape: tuple[int, ...], outputs: int, weights: int, kept: list[int]
) -> None:
    with torch.device("meta"):
        shapes = shapes_of(build(spec, shape, outputs))
    assert sum(size.numel() for size in shapes.values()) == weights
    assert sum(sum(size[:2]) for size in shapes.values()) == kept[0]  # for e = 1: nowhere at half of a layer
    for e, count in zip((1, 2, 4, 8, 16, 32), kept, strict=True):
        budgets = erdos_renyi_budgets(shapes, e)
        assert sum(budgets.values()) == count
        for name, size in shapes.items():
            n, share = size.numel(), min(0.5, e * sum(size[:2]) / size.numel())
            assert budgets[name] == n - int((1 - share) * n)
            assert 0 <= budgets[name] - min(e * sum(size[:2]), n // 2) <= 1  # in whole numbers, but for rounding


def test_a_uniform_budget_keeps_n_less_the_floor_of_the_rest() -> None:
    shapes = {"a": torch.Size([7, 5]), "b": torch.Size([2, 3, 3, 3]), "c": torch.Size([1, 1])}
    for density in (0.001, 0.1, 0.3, 0.5, 0.9):
        expected = {name: n - int((1 - density) * n) for name, n in (("a", 35), ("b", 54), ("c", 1))}
        assert uniform_budgets(shapes, density) == expected
    assert uniform_budgets(shapes, 0.1) == {"a": 4, "b": 6, "c": 1}


# ------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("cut", [0.0, 0.25])
def test_a_threshold_keeps_what_reaches_it(cut: float) -> None:
    scores = {"w": torch.tensor([[0.25, -0.0, -1e-30], [0.0, 0.2499, -3.0]])}
    expected = [[s >= cut for s in row] for row in scores["w"].tolist()]
    assert Threshold(cut).masks(scores)["w"].tolist() == expected
    out = {"w": torch.full((2, 3), 9.0)}
    Threshold(cut).write(scores, out)
    assert out["w"].tolist() == expected


def test_the_largest_are_sought_every_few_steps_and_counted_exactly_in_the_end() -> None:
    n, m, refresh = 60, 15, 3
    rule, out, cut = Largest({"w": m}, refresh), {"w": torch.empty(n)}, 0.0
    for step in range(8):
        scores = normal(fold(8, step), n).float()
        if step % refresh == 0:
            cut = scores.abs().sort(descending=True).values[m - 1].item()
        rule.write({"w": scores}, out)
        assert out["w"].tolist() == [float(abs(s) >= cut) for s in scores.tolist()]
        if step % refresh == 0:
            assert out["w"].sum() == m
        order = sorted(range(n), key=lambda i: -abs(scores[i].item()))
        assert rule.masks({"w": scores})["w"].nonzero()[:, 0].tolist() == sorted(order[:m])


def test_of_equal_scores_a_mask_keeps_the_first() -> None:
    scores = {"w": torch.tensor([[1.0, -2.0, 1.0], [-1.0, 1.0, 0.5]])}
    assert Largest({"w": 3}, 1).masks(scores)["w"].tolist() == [[True, True, True], [False, False, False]]


# --------------------------------------------------------------------------------------------------- straight-through


def rules(net: nn.Module) -> dict[str, Rule]:
    return {"threshold": Threshold(), "largest": Largest(uniform_budgets(shapes_of(net), 0.3), 1)}


@pytest.mark.parametrize("kind", ["threshold", "largest"])
def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight(kind: str) -> None:
    net, data = conv_net(), images(10)
    rule = rules(net)[kind]
    through, descent, _ = begun(net, rule)
    through.bind()
    got = descent.layout.named(through.back(descent.grad(F.cross_entropy(descent(data.x), data.labels))))

    weights = constants(net, 1)
    scores = {name: score.requires_grad_() for name, score in start_scores(net, 2).items()}
    params = {**weights, **straight_through(rule, scores, weights)}
    loss = F.cross_entropy(functional_call(copy.deepcopy(net).train(), params, (data.x,)), data.labels)
    expected = dict(zip(scores, torch.autograd.grad(loss, list(scores.values())), strict=True))
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected.get(name, torch.zeros_like(gradient)), rtol=1e-5, atol=1e-7)
    for name in scores:  # dropped weights get a gradient too, where anything reaches them
        dropped = ~rule.masks(scores)[name]
        assert (got[name][dropped] != 0).float().mean() > 0.5


@pytest.mark.parametrize("kind", ["threshold", "largest"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_scores_descend_as_a_stock_optimiser_would_move_them(kind: str, optimizer: str) -> None:
    net, data = conv_net(), images(12)
    fit = Fit(optimizer=optimizer, lr=0.01, weight_decay=0.1, batch=12, steps=7, order="arrival")
    rule, again = rules(net)[kind], rules(net)[kind]
    through, descent, _ = begun(net, rule, fit)
    masks = learn_masks(through, descent, data)

    weights, plain = constants(net, 1), copy.deepcopy(net).train()
    scores = {name: score.requires_grad_() for name, score in start_scores(net, 2).items()}
    stock = {"rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW}[optimizer]
    moving, losses = stock(scores.values(), lr=0.01, weight_decay=0.1), []
    for _ in range(7):
        moving.zero_grad()
        params = {**weights, **straight_through(again, scores, weights)}
        loss = F.cross_entropy(functional_call(plain, params, (data.x,)), data.labels)
        loss.backward()
        moving.step()
        losses.append(loss.item())
    assert descent.trace.loss.tolist() == pytest.approx(losses, abs=1e-5)
    for name, score in scores.items():
        torch.testing.assert_close(through.scores[name], score.detach(), rtol=1e-4, atol=1e-5)
        assert (masks[name] == again.masks(scores)[name]).float().mean() > 0.99  # but for scores next to a cut
        assert (masks[name] != rule.masks(start_scores(net, 2))[name]).any()


@pytest.mark.parametrize("kind", ["threshold", "largest"])
def test_weights_keep_their_bits_and_nothing_beside_the_masks_moves(kind: str) -> None:
    net = conv_net()
    fit = Fit(optimizer="adamw", lr=0.05, weight_decay=0.1, batch=12, steps=9, clip=1.0)
    through, descent, flat = begun(net, rules(net)[kind], fit)
    before = flat.clone()
    through.bind()
    first = rules(net)[kind].masks(start_scores(net, 2))
    learn_masks(through, descent, images(30))
    assert equal(flat, before)
    weights, model = constants(net, 1), descent.model
    for name, param in model.params.items():
        if name in first:  # as the last step read it
            assert ((param == 0) | (param == weights[name])).all()
            assert ((param != 0) != first[name]).any()
        else:
            assert equal(param, weights[name])


@pytest.mark.parametrize("refresh", [1, 4, 100])
def test_a_learned_mask_is_exact_whatever_the_refresh(refresh: int) -> None:
    net = conv_net()
    budgets = uniform_budgets(shapes_of(net), 0.3)
    through, descent, _ = begun(net, Largest(budgets, refresh))
    masks = learn_masks(through, descent, images(30))
    for name, mask in masks.items():
        assert mask.sum() == budgets[name]
        kept, dropped = through.scores[name][mask].abs(), through.scores[name][~mask].abs()
        assert kept.min() >= dropped.max()


def test_parameters_that_are_free_learn_as_they_are() -> None:
    net, data = conv_net(), images(12)
    fit = Fit(optimizer="sgd", lr=0.1, batch=12, steps=3, order="arrival")
    free = ("0.bias", "1.weight", "1.bias")
    through, descent, _ = begun(net, Threshold(), fit, free)
    learn_masks(through, descent, data)

    weights, plain = constants(net, 1), copy.deepcopy(net).train()
    scores = {name: score.requires_grad_() for name, score in start_scores(net, 2).items()}
    own = {name: weights[name].clone().requires_grad_() for name in free}
    stock = torch.optim.SGD([*scores.values(), *own.values()], lr=0.1)
    for _ in range(3):
        stock.zero_grad()
        params = {**weights, **own, **straight_through(Threshold(), scores, weights)}
        F.cross_entropy(functional_call(plain, params, (data.x,)), data.labels).backward()
        stock.step()
    through.bind()
    for name, param in own.items():
        torch.testing.assert_close(descent.model.params[name], param.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(param, weights[name])
