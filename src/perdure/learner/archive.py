"""The archive: all versions that a ledger names, and whether their files are what they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from perdure.contract import Refused
from perdure.learner.hints import check
from perdure.learner.intake.given import listed
from perdure.learner.ledger import Entry, Ledger
from perdure.learner.version import Version, check_version
from perdure.store import load_state, parts_of, refusing, save_state


class Archive:
    """The versions in a folder.

    Args:
        kinds: the NamedTuples that a version may hold.
    """

    def __init__(self, ledger: Ledger, kinds: Sequence[type]) -> None:
        self.ledger, self.blobs, self.kinds = ledger, ledger.blobs, kinds

    def read(self, name: str) -> Version:
        """A version by name.

        Raises:
            Refused: a file of it is missing or damaged.
        """
        version = load_state(self.blobs, name, self.kinds)
        try:
            if not isinstance(version, Version):
                raise Refused("it holds none")
            _check(version)
        except Refused as error:
            raise Refused(f"the version {self.blobs.folder / name} is damaged: {error}") from error
        return version

    def write(self, version: Version) -> tuple[str, int]:
        """Stores a version; its name, and its bytes with those of its examples.

        Raises:
            Refused: it could not be read again.
        """
        _check(version)
        saved = save_state(self.blobs, version)
        return saved.name, sum(saved.nbytes.values()) + sum(task.nbytes for task in version.tasks.values())

    def files(self, name: str) -> set[str]:
        """The names of all files of a version, its examples among them.

        Raises:
            Refused: one that says which others there are is missing or damaged.
        """
        stored = {part for task in self.read(name).tasks.values() for part in (task.exam, task.kept) if part}
        return parts_of(self.blobs, name).union(*(parts_of(self.blobs, part) for part in stored))

    def nbytes(self, name: str) -> int:
        """Bytes of a version, its examples among them."""
        return self.blobs.nbytes(self.files(name))

    def check(self, name: str, sound: set[str] | None = None) -> None:
        """Reads every file of a version.

        Args:
            sound: files that were read before and need not be again; those that were read are added.

        Raises:
            Refused: one is missing or damaged.
        """
        sound = set() if sound is None else sound
        for part in self.files(name) - sound:
            self.blobs.get(part)
            sound.add(part)

    def check_left(self, number: int, name: str) -> None:
        """The same for the version of an entry, which may have been pruned.

        Raises:
            Refused: it was pruned, or is missing or damaged.
        """
        left = {version: entry.number for entry, version in self.there()}
        if name not in left:
            numbers = listed(map(str, sorted(left.values(), reverse=True)))
            raise Refused(f"the version of entry {number} was pruned; those that are left are of entry {numbers}")
        self.check(name)

    def prune(self, head: Entry, versions: int) -> tuple[Entry, int]:
        """Deletes all but the newest versions that ever answered; the entry that says so, and the bytes that freed."""
        kept = [name for entry, name in self.there() if name == entry.version][:versions]
        needed = set[str]().union(*map(self.files, kept))
        return self.ledger.append("pruned", head, versions=kept), self.ledger.sweep(needed)

    def there(self) -> Iterator[tuple[Entry, str]]:
        """Every version that no pruning has deleted, and the newest entry that has it; candidates among them."""
        left: set[str] | None = None  # by the newest pruning; of what is older, only these are there
        seen = set[str]()
        for entry in self.ledger.entries():
            for name in (entry.version, entry.candidate):
                if name and name not in seen and (left is None or name in left):
                    seen.add(name)
                    yield entry, name
            if left is None and entry.versions is not None:
                left = set(entry.versions)

    def problems(self) -> tuple[list[str], list[str]]:
        """What is wrong with the files of the ledger and of every version, and what is odd and harms nothing."""
        try:
            entries = list(self.ledger.entries())
            with refusing(f"the ledger of {self.ledger.folder} is damaged"):
                times = [datetime.fromisoformat(entry.when).astimezone(UTC) for entry in entries]
        except Refused as error:
            return [str(error)], []
        notes = [
            f"the clock of the machine went back between entry {before.number} and entry {after.number}"
            for (after, later), (before, sooner) in pairwise(zip(entries, times, strict=True))
            if later < sooner
        ]
        sound, problems = set[str](), dict[str, int]()
        for entry, name in self.there():
            try:
                self.check(name, sound)
            except Refused as error:
                problems.setdefault(str(error), entry.number)
        if problems and self.ledger.head != entries[0].name:  # what we were reading was pruned meanwhile
            return self.problems()
        return [f"the version of entry {number}: {problem}" for problem, number in problems.items()], notes


def _check(version: Version) -> None:
    """Raises Refused where it is no version that goes together."""
    check(version)
    check_version(version)
