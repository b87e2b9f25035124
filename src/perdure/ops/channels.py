"""Weights as maps from input to output channels, (out, in, ...): what scales and context keys act on.

All other parameters of such a network are vectors: biases, and the scales and shifts of normalisations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from perdure.contract import Refused
from perdure.model import parts_of
from perdure.rng import bits


def matrices(net: nn.Module) -> list[str]:
    """The names of all parameters but vectors: weights (out, in, ...) of Linear and convolution layers.

    Raises:
        Refused: a parameter of two or more dimensions is none of these, or a convolution is grouped or transposed.
    """
    names = {param: name for name, param in net.named_parameters()}
    out: dict[str, None] = {}
    for path, layer in net.named_modules():
        for own, param in layer.named_parameters(recurse=False):
            if param.ndim < 2:
                continue
            plain = own == "weight" and isinstance(layer, nn.Linear | _ConvNd) and names[param] not in out
            if not plain or getattr(layer, "groups", 1) > 1 or getattr(layer, "transposed", False):
                raise Refused(
                    f"{path or 'the net'} ({type(layer).__name__}) has a {own} that is no map of its own from all "
                    "input channels to output channels; use normalisations, and Linear and convolution layers that "
                    "are not grouped, transposed or tied to others"
                )
            out[names[param]] = None
    return list(out)


def spread(scales: Tensor, weight: Tensor) -> Tensor:
    """Scales (out, in) in a shape that multiplies a weight (out, in, ...): each holds for a whole kernel."""
    return scales.view(*scales.shape, *[1] * (weight.ndim - 2))


def signs(key: int, n: int) -> Tensor:
    """(n,) -1. and 1., each as likely as the other."""
    return torch.where(bits(key, n) & 1 == 0, -1.0, 1.0)


def cut(params: dict[str, Tensor], head: str, rows: int) -> dict[str, Tensor]:
    """The same parameters, those of the head cut to its first rows."""
    return {name: w[:rows] if name in parts_of(head) else w for name, w in params.items()}
