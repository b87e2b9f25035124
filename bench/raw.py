"""The loop a person would write by hand: the yardstick of every ratio."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn


def mlp(first: int = 256, second: int = 256, outputs: int = 10) -> nn.Sequential:
    """784-256-256-10, or of other widths."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, outputs)
    )


def prepare(x: Tensor, permutation: Tensor) -> Tensor:
    """Stored images (N, 28, 28) uint8 as network inputs (N, 784), permuted once."""
    return x.flatten(1)[:, permutation].float() / 255


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int,
    lr: float,
    steps: int,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> None:
    """Plain SGD, or another optimiser, over shuffled batches of prepared inputs."""
    net.train()
    optimizer = kind(net.parameters(), lr=lr)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            done += 1
            if done == steps:
                return


def train_beside(
    net: nn.Module, x: Tensor, y: Tensor, batch: int, lr: float, steps: int, past: Tensor, labels: Tensor, size: int
) -> None:
    """The same, with the gradient on `size` examples of the past (M, 784) before every step."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            drawn = torch.randperm(len(past))[:size]
            F.cross_entropy(net(past[drawn]), labels[drawn]).backward()
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            done += 1
            if done == steps:
                return


def train_constrained(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int,
    lr: float,
    steps: int,
    memories: list[tuple[Tensor, Tensor]],
    margin: float,
) -> None:
    """The same, each gradient projected as GEM has it: a backward pass a memory, and a general solver for the dual."""
    net.train()
    optimizer, params = torch.optim.SGD(net.parameters(), lr=lr), list(net.parameters())

    def slope(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        return torch.cat([param.grad.flatten() for param in params if param.grad is not None])

    for rows in torch.randperm(len(x)).split(batch)[:steps]:
        G = torch.stack([slope(*memory) for memory in memories])
        g = slope(x[rows], y[rows])
        if bool((G @ g < 0).any()):
            P, q = (G @ G.T).double().numpy(), (G @ g).double().numpy()
            solved = minimize(
                lambda v, P=P, q=q: v @ P @ v / 2 + q @ v,
                [margin] * len(q),
                jac=lambda v, P=P, q=q: P @ v + q,
                bounds=[(margin, None)] * len(q),
                method="SLSQP",
            )
            g = g + G.T @ torch.from_numpy(solved.x).float()
        for param, part in zip(params, g.split([param.numel() for param in params]), strict=True):
            param.grad = part.view_as(param)
        optimizer.step()


class Scholar(nn.Module):
    """A variational autoencoder of 784 pixels."""

    def __init__(self, hidden: int = 400, latent: int = 100) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean, self.spread = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 784)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,) what one draw costs in nats."""
        h = self.encoder(x)
        mean, spread = self.mean(h), self.spread(h)
        out = self.decoder(mean + torch.randn_like(mean) * (spread / 2).exp())
        divergence = -0.5 * (1 + spread - mean**2 - spread.exp()).sum(1)
        return F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1) + divergence


def train_generative(net: nn.Module, x: Tensor, y: Tensor, batch: int, lr: float, steps: int) -> None:
    """Generative replay: as many drawn inputs beside each batch, labelled by the old network, for both networks."""
    old, maker = copy.deepcopy(net), Scholar()
    teacher = copy.deepcopy(maker)
    solving, making = (torch.optim.Adam(each.parameters(), lr=lr, fused=True) for each in (net, maker))
    for rows in torch.randperm(len(x)).split(batch)[:steps]:
        with torch.no_grad():
            drawn = teacher.decoder(torch.randn(batch, 100)).sigmoid()
            labels = old(drawn).argmax(1)
        both = torch.cat([x[rows], drawn])
        out, cost = net(both), maker(both)
        n = len(rows)
        solving.zero_grad()
        (0.5 * F.cross_entropy(out[:n], y[rows]) + 0.5 * F.cross_entropy(out[n:], labels)).backward()
        solving.step()
        making.zero_grad()
        (0.5 * cost[:n].mean() + 0.5 * cost[n:].mean()).backward()
        making.step()


def examine(net: nn.Module, x: Tensor, y: Tensor, batch: int) -> float:
    """The accuracy of bare forward passes over prepared inputs."""
    net.eval()
    hits = 0
    with torch.no_grad():
        for i in range(0, len(x), batch):
            hits += int((net(x[i : i + batch]).argmax(1) == y[i : i + batch]).sum())
    return hits / len(x)


def largest(scores: Tensor, m: int) -> Tensor:
    """The mask (n,) of the m largest |scores| (n,), by sorting all of them."""
    mask = torch.zeros_like(scores)
    mask[scores.abs().argsort()[len(scores) - m :]] = 1
    return mask
