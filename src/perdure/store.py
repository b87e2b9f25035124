"""Files that survive a kill: written aside, synced, renamed; and blobs named by the SHA-256 of their content.

A state is stored as one blob a tensor (safetensors) and one that describes the tree (JSON), so a state that shares
tensors with the one before costs what changed. Reading verifies every hash and runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from perdure.contract import Refused
from perdure.tree import Tree, leaves, pack, unpack

ASIDE = ".aside"  # ending of a file that is being written


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        Refused: the disk is full or the folder cannot be written; what was there before is intact.
    """
    aside = path.with_name(path.name + ASIDE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
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


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Writes plain JSON whole or not at all (NaN is refused: write null)."""
    write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Plain JSON from a file.

    Raises:
        Refused: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


class Blobs:
    """A folder of files named by the SHA-256 of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Stores bytes once; their name."""
        name = hashlib.sha256(content).hexdigest()
        if not (self.folder / name).exists():
            write(self.folder / name, content)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of that name.

        Raises:
            Refused: the file is missing, or its content is not what was stored.
        """
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Refused(f"the state file {path} cannot be read ({error.strerror})") from error
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
    """Stores a state. Tensors stored before are not written again."""
    plain, tensors = pack(state)
    parts = [blobs.put(tensors_to_bytes({"tensor": tensor})) for tensor in tensors]
    name = blobs.put(json.dumps({"tree": plain, "tensors": parts}).encode())
    sizes = {"tree": blobs.nbytes({name})}
    paths = [path for path, leaf in leaves(state) if isinstance(leaf, Tensor)]
    for part, path in dict(zip(parts, paths, strict=True)).items():  # a tensor that appears twice is stored once
        component = path.partition(".")[0]
        sizes[component] = sizes.get(component, 0) + blobs.nbytes({part})
    return Saved(name, {name, *parts}, sizes)


def load_state(blobs: Blobs, name: str, kinds: Sequence[type]) -> Tree:
    """The stored state of that name. `kinds`: the NamedTuples it may hold.

    Raises:
        Refused: a file is missing, was changed, or is not of a state.
    """
    try:
        content = json.loads(blobs.get(name))
        tensors = [tensors_from_bytes(blobs.get(part))["tensor"] for part in content["tensors"]]
        return unpack(content["tree"], tensors, kinds)
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise Refused(f"the stored state in {blobs.folder} is damaged: {error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file that dies with its process.

    Raises:
        Refused: another process holds it.
    """
    import fcntl

    try:
        file = open(path, "w")  # noqa: SIM115 (closed below, after the lock)
    except OSError as error:
        raise Refused(f"{path.parent} cannot be written ({error.strerror}); choose another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                f"another process is working in {path.parent}; wait for it or choose another folder"
            ) from None
        yield
