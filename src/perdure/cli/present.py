"""What a run measured, for a terminal: the accuracy matrix, the figures side by side, and why some are undefined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from perdure.report.table import Cell, columns, comparison, interval, text
from perdure.result import Result

MOST = 12  # rows and columns of R that fit a terminal


def matrix(results: Sequence[Result]) -> Table:
    """R of one experiment in percent, mean and 95 % interval over its seeds; long ones at evenly spread tasks."""
    tasks = results[0].tasks
    picked = np.unique(np.linspace(1, tasks, min(tasks, MOST)).round().astype(int)).tolist()
    over = f", mean over {len(results)} seeds ± 95 % interval" if len(results) > 1 else ""
    table = Table(
        title=f"{results[0].method} on {results[0].stream}: accuracy in %{over}",
        caption="" if len(picked) == tasks else f"{len(picked)} of {tasks} tasks; report.html has all",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("learned")
    for j in picked:
        table.add_column(f"task {j}" if len(picked) < 8 else str(j), justify="right")
    for i in [0, *picked]:
        cells = [text(Cell(*interval([float(result.R[i, j - 1]) for result in results])), "%") for j in picked]
        marked = [
            f"[bold]{cell}[/]" if j == i else f"[dim]{cell}[/]" if j > i else cell
            for j, cell in zip(picked, cells, strict=True)
        ]
        table.add_row("before" if i == 0 else f"task {i}", *marked)
    return table


def figures(results: Sequence[Result]) -> Table:
    """All figures, a column for each experiment; – is undefined."""
    rows = comparison(results)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for row in rows:
        table.add_column(row.label, justify="right")
    group = ""
    for column in columns(rows):
        if group not in ("", column.group):
            table.add_section()
        group = column.group
        unit = f" ({column.unit})" if column.unit in ("%", "points", "s") else ""
        table.add_row(column.title + unit, *(text(row.cells[column.key], column.unit) for row in rows))
    return table


def reasons(results: Sequence[Result]) -> list[str]:
    """Why figures are undefined: "FWT: its labels were never seen"."""
    rows = comparison(results)
    found = {
        f"{column.title}: {row.cells[column.key].reason}"
        + (
            ""
            if all(other.cells[column.key].reason == row.cells[column.key].reason for other in rows)
            else f" ({row.label})"
        ): None
        for column in columns(rows)
        for row in rows
        if row.cells[column.key].reason
    }
    return list(found)


def compare(console: Console, results: Sequence[Result]) -> None:
    """The figures of some experiments side by side, and why some are undefined."""
    console.print(figures(results))
    for reason in reasons(results):
        console.print(f"– {reason}", markup=False)


def present(console: Console, results: Sequence[Result], folder: Path, page: Path) -> None:
    """Everything about one experiment, and where it lies."""
    console.print(matrix(results))
    compare(console, results)
    console.print(f"run folder: {folder}\nreport:     {page}", markup=False, soft_wrap=True)
