"""Run methods x options x seeds x orders on several processes, and tune options.

The same command again goes on where it stopped. Exit status 1: some runs failed; their rows say why.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from perdure.cli import fail
from perdure.cli.parser import Parser
from perdure.contract import Refused
from perdure.experiments import grid, ledger
from perdure.experiments.cost import SMOKE
from perdure.experiments.sweep import Choice, carry_out
from perdure.experiments.tuned import preset
from perdure.report.table import Cell, interval, text
from perdure.store import write

USAGE = "perdure sweep FILE.yaml --out DIR [--workers N] [--preset-out FILE.yaml] [--smoke] [--json]"


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("sweep", USAGE, "Runs every combination of the options in a file, and keeps a row for each run.")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a sweep in YAML, or the name of one: perdure list sweeps"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the sweep's folder, new or to go on with (default: runs/sweep-FILE)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes, with one thread each (default: 1)")
    parser.add_argument("--preset-out", metavar="FILE", help="write the tuned options of each method as a preset")
    parser.add_argument("--smoke", action="store_true", help="small runs, to see in seconds that all of it works")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on the last line of stdout")
    given = parser.read(words)
    if "file" not in given:
        parser.error("name a sweep file")
    path, smoke = grid.file_of(given["file"]), given.get("smoke", False)
    sweep = grid.read(path, smoke)
    if "preset_out" in given and sweep.tuning is None:
        raise Refused(f"--preset-out needs tuning, which {path} does not ask for; give it a tuning: section")
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, markup=False)

    if smoke:
        say(f"perdure: {SMOKE}")
    default = tempfile.mkdtemp(prefix="perdure-smoke-") if smoke and "out" not in given else f"runs/sweep-{path.stem}"
    folder = Path(given.get("out", default))
    again = shlex.join(["perdure", "sweep", *words, *([] if "out" in given else ["--out", str(folder)])])
    try:
        choices = carry_out(sweep, folder, given.get("workers", 1), say)
    except KeyboardInterrupt:
        return fail(f"stopped. Continue with: {again}", 130)
    rows = ledger.rows(folder)
    if "preset_out" in given:
        write(
            Path(given["preset_out"]),
            preset(sweep, choices, _scores(sweep, rows), shlex.join(["perdure", "sweep", given["file"]])).encode(),
        )
    _show(Console(stderr="json" in given, highlight=False), sweep, rows, choices, folder)
    if "json" in given:
        print(json.dumps(_plain(sweep, rows, choices, folder), allow_nan=False))
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _scores(sweep: grid.Sweep, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean score of each combination that was tried; NaN where a trial failed."""
    by_name = {row["name"]: row["score"] for row in rows}
    scores = dict[str, list[float]]()
    for run in sweep.trials:
        score = by_name.get(run.name)
        scores.setdefault(run.combination, []).append(np.nan if score is None else score)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _show(
    console: Console, sweep: grid.Sweep, rows: list[dict[str, Any]], choices: dict[str, Choice], folder: Path
) -> None:
    """A line a combination: mean and 95 % interval over its runs, and the protocol that chose it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", overflow="fold")
    for title in ("runs", "ACC (%)", "BWT (points)", "learning (s)"):
        table.add_column(title, justify="right")
    by_name = {row["name"]: row for row in rows}
    groups = dict[str, list[dict[str, Any]]]()
    for run in sweep.runs:
        if run.name in by_name:
            groups.setdefault(run.combination, []).append(by_name[run.name])
    for name, group in groups.items():
        done = [row for row in group if row["status"] == "done"]
        cells = [
            text(Cell(*interval([np.nan if row[key] is None else row[key] for row in done])), unit)
            for key, unit in (("acc", "%"), ("bwt", "points"), ("learn_seconds", "s"))
        ]
        table.add_row(name, f"{len(done)} of {len(group)}", *cells)
    console.print()
    console.print(table)
    console.print()
    if sweep.tuning is not None:
        for choice in choices.values():
            why = f"chosen by protocol {sweep.tuning.protocol}, score {100 * choice.score:.1f} %"
            console.print(f"{choice.combination}: {why}", markup=False, soft_wrap=True)
    for row in rows:
        if row["status"] == "failed":
            console.print(f"failed: {row['name']}: {row['message']}", markup=False, soft_wrap=True)
    console.print(f"\nledger: {folder / ledger.NAME}\nperdure compare {folder}", markup=False, soft_wrap=True)


def _plain(sweep: grid.Sweep, rows: list[dict[str, Any]], choices: dict[str, Choice], folder: Path) -> dict[str, Any]:
    """The outcome as plain JSON."""
    shown = ("name", "role", "status", "message", "acc", "bwt", "score", "protocol")
    return {
        "folder": str(folder),
        "tuning": None if sweep.tuning is None else sweep.tuning._asdict(),
        "chosen": {method: choice._asdict() for method, choice in choices.items()},
        "scores": {name: None if np.isnan(score) else score for name, score in _scores(sweep, rows).items()},
        "runs": [{name: row[name] for name in shown} for row in rows],
    }
