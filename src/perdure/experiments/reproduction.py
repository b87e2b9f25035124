"""Reproductions: published figures beside our own, from stored results; runs what is missing, and writes the page.

Each run's result is a JSON file inside the package, with its command, commit and date. A finished run is never run
again; one that was killed goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from math import isnan
from pathlib import Path
from typing import Any

from perdure.experiments.cost import estimate
from perdure.experiments.execution import execute, prepare
from perdure.experiments.experiment import Experiment, command
from perdure.experiments.provenance import commit, today
from perdure.experiments.tables import TABLES, Claim, Table, table
from perdure.fold import Moment
from perdure.report.table import interval, size
from perdure.store import write_json
from perdure.train import Diverged

KEPT = ("acc", "recognised", "bwt", "fwt", "forgetting", "R", "learn_seconds", "state_bytes")  # of a run's result
LOOSE = "*: the runs spread wider than what counts as reproduced, so that more of them could decide otherwise"
STORED = Path(str(resources.files("perdure.experiments"))) / "results"


@dataclass(frozen=True)
class Finding:
    """A published figure beside ours; figures are fractions of 1, NaN where there is none."""

    table: str
    claim: str
    figure: str  # what is measured: acc, bwt, R[2,1]
    published: float
    source: str
    ours: float  # mean over the runs that are stored
    half: float  # half-width of its 95 % interval (Student's t); NaN for one run
    done: int  # runs that are stored
    runs: int
    target: str  # what counts as reproduced
    verdict: str  # reproduced, differs, measured (nothing was published), not run
    loose: bool  # whether the interval is wider than what counts as reproduced
    note: str
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON; NaN is null."""
        plain = asdict(self)
        return {name: None if isinstance(value, float) and isnan(value) else value for name, value in plain.items()}


def _file(of: Table, run: str) -> Path:
    return STORED / of.name / f"{_slug(run)}.json"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def stored(of: Table) -> dict[str, dict[str, Any]]:
    """The stored results of a table, by the name of the run; of a run that is another one by now there is none."""
    return {run: entry for run in of.runs if (entry := _entry(of, run)) is not None}


def _entry(of: Table, run: str) -> dict[str, Any] | None:
    """The stored result of a run, if it is still of that run."""
    if not (path := _file(of, run)).exists():
        return None
    entry: dict[str, Any] = json.loads(path.read_text())
    return entry if _run_of(entry["command"]) == _run_of(command(of.runs[run])) else None


def _run_of(command: str) -> str:
    """A command without what does not make it another run."""
    return re.sub(r" --(device|threads) \S+", "", command)


def missing(of: Table, only: str = "") -> dict[str, Experiment]:
    """The runs of a table that are not stored, by name; of those, the ones whose name holds `only`."""
    there = stored(of)
    return {name: run for name, run in of.runs.items() if only in name and name not in there}


def needed(of: Table, only: str = "") -> float:
    """Seconds that the missing runs of a table will take, about: tasks x steps x measured speed."""
    left, seconds = missing(of, only), 0.0
    for claim in of.claims:
        mine = [name for name in claim.runs if name in left]
        for number, name in enumerate(mine):
            experiment = left.pop(name)
            if number == 0:  # the runs of a claim differ in their seeds alone
                seconds += len(mine) * estimate(*prepare(experiment), experiment.setting)
    return seconds


def reproduce(
    of: Table,
    folder: Path,
    watch: Callable[[str, Moment], None],
    only: str = "",
    **setting: Any,
) -> dict[str, str]:
    """Runs what is missing from a table, and stores each result as it comes.

    A run that diverges does not keep the others from running.

    Args:
        folder: where the runs keep their states; what it holds is continued.
        watch: called with the name of the run and every `Moment`.
        only: a part of the names of the runs to do; all when empty.
        setting: `device` and `threads`, where they differ from the table's.

    Returns:
        Why runs have no result, by their name: those that diverged.
    """
    failed = {}
    for name, experiment in missing(of, only).items():
        if _entry(of, name) is None:  # by another process since
            given = replace(experiment, setting=replace(experiment.setting, **setting))
            try:
                _run(of, name, given, folder / of.name / _slug(name), watch)
            except Diverged as error:
                failed[name] = str(error)
    return failed


