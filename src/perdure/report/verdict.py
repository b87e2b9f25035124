"""The verdict: which task was forgotten, when, and how much of it, in numbers and in one plain sentence.

Points are percentage points. Tasks count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perdure.evaluate import Matrix

if TYPE_CHECKING:
    from perdure.result import Result

FORGOTTEN = 0.10  # a task that lost more than 10 points was forgotten
KEPT = 0.01  # a task that lost at most one point was kept
DIGITS = 9  # beyond which two losses are the same


class Fate(NamedTuple):
    """What became of one task that others followed."""

    task: int
    learned: float  # accuracy right after learning it
    end: float  # accuracy after the last task
    fell: float  # the largest loss between two exams, ...
    first: int  # ... which came while learning the tasks first to last
    last: int

    @property
    def lost(self) -> float:
        return round(self.learned - self.end, DIGITS)

    @property
    def when(self) -> str:
        return f"task {self.last}" if self.first == self.last else f"tasks {self.first} to {self.last}"


def fates(R: Matrix) -> list[Fate]:
    """Every task but the last that has an exam right after it was learned and one at the end, in order.

    The largest loss is the steepest fall between two exams; where rows of R are missing it spans several tasks.
    """
    T, out = R.shape[1], []
    for j in range(T - 1):
        rows = j + 1 + np.flatnonzero(~np.isnan(R[j + 1 :, j]))
        if len(rows) < 2 or rows[0] != j + 1 or rows[-1] != T:
            continue
        falls = (-np.diff(R[rows, j])).round(DIGITS)
        k = int(falls.argmax())
        first, last = int(rows[k]) + 1, int(rows[k + 1])
        out.append(Fate(j + 1, float(R[j + 1, j]), float(R[T, j]), float(falls[k]), first, last))
    return out


def mean_matrix(results: Sequence[Result], given: bool = False) -> Matrix:
    """(T+1, T) the mean over seeds of R, or of R with the id given where there are ids."""
    stack = [result.R_given if given and result.R_given is not None else result.R for result in results]
    mean: Matrix = np.mean(stack, axis=0)
    return mean


def differs(results: Sequence[Result]) -> bool:
    """Whether knowing the id changed any cell of R."""
    return any(r.R_given is not None and not np.array_equal(r.R, r.R_given, equal_nan=True) for r in results)


def verdict(label: str, results: Sequence[Result]) -> str:
    """What happened to the tasks of one experiment, in one sentence; in two where knowing the id changes it."""
    seeds = f" (means of {len(results)} seeds)" if len(results) > 1 else ""
    said = f"{label} {_fate(mean_matrix(results))}{seeds}."
    return said + (f" With the id given it {_fate(mean_matrix(results, given=True))}." if differs(results) else "")


def _fate(R: Matrix) -> str:
    T, end, known = R.shape[1], R[-1].mean(), fates(R)
    if T == 1:
        return f"learned its only task to {_percent(end)}; nothing came after it that could undo it"
    if not known:
        return "cannot be judged: no task was examined both right after it was learned and at the end"
    worst = max(known, key=lambda fate: fate.lost)
    examined = f"the {len(known)} task{'s' * (len(known) > 1)} examined in time" if len(known) < T - 1 else ""
    if worst.lost <= 0:
        return f"lost nothing of {examined or 'what it learned'}, and ends at {_percent(end)} on average"
    if worst.lost <= KEPT:
        within = ceil(round(1000 * worst.lost, 6)) / 10
        return f"kept {examined or 'every task'} within {within:.1f} points, and ends at {_percent(end)} on average"
    forgotten = sum(fate.lost > FORGOTTEN for fate in known)
    if forgotten > 1:
        what = f"forgot {forgotten} of {examined or f'its {T} tasks'}, task {worst.task} most"
    elif forgotten:
        what = f"forgot task {worst.task}"
    else:
        what = f"lost {100 * worst.lost:.1f} points of task {worst.task}"
    return (
        f"{what}: {_percent(worst.learned)} after learning it, {_percent(worst.end)} at the end; "
        f"the largest loss, {100 * worst.fell:.1f} points, came while learning {worst.when}"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
