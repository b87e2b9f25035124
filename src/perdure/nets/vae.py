"""A variational autoencoder: it learns what inputs look like, and makes others like them.

    q(z|u)  = N(mu(u), sigma(u)^2),   z = mu + sigma eps,   eps ~ N(0, I)
    ELBO(u) = E_q log p(u|z) - KL(q(z|u) | N(0, I))
    KL      = 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)
    log p   = sum_i u_i log m_i + (1 - u_i) log(1 - m_i),  m = sigmoid(decoder(z))      bernoulli, 0 <= u <= 1
    log p   = -1/2 sum_i ((u_i - m_i)^2 + log 2 pi),       m = decoder(z)               gaussian

Reference: D. P. Kingma, M. Welling, "Auto-encoding variational Bayes", 2013, arXiv 1312.6114.
"""

from __future__ import annotations

from itertools import pairwise
from math import log, pi
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Likelihood = Literal["bernoulli", "gaussian"]


def _perceptron(*widths: int) -> nn.Sequential:
    """Linear layers from each width to the next, with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    """An encoder and its mirror image, a decoder; the expectation over q is taken at one draw of eps.

    Args:
        entries: D, of one input.
        widths: hidden units of the encoder, layer by layer; the decoder has them in the other order.
        latent: entries of z.
        likelihood: what the entries of an input are, given z.
    """

    def __init__(self, entries: int, widths: tuple[int, ...], latent: int, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.encoder = _perceptron(entries, *widths, 2 * latent)
        self.decoder = _perceptron(latent, *reversed(widths), entries)

    def encode(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 of inputs u (B, D), (B, latent) each."""
        mu, log_variance = self.encoder(u).chunk(2, 1)
        return mu, log_variance

    def forward(self, u: Tensor, eps: Tensor) -> Tensor:
        """(B,) -ELBO, in nats, of inputs u (B, D) at a draw of eps (B, latent)."""
        mu, log_variance = self.encode(u)
        sigma = (log_variance / 2).exp()
        out = self.decoder(torch.addcmul(mu, sigma, eps))
        divergence: Tensor = (mu.square() + sigma.square() - log_variance - 1).sum(1) / 2
        return divergence + self.surprise(u, out)

    def surprise(self, u: Tensor, out: Tensor) -> Tensor:
        """(B,) -log p(u|z) of inputs u (B, D), in nats, from what the decoder put out (B, D)."""
        if self.likelihood == "gaussian":
            return ((u - out).square() + log(2 * pi)).sum(1) / 2
        return F.binary_cross_entropy_with_logits(out, u, reduction="none").sum(1)

    def mean(self, z: Tensor) -> Tensor:
        """(B, D) the mean m of p(u|z)."""
        out: Tensor = self.decoder(z)
        return out if self.likelihood == "gaussian" else out.sigmoid()
