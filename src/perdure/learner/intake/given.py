"""What a learner is given: checked inputs, their labels, and the signature by which alike inputs find each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from perdure.contract import Refused
from perdure.datasets.npz import Array, numbers

Kind = Literal["whole numbers", "numbers", "table", "images"]

LONGEST = 256  # characters of a label, or of a column's name
SHOWN = 20  # names that an error lists
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, and halves of some


class Signature(NamedTuple):
    """Which inputs are alike: those of one signature are learned by one state."""

    kind: str  # a Kind
    shape: tuple[int, ...]  # of one input, channels first
    columns: tuple[str, ...] = ()  # names, of a table; else empty

    def __str__(self) -> str:
        if self.columns:
            return f"a table of {listed(self.columns)}"
        return f"{self.kind} of shape {self.shape}"


class Given(NamedTuple):
    """Examples from outside, checked."""

    signature: Signature
    x: Any  # Tensor (N, ...), or anything with `shape` that is indexed by an integer array and read when it is
    y: Array | None  # (N,) int64 or strings; None where there are none
    names: tuple[str, ...] = ()  # what each row is called, where rows have names


def listed(names: Iterable[str]) -> str:
    """Names, or the first of many, with commas between."""
    first = (names := list(names))[:SHOWN]
    return ", ".join(first) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def labels(name: str, y: Array) -> Array:
    """Labels (N,), int64 or strings.

    Raises:
        Refused: they are none, or are numbers to be predicted.
    """
    if y.dtype.kind == "f" and (y[np.isfinite(y)] % 1).any():
        raise regression(name)
    y = numbers(name, y, signed=True)
    if y.dtype.kind == "U":
        if np.char.str_len(y).max(initial=0) > LONGEST:
            raise Refused(f"{name} holds a label of more than {LONGEST} characters; give it a shorter one")
        for word in np.unique(y).tolist():
            check_there(name, word)
            check_label(name, word)
    return y


def check_there(name: str, word: str) -> None:
    """Refuses the string that numpy and pandas make of a missing value."""
    if word.casefold() == "nan":
        raise Refused(f"{name} holds the label {word}, which says that it is missing; drop such rows")


def check_label(name: str, word: str) -> None:
    """Refuses a string that can be no label."""
    if not word.strip():
        raise Refused(f"{name} holds an empty label; drop such examples, or give them one")
    if len(word) > LONGEST:
        raise Refused(
            f"{name} holds the label {word[:20]!r}... of more than {LONGEST} characters; give it a shorter one"
        )
    if UNSHOWN.search(word):
        raise Refused(f"{name} holds the label {word!r}, which has control characters; remove them")


def regression(name: str) -> Refused:
    """The error for labels with a fraction."""
    return Refused(
        f"{name} holds numbers with a fraction, and perdure's learner learns classes; a number to be predicted "
        "(regression) is not offered. Give whole numbers or strings"
    )
