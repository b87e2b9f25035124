"""Hints: whether values are of the types that a class declares.

A file is anyone's: what it holds is looked at before anything is made of it. And what a caller gives is looked at
before it is written, or nobody could read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from perdure.contract import Refused
from perdure.tree import Tree

T = TypeVar("T")
BITS = 64  # of whole numbers
SHOWN = 80  # characters of a value
WORDS = {
    NoneType: "None",
    bool: "True or False",
    dict: "a dict of names",
    float: "a number",
    int: f"a whole number of at most {BITS} bits",
    str: "text",
}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type, all through; but not what lies below `Any` or inside a NamedTuple."""
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        return type(value) is str and value in parts
    if kind is tuple:
        if type(value) is not tuple or (parts[-1] is not ... and len(value) != len(parts)):
            return False
        wanted = parts if parts[-1] is not ... else parts[:1] * len(value)
        return all(fits(item, part) for item, part in zip(value, wanted, strict=True))
    if kind is list:
        return type(value) is list and all(fits(item, parts[0]) for item in value)
    if kind in (dict, Mapping):
        return type(value) is dict and all(
            fits(name, parts[0]) and fits(part, parts[1]) for name, part in value.items()
        )
    if type(value) is int:
        return hint in (int, float) and abs(value) < 1 << BITS
    return type(value) is (NoneType if hint is None else hint) or (hint is Tensor and isinstance(value, Tensor))


def settle(made: Any) -> None:
    """Makes Python's own of the numpy scalars in a new dataclass.

    Raises:
        Refused: something is of a wrong type.
    """
    for name, hint in _hints(type(made)).items():  # type: ignore[arg-type]  # a class can be hashed
        value = _plain(getattr(made, name))
        if not fits(value, hint):
            raise Refused(f"{name} is {repr(value)[:SHOWN]}; it must be {_words(hint)}")
        object.__setattr__(made, name, value)


def _plain(value: Any) -> Any:
    match value:
        case np.generic():
            return value.item()
        case dict():
            return {name: _plain(part) for name, part in value.items()}
    return value


def _words(hint: Any) -> str:
    """What a type is called in an error."""
    kind = get_origin(hint) or hint
    return WORDS.get(kind) or (kind if isinstance(kind, str) else " or ".join(map(_words, get_args(hint))))


def record(kind: type[T], plain: Any) -> T:
    """A dataclass from plain JSON; what is not there is as the class has it.

    Raises:
        Refused: something is unknown, lacking, of a wrong type, or of no use to the class.
    """
    if not isinstance(plain, dict):
        raise Refused(f"it is a {type(plain).__name__}")
    known = _hints(kind)  # type: ignore[arg-type]  # a class can be hashed
    for name, value in plain.items():
        if name not in known:
            raise Refused(f"it holds {name[:80]!r}, which is unknown")
        if not fits(value, known[name]):
            raise Refused(f"its {name} is a {type(value).__name__} that it may not be")
    for item in fields(kind):  # type: ignore[arg-type]  # a dataclass
        if item.name not in plain and item.default is MISSING and item.default_factory is MISSING:
            raise Refused(f"it has no {item.name}")
    return kind(**plain)


def check(tree: Tree) -> None:
    """Raises Refused where a NamedTuple in a tree holds something else than it declares, or a tensor is complex."""
    match tree:
        case dict():
            for branch in tree.values():
                check(branch)
        case tuple():
            known = _hints(type(tree)) if hasattr(tree, "_fields") else {}
            for name, hint in known.items():
                if not fits(value := getattr(tree, name), hint):
                    raise Refused(f"{type(tree).__name__}.{name} is a {type(value).__name__} that it may not be")
            for branch in tree:
                check(branch)
        case Tensor() if tree.is_complex():
            raise Refused("it holds complex numbers")
