"""A base: one data set, split into what is learned and what is asked, from which streams are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused, Scale
from perdure.data import BLOCK, Arrays
from perdure.rng import permutation

Scaling = Literal["unit", "standard", "none"]


@dataclass(frozen=True, eq=False)
class Base:
    """A data set in memory, as stored.

    Args:
        name: as in `permuted-NAME`.
        train: x (N, ...) and labels 0..classes-1.
        exam: the same for the examples that are only ever asked.
        classes: how many labels there are.
    """

    name: str
    train: Arrays
    exam: Arrays
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (d,), (height, width) or (channels, height, width)."""
        return tuple(self.train.x.shape[1:])

    def scaled(self, how: Scaling) -> Base:
        """The same data set under a scale, found on its training part."""
        scale = scale_of(self.train.x, how)
        return replace(self, train=replace(self.train, scale=scale), exam=replace(self.exam, scale=scale))


def unknown(what: str, name: str, known: Iterable[str]) -> Refused:
    """The refusal of a name that nothing has, with the nearest that something has."""
    known = list(known)
    near = get_close_matches(name.lower(), known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return Refused(f"there is no {what} {name!r}; {hint}Known: {', '.join(known)}")


def one_of(name: str, value: object, literal: Any) -> None:
    """Refuses a value that is not one of a `Literal`."""
    if value not in get_args(literal):
        raise Refused(f"{name} is {value!r}; it must be one of {', '.join(get_args(literal))}")


def scale_of(x: Tensor, how: Scaling) -> Scale:
    """How stored x (N, ...) becomes network inputs.

    unit: divided by the greatest stored value (255 for photographs, 16 for digits); numbers with a fraction are left
    as they are. standard: one mean subtracted, divided by one standard deviation, over every number of x. none.

    Raises:
        Refused: `how` is none of these.
    """
    one_of("stream.scale", how, Scaling)
    if how == "none" or (how == "unit" and x.is_floating_point()):
        return Scale()
    if how == "unit":
        return Scale(factor=1 / (max(int(x.max()), -int(x.min())) or 1))
    blocks = x.split(BLOCK)  # in blocks, for a double is eight times a byte
    mean = sum(float(block.double().sum()) for block in blocks) / x.numel()
    variance = sum(float((block.double() - mean).square().sum()) for block in blocks) / x.numel()
    return Scale(mean, variance**-0.5 if variance else 1.0)


def stratified(labels: Tensor, share: float, key: int) -> tuple[Tensor, Tensor]:
    """Rows of labels (N,), shuffled by a key and dealt in two: the rest, and a share (0 to 1) of every class.

    A class of two examples or more gives the share at least one.
    """
    order = permutation(key, len(labels))
    shuffled, dealt = labels[order], torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (shuffled == label).nonzero()[:, 0]
        dealt[places[: max(round(share * len(places)), min(1, len(places) - 1))]] = True
    return order[~dealt], order[dealt]


def inputs(name: str, x: np.ndarray[Any, Any]) -> Tensor:
    """An array as inputs (N, ...): small integers as they are, numbers with a fraction as float32.

    Raises:
        Refused: it holds anything but real, finite numbers, or no example at all.
    """
    if x.dtype.kind not in "biuf":
        raise Refused(f"{name} holds {x.dtype}, not numbers; save it as an integer or float array")
    if x.ndim < 2 or not x.size:
        raise Refused(f"{name} has shape {x.shape}; it needs one row an example: (N, ...) with N at least 1")
    if x.dtype.kind == "f":
        x = x.astype(np.float32, copy=False)
        if not (fine := np.isfinite(x).reshape(len(x), -1).all(1)).all():
            raise Refused(f"{name} holds NaN or infinite numbers, first in row {fine.argmin()}; fill or drop such rows")
    elif x.dtype != np.uint8:
        x = x.astype({"b": np.uint8, "i": x.dtype, "u": np.int64}[x.dtype.kind], copy=False)
    return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))


def numbered(name: str, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Labels (N,) as they are if integers, as integers if whole numbers; names stay names.

    Raises:
        Refused: labels of another shape or kind, negative, or with a fraction.
    """
    if y.dtype.kind not in "biufUS":
        raise Refused(f"{name} holds {y.dtype}; labels are integers or strings")
    if y.ndim != 1:
        raise Refused(f"{name} has shape {y.shape}; it needs one label an example: (N,)")
    if y.dtype.kind in "US":
        return y.astype(str)
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
        raise Refused(f"{name} holds labels that are not whole numbers; labels are integers or strings")
    if y.size and y.min() < 0:
        raise Refused(f"{name} holds the label {int(y.min())}; labels must not be negative")
    return y.astype(np.int64)


def same_length(**arrays: Any) -> None:
    """Refuses arrays of different lengths."""
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in arrays.items())
        raise Refused(f"{lengths}: give one of each an example")
