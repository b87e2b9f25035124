"""What runs measured, for a terminal: accuracy matrices, figures side by side, and why some are undefined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import measure_renderables
from rich.table import Table

from perdure.report.leaderboard import Leaderboard
from perdure.report.table import Cell, Column, Row, columns, comparison, interval, text
from perdure.result import Result

DETAILS = ("speed", "growth", "exam_seconds")  # of the table, left out of a leaderboard: the page and the CSV have them
# The next to go, where the screen is narrow.
DROPPED = ("acc_given", "recognised", "stored_bytes", "fwt", "learn_seconds", "behind")
BROKEN = {"ACC, id given": "ACC,\nid given", "Forgetting": "Forget-\nting", "Intransigence": "Intransi-\ngence"}


def matrix(console: Console, results: Sequence[Result]) -> None:
    """R of one experiment in percent, mean and 95 % interval over seeds; evenly spread tasks where all do not fit."""
    first, tasks = results[0], results[0].tasks
    width, room = len("100.0" if len(results) == 1 else "50.0 ± 10.0"), console.width - len("task 100")
    picked = np.unique(np.linspace(1, tasks, min(tasks, max(2, room // (width + 2)))).round().astype(int)).tolist()
    title = "task {}" if len(picked) * (max(width, len("task 10")) + 2) <= room else "{}"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("learned")
    for j in picked:
        table.add_column(title.format(j), justify="right", no_wrap=True)
    for i in [0, *picked]:
        cells = []
        for j in picked:
            cell = text(Cell(*interval([float(result.R[i, j - 1]) for result in results])), "%")
            cells.append(f"[bold]{cell}[/]" if i == j else f"[dim]{cell}[/]" if i < j else cell)
        table.add_row(f"task {i}" if i else "before", *cells)
    seeds = f", mean of {len(results)} seeds and its 95 % interval" if len(results) > 1 else ""
    some = f", {len(picked)} of {tasks} tasks (report.html has all)" if len(picked) < tasks else ""
    console.print(f"\n[bold]{first.method}[/] on {first.stream}, accuracy in %{seeds}{some}\n", soft_wrap=True)
    console.print(table)


def compare(console: Console, results: Sequence[Result]) -> None:
    """All figures, a column for each experiment, and under them why some are undefined."""
    rows = comparison(results)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column()
    for row in rows:
        table.add_column(row.label, justify="right")
    group = ""
    for column in columns(rows):
        if group not in ("", column.group):
            table.add_section()
        group = column.group
        unit = "" if column.unit == "bytes" else f" ({column.unit})"
        table.add_row(column.title + unit, *(text(row.cells[column.key], column.unit) for row in rows))
    console.print()
    console.print(table)
    console.print()
    _undefined(console, rows, columns(rows))


def leaderboard(console: Console, board: Leaderboard) -> None:
    """The experiments on one stream, a line for each, and under them what the figures mean."""
    shown = [column for column in board.columns if column.key not in DETAILS]
    left_out, table = list[str](), _lines(board.rows, shown)
    for key in ("", *DROPPED):
        if measure_renderables(console, console.options.update(width=1000), [table]).maximum <= console.width:
            break
        left_out += [column.title for column in shown if column.key == key]
        shown = [column for column in shown if column.key != key]
        table = _lines(board.rows, shown, narrow=True)
    console.print(f"\n[bold]{escape(board.title)}[/]\n", soft_wrap=True)
    console.print(table)
    console.print()
    if left_out:
        console.print(f"A wider screen shows {', '.join(left_out)} too; so do --csv, --json and --out.", soft_wrap=True)
    if any(len(row.results) > 1 for row in board.rows):
        console.print("Means over seeds ± half of the 95 % interval by Student's t.", soft_wrap=True)
    for said in filter(None, (board.tests, board.tuning)):
        console.print(said, markup=False, soft_wrap=True)
    _undefined(console, board.rows, shown)


def _lines(rows: Sequence[Row], shown: Sequence[Column], narrow: bool = False) -> Table:
    """A line for each row; where that is too wide, with intervals under the means."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    several = max(len(row.results) for row in rows) > 1
    table.add_column(max_width=20 if narrow else None)
    if several:
        table.add_column("seeds", justify="right")
    for column in shown:
        unit = "" if column.unit in ("bytes", "") else f"\n[dim]{column.unit}[/]"
        table.add_column(BROKEN.get(column.title, column.title) + unit, justify="right", no_wrap=True)
    for row in rows:
        cells = [text(row.cells[column.key], column.unit) for column in shown]
        seeds = [str(len(row.results))] * several
        table.add_row(escape(row.label), *seeds, *(cell.replace(" ±", "\n±") if narrow else cell for cell in cells))
    return table


def _undefined(console: Console, rows: Sequence[Row], shown: Sequence[Column]) -> None:
    """Why figures are undefined, each reason once."""
    why = dict[tuple[str, ...], list[str]]()
    for column in shown:
        reasons = [row.cells[column.key].reason for row in rows]
        for reason in filter(None, dict.fromkeys(reasons)):
            labels = [row.label for row, its in zip(rows, reasons, strict=True) if its == reason]
            why.setdefault((reason, *labels), []).append(column.title)
    for (reason, *labels), titles in why.items():
        some = ", ".join(labels) if len(labels) < 5 else f"{len(labels)} of {len(rows)}"
        whose = "" if len(labels) == len(rows) else f" ({some})"
        console.print(f"– {', '.join(titles)}: {reason}{whose}", markup=False, soft_wrap=True)


def present(console: Console, results: Sequence[Result], folder: Path, page: Path) -> None:
    """Everything about one experiment, and where it lies."""
    matrix(console, results)
    compare(console, results)
    console.print(f"\nrun folder: {folder}\nreport:     {page}", markup=False, soft_wrap=True)
