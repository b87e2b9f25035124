"""What a learner says of its work: of an update, of inputs, of a check."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perdure.data import BLOCK
from perdure.learner.intake import Array, Given
from perdure.learner.policy import Change
from perdure.learner.version import Branch

Verdict = Literal["promoted", "kept back", "unexamined"]


@dataclass(frozen=True)
class Report:
    """What an update did.

    Args:
        number: of its entry in the history.
        task: its name.
        verdict: promoted, kept back, or unexamined (promoted, with nothing to examine it by).
        reasons: why it was kept back.
        examples: new ones that were learned.
        asked: examples of its exam.
        accuracy: on its exam, as asked; None without one.
        given: on its exam, with its name given.
        looked: what the examples looked like before they were learned: known, drifted or new; "" where nothing alike
            had been learned.
        like: the name of the task that most of them were taken for; empty where the method tells none apart.
        fit: the share of them that fitted a known task.
        changes: what happened to the other tasks, where anything did.
        nbytes: of the version, examples and all.
        seconds: spent on learning, on exams (and on a look at the examples before), and on the rest.
        notes: what else there is to know.
        row: of R: the accuracy on every exam that was asked, by task.
        components: bytes of what the method keeps for inputs of this kind, by part, and of examples.
        data: fingerprint of what was given.
    """

    number: int
    task: str
    verdict: Verdict
    reasons: tuple[str, ...]
    examples: int
    asked: int
    accuracy: float | None
    given: float | None
    looked: str
    like: str
    fit: float | None
    changes: dict[str, Change]
    nbytes: int
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    row: dict[str, float] = field(default_factory=dict)
    components: dict[str, int] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"changes": {name: change._asdict() for name, change in self.changes.items()}}


class Explanation(NamedTuple):
    """What is said of every input, and how surely; arrays (n,)."""

    labels: Array
    tasks: Array  # names; empty where the label is one of several tasks and the method does not tell them apart
    confidence: Array  # the probability of the label among those that competed, 0 to 1
    fits: Array  # bool, whether the input looks like those of that task, or of any


class Check(NamedTuple):
    """What a check found."""

    problems: tuple[str, ...]  # what is damaged, missing or worse than it was; empty when all is well
    notes: tuple[str, ...]  # what is odd, and harms nothing
    tasks: dict[str, Change]  # every exam, as it was answered when the version was made and now


def kept_bytes(branch: Branch) -> int:
    """Bytes of the stored examples of a branch."""
    return sum(task.nbytes for task in branch.tasks)


def fingerprint(given: Given) -> dict[str, Any]:
    """What data was given, as far as it can be told without keeping any of it."""
    x, n = given.x, given.x.shape[0]
    whole = isinstance(x, Tensor)
    rows = np.arange(n) if whole else np.unique(np.linspace(0, n - 1, min(n, BLOCK)).round().astype(np.int64))
    content = hashlib.sha256()
    for block in np.array_split(rows, max(1, len(rows) // BLOCK)):
        content.update(torch.as_tensor(x[block]).contiguous().numpy().tobytes())
    labels, counts = np.unique(given.y if given.y is not None else [], return_counts=True)
    return {
        "examples": n,
        "kind": str(given.signature),
        "labels": {str(label): int(count) for label, count in zip(labels, counts, strict=True)},
        "sha256": content.hexdigest(),
        "hashed": len(rows),
    }
