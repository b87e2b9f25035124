"""The figures of a report, as matplotlib figures: R, accuracy curves, memory, loss.

Every function takes the runs of one experiment, one a seed, and draws their mean; a band spans the lowest and the
highest seed. Nothing touches pyplot, so the caller's own figures and settings stay as they are. Sizes are inches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from perdure.evaluate import Matrix, seen
from perdure.report.table import size
from perdure.report.verdict import differs, mean_matrix

if TYPE_CHECKING:
    from perdure.result import Result

P = ParamSpec("P")

FEW = 12  # tasks up to which every cell is printed and every tick is named
PANELS = 11  # tasks that get a panel of their own
POINTS = 2000  # of a loss trace over all tasks
WIDTH = 10.4  # of a whole row
INK, FAINT, GRID = "#333333", "#8a8a8a", "#e4e4e4"
# Okabe and Ito's colours, which stay apart for the colour-blind.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.color": "#c4c4c4",
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.4,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """The house style while a figure is drawn; the caller's settings after it."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def matrix(*results: Result, given: bool = False) -> Figure:
    """R as a heat map: a row after each task, a column for each exam; `given`: the exams with the id given."""
    R = mean_matrix(results, given)
    T = R.shape[1]
    many = T > FEW
    cell = 3.9 / T if many else min(0.5, 4.6 / T)
    wide, high = cell * T, cell * (T + 1)
    left, bottom, right, top = 0.55, 0.45, 0.7 if many else max(0.05, 1.3 - wide), 0.25
    figure = Figure(figsize=(full := (left + wide + right, bottom + high + top)))

    def box(x: float, y: float, width: float, height: float) -> Axes:
        return figure.add_axes((x / full[0], y / full[1], width / full[0], height / full[1]))

    axes = box(left, bottom, wide, high)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.add_patch(Rectangle((0.5, -0.5), T, T + 1, facecolor="#efefef", edgecolor="none", hatch="////", zorder=0))
    colours = colormaps["cividis"].with_extremes(bad=(0, 0, 0, 0))
    edges = (0.5, T + 0.5, T + 0.5, -0.5)
    image = axes.imshow(
        np.ma.masked_invalid(R), colours, vmin=0, vmax=1, extent=edges, aspect="auto", interpolation="none", zorder=1
    )
    axes.set_xlabel("accuracy on task, %")
    axes.set_title("after task")
    axes.xaxis.set_major_locator(_whole(T, 1))
    axes.yaxis.set_major_locator(_whole(T))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda i, _: f"{i:.0f}" if i else "before"))
    if many:
        border = np.arange(T + 1) + 0.5
        axes.step(border, border, where="post", color="black", linewidth=0.5, zorder=2)  # not yet learned above it
        bar = figure.colorbar(image, cax=box(left + wide + 0.15, bottom, 0.12, high))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        bar.outline.set_visible(False)
        return figure
    for (i, j), value in np.ndenumerate(R):
        if not np.isnan(value):
            ink = "white" if value < 0.55 else "black"
            axes.text(
                j + 1, i, f"{100 * value:.1f}", ha="center", va="center", color=ink, fontsize=8.5 if T < 9 else 7.5
            )
    for j in range(T):
        for hue, line in (("white", 2.2), ("black", 1.0)):
            place = (j + 0.5, j + 0.5)
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=hue, linewidth=line, zorder=2))
    return figure


