"""Small networks of every kind, those that factor into outer products and those that do not, and what they see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.contract import Fit
from perdure.data import Arrays
from perdure.model import Model, start
from perdure.rng import fold, integers, normal

C = 3


def arrays(shape: tuple[int, ...], n: int = 24, key: int = 1) -> Arrays:
    size = n * torch.Size(shape).numel()
    return Arrays(normal(key, size).view(n, *shape).float(), integers(fold(key, "y"), C, n))


class Spare(nn.Module):
    """An MLP with a Linear layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.spare, self.out = nn.Linear(4, 5), nn.Linear(7, 7), nn.Linear(5, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.inner(x)))


class Tied(nn.Module):
    """Two layers that are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, C)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.out = nn.Linear(4, 4), nn.Linear(4, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.step(torch.tanh(self.step(x)))))


class Decoder(nn.Module):
    """A weight that is also used outside its layer's call."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.out = nn.Linear(4, 4), nn.Linear(4, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(torch.tanh(self.code(x)), self.code.weight.T))


class Coupled(nn.Module):
    """Examples that see each other's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, C)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        return self.out(h + h.mean(0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C))


NETS = {
    "mlp": (mlp(), (2, 2), True),
    "linear": (nn.Linear(4, C, bias=False), (4,), True),
    "dropout": (nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(6, C)), (4,), True),
    "spare": (Spare(), (4,), True),
    "plain norm": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, C)), (4,), True),
    "norm": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, C)), (4,), False),
    "conv": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, C)), (1, 4, 4), False),
    "sequence": (nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, C)), (3, 4), False),
    "tied": (Tied(), (4,), False),
    "twice": (Twice(), (4,), False),
    "decoder": (Decoder(), (4,), False),
    "coupled": (Coupled(), (4,), False),
    "recurrent": (Recurrent(), (3, 2), False),
    "attention": (Attending(), (3, 4), False),
}


def settled(net: nn.Module, key: int = 0) -> Model:
    """A model whose statistics, where it has any, are not the initial ones."""
    model = start(net, Fit(), key)
    stats = {name: buffer + 0.3 if buffer.is_floating_point() else buffer for name, buffer in model.stats.items()}
    return model._replace(stats=stats)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    assert a.keys() == b.keys()
    assert all(a[name].shape == b[name].shape for name in a)
    largest = max(float(tensor.abs().max()) for tensor in b.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / largest
