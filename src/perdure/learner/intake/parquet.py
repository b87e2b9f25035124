"""Tables in Parquet files, which pyarrow reads."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np

from perdure.contract import Refused
from perdure.datasets.npz import Array
from perdure.learner.intake.given import Given, labels
from perdure.learner.intake.tables import CELLS, LARGEST, placed, table, worded

INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls the numbers of its rows


def from_parquet(path: Path, label: str | None, labelled: bool, wanted: Set[str] = frozenset()) -> Given:
    """A Parquet file; as `from_csv`, but labels that are stored as strings stay strings, and pandas' index is left out.

    Raises:
        Refused: pyarrow is missing, the file is damaged or too large, or a column of it holds no numbers.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Refused(f"{path} needs pyarrow: pip install 'perdure[tables]', or save it as CSV") from error
    try:
        return _read(path, parquet, label, labelled, wanted)
    except Refused:
        raise
    except Exception as error:  # a damaged file fails in any way that Arrow knows
        raise Refused(f"{path} cannot be read ({error}); write it anew") from error


def _read(path: Path, parquet: Any, label: str | None, labelled: bool, wanted: Set[str]) -> Given:
    from pyarrow import types

    schema = parquet.read_schema(path)
    names = [name for name in schema.names if not INDEX.fullmatch(name)]
    at, places = placed(path, names, label, labelled, wanted)
    columns = [names[place] for place in places]
    for name in columns:
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            of = f"{path}, column {name}: it holds {kind}, not numbers"
            raise Refused(f"{of}; make numbers of it, drop it, or name it if it holds the labels")
    shown = names[at] if labelled and at is not None else None
    words = shown is not None and _is_text(f"{path}, column {shown}", schema.field(shown).type)
    with parquet.ParquetFile(path, read_dictionary=[shown] if words else []) as file:
        if (n := file.metadata.num_rows) * len(columns) * 4 > LARGEST:
            raise Refused(
                f"{path} says it has {n:,} rows, which take over {LARGEST:,} bytes as float32; save it as .npy"
            )
        x, y, start = np.empty((n, len(columns)), np.float32), [], 0
        known: dict[str, int] = {}  # labels that are words, numbered as they come
        taken = columns if shown is None else [*columns, shown]
        for batch in file.iter_batches(max(1, CELLS // len(names)), columns=taken, use_threads=False):
            part = x[start : start + len(batch)]
            for place, name in enumerate(columns):
                part[:, place] = _numbers(f"{path}, column {name}", batch.column(name), start)
            if shown is not None:
                _check_whole(f"{path}, column {shown}", batch.column(shown), start)
                y.append(_codes(batch.column(shown), known) if words else _plain(batch.column(shown)))
            start += len(batch)
    if start != n:
        raise Refused(f"{path} has {start:,} rows, and says {n:,}; write it anew")
    if not y:
        return table(path, columns, x, None)
    of = f"{path}, column {shown},"
    found = np.concatenate(y)
    return table(path, columns, x, worded(of, list(known), found) if words else labels(of, found))


def _is_text(name: str, kind: Any) -> bool:
    """Whether a column holds words.

    Raises:
        Refused: it holds neither words nor numbers.
    """
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(inner) or types.is_large_string(inner):
        return True
    if inner is kind and types.is_primitive(kind):
        return False
    raise Refused(f"{name} holds {kind}; labels are integers or strings")


def _check_whole(name: str, column: Any, start: int) -> None:
    """Refuses a column with a missing value."""
    if column.null_count:
        row = start + int(_plain(column.is_null()).argmax())
        raise Refused(f"{name}, row {row}: the value is missing; fill it in, or drop the row")


def _numbers(name: str, column: Any, start: int) -> Array:
    """(n,) float32."""
    _check_whole(name, column, start)
    with np.errstate(over="ignore", invalid="ignore"):
        found = _plain(column).astype(np.float32)
    if not (fine := np.isfinite(found)).all():
        raise Refused(
            f"{name}, row {start + fine.argmin()}: the value is no finite number; fill it in, or drop the row"
        )
    return found


def _codes(column: Any, known: dict[str, int]) -> Array:
    """(n,) the numbers of words that a dictionary has; new words get the next ones."""
    own = [known.setdefault(word, len(known)) for word in column.dictionary.to_pylist()]
    codes: Array = np.array(own, np.int64)[_plain(column.indices)]
    return codes


def _plain(column: Any) -> Array:
    array: Array = column.to_numpy(zero_copy_only=False)
    return array
