"""Which parameters are maps between channels, and which nets have others."""

import pytest
import torch
from torch import nn

from perdure.contract import Refused
from perdure.ops.channels import cut, matrices, signs, spread


def test_weights_of_linear_and_convolution_layers_are_maps_and_all_else_is_vectors() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2)
    )
    assert matrices(net) == ["0.weight", "4.weight"]
    assert matrices(nn.Linear(2, 3)) == ["weight"]
    assert matrices(nn.Conv1d(2, 3, 5)) == ["weight"]


def _tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight  # type: ignore[union-attr]
    return net


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), r"0 \(Conv2d\) has a weight"),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 3)), r"0 \(ConvTranspose2d\) has a weight"),
        (nn.Sequential(nn.Linear(2, 2), nn.Embedding(3, 2)), r"1 \(Embedding\) has a weight"),
        (nn.LSTM(2, 2), r"the net \(LSTM\) has a weight_ih_l0"),
        (_tied(), r"1 \(Linear\) has a weight"),
    ],
)
def test_what_is_no_map_of_its_own_is_refused_by_name(net: nn.Module, named: str) -> None:
    with pytest.raises(Refused, match=named + " that is no map of its own from all input channels to output channels"):
        matrices(net)


def test_scales_hold_for_a_whole_kernel() -> None:
    weight, scales = torch.ones(2, 3, 4, 5), torch.arange(6.0).view(2, 3)
    out = weight * spread(scales, weight)
    assert all((out[o, i] == scales[o, i]).all() for o in range(2) for i in range(3))


def test_signs_are_balanced_and_longer_draws_begin_with_shorter_ones() -> None:
    drawn = signs(1, 10_000)
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert abs(float(drawn.mean())) < 4 / 100  # 4 standard deviations
    assert torch.equal(signs(1, 100), drawn[:100])
    assert not torch.equal(signs(2, 100), drawn[:100])


def test_only_the_head_is_cut() -> None:
    params = {"0.weight": torch.ones(5, 3), "2.weight": torch.ones(5, 5), "2.bias": torch.ones(5)}
    assert {name: len(w) for name, w in cut(params, "2", 2).items()} == {"0.weight": 5, "2.weight": 2, "2.bias": 2}
