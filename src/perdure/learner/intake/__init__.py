"""Your own data, whatever form it has, as checked inputs and labels. Nothing in a file is ever executed."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import Any

from perdure.contract import Refused
from perdure.datasets.folder import SUFFIXES
from perdure.datasets.npz import Array
from perdure.learner.intake.arrays import beside, from_dataset, from_npy, from_npz, in_memory
from perdure.learner.intake.given import Given, Kind, Signature
from perdure.learner.intake.images import from_folder, from_image
from perdure.learner.intake.parquet import from_parquet
from perdure.learner.intake.tables import aligned, from_csv

__all__ = ["Array", "Given", "Kind", "Signature", "aligned", "is_table", "read"]

TABLES = {".csv": from_csv, ".tsv": from_csv, ".parquet": from_parquet}


def read(
    data: Any,
    *,
    label: str | None = None,
    size: int | None = None,
    labelled: bool = True,
    wanted: Set[str] = frozenset(),
) -> Given:
    """Checked inputs and labels from what a user has.

    Labels are integers or strings. Images whose channels come last are turned; those of a folder are resized as
    `datasets.folder.Pictures` says. Inputs in .npy files, datasets and folders are read when they are taken; those of
    .npy files are also read once here, to find what is not finite.

    Args:
        data: a tuple (X, y) of arrays, tensors or lists, or of the paths of two .npy files; the path of an .npz file
            with X and y; of an .npy file X.npy, with y.npy beside it (X_may.npy with y_may.npy); of a .csv, .tsv or
            .parquet file; of a folder with a sub-folder of images for each class; a map-style dataset of pairs (x, y).
            Without labels also X alone, and an image or a folder of images of any depth.
        label: the column of labels in a table; when not given the first of label, y, target, class that there is.
        size: pixels a side, of images from files; 64 when not given.
        labelled: whether labels are needed; otherwise none are read, and a column of labels is left out.
        wanted: names of columns: of a table without labels that has any of them no other is read.

    Raises:
        Refused: the data cannot be used; says what is wrong with it and what to do.
    """
    path = Path(data) if isinstance(data, (str, os.PathLike)) else None
    if label is not None and not is_table(data):
        raise Refused(f"label {label!r} names a column, which only tables have; leave it out, or give a table")
    if path:
        return _from_path(path, label, size, labelled, wanted)
    match data:
        case (str() | os.PathLike() as x, str() | os.PathLike() as y) if isinstance(data, tuple):
            return from_npy(Path(x), Path(y) if labelled else None)
        case (x, y) if isinstance(data, tuple):
            return in_memory(x, y if labelled else None)
        case tuple():
            raise Refused(f"a tuple of {len(data)} was given; give (X, y)")
    array = isinstance(data, (list, dict)) or hasattr(data, "__array__")
    if not array and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return from_dataset(data, labelled)
    if labelled:
        raise Refused("X came without labels; give (X, y)")
    return in_memory(data, None)


def is_table(data: Any) -> bool:
    """Whether what a user has is a table, of whose columns one may hold labels."""
    return isinstance(data, (str, os.PathLike)) and Path(data).suffix.lower() in TABLES


def _from_path(path: Path, label: str | None, size: int | None, labelled: bool, wanted: Set[str]) -> Given:
    if path.is_dir():
        return from_folder(path, size, labelled)
    if not path.is_file():
        raise Refused(f"there is no file {path}; check the path")
    kind = path.suffix.lower()
    if kind in TABLES:
        return TABLES[kind](path, label, labelled, wanted)
    if kind == ".npz":
        return from_npz(path, labelled)
    if kind == ".npy":
        return from_npy(path, beside(path) if labelled else None)
    if kind in SUFFIXES and not labelled:
        return from_image(path, size)
    forms = f".npz, .npy, {', '.join(TABLES)}, or a folder of images with a sub-folder for each class"
    raise Refused(f"{path} is of no kind that is read; give {forms}")
