"""Angles: what is known of each of 36 rotations when all are learned, by three ways to keep them in one network.

The first task is MNIST as it is, each further one the same turned by ten degrees more. SupSup is not told which angle
it is asked, and recognises it from 128 images (GNu: a digit under a wrong angle is wrong); batch-ensemble and PSP are
given it. The runs are those of the table `supsup-mnist`, one seed; on other images they are made anew. Expected was
that supermasks know all angles alike. At one they do not: of 288 groups of images one is taken for another angle, which
costs that exam an eighth.

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769, whose figure has accuracy against the
number of rotations, and supermasks above the two that are given the id.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from perdure.experiments.execution import execute
from perdure.experiments.figures.lab import HEIGHT, WIDTH, Finding, Lab, Numbers, headed, labelled, percent, plain
from perdure.experiments.reproduction import stored
from perdure.experiments.tables import table
from perdure.report.figures import HUES

BASE, TABLE, STEP = "mnist", "supsup-mnist", 10
RUNS = {"supsup": "fc 36 rotated", "batch-ensemble": "batch-ensemble 36 rotated", "psp": "psp 36 rotated"}


def measure(lab: Lab) -> Numbers:
    """Accuracy at each angle after the last."""
    of, rows = table(TABLE), {}
    kept = stored(of) if lab.base == BASE and not lab.smoke else {}
    for name, run in RUNS.items():
        experiment = replace(of.runs[run], stream=f"rotated-{lab.base}", data_root=lab.data_root)
        if lab.smoke:
            experiment = replace(experiment, tasks=2, net="mlp:8", options=experiment.options | {"fit.steps": 3})
        if run not in kept:
            (result,) = execute(experiment, watch=lambda moment, name=name: lab.watch(name, moment))  # type: ignore[misc]
        rows[name] = plain(kept[run]["R"][-1] if run in kept else result.R[-1])
        if name == "supsup":
            (found,) = plain([kept[run]["recognised"] if run in kept else result.recognised])
    return {"angle": [STEP * place for place in range(len(rows["supsup"]))], "found": found, **rows}


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "Supermasks know the angles alike, without being told which" if holds else "Accuracy at each angle"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    masks, scales, keys = (np.array(numbers[name]) for name in RUNS)
    spans = {name: f"{100 * min(numbers[name]):.1f} to {100 * max(numbers[name]):.1f} %" for name in RUNS}
    worst, *others = np.sort(masks)
    return [
        Finding(
            "supsup, which is not told the angle, is best in the mean",
            bool(masks.mean() > max(scales.mean(), keys.mean())),
            f"{100 * masks.mean():.1f} %, {100 * numbers['found']:.1f} % of the images given their own; batch-ensemble "
            f"{100 * scales.mean():.1f} and psp {100 * keys.mean():.1f} %, given it",
        ),
        Finding(
            "it knows all angles but its worst alike",
            bool(np.ptp(others) < min(np.ptp(scales), np.ptp(keys))),
            f"{100 * others[0]:.1f} to {100 * others[-1]:.1f} %, its worst {100 * worst:.1f} %; batch-ensemble "
            f"{spans['batch-ensemble']}, psp {spans['psp']}",
        ),
        Finding(
            "psp knows the last angles best: each task adds noise to those before it",
            bool(keys[-3:].mean() > keys[:3].mean() + 0.02),
            f"{100 * keys[:3].mean():.1f} % at the first three, {100 * keys[-3:].mean():.1f} % at the last",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """Accuracy against angle, a line a method."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    places = {}
    for name, hue in zip(RUNS, HUES, strict=False):
        axes.plot(numbers["angle"], numbers[name], color=hue, marker="o", ms=2.8, lw=1.6, clip_on=False)
        places[name] = (numbers["angle"][-1], numbers[name][-1], hue)
    percent(axes, min(0.9, *(min(numbers[name]) for name in RUNS)))
    axes.set_xticks(np.arange(0, 351, 50), [f"{angle:.0f}°" for angle in np.arange(0, 351, 50)])
    axes.set_xlabel("angle of the task, in the order of learning")
    axes.set_title("accuracy after all angles, %")
    labelled(axes, places, 0.008)
    headed(figure, title(numbers), "Rotated MNIST, 36 tasks; two hidden layers of 1,024; one seed")
    return figure
