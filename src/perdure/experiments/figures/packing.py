"""Packing: PackNet halves what is left for the next task, CPG takes up what earlier tasks have learned.

Accuracy on each task right after it was learned, against its number, the id given. PackNet gives back the smaller half
of the weights that a task claimed, so the t-th task finds 2^(1 - t) of them free, and must take all older ones as they
are. CPG picks among the older ones, gives back what it can spare, and grows, at most to half as many parameters again,
where it misses on held-back examples what a network alone reaches there; it trains several times as long. One hidden
layer of 30 units, so that room is short. Five tasks of two labels do not fill it: on split digits CPG's lead on the
last two tasks, 1.4 points, is six images, four of them in one exam. Ten tasks of ten labels do, on CIFAR-100.

Source: S. C. Y. Hung et al., "Compacting, picking and growing for unforgetting continual learning", 2019, arXiv
1910.06562 (PackNet falls behind CPG from the fifth of 20 tasks of CIFAR-100 on); A. Mallya, S. Lazebnik, "PackNet",
2018, arXiv 1711.05769.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from perdure.datasets import load
from perdure.evaluate import Matrix
from perdure.experiments.execution import execute
from perdure.experiments.figures.lab import (
    HEIGHT,
    SPREAD,
    WIDTH,
    Finding,
    Lab,
    Numbers,
    band,
    headed,
    labelled,
    percent,
    plain,
)
from perdure.report.figures import FAINT, HUES
from perdure.report.table import size

SEEDS, NET = 3, "mlp:30"
METHODS: dict[str, dict[str, Any]] = {"independent": {}, "packnet": {"method.prune": 0.5}, "cpg": {}}
SHADES = {"independent": FAINT, "packnet": HUES[1], "cpg": HUES[0]}
NEAR = 5  # points


def streams(classes: int) -> dict[str, int]:
    """How many tasks of which kinds: split ones are no fewer where there are labels enough."""
    return {"split": 10} if classes >= 20 else {"permuted": 10, "split": 5}


def measure(lab: Lab) -> Numbers:
    """Accuracy on each task right after it was learned, by kind of stream and method, each seed a stream of its own."""
    shared = {"fit.lr": 0.003, "fit.steps": 300, "stream.scale": "standard"}
    seeds = range(lab.unless_smoke(SEEDS, 1))
    numbers: Numbers = {"net": NET, "fit": shared, "options": METHODS, "bytes": {}}
    for kind, most in streams(load(lab.base, lab.data_root).classes).items():
        tasks, rows, bytes = lab.unless_smoke(most, 2), {}, {}
        for method, options in METHODS.items():
            lives = []
            for seed in seeds:
                experiment = lab.experiment(kind, method, shared | options, tasks=tasks, net=NET, seed=seed)
                watch = partial(lab.watch, f"{kind} {method}, seed {seed}")
                lives += execute(replace(experiment, scenario="gg"), watch=watch)
            rows[method] = plain([np.diagonal(life.R[1:]) for life in lives])
            bytes[method] = round(np.mean([life.state_bytes for life in lives]))
        numbers[kind] = rows
        numbers["bytes"][kind] = bytes
    return numbers


def means(numbers: Numbers, kind: str) -> dict[str, Matrix]:
    """Over seeds: the accuracy on each task, by method."""
    return {method: np.mean(numbers[kind][method], axis=0) for method in METHODS}


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "PackNet runs out of free weights, CPG picks old ones" if holds else "Accuracy on each task"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    kind = max(numbers["bytes"], key=lambda kind: len(numbers[kind]["cpg"][0]))  # the one of ten tasks
    mean, count = means(numbers, kind), numbers["bytes"][kind]
    gap, behind = 100 * (mean["cpg"] - mean["packnet"]), 100 * (mean["independent"] - mean["cpg"])
    first, last = float(gap[:3].mean()), float(gap[-3:].mean())
    return [
        Finding(
            f"on {kind} tasks CPG is further ahead of PackNet on the last three than on the first three",
            last > first,
            f"{first:+.1f} to {last:+.1f} points",
        ),
        Finding(
            f"there CPG stays within {NEAR} points of a network a task, on every task",
            bool(behind.max() < NEAR),
            f"at most {behind.max():.1f} points behind; mean of all tasks "
            + ", ".join(f"{method} {100 * mean[method].mean():.1f} % in {size(count[method])}" for method in METHODS),
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel a kind of stream, a line a method."""
    kinds = [*numbers["bytes"]]
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    low = min(np.min(numbers[kind][method]) for kind in kinds for method in METHODS)
    low -= low % 0.1
    for axes, kind in zip(panels, kinds, strict=True):
        tasks = np.arange(1, len(numbers[kind]["cpg"][0]) + 1)
        ends = {m: (tasks[-1], band(axes, tasks, numbers[kind][m], hue)[-1], hue) for m, hue in SHADES.items()}
        percent(axes, low)
        axes.set_title(f"{kind}: accuracy when just learned, %")
        axes.set_xlabel("number of the task")
        axes.set_xticks(tasks)
        if axes is panels[0]:
            labelled(axes, ends, 0.06 * (1 - low))
    headed(figure, title(numbers), f"One hidden layer of {NET.partition(':')[2]} units, the id given; {SPREAD}")
    return figure
