"""The policy: which candidates it stops, by numbers worked out by hand."""

import numpy as np
import pytest

from perdure.contract import Refused
from perdure.learner.policy import Change, Policy, changes, nbytes, objections


def test_changes_count_what_turned_wrong_and_right() -> None:
    before = {"a": np.array([1, 1, 1, 0, 0], bool), "b": np.zeros(0, bool), "c": np.ones(3, bool)}
    after = {"a": np.array([1, 0, 1, 1, 1, 1, 1], bool), "b": np.zeros(0, bool)}
    assert changes(before, after) == {"a": Change(3 / 5, 4 / 5, 1 / 5, 2 / 5, 5)}


@pytest.mark.parametrize(
    ("change", "stopped"),
    [
        (Change(0.90, 0.85, 0.05, 0.0, 1000), ""),
        (Change(0.90, 0.849, 0.051, 0.0, 1000), "a fell from 90.0% to 84.9%; the policy allows a drop of 5.0%"),
        (Change(1.00, 0.90, 0.10, 0.0, 10), ""),  # one answer of ten
        (Change(1.00, 0.80, 0.20, 0.0, 10), "a fell from 100.0% to 80.0%"),
        (Change(0.80, 0.80, 0.10, 0.10, 100), ""),
        (Change(0.80, 0.80, 0.11, 0.11, 100), "of a, 11.0% of right answers turned wrong; the policy allows 10.0%"),
    ],
)
def test_a_drop_and_flips_are_allowed_up_to_the_policy_or_one_answer(change: Change, stopped: str) -> None:
    found = objections(Policy(), {"a": change}, 0)
    assert "".join(found).startswith(stopped) if stopped else not found


def test_bytes_are_allowed_up_to_the_budget() -> None:
    policy = Policy(byte_budget="1kB")
    assert objections(policy, {}, 1000) == ()
    assert objections(policy, {}, 1001) == ("it takes 1,001 bytes; the budget is 1,000",)


@pytest.mark.parametrize(
    ("text", "count"), [("64MB", 64_000_000), ("1.5 GiB", 3 << 29), (7, 7), ("20kB", 20_000), ("3", 3)]
)
def test_bytes_are_read(text: str | int, count: int) -> None:
    assert nbytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-3", "1 mb", "0", "nan", "1e9", "3 MB MB"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is no number of bytes; write a number and one of"):
        nbytes(text)


WRONG = [
    {"max_drop": -0.1},
    {"max_flips": 1.1},
    {"least": 0},
    {"byte_budget": "much"},
    {"least": 1.5},
    {"least": 1 << 64},
    {"max_drop": True},
    {"max_flips": "0.1"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Refused):
        Policy(**wrong)


def test_a_policy_of_numpys_numbers_is_one_of_pythons() -> None:
    policy = Policy(np.float32(0.25), np.float64(0.5), np.int64(1000), np.int64(3))
    assert policy == Policy(0.25, 0.5, 1000, 3)
    assert [type(value) for value in vars(policy).values()] == [float, float, int, int]
