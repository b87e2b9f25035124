"""Noisy: the same base twice, once drowned in noise and once clean. The order decides whether it is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perdure.contract import Refused, Scenario
from perdure.data import View
from perdure.datasets.base import Base, Scaling, one_of
from perdure.rng import at, fold
from perdure.streams.stream import CHUNK, Lesson, Stream, assemble

Order = Literal["noisy-clean", "clean-noisy"]


@dataclass(frozen=True)
class Noise:
    """Adds normal noise that is a function of the key and the row; stored values become float, noise or none."""

    key: int
    deviation: float

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        x = x.float()
        if not self.deviation:
            return x
        blocks = [self._draw(part, x[0].numel()) for part in rows.split(256)]  # a draw takes doubles
        return x.add(torch.cat(blocks).view_as(x), alpha=self.deviation)

    def _draw(self, rows: Tensor, width: int) -> Tensor:
        """(B, width) float32, standard normal: the inverse of its distribution at the draws of each row."""
        draws = at(self.key, rows[:, None] * width + torch.arange(width, device=rows.device))
        uniform = ((draws >> 11) & ((1 << 53) - 1)).double() * 2.0**-53 + 2.0**-54
        normal: Tensor = torch.special.ndtri(uniform)
        return normal.float()


def noisy(
    base: Base,
    tasks: int = 2,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    noise: float = 0.7,
    order: Order = "noisy-clean",
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """Two tasks: the base with Gaussian noise on every pixel, and the base as it is (default gns).

    Args:
        base: what is drowned in noise.
        tasks: two.
        seed: decides the noise.
        scenario: gns when not given.
        noise: standard deviation of the noise, in units of the scaled inputs; nothing is clipped.
        order: noisy-clean or clean-noisy.
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often each task comes (nns only).
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: another number of tasks, or an option is out of range.
    """
    one_of("stream.order", order, Order)
    if tasks != 2:
        raise Refused(f"a noisy stream has 2 tasks, the noisy one and the clean one, not {tasks}; use --tasks 2")
    if not 0 <= noise < float("inf"):
        raise Refused(f"stream.noise is {noise}; it is a standard deviation and must not be negative")
    base, classes = base.scaled(scale), torch.arange(base.classes)
    stored = noise / base.train.scale.factor

    def lesson(deviation: float) -> Lesson:
        train, exam = (Noise(fold(seed, "noisy", part), deviation) for part in ("train", "exam"))
        return Lesson(View(base.train, transform=train), View(base.exam, transform=exam), classes)

    lessons = [lesson(stored), lesson(0.0)]
    return assemble(
        f"noisy-{base.name}",
        scenario or Scenario.GNS,
        lessons if order == "noisy-clean" else lessons[::-1],
        seed,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
    )
