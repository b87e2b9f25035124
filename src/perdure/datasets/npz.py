"""Arrays from outside, checked: any .npz file with X_train, y_train, X_test, y_test is a base."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets.base import Base

Array = np.ndarray[Any, Any]


def files(places: Sequence[Path]) -> dict[str, Path]:
    """Every ROOT/NAME.npz and ROOT/npz/NAME.npz by name; the first root that has a name wins."""
    found: dict[str, Path] = {}
    for folder in [folder for root in places for folder in (root, root / "npz")]:
        for path in sorted(folder.glob("*.npz")):
            found.setdefault(path.stem, path)
    return found


def opened(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Array]:
    """The named arrays of an .npz file; those in `optional` only if it has them. Nothing in it is ever executed.

    Raises:
        Refused: the file is missing or corrupt, lacks an array, or holds Python objects.
    """
    if not path.is_file():
        raise Refused(f"there is no file {path}; check the path")
    content: dict[str, Array] = {}
    name = "the file"
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            held = file.files
            for name in [name for name in (*needed, *optional) if name in held]:
                content[name] = file[name]
    except (OSError, EOFError, BadZipFile, zlib.error, TypeError, ValueError) as error:
        reason: object = error
        if "pickle" in str(error):  # numpy's own words advise to load it unsafely
            reason = "it holds Python objects" if "Object arrays" in str(error) else "it is no array"
        raise Refused(
            f"{path}: {name} cannot be read ({reason}); save plain numbers and strings with numpy.savez"
        ) from error
    if lacking := [name for name in needed if name not in held]:
        wish = ", ".join(needed) + (f" (and may have {', '.join(optional)})" if optional else "")
        raise Refused(f"{path} has no {', '.join(lacking)}; it needs {wish}, and has {', '.join(held) or 'nothing'}")
    return content


def inputs(name: str, x: Array) -> Tensor:
    """An array as inputs (N, ...): integers as they are, numbers with a fraction as float32, channels first.

    Raises:
        Refused: it holds anything but real, finite numbers, or no example at all.
    """
    if x.dtype.kind not in "biuf":
        raise Refused(f"{name} holds {x.dtype}, not numbers; save it as an integer or float array")
    if x.ndim < 2 or not x.size:
        raise Refused(f"{name} has shape {x.shape}; it needs a row for each example, (N, ...), and at least one")
    if x.dtype.kind == "f":
        x = x.astype(np.float32, copy=False)
        if not (fine := np.isfinite(x.reshape(len(x), -1)).all(1)).all():
            raise Refused(f"{name} holds NaN or infinite numbers, first in row {fine.argmin()}; fill or drop such rows")
    elif x.dtype != np.uint8:
        x = x.astype(np.uint8 if x.dtype.kind == "b" else np.int64, copy=False)
    if x.ndim == 4 and x.shape[3] <= 4 < x.shape[1]:
        x = np.moveaxis(x, 3, 1)
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def numbers(name: str, y: Array) -> Array:
    """Labels (N,): integers, or strings as they are.

    Raises:
        Refused: labels of another shape or kind, negative, or with a fraction.
    """
    if y.dtype.kind not in "biufUS":
        raise Refused(f"{name} holds {y.dtype}; labels are integers or strings")
    if y.ndim != 1:
        raise Refused(f"{name} has shape {y.shape}; it needs one label for each example, (N,)")
    if y.dtype.kind in "US":
        return y.astype(str)
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
        raise Refused(f"{name} holds labels that are not whole numbers; labels are integers or strings")
    if y.size and y.min() < 0:
        raise Refused(f"{name} holds the label {y.min():g}; labels must not be negative")
    return y.astype(np.int64)


def same_length(**arrays: Array | Tensor) -> None:
    """Refuses arrays of different lengths."""
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in arrays.items())
        raise Refused(f"{lengths} examples; they must be as many")


def same_kind(x: Tensor, exam: Tensor, name: str) -> None:
    """Refuses inputs to learn and to ask of different shapes or kinds."""
    if x.shape[1:] != exam.shape[1:] or x.dtype != exam.dtype:
        of = [f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape[1:])}" for part in (x, exam)]
        raise Refused(f"an example to learn is {of[0]}, but one in {name} is {of[1]}; save both alike")


def places_of(name: str, values: Array, known: Array, where: str) -> Array:
    """The place of each value among the known, which are sorted; refuses others."""
    strange = values if values.dtype.kind != known.dtype.kind else np.setdiff1d(values, known)
    if len(strange):
        raise Refused(f"{name} holds {strange[0].item()!r}, which {where} does not; drop it, or give examples of it")
    return np.searchsorted(known, values)


def read(name: str, places: Sequence[Path]) -> Base:
    """A base from ROOT/NAME.npz or ROOT/npz/NAME.npz; labels are numbered 0..classes-1 in sorted order.

    Raises:
        Refused: the file or its arrays cannot be used.
    """
    content = opened(files(places)[name], ("X_train", "y_train", "X_test", "y_test"))
    x, asked = inputs("X_train", content["X_train"]), inputs("X_test", content["X_test"])
    y, y_test = numbers("y_train", content["y_train"]), numbers("y_test", content["y_test"])
    same_length(X_train=x, y_train=y)
    same_length(X_test=asked, y_test=y_test)
    same_kind(x, asked, "X_test")
    known, labels = np.unique(y, return_inverse=True)
    exam = torch.from_numpy(places_of("y_test", y_test, known, "y_train"))
    return Base(name, Arrays(x, torch.from_numpy(labels)), Arrays(asked, exam), len(known))
