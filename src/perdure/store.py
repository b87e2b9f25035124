"""Files that survive a kill: written aside, synced, renamed; and blobs named by the SHA-256 of their content.

A state is stored as one blob a tensor (safetensors) and some that describe the tree (JSON): a long tuple is spread over
many of them. So a state that shares tensors with the one before, or is the one before with an item more, costs what
changed. Reading verifies every hash and runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from perdure.contract import Refused
from perdure.tree import Tree, pack, parts, unpack

ASIDE = ".aside"  # ending of a file that is being written
LONG = 16  # items of a tuple that one file holds
ITEMS = 1 << 20  # of tuples that a stored state may hold, so that a small file cannot unfold into a large one
PAUSE = 0.05  # seconds between two looks at a lock
LARGEST = 1 << 34  # bytes of a file that is read whole
JSON = 1 << 25  # bytes of one of JSON, which takes many times as many in memory
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)  # what it ends in to make something of values that are not what they should be


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        Refused: the disk is full or the folder cannot be written; what was there before is intact.
    """
    aside = path.with_name(path.name + ASIDE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)  # it may be a link to what is not ours
        with open(aside, "wb", opener=_anew) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise Refused(
            f"{path} could not be written ({error.strerror}); what was saved before is intact. "
            "Make room or choose another folder, then resume"
        ) from error