@styled
def curves(*results: Result) -> Figure:
    """Accuracy against tasks learned: the mean over the tasks seen so far, then each task in a panel of its own.

    Up to 11 tasks, evenly chosen from a longer stream. A task's own accuracy is drawn bold from when it was learned;
    dashes are the exams with the id given, where they differ.
    """
    shown = chosen(results[0].tasks)
    across = min(6, len(shown) + 1)
    down = -(-(len(shown) + 1) // across)
    figure = Figure(figsize=(WIDTH * across / 6, 1.62 * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    T, marked = results[0].tasks, _sparse(results)
    stacks = [(np.array([result.R for result in results]), "solid", HUES[0])]
    if differs(results):
        stacks.append((np.array([result.R_given for result in results]), "dashed", HUES[1]))
    for stack, line, hue in stacks:
        _line(grid[0], np.arange(1, T + 1), np.array([seen(R) for R in stack]), hue, line, marked)
        for axes, j in zip(grid[1:], shown, strict=False):
            if line == "solid":
                _line(axes, np.arange(j + 2), stack[:, : j + 2, j], FAINT, line, marked, width=0.8)
            _line(axes, np.arange(j + 1, T + 1), stack[:, j + 1 :, j], hue, line, marked)
    grid[0].set_title("mean so far, %", fontweight="bold")
    for axes, j in zip(grid[1:], shown, strict=False):
        axes.set_title(f"task {j + 1}, %")
        axes.axvline(j + 1, color=FAINT, linewidth=0.6, linestyle=(0, (1, 2)))
    for axes in grid[: len(shown) + 1]:
        _accuracy(axes, T)
    for axes in grid[len(shown) + 1 :]:
        axes.set_visible(False)
    for place in range(across):
        last = max(k for k in range(place, len(shown) + 1, across))
        grid[last].set_xlabel("tasks learned")
        grid[last].tick_params(labelbottom=True)
    return figure


@styled
def overview(experiments: Mapping[str, Sequence[Result]]) -> Figure:
    """All experiments together: the mean accuracy over the tasks seen so far, and the accuracy on the first task."""
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    longest = max(results[0].tasks for results in experiments.values())
    for place, (label, results) in enumerate(experiments.items()):
        hue = HUES[place % len(HUES)]
        line = ("solid", "dashed", "dotted")[place // len(HUES) % 3]
        learned, marked = np.arange(1, results[0].tasks + 1), _sparse(results)
        _line(left, learned, np.array([seen(result.R) for result in results]), hue, line, marked, label=label)
        _line(right, learned, np.array([result.R[1:, 0] for result in results]), hue, line, marked)
    left.set_title("mean accuracy on the tasks seen so far, %")
    right.set_title("accuracy on task 1, %")
    for axes in (left, right):
        _accuracy(axes, longest, 1)
        axes.set_xlabel("tasks learned")
    figure.legend(loc="outside upper left", ncols=6)
    return figure


@styled
def memory(*results: Result) -> Figure:
    """Bytes of the live state after each task, by component, and what is stored on disk."""
    T = results[0].tasks
    sizes = [result.components_by_task for result in results]
    names = list(dict.fromkeys(name for run in sizes for after in run for name in after))
    layers = np.array([[[after.get(name, 0) for after in run] for name in names] for run in sizes]).mean(axis=0)
    stored = np.array([result.stored_bytes_by_task for result in results]).mean(axis=0)
    figure = Figure(figsize=(WIDTH / 2, 2.5), layout="constrained")
    axes = figure.add_subplot()
    edges, floor = np.arange(T + 1) + 0.5, np.zeros(T)
    shades = colormaps["Blues_r"](np.linspace(0.2, 0.8, max(len(names), 2)))
    for name, layer, shade in zip(names, layers, shades, strict=False):
        axes.stairs(floor + layer, edges, baseline=floor, fill=True, color=shade, linewidth=0, label=name)
        floor = floor + layer
    axes.stairs(stored, edges, baseline=None, color="black", linewidth=1, linestyle=(0, (3, 2)), label="on disk")
    axes.set_ylim(0, 1.08 * max(floor.max(), stored.max(), 1))
    axes.set_xlim(0.5, T + 0.5)
    axes.xaxis.set_major_locator(_whole(T, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: size(count) if count else "0"))
    axes.set_title("state after each task, by component")
    axes.set_xlabel("task")
    figure.legend(loc="outside right upper", reverse=True)
    return figure


@styled
def trace(*results: Result) -> Figure:
    """The loss on each batch before its step, task after task; every seed is a line."""
    figure = Figure(figsize=(WIDTH / 2, 2.5), layout="constrained")
    axes = figure.add_subplot()
    steps, drawn = len(results[0].losses), list[float]()
    for result in results:
        kept = [call[:: max(1, len(call) * steps // POINTS)] for call in result.losses]
        place = [k + 0.5 + i / len(call) for k, call in enumerate(kept) for i in range(len(call))]
        losses = [loss for call in kept for loss in call]
        axes.plot(place, losses, color=HUES[0], linewidth=0.8, alpha=max(0.35, 1 / len(results)))
        drawn += losses
    if drawn and min(drawn) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(drawn) < 100 * min(drawn) else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if steps <= FEW:
        for border in range(1, steps):
            axes.axvline(border + 0.5, color=FAINT, linewidth=0.6, linestyle=(0, (1, 2)))
    axes.set_xlim(0.5, steps + 0.5)
    axes.xaxis.set_major_locator(_whole(steps, 1))
    axes.set_title("loss on each batch before its step")
    axes.set_xlabel("task" if steps == results[0].tasks else "chunk")
    return figure


def chosen(tasks: int) -> list[int]:
    """The tasks that get a panel: all, or 11 evenly chosen with the first and the last (counted from 0)."""
    if tasks <= PANELS:
        return list(range(tasks))
    return [round(place) for place in np.linspace(0, tasks - 1, PANELS)]


def _whole(last: int, first: int = 0) -> Locator:
    """Ticks at every task of a few, at about ten round ones of many."""
    return FixedLocator(range(first, last + 1)) if last <= FEW else MaxNLocator(9, integer=True, steps=(1, 2, 5, 10))


def _accuracy(axes: Axes, tasks: int, first: int = 0) -> None:
    axes.set_ylim(-0.02, 1.04)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(first - 0.04 * tasks, 1.04 * tasks)
    axes.xaxis.set_major_locator(
        _whole(tasks, first) if tasks <= 6 or first else MaxNLocator(5, integer=True, steps=(1, 2, 5, 10))
    )


def _sparse(results: Sequence[Result]) -> bool:
    """Whether so few rows of R were taken that each deserves a mark."""
    return int((~np.isnan(results[0].R)).any(axis=1).sum()) <= FEW + 1


def _line(
    axes: Axes, x: NDArray[Any], stack: Matrix, hue: str, line: str, marked: bool, width: float = 1.4, label: str = ""
) -> None:
    """The mean over seeds of (seeds, points), where it was measured, with a band from the lowest to the highest."""
    mean = stack.mean(axis=0)
    there = ~np.isnan(mean)
    mark = "o" if marked or there.sum() == 1 else ""
    axes.plot(x[there], mean[there], marker=mark, color=hue, ls=line, lw=width, ms=1.6 + width, label=label)
    if len(stack) > 1:
        lowest, highest = stack.min(axis=0)[there], stack.max(axis=0)[there]
        axes.fill_between(x[there], lowest, highest, color=hue, alpha=0.2, linewidth=0)
