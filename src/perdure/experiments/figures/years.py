"""A thousand tasks in one learner: what opening, asking and keeping cost as they come.

A SupSup learner on disk learns task after task, each the base with its pixels permuted anew; every version stays. Open
is the time from nothing to the first answer being possible: reading and verifying every file of the newest version, and
adding up its masks. Then one image is asked, and a batch of 128, whose tasks are inferred. Bytes are those of the
version that answers, and of the folder with all versions and the whole ledger. No exams and no examples are kept here:
what grows is the learner.

Source: ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from perdure.data import Arrays
from perdure.datasets import load
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, headed, plain
from perdure.fold import Moment
from perdure.learner import Learner
from perdure.report.figures import HUES
from perdure.report.table import size
from perdure.rng import permutation

COUNTS = (10, 30, 100, 300, 1000)
NET, FIT, BATCH, TIMES = "mlp:300", {"fit.steps": 150, "fit.lr": 1e-3}, 128, 3


def measure(lab: Lab) -> Numbers:
    """Seconds and bytes at so many tasks, and the accuracy on the tasks asked there."""
    counts = list(lab.unless_smoke(COUNTS, (2, 4)))
    base = load(lab.base, lab.data_root)
    assert isinstance(base.train, Arrays)
    x, y = base.train.x.flatten(1), base.train.labels.numpy()
    numbers: Numbers = {
        "tasks": counts,
        "net": NET,
        "options": FIT,
        "open": [],
        "one": [],
        "batch": [],
        "version": [],
        "folder": [],
    }
    numbers["update"], numbers["recognised"] = [], []
    with TemporaryDirectory() as home:
        options = FIT | lab.unless_smoke({}, {"fit.steps": 2})
        learner = Learner.create(Path(home) / "learner", "supsup", NET, keep=0, exam=0, options=options)
        for task in range(counts[-1]):
            lab.watch(f"task {task}", Moment("learning", task + 1, counts[-1]))
            report = learner.learn((x[:, permutation(task, x.shape[1])], y), f"task {task}")
            if task + 1 not in counts:
                continue
            asked = [(x[row : row + 1, permutation(row % (task + 1), x.shape[1])]) for row in range(BATCH)]
            batch, single = np.concatenate(asked), asked[0]
            numbers["open"].append(_least(lambda: Learner(learner.folder).tasks))
            reader = Learner(learner.folder)
            numbers["one"].append(_least(lambda reader=reader, one=single: reader.predict(one)))  # type: ignore[misc]
            numbers["batch"].append(_least(lambda reader=reader, many=batch: reader.predict(many)))  # type: ignore[misc]
            own = np.array([f"task {row % (task + 1)}" for row in range(BATCH)])
            numbers["recognised"].append(float((reader.explain(batch).tasks == own).mean()))
            numbers["version"].append(report.nbytes)
            numbers["folder"].append(learner.nbytes)
            numbers["update"].append(sum(report.seconds.values()))
    return numbers | {name: plain(numbers[name]) for name in ("open", "one", "batch", "update", "recognised")}


def _least(do: Callable[[], object]) -> float:
    """The least of a few times, in seconds."""
    times = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        do()
        times.append(time.perf_counter() - begun)
    return min(times)


def title(numbers: Numbers) -> str:
    """The finding."""
    return f"{numbers['tasks'][-1]:,} tasks open in {numbers['open'][-1]:.2f} s, and take {size(numbers['folder'][-1])}"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    tasks, folder = numbers["tasks"], numbers["folder"]
    early = (folder[2] - folder[0]) / (tasks[2] - tasks[0]) if len(tasks) > 2 else float("inf")
    late = (folder[-1] - folder[-2]) / (tasks[-1] - tasks[-2])
    return [
        Finding(
            "a learner of a thousand tasks opens within a second",
            numbers["open"][-1] < 1,
            ", ".join(f"{n:,}: {s:.2f} s" for n, s in zip(tasks, numbers["open"], strict=True)),
        ),
        Finding(
            "a version costs what changed: the folder grows by little more a task after many tasks than after few",
            late < 2 * early,
            f"{size(early)} a task up to {tasks[min(2, len(tasks) - 1)]}, {size(late)} from {tasks[-2]} on; the "
            f"version that answers {size(numbers['version'][-1])}, the folder with all {size(folder[-1])}",
        ),
        Finding(
            "most images are still given their task among a thousand",
            numbers["recognised"][-1] > 0.9,
            ", ".join(f"{n:,}: {100 * share:.0f} %" for n, share in zip(tasks, numbers["recognised"], strict=True)),
        ),
        Finding(
            "asking takes longer with every task, and less in a batch",
            numbers["one"][0] < numbers["one"][-1] and numbers["batch"][-1] / BATCH < numbers["one"][-1],
            ", ".join(
                f"{n:,}: {1000 * one:.1f} ms alone, {1000 * many / BATCH:.2f} ms in {BATCH}"
                for n, one, many in zip(tasks, numbers["one"], numbers["batch"], strict=True)
            ),
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """Seconds and bytes against the number of tasks."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    tasks = numbers["tasks"]
    each = [many / BATCH for many in numbers["batch"]]
    for hue, (name, values) in zip(
        HUES, (("open", numbers["open"]), ("one image", numbers["one"]), ("in 128", each)), strict=False
    ):
        left.plot(tasks, values, "o-", color=hue, ms=3.5, label=name)
    for hue, (name, values) in zip(
        HUES, (("folder", numbers["folder"]), ("version", numbers["version"])), strict=False
    ):
        right.plot(tasks, values, "o-", color=hue, ms=3.5, label=name)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("tasks")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.legend(frameon=False)
    left.set_title("seconds")
    left.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    right.set_title("bytes on disk")
    right.yaxis.set_major_formatter(FuncFormatter(lambda x, _: size(x)))
    headed(figure, title(numbers), f"SupSup on {numbers['net']}, permuted pixels; all versions kept")
    return figure
