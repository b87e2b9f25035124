"""Held out: the same stream, examined on training examples that are kept from learning, or a small part of it.

Options are chosen on held-out examples, so that no exam is ever looked at before the figures that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from perdure.contract import Examples, Refused
from perdure.data import View
from perdure.rng import permutation
from perdure.streams.stream import Lazy, Lesson, Stream


def held_out(stream: Stream, share: float, key: int) -> Stream:
    """The stream whose exams are a share (0 to 1) of each task's training examples, which are learned no more.

    Labels, ids and order stay. Tasks of equal size hold out the same rows, and what is asked in one task is learned in
    none: where a data set is dealt out again, tasks learn fewer examples. Of a task that learns only some of its
    examples, these are drawn from what is left. The exams of the stream are never read.

    Raises:
        Refused: the share of a task is none of its examples, or all.
    """

    def held(i: int, lesson: Lesson) -> Lesson:
        rest, asked = lesson.train.split(key, share)
        if not len(rest) or not len(asked):
            n = len(lesson.train)
            raise Refused(f"a share of {share:g} of the {n} examples of task {i + 1} is {len(asked)}; hold out another")
        return lesson._replace(train=rest, exam=asked)

    if not 0 < share < 1:
        raise Refused(f"the share to hold out is {share:g}; it must be between 0 and 1")
    return replace(stream.with_lessons(lambda lessons: _apart(_each(held)(lessons))), name=f"{stream.name} (held out)")


def small(stream: Stream, tasks: int, examples: int) -> Stream:
    """The stream of its first tasks, each with at most so many examples to learn and to ask."""

    def few(part: Examples) -> Examples:
        return View(part, permutation(0, len(part))[:examples].sort().values)

    def cut(i: int, lesson: Lesson) -> Lesson:
        return lesson._replace(train=few(lesson.learned), exam=few(lesson.exam), most=None)

    return replace(stream[:tasks].with_lessons(_each(cut)), name=f"{stream.name} (smoke)")


def _apart(lessons: Sequence[Lesson]) -> Sequence[Lesson]:
    """Lessons that are views of one data set, without the training examples that any of them asks."""
    asked = torch.cat([_source(lesson.exam) for lesson in lessons]).unique()

    def rest(i: int, lesson: Lesson) -> Lesson:
        free = ~torch.isin(_source(lesson.train), asked)
        return lesson._replace(train=View(lesson.train, free.nonzero()[:, 0]))

    return _each(rest)(lessons)


def _source(examples: Examples) -> Tensor:
    """(N,) the rows of the data set that is viewed."""
    rows = torch.arange(len(examples))
    while isinstance(examples, View):
        rows, examples = rows if examples.rows is None else examples.rows[rows], examples.base
    return rows


def _each(change: Callable[[int, Lesson], Lesson]) -> Callable[[Sequence[Lesson]], Sequence[Lesson]]:
    return lambda lessons: Lazy(lambda i: change(i, lessons[i]), range(len(lessons)))
