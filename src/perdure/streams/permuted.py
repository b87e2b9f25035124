"""Permuted: every task is the same base with its pixels in another order."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from perdure.contract import Refused, Scenario
from perdure.data import View
from perdure.datasets.base import Base, Scaling
from perdure.rng import fold, permutation
from perdure.streams.stream import CHUNK, Lazy, Lesson, Stream, assemble, at_least_one


class Permute:
    """A fixed order of the pixels, drawn from a key when it is first used; alike in all channels.

    Args:
        shape: of one input: (d,), (height, width) or (channels, height, width).
        centre: side of the centre square outside which nothing moves; the whole input when not given.
    """

    def __init__(self, key: int, shape: tuple[int, ...], centre: int | None = None) -> None:
        self.key, self.shape, self.centre = key, shape, centre

    @cached_property
    def order(self) -> Tensor:
        """(pixels,) where each pixel comes from."""
        places = torch.arange(torch.Size(self.shape[-2:]).numel())
        inner = places
        if self.centre is not None:
            side, (height, width) = self.centre, self.shape[-2:]
            top, left = (height - side) // 2, (width - side) // 2
            inner = places.view(height, width)[top : top + side, left : left + side].flatten()
        return places.scatter(0, inner, inner[permutation(self.key, len(inner))])

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        flat = x.flatten(-2) if len(self.shape) > 1 else x
        return flat.gather(-1, self.order.to(x.device).expand_as(flat)).view_as(x)  # of bytes: four index_select


def permuted(
    base: Base,
    tasks: int = 5,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    centre: int | None = None,
    identity_first: bool = False,
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """Every task is the base with its pixels in another order, the same for training and exam (default gns).

    Args:
        base: what is permuted.
        tasks: how many tasks.
        seed: decides the stream.
        scenario: gns when not given; in gnu label c of task t is t * classes + c.
        centre: side of a centre square, the only part that is permuted.
        identity_first: leave the first task as it is.
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often each task comes (nns only).
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: an option is out of range.
    """
    at_least_one(tasks=tasks)
    if centre is not None and (len(base.shape) < 2 or not 2 <= centre <= min(base.shape[-2:])):
        raise Refused(f"stream.centre is {centre}, but an input has shape {base.shape}; use 2 to its smaller side")
    base, classes = base.scaled(scale), torch.arange(base.classes)

    def lesson(i: int) -> Lesson:
        if i == 0 and identity_first:
            return Lesson(base.train, base.exam, classes)
        permute = Permute(fold(seed, "permuted", i), base.shape, centre)
        return Lesson(View(base.train, transform=permute), View(base.exam, transform=permute), classes)

    return assemble(
        f"permuted-{base.name}",
        scenario or Scenario.GNS,
        Lazy(lesson, range(tasks)),
        seed,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
    )
