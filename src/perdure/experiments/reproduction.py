"""Reproductions: runs the experiments of a published table, keeps their results, and writes the page about them.

Each run's result is a JSON file inside the package, with its command, commit and date. A finished run is never run
again; one that was killed goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from perdure.experiments.experiment import Experiment, command, execute
from perdure.experiments.tables import TABLES, Claim, Table, table
from perdure.fold import Moment
from perdure.report.table import interval
from perdure.store import write_json

STORED = Path(str(resources.files("perdure.experiments"))) / "results"


def _file(of: Table, run: str) -> Path:
    return STORED / of.name / f"{_slug(run)}.json"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def stored(of: Table) -> dict[str, dict[str, Any]]:
    """The stored results of a table, by the name of the run."""
    return {run: json.loads(path.read_text()) for run in of.runs if (path := _file(of, run)).exists()}


def reproduce(of: Table, folder: Path, watch: Callable[[str, Moment], None], only: str = "") -> None:
    """Runs what is missing from a table, and stores each result as it comes.

    Args:
        folder: where the runs keep their states; what it holds is continued.
        watch: called with the name of the run and every `Moment`.
        only: a part of the names of the runs to do; all when empty.
    """
    for name, experiment in of.runs.items():
        if only in name and not _file(of, name).exists():
            _run(of, name, experiment, folder / of.name / _slug(name), watch)


def _run(of: Table, name: str, experiment: Experiment, home: Path, watch: Callable[[str, Moment], None]) -> None:
    begun, commit = (home / "experiment.json").exists(), _commit()  # of the code that runs, not of what comes after
    (result,) = execute(experiment, home, resume=begun, watch=lambda moment: watch(name, moment))
    kept = result.to_json()
    entry = {key: kept[key] for key in ("acc", "bwt", "fwt", "forgetting", "R", "learn_seconds", "state_bytes")}
    entry |= {
        "run": name,
        "command": command(experiment),
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": result.options["versions"],
        "machine": result.options["machine"],
    }
    write_json(_file(of, name), entry)
    shutil.rmtree(home)


def _commit() -> str | None:
    words = ["git", "-C", str(STORED), "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def measured(of: Table, claim: Claim) -> tuple[float, float, int]:
    """Our mean ACC for a claim, the half-width of its 95 % interval over runs, and how many of its runs are stored."""
    done = stored(of)
    values = [done[name]["acc"] for name in claim.runs if name in done]
    mean, half = interval(values) if values else (float("nan"), float("nan"))
    return mean, half, len(values)


def page() -> str:
    """The reproduction page (Markdown), from stored results alone."""
    lines = [
        "# Reproduction",
        "",
        "Published figures beside our own runs. This page is written by `make docs` from the results stored in the",
        "package; run what is missing with `make reproduce NAME=...`. Intervals are Student's t, 95 %, over runs.",
    ]
    for name in TABLES:
        of = table(name)
        done = stored(of)
        lines += ["", f"## {of.title} (`{of.name}`)", "", of.protocol, ""]
        lines += ["| what | published | ours | runs | verdict |", "|---|---|---|---|---|"]
        for claim in of.claims:
            mean, half, n = measured(of, claim)
            ours = "not run" if not n else f"{100 * mean:.2f}" + (f" ± {100 * half:.2f}" if n > 1 else "")
            published = "–" if claim.published is None else f"{100 * claim.published:.1f}"
            verdict = claim.verdict(mean) if n == len(claim.runs) else "not run"
            lines.append(f"| {claim.name} | {published} | {ours} | {n} of {len(claim.runs)} | {verdict} |")
        lines += ["", *(f"- {claim.name}: {claim.source}{_target(claim)}.{claim.note}" for claim in of.claims), ""]
        lines += ["| run | ACC | BWT | seconds | commit | date |", "|---|---|---|---|---|---|"]
        for run, entry in done.items():
            figures = f"{100 * entry['acc']:.2f} | {100 * entry['bwt']:.2f} | {entry['learn_seconds']:.0f}"
            lines.append(f"| {run} | {figures} | {entry['commit']} | {entry['date']} |")
        lines += ["", *(f"    {entry['command']}" for entry in done.values())]
    return "\n".join(lines) + "\n"


def _target(claim: Claim) -> str:
    if claim.at_least is not None:
        return f" (reproduced: at least {100 * claim.at_least:.0f})"
    return f" (reproduced: within {100 * claim.band:.0f} points)" if claim.band is not None else ""
