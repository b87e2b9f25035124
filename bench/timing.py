"""How two pieces of work are timed against each other, and on which images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets import Base, load


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(ours: Callable[[], object], yardstick: Callable[[], object], rounds: int) -> dict[str, float]:
    """Both timed in turn: the ratio of their least times, and the median of the ratios of each round."""
    ours(), yardstick()
    pairs = [(seconds(ours), seconds(yardstick)) for _ in range(rounds)]
    mine, theirs = zip(*pairs, strict=True)
    return {"ratio": min(mine) / min(theirs), "median": statistics.median(a / b for a, b in pairs)}


def base() -> tuple[Base, str]:
    """MNIST, or noise of the same shape where there is no MNIST."""
    try:
        return load("mnist"), "mnist"
    except Refused:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (70_000, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.arange(70_000) % 10
        return Base(
            "noise", Arrays(noise[:60_000], labels[:60_000]), Arrays(noise[60_000:], labels[60_000:]), 10
        ), "noise"
