"""The data sets that streams are made of. `load` finds one by name; `digits` needs no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from perdure.contract import unknown
from perdure.datasets import cifar100, digits, idx, npz, roots
from perdure.datasets.base import Base, Scaling

__all__ = ["BASES", "Base", "Scaling", "find", "load"]

BASES: dict[str, Callable[[str, Sequence[Path]], Base]] = {
    "digits": digits.read,
    "mnist": idx.read,
    "fashion-mnist": idx.read,
    "kmnist": idx.read,
    "cifar100": cifar100.read,
}


def find(name: str, data_root: str | Path | None = None) -> Callable[[], Base]:
    """What reads a data set, found by name without reading it: one of `BASES`, or any NAME.npz under the data roots.

    Raises:
        Refused: nothing has this name; says which is the nearest.
    """
    places = roots.places(data_root)
    others = {} if name in BASES else npz.files(places)
    if name not in BASES and name not in others:
        raise unknown("base", name, [*BASES, *others])
    return lambda: BASES.get(name, npz.read)(name, places)


def load(name: str, data_root: str | Path | None = None) -> Base:
    """A data set by name, as stored.

    The roots are searched in this order: `data_root`, each of $PERDURE_DATA (several with ":" between), the user's
    cache (~/.cache/perdure); then the public address.

    Raises:
        Refused: nothing has this name, or its files are missing or corrupt.
    """
    return find(name, data_root)()
