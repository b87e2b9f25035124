"""Compare finished runs: a leaderboard for each stream, with intervals and paired tests over seeds.

It is printed as a table, CSV or JSON, and may be written as a page and as a figure of accuracy against bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from perdure import report
from perdure.cli.parser import Parser
from perdure.cli.present import leaderboard
from perdure.experiments import gathered
from perdure.report.leaderboard import as_csv, as_json, leaderboards

USAGE = "perdure compare RUN... [--csv | --json] [--out FILE.html] [--figure FILE [--stored]]"


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("compare", USAGE, "Ranks finished runs by accuracy; each stream has a table of its own.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run folder, a sweep folder or its SQLite file")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="print CSV: fractions, bytes and seconds, a line a row")
    shape.add_argument("--json", action="store_true", help="print one JSON object, with the test of every pair")
    parser.add_argument("--out", metavar="FILE", help="also write the page (HTML) here")
    parser.add_argument("--figure", metavar="FILE", help="also draw accuracy against bytes, as .svg, .png or .pdf")
    parser.add_argument("--stored", action="store_true", help="draw the bytes on disk, not those in memory")
    given = parser.read(words)
    if not given.get("runs"):
        parser.error("name at least one run folder or sweep")
    if "stored" in given and "figure" not in given:
        parser.error("--stored is about the figure; give --figure FILE too, or leave it out")
    picture = Path(given["figure"]) if "figure" in given else None
    if picture:
        report.check_picture(picture)
    results = gathered(map(Path, given["runs"]))
    boards = leaderboards(results)
    plain = "csv" in given or "json" in given
    console = Console(stderr=plain, highlight=False)
    if "csv" in given:
        print(as_csv(boards), end="")
    elif "json" in given:
        print(json.dumps(as_json(boards)))
    else:
        for board in boards:
            leaderboard(console, board)
    if "out" in given:
        console.print(f"report: {report.write(results, Path(given['out']))}", markup=False, soft_wrap=True)
    if picture:
        console.print(f"figure: {report.draw(boards, picture, 'stored' in given)}", markup=False, soft_wrap=True)
    return 0
