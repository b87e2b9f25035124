"""Tables: CSV files, and what they share with others that have a name for every column, one perhaps of labels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from perdure.contract import Refused
from perdure.datasets.npz import Array
from perdure.learner.intake.given import (
    LONGEST,
    UNSHOWN,
    Given,
    Signature,
    check_label,
    check_there,
    labels,
    listed,
    regression,
)

LABELS = ("label", "y", "target", "class")  # the column of labels, where none is named: the first of these
LARGEST = 1 << 32  # bytes of a CSV file, or of the numbers or labels of a table
COLUMNS = 1 << 16  # of a table
LINE = 1 << 22  # characters of a line; of a field, as many as the csv module takes (131,072)
CELLS = 1 << 20  # that are not numbers yet, at once
WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")


def aligned(given: Given, signature: Signature) -> Given:
    """A table with the columns of a signature, found by name, in their order; others are left out. No table: as it is.

    Raises:
        Refused: it lacks some.
    """
    if given.signature == signature or not (given.signature.columns and signature.columns):
        return given
    places = {name: place for place, name in enumerate(given.signature.columns)}
    if lacking := [name for name in signature.columns if name not in places]:
        raise Refused(
            f"the table lacks the columns {listed(lacking)}; what was learned has {listed(signature.columns)}, and it "
            f"has {listed(places)}"
        )
    return given._replace(signature=signature, x=given.x[:, [places[name] for name in signature.columns]])


def from_csv(path: Path, label: str | None, labelled: bool, wanted: Set[str] = frozenset()) -> Given:
    """A CSV file in UTF-8 whose first line names the columns, with commas, semicolons or tabs between.

    Labels that are all whole numbers are such; else all are strings, without blanks around them.

    Raises:
        Refused: it is no such file, too large, or a number is none; says in which line and column.
    """
    if (nbytes := path.stat().st_size) > LARGEST:
        raise Refused(f"{path} has {nbytes:,} bytes, and a CSV file at most {LARGEST:,}; save it as .npy")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parsed(path, _lines(path, file), label, labelled, wanted)
    except UnicodeDecodeError as error:
        raise Refused(f"{path} ({nbytes:,} bytes) is no text in UTF-8 ({error.reason}); save it as such") from error
    except csv.Error as error:
        raise Refused(f"{path} ({nbytes:,} bytes) is no table ({error}); check its quotes") from error
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror})") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(LINE):
        if len(line) == LINE:
            raise Refused(f"{path} has a line of {LINE:,} characters or more; save the table as .npz or .npy")
        if "\0" in line:
            raise Refused(f"{path} holds NUL bytes: it is no text; save it as CSV in UTF-8")
        yield line


def _parsed(path: Path, lines: Iterator[str], label: str | None, labelled: bool, wanted: Set[str]) -> Given:
    head = next(lines, "")
    mark = max(",;\t", key=lambda mark: len(next(csv.reader([head[: csv.field_size_limit()]], delimiter=mark))))
    names = [name.strip() for name in next(csv.reader([head], delimiter=mark, strict=True))]
    at, places = placed(path, names, label, labelled, wanted)
    columns = [names[place] for place in places]
    step = max(1, CELLS // len(names))
    blocks: list[Array] = []
    words: dict[str, int] = {}  # labels, numbered as they come
    numbers: list[int] = []
    rows: list[list[str]] = []
    numbered: list[int] = []  # the line of each row
    reader = csv.reader(lines, delimiter=mark, strict=True)
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            of = f"{len(row)} fields, and the first line names {len(names)} columns"
            raise Refused(f"{path}, line {reader.line_num + 1}: {of}; mend that line")
        if at is not None:
            numbers.append(words.setdefault(row[at].strip(), len(words)))
        rows.append([row[place] for place in places])
        numbered.append(reader.line_num + 1)
        if len(rows) == step:
            blocks.append(_block(path, columns, rows, numbered))
            rows, numbered = [], []
    blocks.append(_block(path, columns, rows, numbered))
    codes = np.array(numbers, np.int64)
    y = _labels(f"{path}, column {names[at]},", list(words), codes) if labelled and at is not None else None
    return table(path, columns, np.concatenate(blocks), y)


def _block(path: Path, columns: Sequence[str], rows: list[list[str]], lines: list[int]) -> Array:
    """(n, d) float32 from text."""
    try:
        flat = np.fromiter(map(float, chain.from_iterable(rows)), np.float64, len(rows) * len(columns))
        with np.errstate(over="ignore"):
            block = flat.astype(np.float32).reshape(len(rows), len(columns))
        if np.isfinite(block).all() and all(map(_is_plain, map("".join, rows))):
            return block
    except ValueError:
        pass
    line, column, text = next(
        (line, column, text)
        for line, row in zip(lines, rows, strict=True)
        for column, text in zip(columns, row, strict=True)
        if not _is_number(text)
    )
    raise Refused(
        f"{path}, line {line}, column {column}: {text[:40]!r} is no finite number; write it like 1.5, drop the line or "
        "the column, or name the column if it holds the labels"
    )


def _is_number(text: str) -> bool:
    """Whether a text is a number that float32 holds."""
    try:
        with np.errstate(over="ignore"):
            return _is_plain(text) and bool(np.isfinite(np.float64(float(text)).astype(np.float32)))
    except ValueError:
        return False


def _is_plain(text: str) -> bool:
    """Whether a text has nothing that only Python takes for a part of a number: 1_000, or digits of other scripts."""
    return text.isascii() and "_" not in text


def _labels(name: str, words: Sequence[str], numbers: Array) -> Array:
    """Labels (N,) from distinct words and the number of each row's; integers where all words are whole numbers."""
    for word in words:
        check_there(name, word)
    if all(map(WHOLE.fullmatch, words)):
        return labels(name, np.array([int(word.partition(".")[0]) for word in words], np.int64)[numbers])
    if all(map(_is_number, words)) and any(float(word) % 1 for word in words):
        raise regression(name)
    return worded(name, words, numbers)


