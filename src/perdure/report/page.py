"""The page: one HTML file on some runs, which needs no network, no script and no other file.

It says in words what was forgotten, compares the experiments in one table, then shows each: R, curves, memory, loss,
and how to run it again. Equal results give equal bytes.
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
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from perdure.methods import METHODS
from perdure.report import figures, table, verdict
from perdure.report.table import Column, Row

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
    rows = table.comparison(results)
    columns = table.columns(rows)
    reasons = dict.fromkeys(row.cells[column.key].reason for row in rows for column in columns)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perdure.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    experiments = {row.label: row.results for row in rows}
    page = environment.get_template("page.html").render(
        title=_title(rows),
        scenarios={row.scenario: SCENARIOS.get(row.scenario, "") for row in rows},
        verdicts=[verdict.verdict(row.label, row.results) for row in rows],
        rows=rows,
        groups=_groups(columns),
        columns=columns,
        text=table.text,
        notes={reason: place for place, reason in enumerate(filter(None, reasons), 1)},
        overview=svg(figures.overview(experiments), "all", "accuracy of all methods against tasks learned")
        if len(rows) > 1
        else None,
        sections=[_section(row, place) for place, row in enumerate(rows, 1)],
        runs=[_run(row, result) for row in rows for result in row.results],
        environments=list(dict.fromkeys(filter(None, map(_environment, results)))),
        citations={row.method: found for row in rows if (found := citation(row.method))},
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


def _title(rows: Sequence[Row]) -> str:
    streams = list(
        dict.fromkeys(f"{r.stream}, {r.tasks} task{'s' * (r.tasks > 1)}" for row in rows for r in row.results)
    )
    methods = list(dict.fromkeys(row.method for row in rows))
    return f"{'; '.join(streams)}: {', '.join(methods)}"


def _groups(columns: Sequence[Column]) -> dict[str, int]:
    """How many columns each group of the table spans."""
    names = [column.group for column in columns]
    return {name: names.count(name) for name in dict.fromkeys(names)}


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
    """Why cells of R are hatched, each reason once."""
    found = dict.fromkeys(why for cell, why in result.reasons.items() if cell.startswith("R["))
    if result.R_given is not None and (np.isnan(result.R_given) & ~np.isnan(result.R)).any():
        found["given the id of a task that it has not learned, the method has no answer"] = None
    return list(found)


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
