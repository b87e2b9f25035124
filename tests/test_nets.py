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


def test_an_mlp_with_dropout_is_the_mlp_but_for_what_it_drops_while_it_learns():
    """A fifth of the inputs and half of the hidden neurons, and the rest is scaled up."""
    net, plain = build("dropout-mlp:400-300", (50, 40), 10), build("mlp:400-300", (50, 40), 10)
    assert shapes(net) == shapes(plain)
    plain.load_state_dict(dict(zip(plain.state_dict(), net.state_dict().values(), strict=True)))
    x = torch.rand(3, 50, 40, generator=torch.Generator().manual_seed(0)) + 0.5
    assert torch.equal(net.eval()(x), plain(x))
    dropped = {}
    for name, layer in net.train().named_modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda _, into, out, name=name: dropped.__setitem__(name, (into[0], out)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net(x)
    assert len(dropped) == 3
    for (into, out), share in zip(dropped.values(), (0.2, 0.5, 0.5), strict=True):
        alive = into != 0
        assert float((out[alive] == 0).float().mean()) == pytest.approx(share, abs=0.07)
        torch.testing.assert_close(out[out != 0], into[out != 0] / (1 - share))


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


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (1, 8, 6), (3, 8, 6), (8, 6, 3)])
def test_convolutions_get_the_same_images_with_channels_side_by_side(shape):
    net = build("conv:4", shape, 5)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    first = x.view(2, *shape) if len(shape) == 3 and shape[0] < 4 else x.view(2, 8, 6, -1).movedim(-1, 1)
    laid, plain = net[0](x), first.clone(memory_format=torch.contiguous_format)
    assert equal(laid, plain)
    assert laid.stride(1) == 1
    assert net[1](laid).is_contiguous(memory_format=torch.channels_last)  # and so do all layers after it
    torch.testing.assert_close(net[1:](laid), net[1:](plain))


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
