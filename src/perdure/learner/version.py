"""A version: everything a learner knows at one moment, as one tree. Old versions are kept; none is ever changed.

Inputs of one signature share a branch: one state of the method, one scale, one list of labels. Examples lie in files of
their own, which a version names, so that opening a learner reads none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused, State, TaskId
from perdure.learner.intake import Array, Kind, Signature
from perdure.learner.intake.given import LONGEST, UNSHOWN
from perdure.learner.novelty import Usual

Label = str | int
NAME = 200  # characters of a task's name
NUMBERS = 1 << 26  # of an input


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
    doubts: Tensor  # (tasks, 2) float32, the limit of what doubt is usual for each, and how many misfits its exam has

    @property
    def words(self) -> Array:
        """(l,) the labels by number; empty or -1 where one is forgotten."""
        blank: Label = -1 if any(isinstance(label, int) for label in self.labels) else ""
        return np.array([blank if label is None else label for label in self.labels])

    def scale(self, x: Tensor) -> Tensor:
        """Inputs (N, ...) as the network takes them."""
        return (x.float() - self.shift) * self.factor

    @property
    def rights(self) -> dict[str, Array]:
        """(asked,) bool by task: which of its exam is answered rightly."""
        ends = np.cumsum([task.asked for task in self.tasks], dtype=int)
        parts = np.split(np.unpackbits(self.right.numpy()).astype(bool), ends)[:-1]
        return {task.name: part for task, part in zip(self.tasks, parts, strict=True)}

    @property
    def usual(self) -> dict[int, Usual]:
        """What doubt is usual, by task index."""
        rows = zip(self.tasks, self.doubts.tolist(), strict=True)
        return {task.index: Usual(limit, int(misfits), task.asked) for task, (limit, misfits) in rows}


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


def check_version(version: Version) -> None:
    """Raises Refused where the parts of a version do not go together, as may be in one of a stranger."""
    tasks = [task for branch in version.branches for task in branch.tasks]
    _demand(len({task.name for task in tasks}) == len(tasks), "two tasks have one name")
    signatures = {branch.signature for branch in version.branches}
    _demand(len(signatures) == len(version.branches), "two branches are for the same inputs")
    for branch in version.branches:
        _check_inputs(branch)
        _check_tasks(branch)


def _check_inputs(branch: Branch) -> None:
    kind, shape, columns = branch.signature
    _demand(kind in get_args(Kind) and shape and min(shape) > 0, "no inputs have such a shape")
    _demand(prod(shape) <= NUMBERS, f"an input has more than {NUMBERS:,} numbers")
    _demand(not columns or shape == (len(columns),) == (len(set(columns)),), "no inputs have such columns")
    _demand(all(map(_is_word, columns)), "a column has no name")
    shift, factor = branch.shift, branch.factor
    _demand(shift.shape == factor.shape in ((), shape) and shift.ndim < 2, "no inputs have such a scale")
    for scale in (shift, factor):
        _demand(scale.dtype == torch.float32 and scale.isfinite().all(), "its scale is none")


def _check_tasks(branch: Branch) -> None:
    words = [label for label in branch.labels if label is not None]
    _demand(len(set(words)) == len(words), "two labels are the same")
    _demand(all(map(_is_word, words)) or all(type(word) is int and word < 1 << 63 for word in words), "labels are none")
    tasks, asked = branch.tasks, sum(task.asked for task in branch.tasks)
    _demand(tasks and len({task.index for task in tasks}) == len(tasks), "two tasks have one index")
    for name, index, classes, exam, count, _, nbytes in tasks:
        _demand(is_name(name), "a task has no name")
        _demand(0 <= index < branch.following and nbytes >= 0, f"{name} has index {index}")
        _demand(classes.dtype == torch.int64 and classes.ndim == 1 and len(classes), f"{name} has no classes")
        sorted_ = bool((classes.diff() > 0).all()) and int(classes[0]) >= 0 and int(classes[-1]) < len(branch.labels)
        _demand(sorted_ and all(branch.labels[i] is not None for i in classes.tolist()), f"{name} has other classes")
        _demand(count >= 0 and (count > 0) == (exam != ""), f"{name} has an exam of {count}")
    _demand(
        branch.right.dtype == torch.uint8 and branch.right.shape == ((asked + 7) // 8,), "bits of exams are missing"
    )
    doubts = branch.doubts
    _demand(doubts.dtype == torch.float32 and doubts.shape == (len(tasks), 2), "no such doubts")
    counted = (doubts[:, 1] >= 0) & (doubts[:, 1] <= torch.tensor([task.asked for task in tasks]))
    _demand(counted.all() and not doubts[:, 0].isnan().any(), "doubts are none")


def _demand(whole: Any, otherwise: str) -> None:
    if not whole:
        raise Refused(otherwise)


def _is_word(word: Any) -> bool:
    """Whether it can be a label, or the name of a column."""
    return isinstance(word, str) and 0 < len(word) <= LONGEST and not UNSHOWN.search(word)


def is_name(name: Any) -> TypeGuard[str]:
    """Whether a task can be called so."""
    return isinstance(name, str) and 0 < len(name) <= NAME and name.isprintable()


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
