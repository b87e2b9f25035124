"""Residual networks: the small ResNet-18 of continual learning, and ResNet-50 for photographs.

    y = ReLU(body(x) + shortcut(x))     shortcut: x, or a 1x1 convolution and batch norm where the sizes differ

Convolutions have no bias. Images are pooled to one place at the end, so any height and width will do.

References: K. He et al., "Deep residual learning for image recognition", 2016, arXiv 1512.03385; the small ResNet-18 is
that of D. Lopez-Paz, M. Ranzato, "Gradient episodic memory for continual learning", 2017, arXiv 1706.08840.
Deviations: in ResNet-50 the 3x3 convolution of a block has the stride, not the first 1x1 (now the usual choice).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from perdure.contract import Refused
from perdure.nets.images import images


def convolution(before: int, after: int, size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps height and width but for its stride, and batch norm."""
    return [nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)]


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)), (B, before, H, W) to (B, after, H / stride, W / stride).

    The shortcut takes every stride-th place before its convolution, which is what a stride does: torch 2.13 writes past
    the memory of a 1x1 convolution with a stride, on few channels that stand side by side.
    """

    def __init__(self, body: list[nn.Module], before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body, self.stride = nn.Sequential(*body), stride
        same = before == after and stride == 1
        self.shortcut = nn.Sequential(*([] if same else convolution(before, after, 1)))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        thin = x[:, :, :: self.stride, :: self.stride]
        out: Tensor = self.relu(self.body(x) + self.shortcut(thin))
        return out


def basic(before: int, width: int, stride: int) -> Residual:
    """Two 3x3 convolutions, the first with the stride."""
    body = [*convolution(before, width, 3, stride), nn.ReLU(), *convolution(width, width, 3)]
    return Residual(body, before, width, stride)


def bottleneck(before: int, width: int, stride: int) -> Residual:
    """1x1 down to the width, 3x3 with the stride, 1x1 up to four times the width."""
    body = [*convolution(before, width, 1), nn.ReLU(), *convolution(width, width, 3, stride), nn.ReLU()]
    return Residual([*body, *convolution(width, 4 * width, 1)], before, 4 * width, stride)


def _stages(
    block: Callable[[int, int, int], Residual], growth: int, before: int, width: int, depths: tuple[int, ...]
) -> list[nn.Module]:
    """Stages of so many blocks each, from the second on at half the size and twice the width; pooling; a head."""
    blocks: list[nn.Module] = []
    for stage, depth in enumerate(depths):
        for place in range(depth):
            blocks.append(block(before, width << stage, 2 if stage and not place else 1))
            before = growth * width << stage
    return [*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1)]


def _width(kind: str, widths: tuple[int, ...], usual: int) -> int:
    if len(widths) != 1:
        raise Refused(f"a {kind} net has one size, the channels of its first stage; write {kind}:{usual}")
    return widths[0]


def resnet18(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """The ResNet-18 for small images: a 3x3 stem at full size, four stages of two basic blocks, a head of one row.

    Args:
        shape: (H, W), (channels, H, W), or (H, W, channels) with 1, 3 or 4 channels.
        widths: the channels of the first stage (20 in GEM, 64 in He et al.); each later one has twice as many.

    Raises:
        Refused: the inputs are no images, or there is not one width.
    """
    width = _width("resnet18", widths, 20)
    before, channels, _, _ = images("resnet18", shape)
    stem = [*convolution(channels, width, 3), nn.ReLU()]
    return nn.Sequential(before, *stem, *_stages(basic, 1, width, width, (2, 2, 2, 2)))


def resnet50(shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """ResNet-50: a 7x7 stem and max pooling that quarter the image, 3, 4, 6 and 3 bottlenecks, a head of one row.

    Args:
        shape: as in `resnet18`; 224x224 in the paper.
        widths: the inner channels of the first stage (64 in the paper); each later one has twice as many.

    Raises:
        Refused: the inputs are no images, or there is not one width.
    """
    width = _width("resnet50", widths, 64)
    before, channels, _, _ = images("resnet50", shape)
    stem = [*convolution(channels, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(before, *stem, *_stages(bottleneck, 4, width, width, (3, 4, 6, 3)))
