"""Run the experiments of a published table, and compare figures.

Runs that were measured before are not run again; one that was killed goes on. The results are kept in the package.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from perdure.cli.parser import Parser
from perdure.cli.progress import Watch, shown
from perdure.experiments.reproduction import page, reproduce, stored
from perdure.experiments.tables import table
from perdure.fold import Moment


def main(words: list[str]) -> int:
    """Carries out the verb."""
    usage = "perdure reproduce NAME [--only TEXT] [--out DIR]\n       perdure reproduce --page FILE"
    parser = Parser("reproduce", usage, "Runs what is missing from a published table; perdure list experiments.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the table (hw14-21)")
    parser.add_argument("--only", metavar="TEXT", help="only the runs whose name holds this")
    parser.add_argument("--out", metavar="DIR", help="where runs keep their states (default: runs/reproduce)")
    parser.add_argument("--page", metavar="FILE", help="write the page about all stored results, and run nothing")
    given = vars(parser.parse_args(words))
    if "help" in given:
        print(parser.format_help().rstrip())
        return 0
    if "page" in given:
        Path(given["page"]).write_text(page())
        return 0
    if "name" not in given:
        parser.error("name a table")
    of = table(given["name"])
    left = len(of.runs) - len(stored(of))
    console = Console(stderr=True, highlight=False)
    console.print(f"{of.title}: {left} of {len(of.runs)} runs are missing; all of them take about {of.hours:g} hours")
    watchers: dict[str, Watch] = {}

    def watch(run: str, moment: Moment) -> None:
        if run not in watchers:
            lines.close()  # a terminal shows one set of bars at a time
            watchers[run] = lines.enter_context(shown(of.runs[run].seeds, label=run))
        watchers[run](moment)

    with ExitStack() as lines:
        reproduce(of, Path(given.get("out", "runs/reproduce")), watch, given.get("only", ""))
    print(page(), end="")
    return 0
