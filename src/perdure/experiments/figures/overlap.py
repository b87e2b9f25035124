"""Do two tasks need the same weights? The more alike their inputs, the more; the closer to the output, the more.

EWC learns images, then the same images with a square in their centre permuted, a small one or a large one. The overlap
of the Fishers of both tasks says layer by layer how far they need the same weights: 1 for the same, 0 for none in
common. With F and G of unit trace it is one less a squared Frechet distance,

    overlap = 1 - 1/2 tr(F + G - 2 (F G)^1/2) = sum sqrt(F G)                 of diagonals

Source: figure 2C of J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv
1612.00796: six layers of 100 neurons, squares of 8 or 26 of 28 pixels; on digits they are 2 and 7 of 8. Each Fisher is
the one that EWC keeps, taken where its own task ended; weights and biases of a layer are taken together. The strength
is ours. The first layer parts less than the second, also where the whole image is permuted.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from perdure.contract import Method
from perdure.evaluate import Matrix, examine
from perdure.experiments.execution import prepare
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
    plain,
)
from perdure.fold import Moment
from perdure.ops.fisher import diagonal
from perdure.report.figures import HUES
from perdure.rng import fold
from perdure.streams.stream import Stream

SEEDS, NET, LAM = 3, "mlp:100-100-100-100-100-100", 100.0
SQUARES = {"digits": (2, 7)}  # sides of the small and the large one
LARGE = (8, 26)  # on other images
STEPS = {"digits": 150}  # of each task
COLOURS = {"small": HUES[0], "large": HUES[1]}


def overlap(F: Tensor, G: Tensor) -> float:
    """How far two diagonals (P,), not negative, are large in the same places: 1 where one is a multiple of the other.

    NaN where one of them is zero everywhere.
    """
    one, other = (part.double() / part.double().sum() for part in (F, G))
    return float((one * other).sqrt().sum())


def layers(F: dict[str, Tensor]) -> list[Tensor]:
    """The diagonal (P,) of each layer, its weight and its bias, in order."""
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in F))
    return [torch.cat([part.flatten() for name, part in F.items() if name.rpartition(".")[0] == one]) for one in names]


def _overlaps(method: Method, stream: Stream, key: int) -> tuple[list[float], list[float]]:
    """The overlap of both tasks in each layer, and the accuracy on both in the end."""
    state, fishers = method.init(fold(key, "init")), []
    for number, task in enumerate(stream):
        state, _ = method.learn(state, task, fold(key, "learn", number))
        fishers.append(layers(diagonal(method.net, state.model, task.examples, "exact", 0, limit=5000)))
    found = [examine(method, method.ready(state), exam, stream.scenario).asked for exam in stream.exams]
    return [overlap(F, G) for F, G in zip(*fishers, strict=True)], found


def measure(lab: Lab) -> Numbers:
    """The overlap in each layer for both squares, and accuracies on both tasks, each seed a network of its own."""
    squares = dict(zip(COLOURS, SQUARES.get(lab.base, LARGE), strict=True))
    fit = FIT | {"fit.lr": 0.003 if lab.base == "digits" else 0.001, "fit.steps": STEPS.get(lab.base, 2000)}
    numbers: Numbers = {"net": NET, "fit": fit, "lam": LAM, "squares": squares}
    for name, side in squares.items():
        options = fit | {"method.lam": LAM, "stream.centre": side, "stream.identity_first": True}
        options |= {} if lab.base == "digits" else {"method.fisher_examples": 5000}
        rows = []
        for seed in range(lab.unless_smoke(SEEDS, 1)):
            experiment = lab.experiment("permuted", "ewc", options, tasks=2, net=NET, seed=seed)
            method, stream = prepare(experiment)
            lab.watch(f"a {name} square, seed {seed}", Moment("begun", 0, 2))
            with experiment.setting.applied(method.net):
                rows.append(_overlaps(method, stream, fold(seed, "learner")))
        numbers[name] = {"overlap": plain([row[0] for row in rows]), "accuracy": plain([row[1] for row in rows])}
    return numbers


def _mean(numbers: Numbers, name: str, what: str = "overlap") -> Matrix:
    mean: Matrix = np.mean(numbers[name][what], axis=0)
    return mean


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "Early layers part for unlike tasks, late layers are shared" if holds else "Which weights two tasks share"


def _listed(values: Matrix) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see; accuracies on task 1 / task 2."""
    small, large = (_mean(numbers, name) for name in COLOURS)
    half = len(large) // 2
    ends = {name: " / ".join(f"{100 * cell:.0f}" for cell in _mean(numbers, name, "accuracy")) for name in COLOURS}
    return [
        Finding(
            "early layers overlap less where more is permuted",
            bool((large[:half] < small[:half]).all()),
            f"layers 1 to {half}: small square {_listed(small[:half])}; large {_listed(large[:half])}",
        ),
        Finding(
            "with the large square late layers overlap more than early ones: they are shared",
            bool(large[-half:].min() > large[:half].max()),
            f"layers {len(large) - half + 1} to {len(large)}: {_listed(large[-half:])}",
        ),
        Finding(
            "what the squares tell apart is gone towards the output",
            bool((small - large)[-1] < 0.5 * (small - large)[:half].mean()),
            f"apart by {(small - large)[:half].mean():.2f} in early layers, by {(small - large)[-1]:.2f} in the last; "
            + "; ".join(f"{name} {says} % on task 1 / task 2" for name, says in ends.items()),
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """The overlap against the layer, a line a square."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    x = np.arange(1, len(_mean(numbers, "small")) + 1)
    places = {}
    for name, hue in COLOURS.items():
        mean = band(axes, x, numbers[name]["overlap"], hue)
        side = numbers["squares"][name]
        places[f"{side} by {side}"] = (float(x[-1]), float(mean[-1]), hue)
    axes.set_ylim(0, 1.03)
    axes.set_xticks(x, [*map(str, x[:-1]), "output"])
    axes.set_xlabel("layer")
    axes.set_title("overlap of the Fishers of both tasks")
    labelled(axes, places, 0.07)
    headed(figure, title(numbers), f"EWC on images, then with a centre square permuted; {SPREAD}")
    return figure
