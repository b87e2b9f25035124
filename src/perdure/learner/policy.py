"""The policy: what an update may cost old tasks, and who judges it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perdure.contract import Refused
from perdure.learner.hints import settle
from perdure.learner.intake import Array

MOST = 1e18  # of any unit
UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Policy:
    """What a candidate must keep to become the version that answers.

    Args:
        max_drop: the largest drop of accuracy that an old task may take, a fraction. On an exam so small that one
            answer is more than that, one answer.
        max_flips: the largest share of an old task's exam that may turn from right to wrong, a fraction; likewise.
        byte_budget: bytes of the version that answers, as a number or as "64MB"; no limit when not given.
        least: the fewest examples that a task is learned from.
    """

    max_drop: float = 0.05
    max_flips: float = 0.1
    byte_budget: int | str | None = None
    least: int = 2

    def __post_init__(self) -> None:
        if self.byte_budget is not None:
            object.__setattr__(self, "byte_budget", nbytes(self.byte_budget))
        settle(self)
        for name in ("max_drop", "max_flips"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise Refused(f"{name} is {value}; it is a share between 0 and 1")
        if self.least < 1:
            raise Refused(f"least is {self.least}; a task needs at least 1 example")


class Change(NamedTuple):
    """What an update did to a task that was known before, asked the same exam."""

    before: float  # accuracy, a fraction
    after: float
    flips: float  # share that turned from right to wrong
    gains: float  # share that turned from wrong to right
    asked: int


def changes(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, Change]:
    """What an update did to every task that both have, by name.

    Args:
        before: (n,) bool by task: which of its exam is answered rightly.
        after: the same; what an exam has more than before is left out.
    """
    out = {}
    for name, was in before.items():
        if name not in after or not len(was):
            continue
        now = after[name][: len(was)]
        flips, gains = float(np.mean(was & ~now)), float(np.mean(~was & now))
        out[name] = Change(float(was.mean()), float(now.mean()), flips, gains, len(was))
    return out


def objections(policy: Policy, changed: Mapping[str, Change], size: int) -> tuple[str, ...]:
    """Why a candidate of so many bytes may not answer; nothing where it may."""
    out = []
    for name, change in changed.items():
        drop, one = change.before - change.after, 1 / change.asked
        if drop > max(policy.max_drop, one) + 1e-9:
            fall = f"{change.before:.1%} to {change.after:.1%}"
            out.append(f"{name} fell from {fall}; the policy allows a drop of {policy.max_drop:.1%}")
        elif change.flips > max(policy.max_flips, one) + 1e-9:
            allowed = f"the policy allows {policy.max_flips:.1%}"
            out.append(f"of {name}, {change.flips:.1%} of right answers turned wrong; {allowed}")
    if policy.byte_budget is not None and size > int(policy.byte_budget):
        out.append(f"it takes {size:,} bytes; the budget is {int(policy.byte_budget):,}")
    return tuple(out)


def nbytes(text: int | str) -> int:
    """Bytes from a number or from words such as "64MB" or "1.5 GiB".

    Raises:
        Refused: they are none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not found or found[2] not in UNITS or not 0 < float(found[1]) < MOST:
        raise Refused(f"{text!r} is no number of bytes; write a number and one of {', '.join(filter(None, UNITS))}")
    return int(float(found[1]) * UNITS[found[2]])
