"""What runs measured, for a terminal: accuracy matrices, figures side by side, and why some are undefined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from perdure.report.table import Cell, columns, comparison, interval, text
from perdure.result import Result


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
    group, why = "", dict[str, list[str]]()
    for column in columns(rows):
        if group not in ("", column.group):
            table.add_section()
        group = column.group
        unit = "" if column.unit == "bytes" else f" ({column.unit})"
        table.add_row(column.title + unit, *(text(row.cells[column.key], column.unit) for row in rows))
        for row in rows:
            if reason := row.cells[column.key].reason:
                why.setdefault(f"{column.title}: {reason}", []).append(row.label)
    console.print()
    console.print(table)
    console.print()
    for reason, labels in why.items():
        whose = "" if len(labels) == len(rows) else f" ({', '.join(labels)})"
        console.print(f"– {reason}{whose}", markup=False, soft_wrap=True)


def present(console: Console, results: Sequence[Result], folder: Path, page: Path) -> None:
    """Everything about one experiment, and where it lies."""
    matrix(console, results)
    compare(console, results)
    console.print(f"\nrun folder: {folder}\nreport:     {page}", markup=False, soft_wrap=True)
