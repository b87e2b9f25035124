"""Compare published figures with our own, and run what is missing.

Figures come from the results stored in the package; nothing runs without --run. Runs that were measured before are not
run again, and one that was killed goes on.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from perdure.cli.parser import Parser
from perdure.cli.progress import Watch, shown
from perdure.contract import Refused
from perdure.experiments.cost import spoken
from perdure.experiments.reproduction import LOOSE, figures, findings, missing, needed, page, reproduce
from perdure.experiments.tables import TABLES, Table, table
from perdure.fold import Moment

USAGE = """perdure reproduce NAME [--json] [--run [--only TEXT] [--device NAME] [--threads N] [--out DIR]]
       perdure reproduce --all [--json] [--run ...]
       perdure reproduce --page FILE"""
OF_RUNS = ("only", "device", "threads", "out")  # options that mean nothing without --run
COLORS = {"reproduced": "green", "differs": "red", "measured": "", "not run": "dim"}


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("reproduce", USAGE, "Published figures, our own and the verdict; perdure list experiments.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the table (hw14-21)")
    parser.add_argument("--all", action="store_true", help="every table")
    parser.add_argument("--json", action="store_true", help="as JSON, on the last line of stdout")
    parser.add_argument("--run", action="store_true", help="run what is missing first, after saying how long it takes")
    parser.add_argument("--only", metavar="TEXT", help="run only what has this in its name")
    parser.add_argument("--device", metavar="NAME", help="of those runs: auto, cpu or cuda")
    parser.add_argument("--threads", type=int, metavar="N", help="of those runs")
    parser.add_argument("--out", metavar="DIR", help="where runs keep their states (default: runs/reproduce)")
    parser.add_argument("--page", metavar="FILE", help="write the page about all stored results, and run nothing")
    given = parser.read(words)
    if "page" in given:
        if len(given) > 1:
            parser.error("--page is about all stored results; give nothing else")
        Path(given["page"]).write_text(page())
        return 0
    if ("name" in given) == ("all" in given):
        parser.error("name a table, or ask for --all of them")
    if idle := [name for name in OF_RUNS if name in given and "run" not in given]:
        parser.error(f"--{idle[0]} is about runs, and nothing runs without --run; give --run too, or leave it out")
    tables = [table(name) for name in (TABLES if "all" in given else [given["name"]])]
    failed = dict[str, str]()
    if "run" in given:
        only = given.get("only", "")
        names = [name for of in tables for name in of.runs]
        if not any(only in name for name in names):
            raise Refused(f"no run has {only!r} in its name; there are {', '.join(names)}")
        setting: dict[str, Any] = {name: given[name] for name in ("device", "threads") if name in given}
        failed = _run(tables, Path(given.get("out", "runs/reproduce")), only, setting)
    _print(tables, Console(stderr="json" in given, highlight=False))
    if "json" in given:
        print(json.dumps([finding.to_json() for finding in findings(tables)]))
    for name, why in failed.items():
        print(f"perdure: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _run(tables: list[Table], folder: Path, only: str, setting: dict[str, Any]) -> dict[str, str]:
    """Runs what is missing; why runs have no result, by table and name."""
    console = Console(stderr=True, highlight=False)
    for of in tables:
        left = missing(of, only)
        if left:
            console.print(f"{of.title}: {len(left)} of {len(of.runs)} runs to do")
            console.print(f"about {spoken(needed(of, only))}, as a few steps of them say", soft_wrap=True)
    watchers: dict[str, Watch] = {}
    with ExitStack() as lines:

        def watch(run: str, moment: Moment) -> None:
            if run not in watchers:
                lines.close()  # a terminal shows one set of bars at a time
                watchers[run] = lines.enter_context(shown((moment.seed,), label=run))
            watchers[run](moment)

        failed = dict[str, str]()
        for of in tables:
            watchers.clear()
            found = reproduce(of, folder, watch, only, **setting)
            failed |= {f"{of.name}, {name}": why for name, why in found.items()}
    return failed


def _print(tables: list[Table], console: Console) -> None:
    for of in tables:
        grid = Grid(title=f"{of.title} ({of.name})", title_justify="left", title_style="bold", box=None)
        for heading in ("", "figure", "published", "ours", "runs", "reproduced if", "verdict"):
            grid.add_column(heading, justify="right" if heading in ("published", "ours") else "left")
        for one in findings([of]):
            color = COLORS[one.verdict]
            verdict = (f"[{color}]{one.verdict}[/]" if color else one.verdict) + " *" * one.loose
            grid.add_row(
                one.claim,
                one.figure.replace("[", r"\["),
                *figures(one),
                f"{one.done} of {one.runs}",
                one.target or "–",
                verdict,
            )
        console.print(grid)
        console.print()
    if any(one.loose for one in findings(tables)):
        console.print(LOOSE, soft_wrap=True)
    if any(one.verdict == "not run" for one in findings(tables)):
        names = " or ".join(["NAME"] if len(tables) > 1 else [tables[0].name])
        console.print(f"What is not run can be run with: perdure reproduce {names} --run")
