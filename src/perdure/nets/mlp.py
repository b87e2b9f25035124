"""Multi-layer perceptrons: flatten, linear layers with ReLU between them; or with dropout, or batch norm and SiLU."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn

DROPPED = (0.2, 0.5)  # shares of the inputs, and of every hidden layer


def mlp(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """Inputs (B, *shape) through hidden layers of the given widths to a head of one row."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((prod(shape), *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((prod(shape), *widths)[-1], 1))


def dropout_mlp(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """The same as `mlp`; while it learns, a fifth of its inputs and half of its hidden neurons are dropped.

    Source: N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 2014.
    """
    visible, hidden = DROPPED
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(visible)]
    for before, after in pairwise((prod(shape), *widths)):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(hidden)]
    return nn.Sequential(*layers, nn.Linear((prod(shape), *widths)[-1], 1))


def bn_mlp(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """An `mlp` with batch norm, which has the bias, and SiLU after each hidden layer (the net of HopSupSup)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((prod(shape), *widths)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear((prod(shape), *widths)[-1], 1))
