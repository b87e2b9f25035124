"""A published table as data: what was claimed, where, and the experiments that measure it here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.experiments.experiment import Experiment


@dataclass(frozen=True)
class Claim:
    """One published figure (a fraction of 1), and the runs that measure it.

    Args:
        name: what it is about ("finetune").
        published: the figure; None where there is none, and the runs only show a spread.
        source: where it was published, and under which conditions that differ from ours.
        runs: an experiment for each run, by name.
        band: how far from it still counts as reproduced.
        at_least: counts as reproduced from here on, instead of a band.
        figure: what is measured: acc, bwt, ..., or a cell of R, "R[2,1]" (accuracy on task 1 after learning task 2).
        note: what a reader should know of our figure: the likely cause of a miss.
    """

    name: str
    published: float | None
    source: str
    runs: Mapping[str, Experiment]
    band: float | None = None
    at_least: float | None = None
    figure: str = "acc"
    note: str = ""

    def value(self, entry: Mapping[str, Any]) -> float:
        """The figure of one run, from what is stored of it."""
        if cell := re.fullmatch(r"R\[(\d+),(\d+)\]", self.figure):
            return float(entry["R"][int(cell[1])][int(cell[2]) - 1])
        return float(entry[self.figure])

    def verdict(self, mean: float) -> str:
        """reproduced, differs, or measured where there is nothing to compare with."""
        if self.at_least is not None:
            return "reproduced" if mean >= self.at_least else "differs"
        if self.published is None or self.band is None:
            return "measured"
        return "reproduced" if abs(mean - self.published) <= self.band else "differs"

    def loose(self, half: float) -> bool:
        """Whether runs spread wider than what counts as reproduced, so that more of them could decide otherwise.

        Args:
            half: of the interval around their mean; NaN for one run.
        """
        return self.published is not None and self.band is not None and half > self.band

    @property
    def target(self) -> str:
        """What counts as reproduced, in words; nothing where there is nothing to compare with."""
        if self.at_least is not None:
            return f"at least {100 * self.at_least:g}"
        return f"within {100 * self.band:g} points" if self.band is not None else ""


@dataclass(frozen=True)
class Table:
    """A published table: a name, what it is, how it is measured, and its claims."""

    name: str
    title: str
    protocol: str
    claims: tuple[Claim, ...]

    @property
    def runs(self) -> dict[str, Experiment]:
        """Every run of the table, each once."""
        return {name: run for claim in self.claims for name, run in claim.runs.items()}
