"""Nobody says where a task ends: SupSup asks each batch whose it is, and gives what is nobody's a mask of its own.

Permuted tasks flow by, one after the other, without ids and in chunks that ignore their borders (NNs). Which mask
learned each batch, beside the task the batch was in truth taken from. Purity is the share of batches that were learned
by a mask most of whose batches are from the same task.

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769 (the rule); the figure is ours.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perdure.evaluate import examine
from perdure.experiments.execution import prepare
from perdure.experiments.figures.lab import HEIGHT, WIDTH, Finding, Lab, Numbers, headed, percent
from perdure.fold import Moment
from perdure.report.figures import HUES
from perdure.rng import fold

KEY, BATCH, EXAM = fold(0, "learner"), 128, 1000
BASE = "mnist"  # on 64 pixels every mask stands out, whose ever the batch is
TASKS, NET, PASSES = 50, "mlp:300-100", 2


def measure(lab: Lab) -> Numbers:
    """Which mask learned each batch, with the accuracy afterwards, with ids in training and without any."""
    tasks = lab.unless_smoke(TASKS, 2)
    shared = {"stream.scale": "standard", "fit.batch": BATCH}
    numbers: Numbers = {"tasks": tasks, "net": NET, "options": shared, "passes": PASSES}
    numbers["accuracy"] = {}
    for scenario in ("gns", "nns"):
        length = {"fit.epochs": PASSES} if scenario == "gns" else {"stream.passes": PASSES}
        options = {**shared, **lab.unless_smoke(length, {} if scenario == "nns" else {"fit.steps": 3})}
        experiment = lab.experiment("permuted", "supsup", options, tasks=tasks, net=NET)
        method, stream = prepare(replace(experiment, scenario=scenario))
        state = method.init(fold(KEY, "init"))
        for call, task in enumerate(stream.tasks):
            state, _ = method.learn(state, task, fold(KEY, "learn", call))
            lab.watch(scenario, Moment("learned", call + 1, len(stream.tasks)))
        ready = method.ready(state)
        cells = [examine(method, ready, exam, stream.scenario, EXAM).asked for exam in stream.exams]
        numbers["accuracy"][scenario] = [float(f"{cell:.5g}") for cell in cells]
        if scenario == "nns":
            sizes = [len(task.examples) for task in stream.tasks]
            numbers |= {"log": state.flow.log.tolist(), "batches": state.flow.batches}
            numbers["border"] = sum(sizes) / tasks / BATCH  # batches a task
    return numbers


def learned(numbers: Numbers) -> NDArray[np.int64]:
    """(batches,) the mask that learned each; -1 for one that was left out."""
    masks = np.full(numbers["batches"], -1)
    ends = [begin for begin, _ in numbers["log"][1:]] + [numbers["batches"]]
    for (begin, mask), end in zip(numbers["log"], ends, strict=True):
        masks[begin:end] = mask
    return masks


def truth(numbers: Numbers) -> NDArray[np.int64]:
    """(batches,) the task that most of each batch was taken from."""
    middles = np.arange(numbers["batches"]) + 0.5
    tasks: NDArray[np.int64] = np.minimum(middles / numbers["border"], numbers["tasks"] - 1).astype(np.int64)
    return tasks


def purity(masks: NDArray[np.int64], tasks: NDArray[np.int64]) -> float:
    """The share of batches learned by a mask most of whose batches are from the same task."""
    pairs = [np.bincount(tasks[masks == mask]).max() for mask in np.unique(masks[masks >= 0])]
    return float(sum(pairs) / len(masks))


def title(numbers: Numbers) -> str:
    """The finding."""
    return "Every task finds its mask" if all(f.holds for f in findings(numbers)) else "Whose is a batch?"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    masks, tasks = learned(numbers), truth(numbers)
    pure, given, free = purity(masks, tasks), *(100 * np.mean(numbers["accuracy"][s]) for s in ("gns", "nns"))
    return [
        Finding("purity is at least 95 %", pure >= 0.95, f"{100 * pure:.1f} %"),
        Finding(
            "there are as many masks as tasks",
            masks.max() + 1 == numbers["tasks"],
            f"{masks.max() + 1} masks, {numbers['tasks']} tasks",
        ),
        Finding(
            "ACC is within 3 points of that with ids in training",
            abs(free - given) <= 3,
            f"{free:.1f} % without, {given:.1f} % with",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """Above which mask learned when, below how well each task is kept."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    masks, tasks = learned(numbers), truth(numbers)
    left.plot(np.arange(len(tasks)), tasks + 1, color=HUES[5], lw=3.2, solid_capstyle="butt", label="task, in truth")
    spans = np.flatnonzero(np.diff(masks)) + 1
    for begin, end in pairwise([0, *spans.tolist(), len(masks)]):
        if masks[begin] >= 0:
            left.plot([begin, end], [masks[begin] + 1] * 2, color=HUES[0], lw=1.4, solid_capstyle="butt")
    left.plot([], [], color=HUES[0], lw=1.4, label="mask that learned")
    left.legend(loc="upper left", frameon=False)
    left.set_xlabel("batches")
    left.set_title("which mask learned each batch")
    numbered = np.arange(1, numbers["tasks"] + 1)
    for scenario, hue, words in (("gns", HUES[5], "ids in training"), ("nns", HUES[0], "no ids")):
        right.plot(numbered, numbers["accuracy"][scenario], color=hue, marker="o", ms=2.8, lw=1.4, label=words)
    low = min(min(row) for row in numbers["accuracy"].values())
    percent(right, low - low % 0.1)
    right.legend(loc="upper left", frameon=False)
    right.set_xlabel("task")
    right.set_title("accuracy in the end, %")
    headed(figure, title(numbers), "Permuted pixels; the id is withheld at every exam")
    return figure
