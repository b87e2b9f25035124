"""Arrays and tensors, .npz and .npy files, and map-style datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from perdure.contract import Refused
from perdure.datasets.npz import Array, as_array, check_form, check_header, converted, inputs, opened, quiet
from perdure.learner.intake.given import Given, Kind, Signature, labels

BLOCK = 1 << 24  # bytes of a file that are checked at once


class Rows:
    """Inputs (N, ...) that stay in a file, read when they are taken."""

    def __init__(self, name: str, array: Array) -> None:
        check_form(name, array)
        self.name, self.array = name, array
        self.shape = (len(array), *self[np.arange(1)].shape[1:])

    def __getitem__(self, rows: Array) -> Tensor:
        return converted(self.name, self.array[rows], rows)

    def checked(self) -> Rows:
        """The same, after all of it was read once.

        Raises:
            Refused: a number is not finite.
        """
        if self.array.dtype.kind != "f":
            return self
        step = max(1, BLOCK // self.array[:1].nbytes)
        for start in range(0, len(self.array), step):
            self[np.arange(start, min(start + step, len(self.array)))]
        return self


class Items:
    """Inputs (N, ...) of a map-style dataset, read and checked one by one when they are taken."""

    def __init__(self, source: Any) -> None:
        try:
            n = len(source)
        except TypeError as error:  # a sparse matrix
            raise Refused(f"the dataset has no length ({error}); give an array, or a map-style dataset") from error
        if not n:
            raise Refused("the dataset is empty; give at least one example")
        self.source = source
        first = self._array(0)
        self.form = self._form(first)
        self.shape = (n, *inputs("the dataset", first[None]).shape[1:])

    def __getitem__(self, rows: Array) -> Tensor:
        arrays = [self._array(row) for row in rows.tolist()]
        for row, array in zip(rows.tolist(), arrays, strict=True):
            if (form := self._form(array)) != self.form:
                raise Refused(f"item {row} of the dataset is {form}, and item 0 {self.form}; make all alike")
        return converted("the dataset", np.stack(arrays), rows)

    def _array(self, row: int) -> Array:
        item = self.source[row]
        return as_array(f"item {row} of the dataset", item[0] if isinstance(item, (tuple, list)) else item)

    @staticmethod
    def _form(array: Array) -> str:
        return f"{array.dtype} {array.shape}"


def in_memory(x: Any, y: Any) -> Given:
    """Arrays, tensors or lists X and y; X stays where it is if it is mapped into memory. Without labels, y is None."""
    mapped = isinstance(x, np.memmap)
    return _given("X", Rows("X", x).checked() if mapped else inputs("X", as_array("X", x)), y)


def from_npz(path: Path, labelled: bool) -> Given:
    """X and y from one file."""
    content = opened(path, ("X", "y") if labelled else ("X",))
    return _given(f"{path}: X", inputs(f"{path}: X", content["X"]), content.get("y"))


def from_npy(path: Path, beside: Path | None) -> Given:
    """X from one file, where it stays, and y from another, where there is one."""
    x = Rows(str(path), _mapped(path)).checked()
    return _given(str(path), x, None if beside is None else _mapped(beside), str(beside))


def beside(path: Path) -> Path:
    """Where the labels of inputs in an .npy file are: in the file that has y where its name has the last X.

    Raises:
        Refused: its name has none.
    """
    before, x, after = path.stem.rpartition("X")
    if not x:
        raise Refused(
            f"{path} does not say where its labels are: call it X{path.suffix}, and them y{path.suffix} beside it, or "
            f"give both as (path of X, path of y)"
        )
    return path.with_name(f"{before}y{after}{path.suffix}")


def from_dataset(source: Any, labelled: bool) -> Given:
    """Pairs (x, y), or inputs alone, from anything with a length that is indexed by a number."""
    return _given("the dataset", Items(source), _targets(source) if labelled else None)


def _given(name: str, x: Tensor | Rows | Items, y: Any, of_y: str = "y") -> Given:
    """Inputs that were checked, with labels that were not."""
    if y is not None:
        y = labels(of_y, as_array(of_y, y))
        if len(y) != x.shape[0]:
            raise Refused(f"{name} has {x.shape[0]} examples, and {of_y} {len(y)} labels; give one label an example")
    kind: Kind = "numbers" if x[np.arange(1)].is_floating_point() else "whole numbers"
    return Given(Signature(kind, tuple(x.shape[1:])), x, y)


def _mapped(path: Path) -> Array:
    """An array that stays in an .npy file.

    Raises:
        Refused: the file is missing or damaged, or holds Python objects.
    """
    if not path.is_file():
        raise Refused(f"there is no file {path}; check the path")
    try:
        with quiet():
            with path.open("rb") as file:
                check_header(file, path.stat().st_size)
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
    except Exception as error:  # a damaged file fails in any way that numpy knows
        raise Refused(f"{path} cannot be read ({error}); save plain numbers and strings with numpy.save") from error


def _targets(source: Any) -> Any:
    """The labels of a dataset: its own list if it has one, else those of its items, each read once."""
    for name in ("targets", "labels"):
        if getattr(source, "target_transform", None) is None and (own := getattr(source, name, None)) is not None:
            found = as_array(name, own)
            if found.shape[:1] == (len(source),):
                return found
    each = []
    for row in range(len(source)):
        item = source[row]
        if not (isinstance(item, (tuple, list)) and len(item) >= 2):
            raise Refused(f"item {row} of the dataset is no pair (x, y); it needs a label")
        each.append(item[1].item() if hasattr(item[1], "item") else item[1])
    return each
