"""A small convolutional network: blocks of 3x3 convolution, ReLU and 2x2 max pooling, then a linear head."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from perdure.contract import Refused
from perdure.nets.images import images


def conv(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """Images through one block for each width, each halving height and width, to a head of one row.

    Args:
        shape: (H, W), (channels, H, W), or (H, W, channels) with 1, 3 or 4 channels.
        widths: channels after each block.

    Raises:
        Refused: there are no blocks, the inputs are no images, or too small for so many blocks.
    """
    if not widths:
        raise Refused("a conv net needs at least one block; write conv:16 or conv:16-32")
    before, channels, height, width = images("conv", shape)
    small = 2 ** len(widths)
    if min(height, width) < small:
        raise Refused(
            f"images of {height}x{width} cannot be halved {len(widths)} times; give at most "
            f"{min(height, width).bit_length() - 1} blocks"
        )
    layers: list[nn.Module] = [before]
    for narrow, wide in pairwise((channels, *widths)):
        layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features = widths[-1] * (height // small) * (width // small)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1))
