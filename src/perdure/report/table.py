"""The comparison table: what every method scored, averaged over seeds, in the groups the field teaches.

Retention without intransigence, transfer, expansion with parameter efficiency: a method may win one of them by losing
another, so they stand side by side. A figure that is undefined for a run is NaN with a reason, never 0.

Source of the grouping: H. Lee, "Life Long Learning", lecture, National Taiwan University, 2019. Intransigence:
A. Chaudhry et al., "Riemannian walk for incremental learning", 2018, arXiv 1801.10112.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perdure.contract import Refused

if TYPE_CHECKING:
    from perdure.result import Result

# In what runs of one experiment may differ: the seeds of learner and stream, and how it was carried out.
CIRCUMSTANCES = frozenset({"seeds", "stream.seed", "data_root", "device", "threads", "fresh"})
EXAMS = ("examples_per_task", "first", "hold_out", "exam_examples")  # what exams depend on, beside the stream's options


class Column(NamedTuple):
    """One figure of the table."""

    key: str
    group: str
    title: str
    unit: str  # "%", "points", "bytes", "s" or "", a probability
    meaning: str


class Cell(NamedTuple):
    """A figure over seeds: mean and the half-width of its 95 % interval (NaN for one seed)."""

    mean: float
    half: float = nan
    reason: str = ""  # why it is undefined


class Seeds(NamedTuple):
    """What chance a run had: two methods with equal seeds saw the same tasks in the same order."""

    stream: int
    learner: int


class Row(NamedTuple):
    """One experiment: the same method, options and kind of stream, over seeds."""

    label: str  # the method, and what sets it apart from the other rows
    method: str
    scenario: str
    results: tuple[Result, ...]  # one a seed
    cells: dict[str, Cell]  # by the key of the column


RETENTION, TRANSFER, EXPANSION, TIME = (
    "Retention, without intransigence",
    "Transfer",
    "Expansion, with parameter efficiency",
    "Time",
)
COLUMNS = (
    Column("acc", RETENTION, "ACC", "%", "mean accuracy over all tasks after the last one"),
    Column("acc_given", RETENTION, "ACC, id given", "%", "the same exams, with the task's id given"),
    Column(
        "recognised", RETENTION, "Task found", "%", "inputs of these exams that were given their own task (nns: purity)"
    ),
    Column("bwt", RETENTION, "BWT", "points", "backward transfer: accuracy at the end less that right after learning"),
    Column("forgetting", RETENTION, "Forgetting", "points", "best accuracy before the last task less that at the end"),
    Column(
        "intransigence",
        RETENTION,
        "Intransigence",
        "points",
        "accuracy of joint (of several, the best by ACC) on each newest task less its own",
    ),
    Column("fwt", TRANSFER, "FWT", "points", "forward transfer: accuracy before learning a task less a new network's"),
    Column("speed", TRANSFER, "Learning speed", "%", "how far the loss while learning lies below a new network's"),
    Column("state_bytes", EXPANSION, "State", "bytes", "all that the method remembers after the last task, in memory"),
    Column("stored_bytes", EXPANSION, "On disk", "bytes", "the same as it is stored"),
    Column(
        "growth", EXPANSION, "Growth per task", "bytes", "growth of the state in memory with each task after the first"
    ),
    Column("learn_seconds", TIME, "Learning", "s", "all tasks together"),
    Column("exam_seconds", TIME, "Exams", "s", "all exams together"),
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
        if any(seeds_of(twin) == seeds_of(result) for twin in twins):
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
    """The columns that say something: ACC with the id given only where it differs, tasks found only where any were."""
    cells = [row.cells for row in rows]
    silent = {
        "acc_given": all(isnan(its["acc_given"].mean) or its["acc_given"].mean == its["acc"].mean for its in cells),
        "recognised": all(isnan(its["recognised"].mean) for its in cells),
    }
    return [column for column in COLUMNS if not silent.get(column.key)]


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
        case "":
            return "< 0.001" if cell.mean < 0.0005 else f"{cell.mean:.3f}"
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


def options(result: Result) -> dict[str, Any]:
    """All resolved options of a run, by the names that the command line gives them: {"fit.lr": 0.001, ...}."""
    parts = ("stream", "method", "fit")
    resolved = {f"{part}.{name}": value for part in parts for name, value in result.options.get(part, {}).items()}
    return {**given(result), **resolved}


def given(result: Result) -> dict[str, Any]:
    """The options of a run as they were given, under the same names; general ones with their defaults."""
    experiment: dict[str, Any] = dict(result.options.get("experiment", {}))
    setting, dotted = experiment.pop("setting", {}), experiment.pop("options", {})
    return {**experiment, **setting, **dotted}


def seeds_of(result: Result) -> Seeds:
    """The seeds of a run's stream and of its learner."""
    return Seeds(int(options(result).get("stream.seed") or 0), result.seed)


