"""The comparison table: what every method scored, averaged over seeds, in the groups the field teaches.

Retention without intransigence, transfer, expansion with parameter efficiency: a method may win one of them by losing
another, so they stand side by side. A figure that is undefined for a run is NaN with a reason, never 0.

Source of the grouping: H. Lee, "Life Long Learning", lecture, National Taiwan University, 2019. Intransigence:
A. Chaudhry et al., "Riemannian walk for incremental learning", 2018, arXiv 1801.10112.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan, nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perdure.contract import Refused

if TYPE_CHECKING:
    from perdure.result import Result

# What a run may differ in from another seed of the same experiment.
CIRCUMSTANCES = frozenset({"seed", "seeds", "command", "device", "threads", "out", "data_root", "versions", "machine"})


class Column(NamedTuple):
    """One figure of the table."""

    key: str
    group: str
    title: str
    unit: str  # "%", "points", "bytes" or "s"
    meaning: str


class Cell(NamedTuple):
    """A figure over seeds: mean and the half-width of its 95 % interval (NaN for one seed)."""

    mean: float
    half: float = nan
    reason: str = ""  # why it is undefined


class Row(NamedTuple):
    """One experiment: the same method, options and stream, over seeds."""

    label: str  # the method, and what sets it apart from the other rows
    method: str
    scenario: str
    results: tuple[Result, ...]  # one a seed
    cells: dict[str, Cell]  # by the key of the column


RETENTION, TRANSFER, EXPANSION, SECONDS = (
    "Retention, without intransigence",
    "Transfer",
    "Expansion, with parameter efficiency",
    "Time",
)
COLUMNS = (
    Column("acc", RETENTION, "ACC", "%", "mean accuracy over all tasks after the last one"),
    Column("acc_given", RETENTION, "ACC, id given", "%", "the same exams, with the task's id given"),
    Column("bwt", RETENTION, "BWT", "points", "backward transfer: accuracy at the end less accuracy after learning"),
    Column("forgetting", RETENTION, "Forgetting", "points", "best accuracy before the last task less accuracy at its end"),
    Column("intransigence", RETENTION, "Intransigence", "points", "joint's accuracy on the newest task less the method's"),
    Column("fwt", TRANSFER, "FWT", "points", "forward transfer: accuracy before learning a task less that of a new network"),
    Column("speed", TRANSFER, "Learning speed", "%", "how far the loss while learning lies below a new network's"),
    Column("state_bytes", EXPANSION, "State", "bytes", "live state after the last task: all that the method remembers"),
    Column("stored_bytes", EXPANSION, "On disk", "bytes", "that state as it is stored"),
    Column("growth", EXPANSION, "Growth per task", "bytes", "mean growth of the live state with each task after the first"),
    Column("learn_seconds", SECONDS, "Learning", "s", "all tasks together"),
    Column("exam_seconds", SECONDS, "Exams", "s", "all exams together"),
)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval by Student's t; the half-width of fewer than two values is NaN."""
    from scipy.special import stdtrit  # the quantile of Student's t, without the weight of scipy.stats

    n = len(values)
    mean = float(np.mean(values)) if n else nan
    if n < 2:
        return mean, nan
    return mean, float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))


