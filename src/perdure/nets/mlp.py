"""A multi-layer perceptron: flatten, linear layers with ReLU between them."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """Inputs (B, *shape) through hidden layers of the given widths to a head of one row."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((prod(shape), *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((prod(shape), *widths)[-1], 1))
