"""Paired tests against closed forms of Student's t, scipy's own test, and the principle behind Holm's method."""

from itertools import combinations
from math import atan, isnan, nan, pi, sqrt

import numpy as np
import pytest
from scipy import stats

from perdure.report.paired import holm, paired


def by_seed(values):
    return dict(enumerate(values))


def test_two_seeds_are_cauchys_distribution():
    test = paired(by_seed([0.9, 0.8]), by_seed([0.6, 0.7]))  # differences 0.3 and 0.1: t = 0.2 / 0.1
    assert test.seeds == (0, 1)
    assert test.mean == pytest.approx(0.2)
    assert test.half == pytest.approx(12.706204736 * 0.1)
    assert test.p == pytest.approx(1 - 2 / pi * atan(2))
    assert test.reason == ""


def test_three_seeds_in_closed_form():
    test = paired(by_seed([0.9, 0.8, 0.7]), by_seed([0.8, 0.6, 0.4]))  # differences 0.1, 0.2, 0.3
    t = 0.2 / (0.1 / sqrt(3))
    assert test.p == pytest.approx(1 - t / sqrt(t**2 + 2))  # Student's t of 2 degrees of freedom


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_it_is_scipys_paired_test(n):
    draws = np.random.default_rng(n)
    one, other = draws.random(n), draws.random(n)
    expected = stats.ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    test = paired(by_seed(one.tolist()), by_seed(other.tolist()))
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.mean - test.half, test.mean + test.half) == pytest.approx((interval.low, interval.high))
    assert (test.p < 0.05) == (abs(test.mean) > test.half)
    swapped = paired(by_seed(other.tolist()), by_seed(one.tolist()))
    assert (swapped.mean, swapped.p) == pytest.approx((-test.mean, test.p))


def test_only_seeds_with_both_values_count():
    one = {0: 0.9, 1: 0.8, 2: nan, 3: 0.5, 7: 0.1}
    other = {1: 0.7, 0: 0.6, 2: 0.3, 3: nan, 8: 0.2}
    assert paired(one, other) == paired({0: 0.9, 1: 0.8}, {0: 0.6, 1: 0.7})


def test_too_few_seeds_give_no_p():
    single = paired({0: 0.9, 1: 0.8}, {1: 0.7})
    assert single.seeds == (1,)
    assert single.mean == pytest.approx(0.1)
    assert isnan(single.half)
    assert isnan(single.p)
    none = paired({0: 0.9}, {1: 0.7})
    assert none.seeds == ()
    assert isnan(none.mean)
    assert single.reason == none.reason == "needs 2 or more shared seeds"


@pytest.mark.parametrize(
    ("other", "mean", "reason"),
    [
        ([0.95, 0.85], 0.0, "equal at every shared seed, so there is nothing to test"),
        ([0.9, 0.8], 0.05, "the same difference at every shared seed, so there is no spread to test it against"),
    ],
)
def test_without_spread_there_is_no_p(other, mean, reason):
    test = paired(by_seed([0.95, 0.85]), by_seed(other))  # 0.95 - 0.9 is not 0.85 - 0.8 in floating point
    assert test.mean == pytest.approx(mean)
    assert test.half == 0
    assert isnan(test.p)
    assert test.reason == reason


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni():
    """What is true of every set that a p value is in: the set's size times its smallest p value."""
    ps = np.random.default_rng(0).random(6) ** 3
    sets = [chosen for size in range(1, 7) for chosen in combinations(range(6), size)]
    for k, adjusted in enumerate(holm(ps.tolist())):
        assert adjusted == pytest.approx(max(min(1, len(s) * ps[list(s)].min()) for s in sets if k in s))


def test_holm_does_not_count_what_was_not_tested():
    first, undefined, last = holm([0.01, nan, 0.02])
    assert (first, last) == (0.02, 0.02)
    assert isnan(undefined)
