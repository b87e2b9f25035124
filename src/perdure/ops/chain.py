"""Chains: networks in which each layer reads the units of the layer before it, and nothing else does.

Only there it is known which columns of a weight belong to which rows of the one before: columns lie in the order of the
units, k of them for each (k = height * width where a convolution was flattened). So units can be added or switched off.
"""

from __future__ import annotations

import copy
from math import sqrt
from typing import NamedTuple

from torch import nn
from torch.nn.modules import dropout, pooling

from perdure.contract import Refused

Norm = nn.BatchNorm1d | nn.BatchNorm2d

# What keeps units apart: element by element, or place by place within one.
APART = (
    nn.Identity,
    nn.Flatten,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softplus, nn.Softsign),
    *(dropout._DropoutNd, pooling._MaxPoolNd, pooling._AvgPoolNd),
    *(pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
)


class Link(NamedTuple):
    """One layer of a chain and the normalisations of its units."""

    name: str
    layer: nn.Linear | nn.Conv2d
    norms: tuple[tuple[str, Norm], ...] = ()

    @property
    def weight(self) -> str:
        """The name of its weight (units, inputs, ...)."""
        return f"{self.name}.weight"

    @property
    def vectors(self) -> list[str]:
        """The names of its bias, scales and shifts: k numbers a unit, k > 1 where a normalisation follows a Flatten."""
        layers: list[tuple[str, nn.Module]] = [(self.name, self.layer), *self.norms]
        return [
            f"{name}.{own}" for name, layer in layers for own, p in layer.named_parameters(recurse=False) if p.ndim == 1
        ]

    @property
    def units(self) -> int:
        return self.layer.weight.shape[0]


def chain(net: nn.Module, head: str, advice: str) -> list[Link]:
    """The links of a net in their order; the last is its head.

    A chain is an nn.Sequential (or several inside one another) of Linear and Conv2d layers without groups, batch norms
    after them, activations, pooling, dropout and Flatten. Before the first layer and after the head any module without
    parameters may stand.

    Args:
        advice: what whoever has another net can do; ends the message.

    Raises:
        Refused: a layer breaks the chain: it is named.
    """
    links: list[Link] = []
    for name, layer in net.named_modules(remove_duplicate=False):
        outside = not links or links[-1].name == head
        if type(layer) is nn.Sequential or isinstance(layer, APART) or (outside and _bare(layer)):
            continue
        if wrong := _wrong(layer, links, head):
            raise Refused(f"{name or 'the net'} ({type(layer).__name__}) is no link of a chain: {wrong}. {advice}")
        if isinstance(layer, nn.Linear | nn.Conv2d):
            links.append(Link(name, layer))
        elif isinstance(layer, Norm):
            links[-1] = links[-1]._replace(norms=(*links[-1].norms, (name, layer)))
    return links


def widened(net: nn.Module, head: str, size: float, advice: str) -> nn.Module:
    """A copy of a chain at another size: hidden layers have sqrt(size) times their units; what is resized holds zeros.

    The units of the net come first, so it lies in the leading rows and columns of the copy.

    Raises:
        Refused: as in `chain`.
    """
    net = copy.deepcopy(net)
    was = now = 1  # units of the layer before
    for link in chain(net, head, advice):
        layer, units = link.layer, link.units
        columns = layer.weight.shape[1] // was * now
        was, now = units, units if link.name == head else round(units * sqrt(size))
        layer.weight.data = layer.weight.new_zeros(now, columns, *layer.weight.shape[2:])
        vectors = [layer.bias, *(v for _, n in link.norms for v in (n.weight, n.bias, n.running_mean, n.running_var))]
        for vector in vectors:
            if vector is not None:
                vector.data = vector.new_zeros(len(vector) // units * now if units else 0)
    return net


def _bare(layer: nn.Module) -> bool:
    """Whether a module has neither parts nor parameters nor buffers."""
    return not any(True for part in (layer.children(), layer.parameters(), layer.buffers()) for _ in part)


def _wrong(layer: nn.Module, links: list[Link], head: str) -> str:
    """Why a layer cannot be the next link, or a normalisation of the last one; nothing where it can."""
    if any(layer is link.layer or any(layer is norm for _, norm in link.norms) for link in links):
        return "it is used twice"
    if links and links[-1].name == head:
        return "it stands after the head"
    match layer:
        case nn.Linear() | nn.Conv2d() if type(layer) in (nn.Linear, nn.Conv2d) and getattr(layer, "groups", 1) == 1:
            inputs = layer.weight.shape[1]
        case nn.BatchNorm1d() | nn.BatchNorm2d() if links:
            inputs = layer.num_features
        case _:
            return "only Linear, Conv2d without groups, batch norm after one of them, and what keeps units apart can be"
    flat = isinstance(layer, nn.Linear | nn.BatchNorm1d)  # only what is flat has several inputs a unit
    if links and (inputs % links[-1].units or (inputs > links[-1].units and not flat)):
        return f"it does not read the {links[-1].units} units of {links[-1].name}"
    return ""
