"""A version in memory, and the methods that answer with it."""

from __future__ import annotations

from typing import Any

import torch

from perdure import tree
from perdure.contract import Method, Refused
from perdure.learner.archive import Archive
from perdure.learner.settings import NUMBERS, Settings
from perdure.learner.update import answered
from perdure.learner.version import Version
from perdure.store import refusing

UNFOLDING = 32  # numbers that a byte of a stored version may ask for, beyond what any learner may


class Loaded:
    """A version in memory, with what its methods need to answer."""

    def __init__(self, name: str, version: Version, methods: tuple[Method, ...], device: torch.device) -> None:
        self.name, self.version, self.methods, self.device = name, version, methods, device
        self._ready: dict[int, Any] = {}

    def ready(self, place: int) -> Any:
        """What the method of a branch needs to answer, made once."""
        if place not in self._ready:
            self._ready[place] = self.methods[place].ready(self.version.branches[place].state)
        return self._ready[place]


def check_size(what: str, version: Version, settings: Settings) -> None:
    """Refuses a version that asks for far more memory than it has bytes, as one of a stranger may."""
    asked = sum(settings.unfolded(branch.signature.shape, len(branch.tasks)) for branch in version.branches)
    if asked > NUMBERS + UNFOLDING * tree.nbytes(version):
        raise Refused(f"{what} asks for {asked:,} numbers, and is smaller than that; a smaller net asks for fewer")


def load(archive: Archive, name: str, settings: Settings, device: torch.device) -> Loaded:
    """A version by name, on a device; every branch of it has answered once.

    Raises:
        Refused: it is missing or damaged, or asks for far more memory than it has bytes.
    """
    version, folder = archive.read(name), archive.ledger.folder
    with refusing(f"the version {name} of {folder} is damaged"):
        check_size(f"the version {name} of {folder}", version, settings)
        version = Version(tuple(branch._replace(state=tree.to(branch.state, device)) for branch in version.branches))
        methods = tuple(settings.made(branch.signature.shape) for branch in version.branches)
        loaded = Loaded(name, version, methods, device)
        for place, (branch, method) in enumerate(zip(version.branches, methods, strict=True)):
            answered(method, loaded.ready(place), branch, torch.zeros(1, *branch.signature.shape, device=device), None)
    return loaded
