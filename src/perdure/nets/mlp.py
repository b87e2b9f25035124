"""Multi-layer perceptrons: flatten, linear layers with ReLU between them, or with batch norm and SiLU (swish)."""

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


def bn_mlp(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """The same with batch norm, which has the bias, and SiLU after each hidden layer (the net of HopSupSup)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((prod(shape), *widths)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear((prod(shape), *widths)[-1], 1))
