"""Which method for your own data? Ten learners on disk, taught the same five tasks, and asked without the task.

Two streams of own data. New classes: the images of a base, two of its classes a task, so that tasks look alike and only
their labels are new. Other sources: all classes, their pixels permuted anew for every task, so that tasks look unlike.
Every learner has the defaults but for the steps, keeps 20 examples a class and 100 for each exam, and is asked for all
labels it knows. Bytes are those of the version that answers, examples and all; those of 10, 100 and 1,000 tasks go on
as the last task did (for joint, which keeps all data, too). Kept back counts the updates that the default policy would
not have promoted: every update is promoted here.

Source: ours.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from perdure.data import Arrays
from perdure.datasets import load
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, headed, plain
from perdure.fold import Moment
from perdure.learner import Learner, Policy
from perdure.learner.policy import objections
from perdure.learner.settings import Settings
from perdure.report.figures import FAINT, HUES
from perdure.report.table import size
from perdure.rng import permutation

TASKS = 5
STREAMS = ("new classes", "other sources")
METHODS = (
    "finetune",
    "ewc",
    "er",
    "joint",
    "heads",
    "packnet",
    "supsup",
    "piggyback",
    "batch-ensemble",
    "independent",
)
OWN, KEEPING = ("supsup", "packnet", "piggyback", "independent"), ("er", "joint")
COUNTS = (10, 100, 1000)
Data = tuple[Any, Any]


def measure(lab: Lab) -> Numbers:
    """By stream and method: accuracy over all tasks at the end without and with the task, bytes, seconds, refusals."""
    steps, tasks = lab.unless_smoke(500, 3), lab.unless_smoke(TASKS, 2)
    numbers: Numbers = {"tasks": tasks, "steps": steps, "net": Settings.net, "default": Settings.method, "found": {}}
    for stream in STREAMS:
        lessons = _lessons(lab, stream, tasks)
        numbers["found"][stream] = {}
        for method in lab.unless_smoke(METHODS, METHODS[:2]):
            lab.watch(f"{method}, {stream}", Moment("learning", 0, tasks))
            numbers["found"][stream][method] = _lived(method, lessons, steps)
    return numbers


def _lessons(lab: Lab, stream: str, tasks: int) -> list[tuple[Data, Data]]:
    """What is learned and what is asked, task after task."""
    base = load(lab.base, lab.data_root)
    assert isinstance(base.train, Arrays)
    assert isinstance(base.exam, Arrays)
    parts = [(part.x.flatten(1), part.labels.numpy()) for part in (base.train, base.exam)]
    out = []
    for task in range(tasks):
        order = permutation(task, parts[0][0].shape[1])
        pair = []
        for x, y in parts:
            if stream == "new classes":
                rows = y // 2 == task
                pair.append((x[rows], np.array([f"class {label}" for label in y[rows]])))
            else:
                pair.append((x[:, order], np.array([f"source {task} class {label}" for label in y])))
        out.append((pair[0], pair[1]))
    return out


def _lived(method: str, lessons: list[tuple[Data, Data]], steps: int) -> dict[str, Any]:
    """What one learner shows in the end."""
    with TemporaryDirectory() as home:
        learner = Learner.create(
            Path(home) / "learner", method, exam=100, policy=Policy(1.0, 1.0), options={"fit.steps": steps}
        )
        reports = [learner.learn(given, f"task {i}") for i, (given, _) in enumerate(lessons)]
        right = {"asked": [], "given": []}  # type: dict[str, list[float]]
        for i, (_, (x, y)) in enumerate(lessons):
            right["asked"].append(float((learner.predict(x) == y).mean()))
            right["given"].append(float((learner.predict(x, task=f"task {i}") == y).mean()))
    grown = reports[-1].nbytes - reports[-2].nbytes
    return {
        "asked": plain([np.mean(right["asked"])])[0],
        "given": plain([np.mean(right["given"])])[0],
        "kept_back": sum(bool(objections(Policy(), report.changes, 0)) for report in reports),
        "bytes": [reports[-1].nbytes + grown * (count - len(lessons)) for count in COUNTS],
        "seconds": plain([sum(report.seconds["learn"] for report in reports)])[0],
    }


def mean(numbers: Numbers, method: str, what: str = "asked") -> float:
    """A figure of a method, over both streams."""
    return float(np.mean([found[method][what] for found in numbers["found"].values()]))


def best(numbers: Numbers) -> str:
    """The most accurate method without the task that neither keeps all data nor grows by a network a task."""
    few = [
        method
        for method in METHODS
        if method not in ("joint", "independent") and method in numbers["found"][STREAMS[0]]
    ]
    return max(few, key=lambda method: mean(numbers, method))


def title(numbers: Numbers) -> str:
    """The finding."""
    return f"Of ten ways to keep one's own data, {best(numbers)} answers best"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    (alike, unlike), default = numbers["found"].values(), numbers["default"]
    ranked = sorted(alike, key=lambda method: -mean(numbers, method))
    own = [method for method in OWN if method in alike]
    return [
        Finding(
            "the default method answers best of those that do not keep all data",
            best(numbers) == default,
            ", ".join(f"{method} {100 * mean(numbers, method):.1f} %" for method in ranked),
        ),
        Finding(
            "weights of its own for each task tell tasks apart better where these look unlike than alike",
            all(unlike[method]["asked"] > alike[method]["asked"] for method in own),
            ", ".join(
                f"{method} {100 * unlike[method]['asked']:.1f} against {100 * alike[method]['asked']:.1f} %"
                for method in own
            ),
        ),
        Finding(
            "given the task, whatever keeps weights or examples of every task answers 19 of 20 rightly",
            all(mean(numbers, method, "given") > 0.95 for method in (*own, *KEEPING) if method in alike),
            ", ".join(f"{method} {100 * mean(numbers, method, 'given'):.1f} %" for method in ranked),
        ),
    ]


def table(numbers: Numbers) -> str:
    """All figures as a table in Markdown."""
    head = ["method", *(f"{stream}, no task said" for stream in STREAMS), "task said", "kept back"]
    lines = [[*head, *(f"bytes at {count:,}" for count in COUNTS), "learning"]]
    (alike, unlike) = numbers["found"].values()
    for method in sorted(alike, key=lambda method: -mean(numbers, method)):
        a, b = alike[method], unlike[method]
        cells = [
            f"{100 * a['asked']:.1f} %",
            f"{100 * b['asked']:.1f} %",
            f"{100 * mean(numbers, method, 'given'):.1f} %",
        ]
        cells += [f"{a['kept_back'] + b['kept_back']} of {2 * numbers['tasks']}", *(size(n) for n in b["bytes"])]
        lines.append([method, *cells, f"{a['seconds'] + b['seconds']:.0f} s"])
    lines.insert(1, ["---", *["--:"] * (len(lines[0]) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(numbers: Numbers) -> Figure:
    """A line a method, from its accuracy without the task to that with it, for each stream."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    (alike, _) = numbers["found"].values()
    ranked = sorted(alike, key=lambda method: mean(numbers, method))
    for axes, (stream, found) in zip(figure.subplots(1, 2, sharey=True), numbers["found"].items(), strict=True):
        for row, method in enumerate(ranked):
            hue = HUES[0] if method == numbers["default"] else HUES[1]
            asked, given = found[method]["asked"], found[method]["given"]
            axes.plot([asked, given], [row, row], color=FAINT, lw=1, zorder=1)
            axes.plot(given, row, "o", color="white", mec=hue, ms=5)
            axes.plot(asked, row, "o", color=hue, ms=5)
        axes.set_yticks(range(len(ranked)), ranked)
        axes.set_xlim(0, 1.03)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}"))
        axes.set_title(f"{stream}: accuracy, %")
    under = f"{numbers['tasks']} tasks, {numbers['net']}; full: no task said, open: task said; one seed"
    headed(figure, title(numbers), under)
    return figure
