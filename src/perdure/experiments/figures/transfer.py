"""Transfer: a mask that starts from what earlier masks have in common needs fewer steps.

SupSup on images turned by 10 degrees more with every task; the id is given. A task's scores start anew, at the mean of
the scores of all tasks before, or at the mean of their masks. Accuracy on all tasks but the first against the steps
that each of them is given; each number of steps is a life of its own, so what is transferred was learned as briefly.
Left, a mask keeps what scores at least 0; right, the half that is largest in size.

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769: the paper says the mean of masks, its
code takes that of scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
    percent,
    plain,
)
from perdure.fold import Setting
from perdure.report.figures import FAINT, HUES

TASKS, SEEDS, NET = 6, 3, "mlp:300-100"
RULES = {"threshold": "masks by threshold", "largest": "masks of the largest half"}
STARTS = {"none": ("anew", FAINT), "scores": ("mean of scores", HUES[0]), "masks": ("mean of masks", HUES[1])}
WORK: dict[str, tuple[tuple[int, ...], float]] = {  # steps, rate
    "digits": ((12, 25, 50, 100, 200), 3e-4),
    "mnist": ((25, 50, 100, 200, 400), 1e-4),
}


def measure(lab: Lab) -> Numbers:
    """Accuracy on the tasks after the first, by rule, start and steps, each seed a stream of its own."""
    full, rate = WORK.get(lab.base, WORK["mnist"])
    steps, seeds = lab.unless_smoke(full, full[:2]), range(lab.unless_smoke(SEEDS, 1))
    tasks = lab.unless_smoke(TASKS, 2)
    shared: dict[str, Any] = {"fit.lr": rate, "stream.scale": "standard", "stream.step": 10.0, "method.outputs": 10}

    def accuracy(seed: int, given: dict[str, Any]) -> float:
        experiment = lab.experiment("rotated", "supsup", shared | given, tasks=tasks, net=NET, seed=seed)
        experiment = replace(experiment, scenario="gg", setting=Setting(exam_rows="last"))
        label = f"{' '.join(map(str, given.values()))} steps, seed {seed}"
        (result,) = execute(experiment, watch=lambda moment: lab.watch(label, moment))
        return float(result.R[-1, 1:].mean())

    numbers: Numbers = {"tasks": tasks, "net": NET, "options": shared, "steps": list(steps)}
    for rule in RULES:
        numbers[rule] = {
            start: plain(
                [
                    [accuracy(seed, {"method.rule": rule, "method.transfer": start, "fit.steps": n}) for n in steps]
                    for seed in seeds
                ]
            )
            for start in STARTS
        }
    return numbers


def means(numbers: Numbers, rule: str) -> dict[str, Matrix]:
    """Over seeds: the accuracy at each number of steps, by start."""
    return {start: np.mean(numbers[rule][start], axis=0) for start in STARTS}


def needed(steps: list[int], accuracies: Matrix, level: float) -> float:
    """Steps to an accuracy, on straight lines over the logarithm of steps; infinite where it is not reached."""
    above = np.flatnonzero(accuracies >= level)
    if not len(above):
        return float("inf")
    at = int(above[0])
    if not at or accuracies[at] == level:
        return float(steps[at])
    share = (level - accuracies[at - 1]) / (accuracies[at] - accuracies[at - 1])
    return float(np.exp(np.log(steps[at - 1]) + share * np.log(steps[at] / steps[at - 1])))


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "Fewer steps to the same accuracy, from the mean of earlier tasks" if holds else "Accuracy against steps"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    found, steps = [], numbers["steps"]
    for start in ("scores", "masks"):
        says, holds = [], []
        for rule in RULES:
            mean = means(numbers, rule)
            level = float(mean["none"][-1])
            n = needed(steps, mean[start], level)
            holds.append(n < steps[-1])
            begin = f"{100 * mean['none'][0]:.1f} against {100 * mean[start][0]:.1f} % after {steps[0]} steps"
            reaches = f"{100 * level:.1f} % takes {steps[-1]} anew" + (f", {n:.0f} so" if n < np.inf else ", not so")
            says.append(f"{rule}: {begin}; {reaches}")
        found.append(
            Finding(f"from the {STARTS[start][0]} fewer steps lead to the same accuracy", all(holds), "; ".join(says))
        )
    return found


def draw(numbers: Numbers) -> Figure:
    """A panel a rule: accuracy against steps, a line a start."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels, steps = figure.subplots(1, 2, sharey=True), numbers["steps"]
    low = min(np.min(numbers[rule][start]) for rule in RULES for start in STARTS)
    low -= low % 0.1
    for axes, (rule, words) in zip(panels, RULES.items(), strict=True):
        for start, (label, hue) in STARTS.items():
            band(axes, steps, numbers[rule][start], hue)
            axes.lines[-1].set_label(label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(steps))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("steps a task")
        axes.set_title(f"{words}, %")
        percent(axes, low)
    panels[0].legend(loc="lower right")
    angles = 10 * (numbers["tasks"] - 1)
    under = f"Accuracy on tasks 2 to {numbers['tasks']}, images turned by 10° to {angles}°; {SPREAD}"
    headed(figure, title(numbers), under)
    return figure
