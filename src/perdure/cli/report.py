"""Write one page about finished runs, and compare them.

The page is one HTML file, which needs nothing outside itself.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from perdure import report
from perdure.cli.parser import Parser
from perdure.cli.present import compare
from perdure.experiments import gathered
from perdure.report.leaderboard import leaderboards


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("report", "perdure report DIR... [--out FILE]", "Writes one page about the runs in some folders.")
    parser.add_argument("folders", nargs="*", metavar="DIR", help="a run folder")
    parser.add_argument("--out", metavar="FILE", help="the page (default: report.html, inside DIR where there is one)")
    given = parser.read(words)
    folders = [Path(folder) for folder in given.get("folders", [])]
    if not folders:
        parser.error("name at least one run folder")
    page = Path(given.get("out", folders[0] / "report.html" if len(folders) == 1 else "report.html"))
    results = gathered(folders)
    report.write(results, page)
    console = Console(highlight=False)
    boards = leaderboards(results)
    for board in boards:
        if len(boards) > 1:
            console.print(f"\n[bold]{escape(board.title)}[/]", soft_wrap=True)
        own = {id(result) for row in board.rows for result in row.results}
        compare(console, [result for result in results if id(result) in own])
    console.print(f"report: {page}", markup=False, soft_wrap=True)
    return 0
