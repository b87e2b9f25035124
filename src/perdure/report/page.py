"""The page: one HTML file on some runs, which needs no network, no script and no other file.

It says in words what was forgotten, compares the experiments on each stream in one table and in accuracy against bytes,
then shows each: R, curves, memory, loss, and how to run it again. Equal results give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from perdure.methods import METHODS
from perdure.report import figures, table, verdict
from perdure.report.leaderboard import Leaderboard, leaderboards
from perdure.report.table import Column, Row
from perdure.report.tradeoff import tradeoff

if TYPE_CHECKING:
    from perdure.result import Result

SCENARIOS = {
    "gg": "task-incremental: the id is given in training and at the exam",
    "gns": "domain-incremental: the id is given in training, not at the exam; labels are shared",
    "gnu": "class-incremental: the id is given in training, not at the exam; labels differ from task to task",
    "nns": "task-free: no id is ever given; labels are shared",
}
LISTED = 12  # tasks whose fate is told


def write(results: Sequence[Result], path: Path) -> Path:
    """Writes the page and returns its path.

    Args:
        results: runs of any number of experiments, each over any number of seeds.

    Raises:
        Refused: there are no results, or one run is given twice.
    """
    boards = leaderboards(results)
    rows = [(board, row) for board in boards for row in board.rows]
    reasons = dict.fromkeys(row.cells[column.key].reason for board, row in rows for column in board.columns)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perdure.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=_title(results),
        scenarios={result.scenario: SCENARIOS.get(result.scenario, "") for result in results},
        boards=[_board(board, place) for place, board in enumerate(boards, 1)],
        text=table.text,
        notes={reason: place for place, reason in enumerate(filter(None, reasons), 1)},
        sections=[_section(_named(board, row, boards), place) for place, (board, row) in enumerate(rows, 1)],
        runs=[_run(_named(board, row, boards), result) for board, row in rows for result in row.results],
        environments=list(dict.fromkeys(filter(None, map(_environment, results)))),
        citations={row.method: found for _, row in rows if (found := citation(row.method))},
    )
    path.write_text(page, encoding="utf-8")
    return path


def svg(figure: Figure, prefix: str, says: str) -> Markup:
    """A figure as an inline SVG: real text in the page's own font, ids that no other figure has, no metadata."""
    file = io.StringIO()
    with matplotlib.rc_context({**figures.STYLE, "svg.hashsalt": "perdure", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1))


def citation(method: str) -> str | None:
    """The `Reference:` paragraph of a method's own file; None for a method of the user's."""
    if method not in METHODS:
        return None
    words = import_module(METHODS[method].partition(":")[0]).__doc__ or ""
    found = re.search(r"^References?:\s*(.+?)\s*(?=^\w+:|^\s*$|\Z)", words, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else None


def _title(results: Sequence[Result]) -> str:
    streams = list(dict.fromkeys(f"{r.stream}, {r.tasks} task{'s' * (r.tasks > 1)}" for r in results))
    methods = list(dict.fromkeys(result.method for result in results))
    return f"{'; '.join(streams)}: {', '.join(methods)}"


def _groups(columns: Sequence[Column]) -> dict[str, int]:
    """How many columns each group of the table spans."""
    names = [column.group for column in columns]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _named(board: Leaderboard, row: Row, boards: Sequence[Leaderboard]) -> Row:
    """The row, under a label that says its stream where there are several."""
    return row if len(boards) == 1 else row._replace(label=f"{row.label} on {board.title}")


def _board(board: Leaderboard, place: int) -> dict[str, Any]:
    rows = board.rows
    experiments = {row.label: row.results for row in rows}

    def drawn(figure: Figure, name: str, says: str) -> Markup:
        return svg(figure, f"{name}{place}", f"{says}, {board.title}")

    return {
        "title": board.title,
        "verdicts": [verdict.verdict(row.label, row.results) for row in rows],
        "rows": rows,
        "columns": board.columns,
        "groups": _groups(board.columns),
        "tests": board.tests,
        "tuning": board.tuning,
        "overview": drawn(figures.overview(experiments), "all", "accuracy of all methods against tasks learned")
        if len(rows) > 1
        else None,
        "tradeoff": drawn(tradeoff([board]), "bytes", "accuracy of all methods against bytes")
        if len(rows) > 1
        else None,
    }


def _section(row: Row, place: int) -> dict[str, Any]:
    results, known = row.results, verdict.fates(verdict.mean_matrix(row.results))
    T = results[0].tasks
    shown = len(figures.chosen(T))

    def drawn(figure: Figure, name: str, says: str) -> Markup:
        return svg(figure, f"{name}{place}", f"{says} of {row.label}")

    return {
        "label": row.label,
        "seeds": [result.seed for result in results],
        "verdict": verdict.verdict(row.label, results),
        "matrix": drawn(figures.matrix(*results), "matrix", "accuracy matrix"),
        "given": drawn(figures.matrix(*results, given=True), "given", "accuracy matrix with the id given")
        if verdict.differs(results)
        else None,
        "curves": drawn(figures.curves(*results), "curves", "accuracy curves"),
        "panels": f"{shown} of the {T} tasks, evenly chosen" if shown < T else "",
        "memory": drawn(figures.memory(*results), "memory", "bytes of the state"),
        "trace": drawn(figures.trace(*results), "trace", "training loss"),
        "fates": known if len(known) <= LISTED else sorted(known, key=lambda fate: -fate.lost)[:LISTED],
        "unlisted": len(known) - LISTED,
        "undefined": _undefined(results[0]),
    }


def _undefined(result: Result) -> list[str]:
    """Why cells of R are hatched, or of R with the id given, each reason once."""
    return list(dict.fromkeys(why for cell, why in result.reasons.items() if cell.startswith("R")))


def _run(row: Row, result: Result) -> dict[str, Any]:
    return {
        "label": row.label,
        "seed": result.seed,
        "folder": result.run_dir,
        "command": result.options.get("command"),
        "options": table.options(result),
    }


def _environment(result: Result) -> str:
    facts = result.options.get("versions", {}) | result.options.get("machine", {})
    return ", ".join(f"{name} {value}" for name, value in facts.items())
