"""Drift: a network that follows slowly turning images forgets where they came from.

Images turn a little with every batch. A network trained along the way is examined at every angle once the way is over,
beside one that saw the same images at the same angles, shuffled: the order alone makes the difference.

Source: the two orders of one data set are those of H. Lee, "Life Long Learning", lecture, National Taiwan University,
2019; the figure is ours.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

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
from perdure.report.figures import HUES

STRETCHES, SEEDS, SPAN, NET = 18, 3, 180.0, "mlp:200"
NAMES = {"drifting": "in order", "iid": "shuffled"}


def measure(lab: Lab) -> Numbers:
    """Accuracy at each angle after the whole stream, in order of the angle and shuffled."""
    seeds, tasks = range(lab.unless_smoke(SEEDS, 1)), lab.unless_smoke(STRETCHES, 2)
    options = {
        "stream.span": SPAN,
        "stream.passes": lab.unless_smoke(60 if lab.base == "digits" else 1, 1),
        "stream.batch": 64,
        "stream.interpolation": "bilinear",
        "fit.batch": 64,
        "fit.epochs": 1,
        "fit.lr": 0.001,
    }
    rows = {
        name: [
            lab.run("drifting", "finetune", options | {"stream.iid": name == "iid"}, tasks=tasks, net=NET, seed=seed).R
            for seed in seeds
        ]
        for name in NAMES
    }
    return {
        "options": options,
        "net": NET,
        "angle": plain((np.arange(tasks) + 0.5) * SPAN / tasks),
        **{name: plain([R[-1] for R in matrices]) for name, matrices in rows.items()},
    }


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "After a drift only the last angles are known" if holds else "Accuracy against angle after a drift"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    drifting, iid = (np.mean(numbers[name], axis=0) for name in NAMES)
    worst = int(drifting.argmin())
    return [
        Finding(
            "in order, the last angles are known and earlier ones forgotten",
            bool(drifting[-1] > drifting[0] and drifting[-1] > drifting[worst] + 0.2),
            f"{100 * drifting[0]:.0f} % at the first angles, {100 * drifting[-1]:.0f} % at the last, "
            f"least at {numbers['angle'][worst]:.0f}° with {100 * drifting[worst]:.0f} %",
        ),
        Finding(
            "shuffled, the same images are known at every angle",
            bool(iid.min() > drifting.mean()),
            f"{100 * iid.min():.0f} to {100 * iid.max():.0f} %",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """Accuracy against angle, a line an order."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    places = {}
    for (name, label), hue in zip(NAMES.items(), (HUES[1], HUES[0]), strict=True):
        mean = band(axes, numbers["angle"], numbers[name], hue)
        places[label] = (numbers["angle"][-1], mean[-1], hue)
    percent(axes)
    axes.set_xlim(0, SPAN)
    axes.set_xticks(np.arange(0, SPAN + 1, 30), [f"{angle:.0f}°" for angle in np.arange(0, SPAN + 1, 30)])
    axes.set_xlabel("angle of the images")
    axes.set_title("accuracy after the whole stream, %")
    labelled(axes, places, 0.06)
    headed(figure, title(numbers), f"Images that turn from 0° to 180°, each batch seen once; {SPREAD}")
    return figure
