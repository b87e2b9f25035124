"""Rotated: every task is the same base, its images turned by another angle."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.contract import Refused, Scenario
from perdure.data import View
from perdure.datasets.base import Base, Scaling, one_of
from perdure.rng import fold, uniform
from perdure.streams.stream import CHUNK, Lazy, Lesson, Stream, assemble, at_least_one

Interpolation = Literal["nearest", "bilinear"]


def turned(x: Tensor, degrees: Tensor, interpolation: Interpolation) -> Tensor:
    """Images x (B, height, width) or (B, channels, height, width) turned counter-clockwise about their centre.

    Args:
        degrees: (B,), or (1,) for all alike.
        interpolation: of the stored values, which are rounded if they are integers; outside there are zeros.
    """
    height, width = x.shape[-2:]
    cos, sin, zero = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros_like(degrees)
    # affine_grid measures each side from -1 to 1: a turn of what is not square needs its proportion
    theta = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(x.device).float(), [len(theta), 1, height, width], align_corners=False)
    images = x.reshape(len(x), -1, height, width).float()
    out = F.grid_sample(images, grid.expand(len(x), -1, -1, -1), interpolation, "zeros", align_corners=False)
    return (out if x.is_floating_point() else out.round()).to(x.dtype).view_as(x)


@dataclass(frozen=True)
class Rotate:
    """One angle for all images."""

    degrees: float
    interpolation: Interpolation

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        return turned(x, torch.tensor([self.degrees], dtype=torch.float64), self.interpolation)


def images_only(kind: str, base: Base, interpolation: Interpolation) -> None:
    """Refuses what cannot be turned."""
    one_of("stream.interpolation", interpolation, Interpolation)
    if len(base.shape) < 2:
        raise Refused(
            f"{kind} turns images, but an input of {base.name} has shape {base.shape}; use permuted-{base.name}"
        )


def _angles(angles: str, step: float | None, tasks: int, key: int) -> list[float]:
    if step is not None:
        if angles != "evenly":
            raise Refused("stream.angles and stream.step are both given; give one of them")
        if not isfinite(step):
            raise Refused(f"stream.step is {step}; give a number of degrees")
        return [i * step for i in range(tasks)]
    draws = uniform(key, tasks).tolist()
    if angles == "evenly":
        return [180 * (i + draw) / tasks for i, draw in enumerate(draws)]
    if angles == "uniform":
        return [180 * draw for draw in draws]
    try:
        listed = [float(angle) for angle in angles.split(",")]
    except ValueError:
        listed = []
    if not listed or not all(map(isfinite, listed)):
        raise Refused(f"stream.angles is {angles!r}; use evenly, uniform, or degrees with commas between (0,20,40)")
    if len(listed) != tasks:
        raise Refused(f"stream.angles names {len(listed)} angles for {tasks} tasks; give one angle a task")
    return listed


def rotated(
    base: Base,
    tasks: int = 5,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    angles: str = "evenly",
    step: float | None = None,
    interpolation: Interpolation = "nearest",
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """Every task is the base turned counter-clockwise by another angle, training and exam alike (default gns).

    Args:
        base: what is turned: images.
        tasks: how many tasks.
        seed: decides the stream.
        scenario: gns when not given; in gnu label c of task t is t * classes + c.
        angles: evenly (one angle drawn in each of as many bins of 180 degrees as tasks), uniform (each drawn from 180
            degrees), or degrees with commas between (0,20,40).
        step: turn task i by i times this many degrees, instead of `angles`.
        interpolation: nearest or bilinear.
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often each task comes (nns only).
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: the base holds no images, or an option is out of range.
    """
    at_least_one(tasks=tasks)
    images_only("rotated", base, interpolation)
    degrees = _angles(angles, step, tasks, fold(seed, "rotated"))
    base, classes = base.scaled(scale), torch.arange(base.classes)

    def lesson(i: int) -> Lesson:
        rotate = Rotate(degrees[i], interpolation)
        return Lesson(View(base.train, transform=rotate), View(base.exam, transform=rotate), classes)

    return assemble(
        f"rotated-{base.name}",
        scenario or Scenario.GNS,
        Lazy(lesson, range(tasks)),
        seed,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
    )
