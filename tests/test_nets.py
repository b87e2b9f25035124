"""Facts about networks by name: their layers, the shapes they take, and what is said of a name that means nothing."""

import warnings

import pytest
import torch
from torch import nn

from perdure.contract import Fit, Refused
from perdure.model import probe, start
from perdure.nets import build
from perdure.tree import equal


def shapes(net: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(param.shape) for param in net.parameters()]


def test_an_mlp_has_the_layers_that_its_name_says():
    net = build("mlp:400-30", (28, 28), 10)
    assert shapes(net) == [(400, 784), (400,), (30, 400), (30,), (10, 30), (10,)]
    assert [type(layer) for layer in net] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert net(torch.zeros(3, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("spec", ["mlp:", "linear"])
def test_an_mlp_without_hidden_layers_is_linear(spec):
    net = build(spec, (2, 3), 4)
    x = torch.arange(12.0).view(2, 2, 3)
    assert equal(net(x), x.flatten(1) @ net[1].weight.t() + net[1].bias)


@pytest.mark.parametrize(
    ("shape", "channels"), [((28, 28), 1), ((3, 28, 28), 3), ((28, 28, 3), 3), ((28, 28, 1), 1), ((1, 28, 28), 1)]
)
def test_a_conv_net_takes_images_with_or_without_channels(shape, channels):
    net = build("conv:4-8", shape, 10)
    assert shapes(net) == [(4, channels, 3, 3), (4,), (8, 4, 3, 3), (8,), (10, 8 * 7 * 7), (10,)]
    assert net(torch.zeros(2, *shape)).shape == (2, 10)


def test_channels_first_and_last_are_the_same_images():
    first, last = build("conv:4", (3, 8, 6), 5), build("conv:4", (8, 6, 3), 5)
    x = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    assert equal(first(x), last(x.movedim(1, -1)))


def test_odd_images_are_halved_downwards():
    assert build("conv:4-4", (7, 9), 2)(torch.zeros(1, 7, 9)).shape == (1, 2)


@pytest.mark.parametrize("spec", ["mlp:16", "conv:2"])
def test_a_head_that_grows_has_no_rows_and_gives_no_warning(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = build(spec, (8, 8), 0)
        model = start(net, Fit(), 0)
    assert model.labels.tolist() == []
    assert net(torch.zeros(2, 8, 8)).shape == (2, 0)
    assert probe(net, Fit(), torch.zeros(2, 8, 8)) == [name for name, _ in net.named_modules()][-1]


def test_building_repeats_and_leaves_the_callers_generator_alone():
    before = torch.get_rng_state()
    one = build("mlp:16", (8, 8), 3)
    torch.rand(5)
    two = build("mlp:16", (8, 8), 3)
    assert equal(tuple(one.parameters()), tuple(two.parameters())) is True
    torch.set_rng_state(before)
    build("conv:2", (8, 8), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (
            "mpl:400",
            (8, 8),
            "net 'mpl:400' is unknown, the nearest kind is mlp; write a kind and its sizes, such as mlp:",
        ),
        ("convnet:16", (8, 8), "the nearest kind is conv; .* or conv:16-32"),
        ("", (8, 8), "net '' is unknown"),
        ("mlp", (8, 8), "net 'mlp' cannot be read: sizes are positive numbers joined by dashes; .* mlp:400-400"),
        ("mlp:400,400", (8, 8), "cannot be read"),
        ("mlp:400-", (8, 8), "cannot be read"),
        ("mlp:0", (8, 8), "cannot be read"),
        ("mlp:-5", (8, 8), "cannot be read"),
        ("mlp:4.5", (8, 8), "cannot be read"),
        ("conv:", (8, 8), "at least one block; write conv:16 or conv:16-32"),
        ("conv:16", (64,), r"images of 2 or 3 dimensions, and these inputs have shape \(64,\); use mlp:"),
        ("conv:16-16-16-16", (8, 8), "images of 8x8 cannot be halved 4 times; give at most 3 blocks"),
    ],
)
def test_a_name_that_means_nothing_is_refused(spec, shape, message):
    with pytest.raises(Refused, match=message):
        build(spec, shape, 10)
