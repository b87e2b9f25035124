"""A version: everything a learner knows at one moment, as one tree. Old versions are kept; none is ever changed.

Inputs of one signature share a branch: one state of the method, one scale, one list of labels. Examples lie in files of
their own, which a version names, so that opening a learner reads none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused, State, TaskId
from perdure.learner.intake import Array, Signature
from perdure.learner.novelty import Usual

Label = str | int


class Known(NamedTuple):
    """One learned task."""

    name: str
    index: int  # type: ignore[assignment]  # among the tasks of its branch; never given again
    classes: Tensor  # (c,) int64, sorted numbers of its labels
    exam: str  # name of the stored examples that it is asked; empty where there are none
    asked: int  # how many they are
    kept: str  # name of the stored examples that it is learned again with; empty where there are none
    nbytes: int  # of these two

    @property
    def id(self) -> TaskId:
        """As the method is told."""
        return TaskId(self.index, self.classes)


class Branch(NamedTuple):
    """All tasks whose inputs are of one signature."""

    signature: Signature
    shift: Tensor  # () or (d,) float32, subtracted from inputs
    factor: Tensor  # () or (d,) float32, by which they are multiplied then
    labels: tuple[Label | None, ...]  # by number, as they came; None where the tasks that had one are forgotten
    tasks: tuple[Known, ...]  # in the order of learning
    following: int  # the index of the next task
    state: State
    right: Tensor  # uint8, a bit an exam example, task after task: whether it is answered rightly
    doubts: Tensor  # (tasks, 3) float64, what doubt is usual for each: a `Usual` a row

    @property
    def words(self) -> Array:
        """(l,) the labels by number; empty or -1 where one is forgotten."""
        blank: Label = -1 if any(isinstance(label, int) for label in self.labels) else ""
        return np.array([blank if label is None else label for label in self.labels])

    @property
    def rights(self) -> dict[str, Array]:
        """(asked,) bool by task: which of its exam is answered rightly."""
        ends = np.cumsum([task.asked for task in self.tasks], dtype=int)
        parts = np.split(np.unpackbits(self.right.numpy()).astype(bool), ends)[:-1]
        return {task.name: part for task, part in zip(self.tasks, parts, strict=True)}

    @property
    def usual(self) -> dict[int, Usual]:
        """What doubt is usual, by task index."""
        rows = self.doubts.tolist()
        return {
            task.index: Usual(limit, int(misfits), int(asked))
            for task, (limit, misfits, asked) in zip(self.tasks, rows, strict=True)
        }


class Version(NamedTuple):
    """Everything known."""

    branches: tuple[Branch, ...] = ()

    @property
    def tasks(self) -> dict[str, Known]:
        """All tasks by name, in the order of their branches."""
        return {task.name: task for branch in self.branches for task in branch.tasks}

    def branch_of(self, task: str) -> Branch | None:
        """The branch that has a task of that name."""
        return next((branch for branch in self.branches if any(known.name == task for known in branch.tasks)), None)

    def branch_for(self, signature: Signature, more: bool = False) -> Branch | None:
        """The branch of inputs of that signature; the columns of a table may come in any order.

        Args:
            more: a table may have columns that were not learned from.
        """
        exact = next((branch for branch in self.branches if branch.signature == signature), None)
        if exact is not None or not signature.columns:
            return exact
        have = set(signature.columns)
        tables = [branch for branch in self.branches if branch.signature.columns]
        fit = [
            branch for branch in tables if (needs := set(branch.signature.columns)) == have or (more and needs < have)
        ]
        return max(fit, key=lambda branch: len(branch.signature.columns), default=None)

    def with_(self, branch: Branch) -> Version:
        """The version with a branch in place of the one of its signature, or beside the others; none without tasks."""
        others = [old for old in self.branches if old.signature != branch.signature]
        place = next((i for i, old in enumerate(self.branches) if old.signature == branch.signature), len(others))
        new = (branch,) if branch.tasks else ()
        return Version((*others[:place], *new, *others[place:]))


KINDS = (Version, Branch, Known, Signature)


def packed(rights: Sequence[Array]) -> Tensor:
    """The bits of a branch, task after task."""
    bits = np.concatenate([*rights, np.zeros(0, dtype=bool)])
    return torch.from_numpy(np.packbits(bits))


def numbered(labels: tuple[Label | None, ...], y: Array) -> tuple[tuple[Label | None, ...], Tensor]:
    """The labels with those of y (N,) that are new, in order of appearance, and the numbers (N,) of y.

    Raises:
        Refused: some labels are words and others numbers.
    """
    shown, first, inverse = np.unique(y, return_index=True, return_inverse=True)
    words: list[Label] = shown.tolist()
    old = next((label for label in labels if label is not None), None)
    if words and old is not None and isinstance(old, str) != isinstance(words[0], str):
        raise Refused(
            f"y holds {words[0]!r}, but the labels learned so far are like {old!r}; give all as words, or all as "
            "whole numbers"
        )
    new: list[Label] = []
    known = {label: number for number, label in enumerate(labels) if label is not None}
    for place in first.argsort().tolist():
        if words[place] not in known:
            known[words[place]] = len(labels) + len(new)
            new.append(words[place])
    numbers = torch.tensor([known[word] for word in words], dtype=torch.int64)
    return (*labels, *new), numbers[torch.from_numpy(inverse)]
