"""Images as networks of convolutions take them, read off the shape of an input."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from perdure.contract import Refused


class ChannelsFirst(nn.Module):
    """Images (B, H, W), (B, channels, H, W) or, where these are last, (B, H, W, channels) to (B, channels, H, W).

    In memory the channels of a pixel stand side by side, on which a processor's convolutions are faster; torch sees
    that in a stride of 1, also of a single channel.
    """

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        if not self.last:
            x = x.movedim(1, -1) if x.shape[1] > 1 else x.squeeze(1)
        x = x if x.ndim == 4 else x.unsqueeze(-1)
        return x.contiguous().movedim(-1, 1)


class Images(NamedTuple):
    """What an input shape says of images."""

    before: ChannelsFirst  # the layer that makes (B, channels, H, W) of a batch
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
    size = (shape[2] if len(shape) == 3 else 1, *shape[:2]) if last else shape
    return Images(ChannelsFirst(last), *size)
