"""Arrays: a stream from one's own data: X, y and the task of each example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused, Scenario
from perdure.data import Arrays, View
from perdure.datasets.base import Scaling, scale_of, stratified
from perdure.datasets.npz import Array, as_array, inputs, numbers, opened, places_of, same_kind, same_length
from perdure.rng import fold
from perdure.streams.stream import CHUNK, Lesson, Stream, alike, apart, assemble, at_least_one


def arrays(
    path: str | Path,
    tasks: int | None = None,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """A stream from an .npz file with X, y and task, and perhaps X_test, y_test and task_test.

    Tasks come in the order in which the file first names them. A fifth of every label of a task is its exam, unless
    the file has test arrays.

    Args:
        path: X (N, ...) numbers; y (N,) and task (N,) integers or strings. Strings in y are numbered in sorted order,
            and so are all labels where one is negative.
        tasks: the first so many tasks; all of them when not given.
        seed: decides which fifth is asked.
        scenario: when not given gns if all tasks have the same labels, gnu if no two share any, gg otherwise.
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often each task comes (nns only).
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: the file or its arrays cannot be used; says which and why.
    """
    return from_arrays(
        **opened(Path(path), ("X", "y", "task"), ("X_test", "y_test", "task_test")),
        name=Path(path).name,
        tasks=tasks,
        seed=seed,
        scenario=scenario,
        scale=scale,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
    )


def from_arrays(
    X: Any,
    y: Any,
    task: Any,
    X_test: Any = None,
    y_test: Any = None,
    task_test: Any = None,
    *,
    name: str = "arrays",
    tasks: int | None = None,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """A stream from arrays or tensors in memory; everything else as in `arrays`.

    Raises:
        Refused: an array cannot be used; says which and why.
    """
    x, y, task = _checked("", X, y, task)
    known, places = np.unique(y, return_inverse=True)
    numbered = known.dtype.kind == "U" or known.min(initial=0) < 0
    values = torch.from_numpy(np.arange(len(known)) if numbered else known)
    names, first = np.unique(task, return_index=True)
    labels, learned = values[places], _rows("task", task, names, first)

    test = {"X_test": X_test, "y_test": y_test, "task_test": task_test}
    lacking = [array for array, content in test.items() if content is None]
    if not lacking:
        x_test, y_test, task_test = _checked("_test", X_test, y_test, task_test)
        same_kind(x, x_test, "X_test")
        asked = _rows("task_test", task_test, names, first)
        labels_test = values[places_of("y_test", y_test, known, "y")]
    elif len(lacking) == len(test):
        parts = [stratified(labels[rows], 0.2, fold(seed, "arrays", i)) for i, rows in enumerate(learned)]
        asked = [rows[share.sort().values] for rows, (_, share) in zip(learned, parts, strict=True)]
        learned = [rows[rest.sort().values] for rows, (rest, _) in zip(learned, parts, strict=True)]
        x_test, labels_test = x, labels
    else:
        raise Refused(f"{', '.join(lacking)} missing; give all of {', '.join(test)}, or none")

    scaling = scale_of(x, scale, torch.cat(learned))
    train, exam = Arrays(x, labels, scaling), Arrays(x_test, labels_test, scaling)
    lessons = [_lesson(i, View(train, a), View(exam, b)) for i, (a, b) in enumerate(zip(learned, asked, strict=True))]
    if tasks is not None:
        at_least_one(tasks=tasks)
        if tasks > len(lessons):
            raise Refused(f"{name} holds {len(lessons)} tasks, not {tasks}; ask for at most that")
        lessons = lessons[:tasks]
    classes = [lesson.classes for lesson in lessons]
    natural = Scenario.GNS if alike(classes) else Scenario.GNU if apart(classes) else Scenario.GG
    return assemble(
        name,
        scenario or natural,
        lessons,
        seed,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
        words=known.tolist() if numbered else (),
    )


def _checked(suffix: str, X: Any, y: Any, task: Any) -> tuple[Tensor, Array, Array]:
    """Inputs, labels and tasks, each checked, and all of one length."""
    x = inputs(f"X{suffix}", as_array(f"X{suffix}", X))
    y = numbers(f"y{suffix}", as_array(f"y{suffix}", y), signed=True)
    task = numbers(f"task{suffix}", as_array(f"task{suffix}", task), signed=True)
    same_length(**{f"X{suffix}": x, f"y{suffix}": y, f"task{suffix}": task})
    return x, y, task


def _rows(name: str, task: Array, known: Array, first: Array) -> list[Tensor]:
    """The rows of each task, in the order in which X first shows them."""
    places = torch.from_numpy(places_of(name, task, known, "task"))
    counts: list[int] = places.bincount(minlength=len(known)).tolist()
    groups = places.argsort(stable=True).split(counts)
    return [groups[i] for i in first.argsort()]


def _lesson(i: int, train: View, exam: View) -> Lesson:
    classes = train.labels.unique()
    if len(strange := exam.labels[~torch.isin(exam.labels, classes)]):
        raise Refused(f"the exam of task {i + 1} asks the label {int(strange[0])}, which none of its examples shows")
    return Lesson(train, exam, classes)