def _anew(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def _in_place(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # no link is followed, no pipe waited for


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, most: int = LARGEST) -> bytes:
    """The content of a plain file of at most so many bytes; links are not followed.

    Raises:
        Refused: it is missing, is no such file, or cannot be read.
    """
    try:
        with open(path, "rb", opener=_in_place) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise Refused(f"{path} is no plain file of at most {most:,} bytes")
            return file.read()
    except FileNotFoundError:
        raise Refused(f"{path} is missing") from None
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror
        raise Refused(f"{path} cannot be read ({why})") from error


def write_json(path: Path, content: Any) -> None:
    """Writes plain JSON whole or not at all (NaN is refused: write null)."""
    write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Plain JSON from a file.

    Raises:
        Refused: the file is missing or is not JSON.
    """
    return parse(read(path), path)


def parse(content: bytes, path: Path) -> Any:
    """Plain JSON from the content of a file.

    Raises:
        Refused: it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def is_blob(name: str) -> bool:
    """Whether a file of blobs is called so, or one that is being written."""
    return re.fullmatch("[0-9a-f]{64}", name.removesuffix(ASIDE)) is not None


class Blobs:
    """A folder of files named by the SHA-256 of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Stores bytes once; their name."""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / name
        if not path.exists() or path.stat().st_size != len(content):
            write(path, content)
        return name

    def get(self, name: str, most: int = LARGEST) -> bytes:
        """The bytes of that name, at most so many.

        Raises:
            Refused: it is no name, the file is missing, or its content is not what was stored.
        """
        if not re.fullmatch("[0-9a-f]{64}", name):
            raise Refused(f"{name[:80]!r} names no file in {self.folder}: names are SHA-256")
        path = self.folder / name
        content = read(path, most)
        if hashlib.sha256(content).hexdigest() != name:
            raise Refused(f"the state file {path} was changed or damaged: its content no longer has its SHA-256")
        return content

    def keep(self, names: set[str]) -> None:
        """Deletes every other file."""
        for path in self.folder.iterdir():
            if path.name not in names:
                path.unlink()

    def nbytes(self, names: set[str]) -> int:
        """Bytes of the files of those names."""
        return sum((self.folder / name).stat().st_size for name in names)


class Saved(NamedTuple):
    """A state on disk."""

    name: str
    parts: set[str]  # the names of all its blobs, `name` among them
    nbytes: dict[str, int]  # by component of the state, and "tree" for its shape


def save_state(blobs: Blobs, state: Tree) -> Saved:
    """Stores a state. What was stored before is not written again."""
    plain, tensors = pack(state)
    names = [blobs.put(tensors_to_bytes({"tensor": tensor})) for tensor in tensors]
    tree = set[str]()

    def put(plain: Any) -> str:
        tree.add(name := blobs.put(json.dumps(plain).encode()))
        return name

    def spread(plain: Any) -> Any:
        match plain:
            case {"tensor": place}:
                return {"tensor": names[place]}
            case {"dict": branches}:
                return {"dict": {name: spread(branch) for name, branch in branches.items()}}
            case {"tuple": kind, "items": items}:
                return {"tuple": kind, **_shortened([spread(item) for item in items], put)}
        return plain

    name = put(spread(plain))
    sizes = {"tree": blobs.nbytes(tree)}
    first = dict[str, str]()  # a tensor that appears twice is stored once
    for blob, part in zip(names, (part for part, leaf in parts(state) if isinstance(leaf, Tensor)), strict=True):
        first.setdefault(blob, part)
    for blob, part in first.items():
        sizes[part] = sizes.get(part, 0) + blobs.nbytes({blob})
    return Saved(name, tree.union(names), sizes)


def _shortened(items: list[Any], put: Callable[[Any], str]) -> dict[str, list[Any]]:
    """{"items": all of them} where they are few, else {"parts": names of files of such}."""
    kind, rest = "items", items
    while len(rest) > LONG:
        kind, rest = "parts", [put({kind: rest[i : i + LONG]}) for i in range(0, len(rest), LONG)]
    return {kind: rest}


class _Reading:
    """Reads one stored state, and notes the files it is made of."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs, self.items = blobs, 0
        self.parts: dict[str, Any] = {}  # what its files of JSON hold, by name
        self.tensors: dict[str, int] = {}  # where each is among all, by name

    def json(self, name: str) -> Any:
        if name not in self.parts:
            self.parts[name] = parse(self.blobs.get(name, JSON), self.blobs.folder / name)
        return self.parts[name]

    def whole(self, plain: Any) -> Any:
        """The tree as `pack` describes it."""
        match plain:
            case {"tensor": str(name)}:
                return {"tensor": self.tensors.setdefault(name, len(self.tensors))}
            case {"dict": dict(branches)}:
                self.count(len(branches))
                return {"dict": {name: self.whole(branch) for name, branch in branches.items()}}
            case {"tuple": str(kind), **rest}:
                return {"tuple": kind, "items": [self.whole(item) for item in self.all(rest)]}
        return plain

    def count(self, more: int) -> None:
        """Refuses a state of too many items."""
        self.items += more
        if self.items > ITEMS:
            raise Refused(f"the stored state in {self.blobs.folder} is damaged: it has more than {ITEMS} items")

    def all(self, plain: Any) -> list[Any]:
        """The items of a tuple, whichever files they are in."""
        match plain:
            case {"items": list(items)}:
                self.count(len(items))
                return items
            case {"parts": list(parts)}:
                self.count(len(parts))  # so that parts of parts of nothing come to an end too
                return [item for part in parts for item in self.all(self.json(part))]
        raise Refused(f"the stored state in {self.blobs.folder} is damaged: it does not describe a tree")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Refuses what cannot be made of stored values: nothing but their damage is to blame where nobody else has a say.

    Args:
        what: went wrong then, as the message says.
    """
    try:
        yield
    except Refused:
        raise
    except (*DAMAGE, SafetensorError) as error:
        raise Refused(f"{what} ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})") from error


def load_state(blobs: Blobs, name: str, kinds: Sequence[type]) -> Tree:
    """The stored state of that name. `kinds`: the NamedTuples it may hold.

    Raises:
        Refused: a file is missing, was changed, or is not of a state.
    """
    reading = _Reading(blobs)
    with refusing(f"the stored state in {blobs.folder} is damaged"):
        plain = reading.whole(reading.json(name))
        return unpack(plain, [tensors_from_bytes(blobs.get(part))["tensor"] for part in reading.tensors], kinds)


def parts_of(blobs: Blobs, name: str) -> set[str]:
    """The names of all files of a stored state, without reading its tensors.

    Raises:
        Refused: as `load_state`.
    """
    reading = _Reading(blobs)
    with refusing(f"the stored state in {blobs.folder} is damaged"):
        reading.whole(reading.json(name))
    return {*reading.parts, *reading.tensors}


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Holds a lock file that dies with its process.

    Args:
        wait: seconds to wait for another process.

    Raises:
        Refused: another process holds it.
    """
    import fcntl

    try:
        file = open(path, "ab", opener=_in_place)  # noqa: SIM115 (closed below, after the lock)
    except OSError as error:
        raise Refused(f"{path.parent} cannot be written ({error.strerror}); choose another folder") from error
    with file:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise Refused(
                        f"another process is working in {path.parent}; wait for it or choose another folder"
                    ) from None
                time.sleep(PAUSE)
        yield