def stream_of(result: Result) -> str:
    """A run's stream, one from a file by its path as it was given: "mine/my.npz (held out)"."""
    return _in_full(result.stream, options(result).get("stream", ""))


def exams_of(result: Result, options: dict[str, Any]) -> dict[str, Any]:
    """What the exams of a run depend on, of some of its options: {"stream": "mine/my.npz", "tasks": 5, ...}."""
    about = {"stream": stream_of(result), "tasks": result.tasks, "scenario": result.scenario}
    asked = {
        name: value
        for name, value in options.items()
        if value is not None and name not in CIRCUMSTANCES and (name in EXAMS or name.startswith("stream."))
    }
    if "first" in asked:  # the labels of a base are divided among all tasks
        asked["first"] = f"{asked['first']} of {options.get('tasks') or 'all'}"
    return about | asked


def _in_full(name: str, given: str) -> str:
    """A name in a result, with the whole path of the file that was given for it."""
    return name.replace(Path(given).name, given, 1)


def _identity(result: Result) -> dict[str, Any]:
    """What makes a run another experiment rather than another seed of the same."""
    known = options(result)
    deciding = {name: value for name, value in known.items() if name not in CIRCUMSTANCES}
    return deciding | exams_of(result, known) | {"method": _in_full(result.method, known.get("method", ""))}


def _label(result: Result, groups: Iterable[list[Result]]) -> str:
    """The method's name, with the stream, scenario or options that set it apart where that is needed."""
    mine = _identity(result)
    twins = [_identity(seeds[0]) for seeds in groups if seeds[0].method == result.method]
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in twins)]
    return result.method + (f" ({', '.join(f'{name} {mine[name]}' for name in differing)})" if differing else "")


def _figures(result: Result, results: Sequence[Result]) -> dict[str, tuple[float, str]]:
    """Every figure of one run, with the reason why where it is undefined."""
    given = "this scenario has no ids" if result.R_given is None else ""
    told = "the id is given" if result.scenario == "gg" else "no task is inferred"
    speed, live = result.learning_speed, result.state_bytes_by_task
    later = float(np.mean(speed[1:])) if len(speed) > 1 else nan
    growth = (live[-1] - live[0]) / (len(live) - 1) if len(live) > 1 else nan
    found = {
        "acc": (result.acc, ""),
        "acc_given": (result.acc_given, given),
        "recognised": (result.recognised, told),
        "bwt": (result.bwt, ""),
        "forgetting": (result.forgetting, ""),
        "intransigence": _intransigence(result, results),
        "fwt": (result.fwt, ""),
        "speed": (later, "one task has none before it" if speed else "not asked for (--fresh)"),
        "state_bytes": (result.state_bytes, ""),
        "stored_bytes": (result.stored_bytes, ""),
        "growth": (growth, "one task alone shows no growth"),
        "learn_seconds": (result.learn_seconds, ""),
        "exam_seconds": (result.exam_seconds, ""),
    }
    return {key: (value, result.reasons.get(key) or why or "not measured") for key, (value, why) in found.items()}


def _intransigence(result: Result, results: Sequence[Result]) -> tuple[float, str]:
    """Mean over tasks k of joint's R[k, k] less the run's, both of one stream and seed; of several joints the best."""
    if result.method == "joint":
        return nan, "joint is what the others are measured against"
    joints = [other for other in results if other.method == "joint" and _setup(other) == _setup(result)]
    if not joints:
        return nan, "no joint run of this stream and seed among the results"
    best = max(joints, key=lambda joint: -1.0 if isnan(joint.acc) else joint.acc)
    gap = np.diagonal(best.R, -1) - np.diagonal(result.R, -1)
    return float(gap.mean()), "not every task was examined right after it was learned"


def _setup(result: Result) -> dict[str, Any]:
    """What a joint run must share with a run to be its reference: everything but the method and how it is fitted."""
    kept = {name: value for name, value in _identity(result).items() if not name.startswith(("method", "fit"))}
    return kept | {"seeds": seeds_of(result)}


def _cell(figures: Sequence[tuple[float, str]]) -> Cell:
    undefined = [reason for value, reason in figures if isnan(value)]
    return Cell(nan, nan, undefined[0]) if undefined else Cell(*interval([value for value, _ in figures]))
