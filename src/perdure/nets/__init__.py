"""Networks by name: "mlp:400-400" is an MLP with two hidden layers, "conv:16-32" two blocks of convolution.

Beside them are "dropout-mlp:400-400", "bn-mlp:400-400" (batch norm and SiLU), "resnet18:20" and "resnet50:64" (channels
of the first stage).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import nn

from perdure.contract import Fit, Refused
from perdure.model import with_outputs
from perdure.nets.conv import conv
from perdure.nets.mlp import bn_mlp, dropout_mlp, mlp
from perdure.nets.resnet import resnet18, resnet50

NETS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]] = {
    "mlp": mlp,
    "dropout-mlp": dropout_mlp,
    "bn-mlp": bn_mlp,
    "conv": conv,
    "resnet18": resnet18,
    "resnet50": resnet50,
}


def build(spec: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network for inputs of a shape (without the batch), ending in a linear head.

    Args:
        spec: one of `NETS` and its sizes: "mlp:400-400", "conv:16-32"; "mlp:" (or "linear") has no hidden layer.
        shape: of one input.
        outputs: rows of the head; 0 for a head that grows.

    Raises:
        Refused: the spec cannot be read, or has no use for such inputs.
    """
    kind, colon, sizes = ("mlp", ":", "") if spec == "linear" else spec.partition(":")
    example = "write a kind and its sizes, such as mlp:400-400 or conv:16-32"
    if kind not in NETS:
        near = get_close_matches(kind, NETS, n=1, cutoff=0.0)[0]
        raise Refused(f"net {spec!r} is unknown, the nearest kind is {near}; {example}")
    widths = sizes.split("-") if sizes else []
    if not colon or not all(width.isdecimal() and int(width) for width in widths):
        raise Refused(f"net {spec!r} cannot be read: sizes are positive numbers joined by dashes; {example}")
    with torch.random.fork_rng(devices=[]):  # the same net each time, and the caller's generator as it was
        torch.default_generator.manual_seed(0)
        return with_outputs(NETS[kind](shape, tuple(map(int, widths))), Fit(), outputs)
