"""A small convolutional network: blocks of 3x3 convolution, ReLU and 2x2 max pooling, then a linear head."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from perdure.contract import Refused


class ChannelsFirst(nn.Module):
    """Images (B, H, W) or (B, H, W, channels) to (B, channels, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)


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
    if len(shape) not in (2, 3):
        raise Refused(f"a conv net needs images of 2 or 3 dimensions, and these inputs have shape {shape}; use mlp:")
    last = len(shape) == 2 or (shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4))
    channels, height, width = (shape[2] if len(shape) == 3 else 1, *shape[:2]) if last else shape
    small = 2 ** len(widths)
    if min(height, width) < small:
        raise Refused(
            f"images of {height}x{width} cannot be halved {len(widths)} times; give at most "
            f"{min(height, width).bit_length() - 1} blocks"
        )
    layers: list[nn.Module] = [ChannelsFirst()] if last else []
    for before, after in pairwise((channels, *widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features = (channels, *widths)[-1] * (height // small) * (width // small)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1))
