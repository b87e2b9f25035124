"""Images as networks of convolutions take them, read off the shape of an input."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from perdure.contract import Refused


class ChannelsFirst(nn.Module):
    """Images (B, H, W) or (B, H, W, channels) to (B, channels, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)


class Images(NamedTuple):
    """What an input shape says of images."""

    before: tuple[nn.Module, ...]  # the layers that make (B, channels, H, W) of a batch; none where it is so already
    channels: int
    height: int
    width: int


def images(kind: str, shape: tuple[int, ...]) -> Images:
    """Inputs of a shape (H, W), (channels, H, W), or (H, W, channels) with 1, 3 or 4 channels, as images.

    Raises:
        Refused: they are none; names the kind of net that needs them.
    """
    if len(shape) not in (2, 3):
        raise Refused(f"a {kind} net needs images of 2 or 3 dimensions, and these inputs have shape {shape}; use mlp:")
    last = len(shape) == 2 or (shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4))
    if not last:
        return Images((), *shape)
    return Images((ChannelsFirst(),), shape[2] if len(shape) == 3 else 1, *shape[:2])
