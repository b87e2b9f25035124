"""A net with a decoder of the same widths: it says how well every layer's input can be made of the next layer's.

    error = sum_{j<L} lam_j |h_j - d_j|^2       h_0 = x, h_j the input of layer j
    d_j   = relu(A_j d_{j+1} + b_j),  d_L = h_L       without relu where j = 0

Reference: R. Kemker, C. Kanan, "FearNet: brain-inspired model for incremental learning", 2017, arXiv 1711.10563.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from perdure.contract import Refused
from perdure.model import calls


class Mirror(nn.Module):
    """A net with its decoder; a forward pass gives (B, n + 1): its logits, and the reconstruction error of each input.

    Args:
        net: a chain of Linear layers, the last of which is its head.
        lam: (L,) weight of each layer's error, that of the input first.

    Raises:
        Refused: the net is anything else.
    """

    def __init__(self, net: nn.Module, head: str, lam: Sequence[float]) -> None:
        super().__init__()
        self.net, self.lam = copy.deepcopy(net), tuple(lam)
        chain = [(name, layer) for name, layer in self.net.named_modules() if isinstance(layer, nn.Linear)]
        others = [layer for layer in self.net.modules() if isinstance(layer, nn.modules.conv._ConvNd)]
        fits = all(a.out_features == b.in_features for (_, a), (_, b) in pairwise(chain))
        if others or not fits or chain[-1][0] != head or len(chain) < 2:
            raise Refused(
                "FearNet mirrors a chain of Linear layers that ends in the head, with a hidden one at least, and this "
                "net is none; use mlp:400-400 or the like, on features of a frozen encoder where the inputs are images"
            )
        self.layers = [name for name, _ in chain]
        self.widths = [layer.in_features for _, layer in chain]  # of h_0 to h_L
        self.decoder = nn.ModuleList(nn.Linear(after, before) for before, after in pairwise(self.widths))

    def both(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits (B, n), and what every layer gets: h_0 (B, D) to h_L (B, d)."""
        layers = [self.net.get_submodule(name) for name in self.layers]
        with calls(layers) as called:
            logits = self.net(x)
        return logits, [called[layer][0][0] for layer in layers]

    def down(self, z: Tensor) -> list[Tensor]:
        """From encodings z (B, d), every layer's reconstruction: d_0 (B, D) to d_{L-1}."""
        out: list[Tensor] = []
        for place, layer in reversed(list(enumerate(self.decoder))):
            z = layer(z).relu() if place else layer(z)
            out.insert(0, z)
        return out

    def forward(self, x: Tensor) -> Tensor:
        logits, (*h, z) = self.both(x)
        parts = zip(self.lam, h, self.down(z), strict=True)
        errors = [lam * (a - b).square().sum(1) for lam, a, b in parts]
        return torch.cat([logits, torch.stack(errors).sum(0)[:, None]], 1)
