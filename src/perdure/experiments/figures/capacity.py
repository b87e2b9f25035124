"""Capacity runs out: the more tasks a network of fixed size must keep, the less it keeps of each.

ACC of EWC and SI against the number of tasks, for three widths. Neither knows how many tasks will come, so one stream
gives the whole curve: after t tasks its mean accuracy on them is the ACC of a stream of t. Strengths are the same at
every width, chosen among a few on one seed. Not all of the fall is want of room: each penalty is an approximation, and
their errors add up too.

Source: J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv 1612.00796 (the
penalties of all tasks share the weights); the figure is ours.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from perdure.evaluate import seen
from perdure.experiments.figures.lab import (
    FIT,
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
from perdure.report.figures import HUES

TASKS, SEEDS, WIDTHS = 10, 3, (30, 200, 1000)
METHODS = {"ewc": {"method.lam": 30.0}, "si": {"method.c": 10.0, "method.xi": 0.1}}
SHADES = (HUES[5], HUES[0], "#1b2a49")  # light to dark as the network grows


def measure(lab: Lab) -> Numbers:
    """ACC after each task, by method and width, each seed a stream of its own."""
    seeds, tasks = range(lab.unless_smoke(SEEDS, 1)), lab.unless_smoke(TASKS, 2)
    numbers: Numbers = {"tasks": tasks, "widths": list(WIDTHS), "fit": FIT, "options": METHODS}
    for method, options in METHODS.items():
        numbers[method] = {
            str(width): plain(
                [
                    seen(lab.run("permuted", method, FIT | options, tasks=tasks, net=f"mlp:{width}", seed=s).R)
                    for s in seeds
                ]
            )
            for width in WIDTHS
        }
    return numbers


def _final(numbers: Numbers, method: str) -> list[float]:
    """Mean ACC after the last task, narrow to wide."""
    return [float(np.mean(numbers[method][str(width)], axis=0)[-1]) for width in numbers["widths"]]


def title(numbers: Numbers) -> str:
    """The finding."""
    return (
        "Capacity runs out, the later the wider the network" if all(f.holds for f in findings(numbers)) else "Capacity"
    )


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    tasks, widths = numbers["tasks"], numbers["widths"]
    falls, orders = [], []
    for method in METHODS:
        first = [float(np.mean(numbers[method][str(width)], axis=0)[0]) for width in widths]
        last = _final(numbers, method)
        falls.append((method, first, last))
        orders.append(last == sorted(last))
    return [
        Finding(
            f"ACC after {tasks} tasks is lower than after the first, at every width",
            all(b < a for _, first, last in falls for a, b in zip(first, last, strict=True)),
            "; ".join(
                f"{m} " + ", ".join(f"{100 * a:.0f} to {100 * b:.0f}" for a, b in zip(first, last, strict=True))
                for m, first, last in falls
            )
            + f" % at widths {', '.join(map(str, widths))}",
        ),
        Finding(
            f"after {tasks} tasks a wider network keeps more",
            all(orders),
            "; ".join(f"{m} " + ", ".join(f"{100 * b:.0f}" for b in last) + " %" for m, _, last in falls),
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel a method, a line a width."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    tasks = np.arange(1, numbers["tasks"] + 1)
    panels = figure.subplots(1, len(METHODS), sharey=True)
    low = min(np.min(numbers[m][str(width)]) for m in METHODS for width in numbers["widths"])
    for axes, method in zip(panels, METHODS, strict=True):
        places = {}
        for width, hue in zip(numbers["widths"], SHADES, strict=True):
            mean = band(axes, tasks, numbers[method][str(width)], hue)
            places[f"width {width}"] = (tasks[-1], mean[-1], hue)
        percent(axes, low - low % 0.1)
        axes.set_title(f"{method.upper()}: mean accuracy on the tasks so far, %")
        axes.set_xlabel("tasks learned")
        axes.set_xticks([1, *range(2, len(tasks) + 1)])
        labelled(axes, places, 0.05 * (1 - low))
    headed(figure, title(numbers), f"Tasks of permuted pixels, one hidden layer; {SPREAD}")
    return figure
