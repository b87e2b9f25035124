"""Facts about the residual networks and the MLP with batch norm: published counts, sizes, and one block by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.contract import Fit, Refused
from perdure.model import probe, start
from perdure.nets import build
from perdure.nets.resnet import Residual, basic, bottleneck
from perdure.tree import equal

PHOTOGRAPH = (3, 224, 224)


def layers(net: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in net.modules() if isinstance(layer, kinds)]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("spec", "shape", "outputs", "weights", "ends", "normalised"),
    [
        ("resnet18:20", (3, 32, 32), 5, 1_090_940, 2_868, 1_500),
        ("resnet50:64", PHOTOGRAPH, 10, 23_475_392, 51_149, 26_560),
    ],
)
def test_weights_are_as_many_as_in_supsups_code(spec, shape, outputs, weights, ends, normalised):
    net = build(spec, shape, outputs)
    masked = layers(net, nn.Conv2d, nn.Linear)
    assert sum(layer.weight.numel() for layer in masked) == weights
    assert sum(sum(layer.weight.shape[:2]) for layer in masked) == ends
    assert sum(layer.num_features for layer in layers(net, nn.BatchNorm2d)) == normalised
    assert all(layer.bias is None for layer in layers(net, nn.Conv2d))


@pytest.mark.parametrize(
    ("spec", "shape", "outputs", "parameters"),
    [
        ("resnet50:64", PHOTOGRAPH, 1000, 25_557_032),  # 102.23 MB, the single model of SupSup's table
        ("resnet18:64", (3, 32, 32), 10, 11_173_962),  # the usual ResNet-18 for CIFAR-10
        ("bn-mlp:2048-2048", (28, 28), 10, (784 + 2048) * 2048 + 4 * 2048 + 2049 * 10),
    ],
)
def test_parameters_are_as_many_as_published(spec, shape, outputs, parameters):
    assert sum(param.numel() for param in build(spec, shape, outputs).parameters()) == parameters


def test_a_network_a_task_costs_what_the_upper_bound_of_supsups_table_costs():
    net = build("resnet50:64", PHOTOGRAPH, 1000)
    alone = sum(param.numel() * param.element_size() for param in start(net, Fit(), 0).params.values())
    assert round(alone / 1e6, 2) == 102.23
    assert round(100 * alone / 1e6, 2) == 10222.81


def test_stages_halve_the_image_and_double_the_width():
    small, large = build("resnet18:4", (3, 32, 32), 5).eval(), build("resnet50:2", PHOTOGRAPH, 5).eval()
    for net, x, sizes in (
        (small, noise(1, 3, 32, 32), [(4, 32)] * 2 + [(8, 16)] * 2 + [(16, 8)] * 2 + [(32, 4)] * 2),
        (large, noise(1, *PHOTOGRAPH), [(8, 56)] * 3 + [(16, 28)] * 4 + [(32, 14)] * 6 + [(64, 7)] * 3),
    ):
        seen = []
        for block in layers(net, Residual):
            block.register_forward_hook(lambda _, __, out, seen=seen: seen.append((out.shape[1], *out.shape[2:])))
        assert net(x).shape == (1, 5)
        assert seen == [(width, side, side) for width, side in sizes]


def test_a_bottleneck_has_its_stride_on_the_middle_convolution():
    strides = [(layer.kernel_size[0], layer.stride[0]) for layer in layers(bottleneck(8, 4, 2).body, nn.Conv2d)]
    assert strides == [(1, 1), (3, 2), (1, 1)]


@pytest.mark.parametrize(("before", "stride"), [(6, 1), (6, 2), (4, 1)])
def test_a_basic_block_by_hand(before, stride):
    block, x = basic(before, 6, stride).eval(), noise(2, before, 8, 8)
    first, second = layers(block.body, nn.Conv2d)
    unit = (1 + 1e-5) ** -0.5  # fresh batch norm divides by the root of its variance, 1, and epsilon
    inner = F.relu(unit * F.conv2d(x, first.weight, stride=stride, padding=1))
    short = x
    if (before, stride) != (6, 1):
        (projection,) = layers(block.shortcut, nn.Conv2d)
        short = unit * F.conv2d(x, projection.weight, stride=stride)
    by_hand = F.relu(unit * F.conv2d(inner, second.weight, padding=1) + short)
    assert torch.allclose(block(x), by_hand, atol=1e-5)


@pytest.mark.parametrize("spec", ["resnet18:2", "resnet50:2"])
def test_channels_may_come_last_or_not_at_all_and_any_size_will_do(spec):
    first, last = build(spec, (3, 9, 7), 5).eval(), build(spec, (9, 7, 3), 5).eval()
    x = noise(2, 3, 9, 7)
    assert equal(first(x), last(x.movedim(1, -1)))
    for shape in ((8, 8), (1, 1, 1), (31, 17, 3)):
        assert build(spec, shape, 4).eval()(noise(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(("spec", "shape"), [("resnet18:2", (8, 8)), ("resnet50:2", (8, 8)), ("bn-mlp:6", (8, 8))])
def test_the_head_is_the_last_layer_and_may_grow_from_nothing(spec, shape):
    net = build(spec, shape, 0)
    assert probe(net, Fit(), noise(2, *shape)) == str(len(net) - 1)
    assert net.eval()(noise(2, *shape)).shape == (2, 0)


def test_an_mlp_with_batch_norm_by_hand():
    net, x = build("bn-mlp:5-4", (2, 3), 3), noise(7, 2, 3)
    out = x.flatten(1)
    for linear in layers(net, nn.Linear)[:-1]:
        assert linear.bias is None
        out = out @ linear.weight.T
        out = (out - out.mean(0)) / (out.var(0, correction=0) + 1e-5).sqrt()
        out = out * out.sigmoid()
    assert torch.allclose(net(x), out @ net[-1].weight.T + net[-1].bias, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("resnet18:", (8, 8), "a resnet18 net has one size, the channels of its first stage; write resnet18:20"),
        ("resnet50:64-128", (8, 8), "a resnet50 net has one size, the channels of its first stage; write resnet50:64"),
        ("resnet18:20", (64,), r"a resnet18 net needs images of 2 or 3 dimensions, .* shape \(64,\); use mlp:"),
        ("resnet34:64", (8, 8), "net 'resnet34:64' is unknown, the nearest kind is resnet"),
    ],
)
def test_a_name_that_means_nothing_is_refused(spec, shape, message):
    with pytest.raises(Refused, match=message):
        build(spec, shape, 10)


def test_a_shortcut_takes_every_second_place() -> None:
    """As a 1x1 convolution with a stride does; with one, this step would write past its memory (torch 2.13)."""
    block = basic(4, 8, 2)
    x = noise(8, 4, 70, 70).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = block.shortcut[0](x[:, :, ::2, ::2])
    torch.testing.assert_close(out, F.conv2d(x.detach().contiguous(), block.shortcut[0].weight, stride=2))
    for _ in range(5):
        block(x).sum().backward()
    assert x.grad.isfinite().all()
    assert block(x).shape == (8, 8, 35, 35)
