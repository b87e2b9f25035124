"""Arrays from outside, checked: any .npz file with X_train, y_train, X_test, y_test is a base."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets.base import Base

Array = np.ndarray[Any, Any]

GROWTH = 1 << 32  # bytes that a compressed file may unpack to beyond its own size
LARGEST = np.iinfo(np.int64).max
HEAD = 1 << 14  # bytes that a header has at most; numpy takes 10,000
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SILENCE = Lock()  # warnings are switched off for all threads at once


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
        with ZipFile(path) as file, quiet():
            held = {part.filename.removesuffix(".npy"): part for part in file.infolist()}
            wanted = [name for name in (*needed, *optional) if name in held]
            if sum(held[name].file_size for name in wanted) > path.stat().st_size + GROWTH:
                raise ValueError(f"it unpacks to over {GROWTH >> 30} GiB more than the file has")
            for name in wanted:
                with file.open(held[name]) as part:
                    check_header(part, held[name].file_size)
                    part.seek(0)
                    content[name] = np.lib.format.read_array(part, allow_pickle=False)
    except Exception as error:  # a damaged file fails in any way that zipfile, its decompressors and numpy know
        reason = str(error) or type(error).__name__
        raise Refused(
            f"{path}: {name} cannot be read ({reason}); save plain numbers and strings with numpy.savez"
        ) from error
    if lacking := [name for name in needed if name not in held]:
        wish = ", ".join(needed) + (f" (and may have {', '.join(optional)})" if optional else "")
        raise Refused(f"{path} has no {', '.join(lacking)}; it needs {wish}, and has {', '.join(held) or 'nothing'}")
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings inside the block, which one thread at a time enters: of a file from outside, an error says enough."""
    with _SILENCE, warnings.catch_warnings(action="ignore"):
        yield


def check_header(file: IO[bytes], nbytes: int) -> None:
    """Reads the header of an array that is stored in so many bytes, before anything is allocated for it.

    Raises:
        ValueError: it is no array, holds Python objects, or promises more than there is.
    """
    head = BytesIO(file.read(HEAD))  # a header says how long it is, and may lie
    if (read := HEADERS.get(np.lib.format.read_magic(head))) is None:
        raise ValueError("its format is none of 1.0 and 2.0")
    shape, _, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) > nbytes - head.tell():
        raise ValueError("it has fewer numbers than its header says")


def as_array(name: str, value: Any) -> Array:
    """What was given, as an array: a tensor without its gradients, and one of half precision as float32.

    Raises:
        Refused: it is none.
    """
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value
        array = np.asarray(value)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise Refused(f"{name} is no array ({error}); give rows of equal length") from error
    if np.ma.is_masked(value):
        raise Refused(f"{name} has masked values; fill or drop them")
    if isinstance(value, (list, tuple)) and array.dtype.kind in "US" and array.ndim == 1:
        for other in value:
            if not isinstance(other, (str, bytes)):
                raise Refused(f"{name} holds {other!r} among strings; give all as strings, and drop what is missing")
    return array


def inputs(name: str, x: Array) -> Tensor:
    """An array as inputs (N, ...): integers as they are, numbers with a fraction as float32, channels first.

    Raises:
        Refused: it holds anything but real, finite numbers, or no example at all.
    """
    check_form(name, x)
    return converted(name, x)


def check_form(name: str, x: Array) -> None:
    """Refuses an array that can be no inputs, whatever the numbers in it."""
    if x.dtype.kind not in "biuf":
        raise Refused(f"{name} holds {x.dtype}, not numbers; save it as an integer or float array")
    if x.ndim < 2 or not x.size:
        raise Refused(f"{name} has shape {x.shape}; it needs a row for each example, (N, ...), and at least one")


def converted(name: str, x: Array, rows: Array | None = None) -> Tensor:
    """An array of that form, or some rows of it that an error calls by their numbers (N,), as inputs (N, ...).

    Raises:
        Refused: a number is not finite, or too large.
    """
    if x.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            x = x.astype(np.float32, copy=False)
        if not (fine := np.isfinite(x).all(tuple(range(1, x.ndim)))).all():
            row = fine.argmin() if rows is None else rows[fine.argmin()]
            raise Refused(f"{name} holds NaN or infinite numbers, first in row {row}; fill or drop such rows")
    elif x.dtype != np.uint8:
        if x.dtype.kind == "u" and x.max(initial=0) > LARGEST:
            raise Refused(f"{name} holds whole numbers above {LARGEST}; save it as a float array")
        x = x.astype(np.uint8 if x.dtype.kind == "b" else np.int64, copy=False)
    if x.ndim == 4 and x.shape[3] <= 4 < x.shape[1]:
        x = np.moveaxis(x, 3, 1)
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def numbers(name: str, y: Array, signed: bool = False) -> Array:
    """Labels (N,): integers, or strings as they are, also in an array of objects, which only memory can hold.

    Args:
        signed: integers may be negative.

    Raises:
        Refused: labels of another shape or kind, negative, too large, or with a fraction.
    """
    if y.dtype.kind in "OT" and all(isinstance(word, str) for word in y.flat):
        y = np.array(y.tolist(), str)
    if y.dtype.kind not in "biufUS":
        raise Refused(f"{name} holds {y.dtype}; labels are integers or strings")
    if y.ndim != 1:
        raise Refused(f"{name} has shape {y.shape}; it needs one label for each example, (N,)")
    if y.dtype.kind in "US":
        try:
            words = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y.astype(y.dtype.newbyteorder("="))
        except UnicodeDecodeError as error:
            raise Refused(f"{name} holds bytes that are no UTF-8 ({error}); save it as strings") from error
        if words.dtype.itemsize and words.view(np.uint32).max(initial=0) > sys.maxunicode:
            raise Refused(f"{name} holds what is no text; save it anew")
        return words
    with np.errstate(invalid="ignore"):
        if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
            raise Refused(f"{name} holds labels that are not whole numbers; labels are integers or strings")
    if y.size and y.min() < 0 and not signed:
        raise Refused(f"{name} holds the label {y.min():g}; labels must not be negative")
    if y.size and (most := max(int(y.max()), -int(y.min()))) > LARGEST:
        raise Refused(f"{name} holds the label {most}; labels go up to {LARGEST}, or save them as strings")
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
