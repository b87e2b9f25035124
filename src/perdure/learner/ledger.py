"""The ledger: what was ever done to a learner. Every entry names the one before it, and HEAD names the newest.

An entry is a file of JSON under the SHA-256 of its content, so none can be changed or taken out unnoticed; and moving
HEAD, by one rename, is the moment at which something has happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from perdure import __version__
from perdure.contract import Refused
from perdure.learner.hints import fits, record
from perdure.store import ASIDE, JSON, Blobs, is_blob, parse, read, write

FORMAT = 1
HEAD = "HEAD"
SHORT = 100  # bytes of HEAD at most: it holds one name
FOUND = {"task": str, "verdict": str, "accuracy": float, "nbytes": int, "row": dict[str, float]}  # and is read again
Event = Literal["created", "learned", "kept back", "promoted", "rolled back", "forgotten", "pruned", "policy changed"]


@dataclass(frozen=True)
class Entry:
    """One event.

    Args:
        number: 0 for the creation, and so on without a gap.
        event: what it was.
        when: by the clock of the machine, UTC, as in 2026-11-21T13:14:20+00:00.
        settings: name of the stored settings.
        version: name of the version that answers from now on.
        parent: name of the entry before; empty at the creation.
        candidate: name of a version that was made and does not answer; empty where there is none.
        base: number of the entry whose version a candidate was made from.
        versions: of all there are, those that a pruning has left; None elsewhere.
        report: what was found, as plain JSON.
        software: versions of what wrote it.
        name: its own, which is not among what it holds.
    """

    number: int
    event: Event
    when: str
    settings: str
    version: str
    parent: str = ""
    candidate: str = ""
    base: int | None = None
    versions: list[str] | None = None
    report: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    name: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def software() -> dict[str, str]:
    """Versions of what decides the bits of an answer."""
    return {"perdure": __version__, "torch": torch.__version__, "numpy": np.__version__}


class Ledger:
    """The entries in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, Blobs(folder / "blobs")
        if self.blobs.folder.is_symlink():
            raise Refused(f"{self.blobs.folder} is a link to another folder; a learner keeps its files in its own")

    @property
    def head(self) -> str:
        """The name of the newest entry.

        Raises:
            Refused: the folder holds no learner.
        """
        try:
            return read(self.folder / HEAD, SHORT).decode("ascii", "replace").strip()
        except Refused as error:
            if (self.folder / HEAD).exists():
                raise
            there = "is no folder" if self.folder.exists() else "does not exist"
            there = "holds no learner (no HEAD)" if self.folder.is_dir() else there
            raise Refused(f"{self.folder} {there}; make one with: perdure learner create {self.folder}") from error

    def entry(self, name: str) -> Entry:
        """An entry by name.

        Raises:
            Refused: it is missing, was changed, or is no entry.
        """
        try:
            plain = parse(self.blobs.get(name, JSON), self.blobs.folder / name)
        except Refused as error:
            raise Refused(f"the ledger of {self.folder} is damaged: {error}. Restore that file from a copy") from error
        found = plain.pop("format", None) if isinstance(plain, dict) else FORMAT
        if isinstance(found, int) and found != FORMAT:
            raise Refused(
                f"the learner in {self.folder} has format {found}, and this version reads format {FORMAT}; "
                "use the version of perdure that wrote it"
            )
        try:
            entry = replace(record(Entry, plain), name=name)
            for word, kind in FOUND.items():
                if (said := entry.report.get(word)) is not None and not fits(said, kind):
                    raise Refused(f"the {word} of its report is a {type(said).__name__}")
            return entry
        except Refused as error:
            raise Refused(f"the ledger of {self.folder} is damaged: {name} is no entry: {error}") from error

    def newest(self) -> Entry:
        """The entry that HEAD names."""
        return self.entry(self.head)

    def entries(self) -> Iterator[Entry]:
        """All entries, the newest first.

        Raises:
            Refused: one is missing or was changed, or their numbers do not run down to 0.
        """
        entry = self.newest()
        yield entry
        while entry.parent:
            before = self.entry(entry.parent)
            if before.number != entry.number - 1:
                raise Refused(f"the ledger of {self.folder} is damaged: entry {entry.number} follows {before.number}")
            entry = before
            yield entry
        if entry.number:
            raise Refused(f"the ledger of {self.folder} is damaged: it begins with entry {entry.number}")

    def append(self, event: Event, after: Entry | None, **what: Any) -> Entry:
        """Writes an entry, and makes it the newest: from here on, it has happened.

        Args:
            after: the newest entry so far; none at the creation.
            what: the rest of an `Entry`; settings and version are as they were where they are not given.
        """
        inherited = {} if after is None else {"settings": after.settings, "version": after.version}
        parent, number = ("", 0) if after is None else (after.name, after.number + 1)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(number=number, event=event, when=when, parent=parent, software=software(), **inherited | what)
        plain = {"format": FORMAT, **asdict(entry)}
        del plain["name"]
        name = self.blobs.put(json.dumps(plain, allow_nan=False).encode())
        write(self.folder / HEAD, f"{name}\n".encode())
        return Entry(**asdict(entry) | {"name": name})

    def sweep(self, needed: set[str]) -> int:
        """Deletes every file but those, the entries' and the settings', and what is not ours; the bytes that freed."""
        needed = needed.union(*({entry.name, entry.settings} for entry in self.entries()))
        freed = 0
        for path in self.blobs.folder.iterdir():
            if is_blob(path.name) and path.name not in needed and (path.is_symlink() or not path.is_dir()):
                freed += path.lstat().st_size
                path.unlink()
        (self.folder / (HEAD + ASIDE)).unlink(missing_ok=True)
        return freed


def numbered_entry(entries: Sequence[Entry], number: int) -> Entry:
    """The entry of that number; the newest come first.

    Raises:
        Refused: there is none.
    """
    if not 0 <= number < len(entries):
        raise Refused(f"there is no entry {number}; the history has 0 to {len(entries) - 1}")
    return entries[len(entries) - 1 - number]


def older(entries: Sequence[Entry]) -> Entry:
    """The entry by which the version before the one that answers came to answer; the newest come first.

    Raises:
        Refused: there is none.
    """
    at = _since(entries, 0)
    while at + 1 < len(entries) and entries[at].event == "rolled back":
        back = max(1, entries[at].number - (entries[at].base or 0))  # entries are one number apart
        at = _since(entries, at + back)
    if at + 1 == len(entries):
        raise Refused("there is no older version to go back to")
    return entries[_since(entries, at + 1)]


def makers(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The entry that made each version, by the version's name; the newest come first."""
    out = dict[str, Entry]()
    for entry in reversed(entries):
        for version in (entry.version, entry.candidate or entry.version):
            out.setdefault(version, entry)
    return out


def lineage(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entry that made the version that answers, the one that made what that was made from, and so on."""
    by = makers(entries)
    yield (entry := by[entries[0].version])
    while entry.number:
        yield (entry := by[numbered_entry(entries, entry.number - 1).version])


def _since(entries: Sequence[Entry], at: int) -> int:
    """The place of the entry since which the version at a place had answered without a break; the newest come first."""
    whose = (place for place in range(at, len(entries) - 1) if entries[place + 1].version != entries[at].version)
    return next(whose, len(entries) - 1)
