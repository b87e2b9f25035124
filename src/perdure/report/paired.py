"""Paired tests: how far one method lies above another at the seeds both have, and whether chance explains it.

A seed that is kind to one method is kind to the other, so differences at equal seeds spread less than accuracies do.

Sources: Student, "The probable error of a mean", Biometrika 6, 1908; S. Holm, "A simple sequentially rejective multiple
test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np

from perdure.report.table import interval

SAME = 1e-9  # between fractions: what is closer differs by rounding, for no exam has so many examples


class Paired(NamedTuple):
    """One method less another, over the seeds both have."""

    seeds: tuple[Any, ...]
    mean: float  # of the differences; NaN where no seed is shared
    half: float  # half-width of its 95 % interval by Student's t; NaN for fewer than two seeds
    p: float  # two-sided: the chance of a mean at least so far from 0 if there were no difference
    reason: str = ""  # why there is no p


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> Paired:
    """The paired t test of two sets of values by seed; an undefined value counts as a seed that is not there."""
    from scipy.special import stdtr  # the distribution of Student's t, without the weight of scipy.stats

    seeds = tuple(sorted(seed for seed in one.keys() & other.keys() if not isnan(one[seed] - other[seed])))
    differences = np.array([one[seed] - other[seed] for seed in seeds])
    mean, half = interval(differences.tolist())
    if len(seeds) < 2:
        return Paired(seeds, mean, half, nan, "needs 2 or more shared seeds")
    if np.ptp(differences) < SAME:
        equal = "equal at every shared seed, so there is nothing to test"
        steady = "the same difference at every shared seed, so there is no spread to test it against"
        return Paired(seeds, mean, 0.0, nan, equal if abs(mean) < SAME else steady)
    t = mean / (differences.std(ddof=1) / np.sqrt(len(seeds)))
    return Paired(seeds, mean, half, float(2 * stdtr(len(seeds) - 1, -abs(t))))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values as they count when all are looked at: the k-th smallest of m times m - k + 1, never falling.

    The chance that any true "no difference" among them ends below a level is at most that level, however they depend
    on each other. NaN stays NaN and is not counted.
    """
    order = [place for place in np.argsort(ps, kind="stable").tolist() if not isnan(ps[place])]
    adjusted, highest = [nan] * len(ps), 0.0
    for k, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - k) * ps[place]))
        adjusted[place] = highest
    return adjusted