def placed(
    path: Path, names: Sequence[str], label: str | None, labelled: bool, wanted: Set[str]
) -> tuple[int | None, list[int]]:
    """The places of the column of labels (None where there is none, and none is needed) and of those that are read.

    These are all others; of a table without labels that has any that are wanted, those alone.

    Raises:
        Refused: it is not there, the names cannot be told apart, or there is no other column.
    """
    if len(names) > COLUMNS:
        raise Refused(f"{path} has {len(names):,} columns, and a table at most {COLUMNS:,}; save it as .npz or .npy")
    if not names or (all(map(_is_number, names)) and not all(map(str.isdecimal, names))):
        raise Refused(f"{path} begins with {listed(names) or 'nothing'}; its first line must name the columns")
    for place, name in enumerate(names):
        if not name or len(name) > LONGEST or UNSHOWN.search(name):
            of = f"is called {name[:40]!r}; give it a name of 1 to {LONGEST} characters, or drop it"
            raise Refused(f"column {place + 1} of {path} {of}")
    if len(distinct := Counter(names)) < len(names):
        twice = distinct.most_common(1)[0][0]
        raise Refused(f"{path} has two columns called {twice}; give every column a name of its own")
    if not labelled and (places := [place for place, name in enumerate(names) if name in wanted and name != label]):
        return None, places
    wished = LABELS if label is None else (label,)
    if (found := next((name for name in wished if name in distinct), None)) is None and labelled:
        of = f"no column called {' or '.join(wished)}"
        raise Refused(f"{path} has {of}; name the one that holds the labels. It has {listed(names)}")
    if len(names) == (found is not None):
        raise Refused(f"{path} has no columns but that of labels; it needs numbers to learn from")
    return None if found is None else names.index(found), [place for place, name in enumerate(names) if name != found]


def worded(name: str, words: Sequence[str], numbers: Array) -> Array:
    """Labels (N,) from distinct words and the number of each row's.

    Raises:
        Refused: a word is no label, or all together take too many bytes.
    """
    for word in words:
        check_label(name, word)
    known = np.array(words)
    if len(numbers) * known.itemsize > LARGEST:
        raise Refused(f"{name} holds labels of up to {known.itemsize // 4} characters in too many rows; shorten them")
    return known[numbers]


def table(path: Path, columns: Sequence[str], x: Array, y: Array | None) -> Given:
    """A table of x (N, d) float32.

    Raises:
        Refused: it has no row.
    """
    if not len(x):
        raise Refused(f"{path} has no row below the names of its columns; give at least one example")
    return Given(Signature("table", x.shape[1:], tuple(columns)), torch.from_numpy(x), y)
