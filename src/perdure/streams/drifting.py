"""Drifting: the images turn a little with every batch; a task is a stretch of the way."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

import torch
from torch import Tensor

from perdure.contract import Refused, Scenario
from perdure.data import View
from perdure.datasets.base import Base, Scaling
from perdure.rng import fold, permutation
from perdure.streams.rotated import Interpolation, images_only, turned
from perdure.streams.stream import CHUNK, Lazy, Lesson, Stream, assemble, at_least_one


@dataclass(frozen=True, eq=False)
class Turn:
    """An angle for each row: degrees (N,)."""

    degrees: Tensor
    interpolation: Interpolation

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        return turned(x, self.degrees[rows.cpu()], self.interpolation)


def drifting(
    base: Base,
    tasks: int = 5,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    span: float = 180.0,
    batch: int = 128,
    iid: bool = False,
    interpolation: Interpolation = "nearest",
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """The base, shuffled and dealt over the tasks, turned a little more with every batch (default gns).

    It turns counter-clockwise. A task is a stretch of the way, learned in order of arrival; its exam holds every exam
    image of the base, at angles spread evenly over that stretch.

    Args:
        base: what is turned: images.
        tasks: how many stretches of equal length.
        seed: decides the stream.
        scenario: gns when not given.
        span: degrees from the first batch to the last.
        batch: examples that share an angle.
        iid: the same examples at the same angles with the same exams, but shuffled over the whole stream.
        interpolation: nearest or bilinear.
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often the base is dealt, each time shuffled anew; the way is as many times longer.
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: the base holds no images, or an option is out of range.
    """
    at_least_one(tasks=tasks, batch=batch, passes=passes)
    images_only("drifting", base, interpolation)
    if not isfinite(span):
        raise Refused(f"stream.span is {span}; give a number of degrees")
    base, classes, key = base.scaled(scale), torch.arange(base.classes), fold(seed, "drifting")
    dealt = View(base.train, torch.cat([permutation(fold(key, turn), len(base.train)) for turn in range(passes)]))
    if tasks > len(dealt):
        raise Refused(f"{len(dealt)} examples cannot be dealt over {tasks} tasks; use fewer tasks or more passes")
    last = max(ceil(len(dealt) / batch) - 1, 1)
    degrees = span * (torch.arange(len(dealt)) // batch) / last
    arrival = permutation(fold(key, "iid"), len(dealt)) if iid else torch.arange(len(dealt))
    borders = [i * len(dealt) // tasks for i in range(tasks + 1)]

    def lesson(i: int) -> Lesson:
        start, stop = borders[i], borders[i + 1]
        train = View(dealt, arrival[start:stop], Turn(degrees, interpolation))
        along = (permutation(fold(key, "exam", i), len(base.exam)) + 0.5) / len(base.exam)
        asked = torch.lerp(degrees[start], degrees[stop - 1], along)
        return Lesson(train, View(base.exam, transform=Turn(asked, interpolation)), classes)

    return assemble(
        f"drifting-{base.name}",
        scenario or Scenario.GNS,
        Lazy(lesson, range(tasks)),
        seed,
        chunk=chunk,
        examples_per_task=examples_per_task,
        ordered=not iid,
    )
