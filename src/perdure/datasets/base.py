"""A base: one data set, split into what is learned and what is asked, from which streams are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from perdure.contract import Refused, Scale
from perdure.data import BLOCK, Arrays, Mapped
from perdure.rng import fold, permutation

Scaling = Literal["unit", "standard", "none"]
SAMPLE = 1024  # examples on which the standard scale of a data set on disk is found


@dataclass(frozen=True, eq=False)
class Base:
    """A data set as stored, in memory or on disk.

    Args:
        name: as in `permuted-NAME`.
        train: x (N, ...) and labels 0..classes-1.
        exam: the same for the examples that are only ever asked.
        classes: how many labels there are.
    """

    name: str
    train: Arrays | Mapped
    exam: Arrays | Mapped
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (d,), (height, width) or (channels, height, width)."""
        return tuple(self.train.x.shape[1:])

    def scaled(self, how: Scaling) -> Base:
        """The same data set under a scale, found on its training part.

        Of one on disk, unit is what its reader says, and standard is found on `SAMPLE` examples drawn by a fixed key.
        """
        train = self.train
        if isinstance(train, Arrays):
            scale = scale_of(train.x, how)
        elif how == "unit":
            scale = train.scale
        else:
            scale = scale_of(train.raw(permutation(0, len(train))[: SAMPLE if how == "standard" else 1]), how)
        return replace(self, train=replace(self.train, scale=scale), exam=replace(self.exam, scale=scale))


def one_of(name: str, value: object, literal: Any) -> None:
    """Refuses a value that is not one of a `Literal`."""
    if value not in get_args(literal):
        raise Refused(f"{name} is {value!r}; it must be one of {', '.join(get_args(literal))}")


def scale_of(x: Tensor, how: Scaling, rows: Tensor | None = None) -> Scale:
    """How stored x (N, ...) becomes network inputs, found on the given rows, or on all.

    unit: divided by the greatest stored value (255 for photographs, 16 for digits); numbers with a fraction are left
    as they are. standard: one mean subtracted, divided by one standard deviation, over every stored number. none.

    Raises:
        Refused: `how` is none of these.
    """
    one_of("stream.scale", how, Scaling)
    if how == "none" or (how == "unit" and x.is_floating_point()):
        return Scale()
    places = torch.arange(len(x)) if rows is None else rows
    blocks = (x[part].flatten() for part in places.split(BLOCK))
    if how == "unit":
        return Scale(factor=1 / (max(max(int(block.max()), -int(block.min())) for block in blocks) or 1))
    total = squares = count = 0.0
    for block in blocks:
        numbers = block.double()  # in which sums of integers are exact
        total, squares = total + float(numbers.sum()), squares + float(numbers.dot(numbers))
        count += len(numbers)
    mean = total / count
    variance = squares / count - mean**2
    return Scale(mean, variance**-0.5 if variance > 0 else 1.0)


def stratified(labels: Tensor, share: float, key: int) -> tuple[Tensor, Tensor]:
    """Rows of labels (N,), shuffled by a key and dealt in two: the rest, and a share (0 to 1) of every class.

    A class of two examples or more gives the share at least one.
    """
    order = permutation(key, len(labels))
    shuffled, dealt = labels[order], torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (shuffled == label).nonzero()[:, 0]
        drawn = permutation(fold(key, int(label)), len(places))  # the first ones would leave a front without its like
        dealt[places[drawn[: max(round(share * len(places)), min(1, len(places) - 1))]]] = True
    return order[~dealt], order[dealt]