def _run(of: Table, name: str, experiment: Experiment, home: Path, watch: Callable[[str, Moment], None]) -> None:
    begun, code = (home / "experiment.json").exists(), commit()  # of the code that runs, not of what comes after
    (result,) = execute(experiment, home, resume=begun, watch=lambda moment: watch(name, moment))
    kept = result.to_json()
    entry = {key: kept[key] for key in KEPT}
    entry |= {
        "run": name,
        "command": command(experiment),
        "commit": code,
        "date": today(),
        "versions": result.options["versions"],
        "machine": result.options["machine"],
    }
    write_json(_file(of, name), entry)
    shutil.rmtree(home)


def findings(tables: Iterable[Table]) -> list[Finding]:
    """Every claim of some tables beside what is stored; runs nothing."""
    return [_finding(of, claim, entries) for of in tables for entries in [stored(of)] for claim in of.claims]


def _finding(of: Table, claim: Claim, entries: dict[str, dict[str, Any]]) -> Finding:
    values = [claim.value(entries[name]) for name in claim.runs if name in entries]
    mean, half = interval(values)
    return Finding(
        of.name,
        claim.name,
        claim.figure,
        float("nan") if claim.published is None else claim.published,
        claim.source,
        mean,
        half,
        len(values),
        len(claim.runs),
        claim.target,
        claim.verdict(mean) if len(values) == len(claim.runs) else "not run",
        claim.loose(half),
        claim.note,
        tuple(command(run) for run in claim.runs.values()),
    )


def figures(finding: Finding) -> tuple[str, str]:
    """The published figure and ours, in percent, as they are printed."""
    published = "–" if isnan(finding.published) else f"{100 * finding.published:.2f}"
    if not finding.done:
        return published, "–"
    spread = "" if isnan(finding.half) else f" ± {100 * finding.half:.2f}"
    return published, f"{100 * finding.ours:.2f}{spread}"


def page() -> str:
    """The reproduction page (Markdown), from stored results alone."""
    lines = [
        "# Reproduction",
        "",
        "Published figures beside our own runs. This page is written by `make docs` from the results stored in the",
        "package; `perdure reproduce --all` prints the same, `make reproduce NAME=...` runs what is missing. Figures",
        "are percent; intervals are Student's t, 95 %, over runs; the state is all that a method remembers at the end.",
    ]
    for name in TABLES:
        of = table(name)
        lines += ["", f"## {of.title} (`{of.name}`)", "", of.protocol, ""]
        lines += [
            "| what | figure | published | ours | runs | reproduced if | verdict |",
            "|---|---|---|---|---|---|---|",
        ]
        found = findings([of])
        for one in found:
            verdict = one.verdict + r" \*" * one.loose
            cells = (one.claim, one.figure, *figures(one), f"{one.done} of {one.runs}", one.target or "–", verdict)
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"\\{LOOSE}."] if any(one.loose for one in found) else []
        lines += ["", *(f"- {one.claim}: {one.source}.{' ' * bool(one.note)}{one.note}" for one in found)]
        if entries := stored(of):
            shares = {"acc": "ACC", "recognised": "task found", "bwt": "BWT"}
            if all(entry.get("recognised") is None for entry in entries.values()):
                del shares["recognised"]
            titles = ("run", *shares.values(), "state", "seconds", "commit", "date")
            lines += ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
            for run, entry in entries.items():
                percents = ("–" if entry.get(key) is None else f"{100 * entry[key]:.2f}" for key in shares)
                took = (size(entry["state_bytes"]), f"{entry['learn_seconds']:.0f}", entry["commit"], entry["date"])
                lines.append(f"| {' | '.join((run, *percents, *took))} |")
            lines += ["", *(f"    {entry['command']}" for entry in entries.values())]
    return "\n".join(lines) + "\n"
