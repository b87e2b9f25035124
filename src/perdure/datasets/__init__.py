"""The data sets that streams are made of. `load` finds one by name; `digits` needs no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from perdure.contract import unknown
from perdure.datasets import cifar100, digits, folder, idx, npz, roots
from perdure.datasets.base import Base, Scaling

__all__ = ["BASES", "Base", "Scaling", "find", "keeping", "load"]

Reader = Callable[[str, Sequence[Path]], Base]

BASES: dict[str, Reader] = {
    "digits": digits.read,
    "mnist": idx.read,
    "fashion-mnist": idx.read,
    "kmnist": idx.read,
    "cifar100": cifar100.read,
}

_kept: ContextVar[dict[object, Base] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(kept: dict[object, Base]) -> Iterator[None]:
    """Inside the block each data set is read once, and kept in `kept`: for many runs on the same one."""
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


def find(name: str, data_root: str | Path | None = None) -> Callable[[], Base]:
    """What reads a data set, found by name without reading it: one of `BASES`, or else NAME.npz or NAME/ under a root.

    Raises:
        Refused: nothing has this name; says which is the nearest.
    """
    places = roots.places(data_root)
    reader = _reader(name, places)

    def read() -> Base:
        kept = _kept.get()
        if kept is None:
            return reader(name, places)
        if (known := (name, *places)) not in kept:
            kept[known] = reader(name, places)
        return kept[known]

    return read


def _reader(name: str, places: Sequence[Path]) -> Reader:
    if name in BASES:
        return BASES[name]
    if name in (files := npz.files(places)):
        return npz.read
    if folder.home(name, places):
        return folder.read
    raise unknown("base", name, dict.fromkeys([*BASES, *files, *folder.folders(places)]))


def load(name: str, data_root: str | Path | None = None) -> Base:
    """A data set by name, as stored.

    The roots are searched in this order: `data_root`, each of $PERDURE_DATA (several with ":" between), the user's
    cache (~/.cache/perdure); then the public address.

    Raises:
        Refused: nothing has this name, or its files are missing or corrupt.
    """
    return find(name, data_root)()