def comparison(results: Sequence[Result]) -> list[Row]:
    """The rows of the table, in the order in which their experiments first appear.

    Raises:
        Refused: there are no results, or one run is given twice.
    """
    if not results:
        raise Refused("there are no results to report; give at least one finished run")
    grouped: dict[str, list[Result]] = {}
    for result in results:
        twins = grouped.setdefault(json.dumps(_identity(result), sort_keys=True, default=str), [])
        if any(twin.seed == result.seed for twin in twins):
            raise Refused(
                f"{result.method} with seed {result.seed} is there twice: a copy says nothing about the spread. "
                "Give each run once"
            )
        twins.append(result)
    rows = []
    for seeds in grouped.values():
        figures = [_figures(result, results) for result in seeds]
        cells = {column.key: _cell([figure[column.key] for figure in figures]) for column in COLUMNS}
        rows.append(Row(_label(seeds[0], grouped.values()), seeds[0].method, seeds[0].scenario, tuple(seeds), cells))
    return rows


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that say something: ACC with the id given only where it differs from ACC."""
    same = all(isnan(row.cells["acc_given"].mean) or row.cells["acc_given"] == row.cells["acc"] for row in rows)
    return [column for column in COLUMNS if not (same and column.key == "acc_given")]


def text(cell: Cell, unit: str) -> str:
    """A cell as it is printed: "61.3 ± 2.0", "−12.4", "1.07 MB"; "–" where it is undefined."""
    if isnan(cell.mean):
        return "–"
    match unit:
        case "bytes":
            shown, half = size(cell.mean), size(cell.half)
        case "s":
            digits = 0 if cell.mean >= 100 else 1 if cell.mean >= 10 else 2
            shown, half = f"{cell.mean:.{digits}f}", f"{cell.half:.{digits}f}"
        case _:
            shown, half = f"{100 * cell.mean:.1f}", f"{100 * cell.half:.1f}"
    if shown.strip("-0.") == "":
        shown = shown.lstrip("-")
    exact = isnan(cell.half) or (unit == "bytes" and cell.half == 0)
    return shown.replace("-", "−") + ("" if exact else f" ± {half}")


def size(count: float) -> str:
    """Bytes in decimal units and three digits: "0 B", "812 B", "1.07 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:#.3g} {unit}"


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by the names that the command line gives them: {"fit.lr": 0.001}."""
    if not isinstance(options, dict) or not options:
        return {prefix: options}
    parts = (flat(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in options.items())
    return {name: value for part in parts for name, value in part.items()}


def _identity(result: Result) -> dict[str, Any]:
    """What makes a run another experiment rather than another seed of the same."""
    about = {"stream": result.stream, "scenario": result.scenario, "tasks": result.tasks, "method": result.method}
    kept = {name: value for name, value in result.options.items() if name not in CIRCUMSTANCES}
    return {**flat(kept), **about} if kept else about


def _label(result: Result, groups: Any) -> str:
    """The method's name, with the stream, scenario or options that set it apart where that is needed."""
    mine = _identity(result)
    others = [_identity(seeds[0]) for seeds in groups]
    twins = [other for other in others if other["method"] == result.method]
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in twins)]
    return result.method + (f" ({', '.join(f'{name} {mine[name]}' for name in differing)})" if differing else "")


def _figures(result: Result, results: Sequence[Result]) -> dict[str, tuple[float, str]]:
    """Every figure of one run, with the reason why where it is undefined."""
    given = "this scenario has no ids" if result.R_given is None else "not every exam could be taken"
    speed = result.learning_speed
    n = len(result.learn_seconds_by_task)  # tasks, or chunks where there are no ids
    live = result.state_bytes_by_task[-n:]
    found = {
        "acc": (result.acc, ""),
        "acc_given": (result.acc_given, given),
        "bwt": (result.bwt, ""),
        "forgetting": (result.forgetting, ""),
        "intransigence": _intransigence(result, results),
        "fwt": (result.fwt, ""),
        "speed": (nan, "not asked for (--fresh)") if speed is None else (_later(speed), "one task has none before it"),
        "state_bytes": (result.state_bytes, ""),
        "stored_bytes": (result.stored_bytes, ""),
        "growth": ((live[-1] - live[0]) / (n - 1) if n > 1 else nan, "one task alone shows no growth"),
        "learn_seconds": (result.learn_seconds, ""),
        "exam_seconds": (result.exam_seconds, ""),
    }
    return {key: (value, result.reasons.get(key) or why or "not measured") for key, (value, why) in found.items()}


def _later(speed: list[float]) -> float:
    return float(np.mean(speed[1:])) if len(speed) > 1 else nan


def _intransigence(result: Result, results: Sequence[Result]) -> tuple[float, str]:
    """Mean over tasks k of joint's R[k, k] less the run's, both of one stream and seed."""
    if result.method == "joint":
        return nan, "joint is what the others are measured against"
    mine = _circumstance(result)
    joints = [other for other in results if other.method == "joint" and _circumstance(other) == mine]
    if not joints:
        return nan, "no joint run of this stream and seed among the results"
    gap = np.diagonal(joints[0].R, -1) - np.diagonal(result.R, -1)
    return float(gap.mean()), "not every task was examined right after it was learned"


def _circumstance(result: Result) -> tuple[Any, ...]:
    """What a joint run must share with a run to be its reference."""
    stream = json.dumps(result.options.get("stream"), sort_keys=True, default=str)
    return result.stream, result.scenario, result.tasks, result.seed, stream


def _cell(figures: Sequence[tuple[float, str]]) -> Cell:
    undefined = [reason for value, reason in figures if isnan(value)]
    return Cell(nan, nan, undefined[0]) if undefined else Cell(*interval([value for value, _ in figures]))
