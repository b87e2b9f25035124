"""Accuracy against bytes, as a matplotlib figure: what a method remembers has a price, and here is what it buys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from math import isnan, log
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from perdure.report.figures import FAINT, FEW, HUES, WIDTH, styled
from perdure.report.leaderboard import Leaderboard
from perdure.report.table import Row, size

BOUNDS = ("joint", "finetune")  # what is to be had with all data kept, and with nothing done against forgetting
HIGH, LEFT, RIGHT, BOTTOM, TOP = 3.4, 0.5, 0.3, 0.5, 0.3  # inches: a panel, and the margins in it
FONT, LINE, REACH = 8.5, 10.0, 8.0  # points: size of a label, height of its line, from a point to its label

Box = tuple[float, float, float, float]  # left, low, right, high; in points from the lower left corner of the axes


class Point(NamedTuple):
    """A row of the table, in points from the lower left corner of the axes."""

    label: str
    x: float
    y: float
    half: float  # of the interval of ACC


@styled
def tradeoff(boards: Sequence[Leaderboard], stored: bool = False) -> Figure:
    """ACC against the bytes of the state, in memory or as it is stored: a panel for each stream, a point for each row.

    Bars are 95 % intervals over seeds; dotted lines mark joint and finetune. Of more than 12 rows the best of each
    method is named. A row without ACC, or without a byte, is left out.
    """
    key, full = "stored_bytes" if stored else "state_bytes", HIGH * len(boards)
    figure = Figure(figsize=(WIDTH, full))
    for place, board in enumerate(reversed(boards)):
        box = (LEFT, place * HIGH + BOTTOM, WIDTH - LEFT - RIGHT, HIGH - BOTTOM - TOP)
        axes = figure.add_axes((box[0] / WIDTH, box[1] / full, box[2] / WIDTH, box[3] / full))
        axes.set_title("ACC, %" + (f": {board.title}" if len(boards) > 1 else ""))
        axes.set_xlabel("bytes of the state on disk" if stored else "bytes of the state in memory")
        rows = [row for row in board.rows if not isnan(row.cells["acc"].mean) and row.cells[key].mean > 0]
        if rows:
            _panel(axes, rows, key, 72 * box[2], 72 * box[3])
    return figure


def _panel(axes: Axes, rows: Sequence[Row], key: str, wide: float, tall: float) -> None:
    """Draws rows, the best first, on axes of a size in points."""
    best, few = {row.method: row for row in reversed(rows)}, len(rows) <= FEW
    named = [row.label for row in (rows if few else best.values())]
    kinds = {row.label: row.label if few else row.method for row in rows}
    hue_of = dict(zip(dict.fromkeys(kinds.values()), cycle(HUES), strict=False))
    hues = {label: hue_of[kind] for label, kind in kinds.items()}
    accs, halves = [row.cells["acc"].mean for row in rows], [_half(row, "acc") for row in rows]
    counts = [row.cells[key].mean for row in rows]
    low = min(acc - half for acc, half in zip(accs, halves, strict=True))
    high = max(acc + half for acc, half in zip(accs, halves, strict=True))
    pad = max(0.1 * (high - low), 0.01)
    low, high, left, right = low - pad, high + pad, min(counts) / 1.5, max(counts) * 1.5
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda acc, _: f"{100 * acc:g}" if acc <= 1 else ""))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 100 * left else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: size(count)))
    axes.xaxis.set_minor_locator(NullLocator())
    for row, count, acc, half in zip(rows, counts, accs, halves, strict=True):
        spread = _half(row, key)
        axes.errorbar(
            count,
            acc,
            yerr=half or None,
            xerr=[[min(spread, 0.9 * count)], [spread]] if spread else None,
            fmt="o",
            color=hues[row.label],
            markersize=5,
            elinewidth=1,
        )
    up = tall / (high - low)
    points = [
        Point(row.label, log(count / left) / log(right / left) * wide, (acc - low) * up, half * up)
        for row, count, acc, half in zip(rows, counts, accs, halves, strict=True)
    ]
    taken = [(x - 4, y - max(half, 4), x + 4, y + max(half, 4)) for _, x, y, half in points]
    for row in (best[method] for method in BOUNDS if method in best):
        acc = row.cells["acc"].mean
        axes.axhline(acc, color=hues[row.label], linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        taken.append((0, (acc - low) * up - 1, wide, (acc - low) * up + 1))
    write_names(axes, [point for point in points if point.label in named], taken, wide, tall)


def _half(row: Row, key: str) -> float:
    half = row.cells[key].half
    return 0.0 if isnan(half) else half


def write_names(axes: Axes, points: Sequence[Point], taken: list[Box], wide: float, tall: float) -> None:
    """Writes each label at the free place nearest to its point, with a line to it from further away."""
    for label, x, y, _ in points:
        places = list(_places(x, y, 0.6 * FONT * len(label)))
        free = [box for box in places if _inside(box, wide, tall) and not any(_meet(box, other) for other in taken)]
        box = (free or places)[0]
        taken.append(box)
        after, middle = box[0] > x, (box[1] + box[3]) / 2
        axes.annotate(
            label,
            (x, y),
            (box[0] if after else box[2], middle),
            xycoords="axes points",
            textcoords="axes points",
            ha="left" if after else "right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if abs(middle - y) > 1.5 * LINE else None,
        )


def _places(x: float, y: float, width: float) -> Iterator[Box]:
    """Boxes for a label on either side of a point, nearest first."""
    for step in range(12):
        for middle in (y + step * LINE, y - step * LINE):
            for left in (x + REACH, x - REACH - width):
                yield left, middle - LINE / 2, left + width, middle + LINE / 2


def _inside(box: Box, wide: float, tall: float) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= wide and box[3] <= tall


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
