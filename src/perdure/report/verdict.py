"""The verdict: which task was forgotten, when, and how much of it, in numbers and in one plain sentence.

Points are percentage points. Tasks count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perdure.evaluate import Matrix

if TYPE_CHECKING:
    from perdure.result import Result

FORGOTTEN = 0.10  # a task that lost more than 10 points was forgotten
KEPT = 0.01  # a task that lost at most one point was kept


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
        return self.learned - self.end

    @property
    def when(self) -> str:
        return f"task {self.last}" if self.first == self.last else f"tasks {self.first} to {self.last}"


def fates(R: Matrix) -> list[Fate]:
    """Every task but the last that has an exam right after it was learned and one at the end, in order.

    The largest loss is the steepest fall between two exams; where rows of R are missing it spans several tasks.
    """
    T, out = R.shape[1], []
    for j in range(T - 1):
        rows = [i for i in range(j + 1, T + 1) if not np.isnan(R[i, j])]
        if not rows or rows[0] != j + 1 or rows[-1] != T:
            continue
        fall, at = max((R[a, j] - R[b, j], -b) for a, b in pairwise(rows))
        last = -at
        first = max(i for i in rows if i < last) + 1
        out.append(Fate(j + 1, float(R[j + 1, j]), float(R[T, j]), float(fall), first, last))
    return out


def mean_matrix(results: Sequence[Result], given: bool = False) -> Matrix:
    """(T+1, T) the mean over seeds of R, or of R with the id given where there are ids."""
    stack = [result.R_given if given and result.R_given is not None else result.R for result in results]
    mean: Matrix = np.mean(stack, axis=0)
    return mean


def verdict(label: str, results: Sequence[Result]) -> str:
    """What happened to the tasks of one experiment, in one sentence."""
    R = mean_matrix(results)
    T, end = R.shape[1], R[-1].mean()
    seeds = f" (means of {len(results)} seeds)" if len(results) > 1 else ""
    if T == 1:
        return f"{label} learned its only task to {_percent(end)}; nothing came after it that could undo it{seeds}."
    known = fates(R)
    if not known:
        return f"What {label} forgot is unknown: no task was examined both right after it was learned and at the end."
    worst = max(known, key=lambda fate: fate.lost)
    examined = f"the {len(known)} tasks that were examined in time" if len(known) < T - 1 else ""
    every = f"each of {examined}" if examined else "every task"
    if worst.lost <= 0:
        return f"{label} lost nothing of {every}, and ends at {_percent(end)} on average{seeds}."
    if worst.lost <= KEPT:
        within = ceil(1000 * worst.lost - 1e-9) / 10
        return f"{label} kept {every} within {within:.1f} points, and ends at {_percent(end)} on average{seeds}."
    forgotten = sum(fate.lost > FORGOTTEN for fate in known)
    if forgotten > 1:
        what = f"forgot {forgotten} of {examined or f'its {T} tasks'}, task {worst.task} most"
    elif forgotten:
        what = f"forgot task {worst.task}"
    else:
        what = f"lost {100 * worst.lost:.1f} points of task {worst.task}"
    return (
        f"{label} {what}: {_percent(worst.learned)} after learning it, {_percent(worst.end)} at the end; "
        f"the largest loss, {100 * worst.fell:.1f} points, came while learning {worst.when}{seeds}."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
