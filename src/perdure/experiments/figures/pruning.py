"""Magnitude pruning: most weights of a trained network can go, if those that stay are trained once more.

LeNet-300-100 is trained; the smallest weights of each layer are set to 0 and stay 0; the others go on from where they
are. Error against the share of weights that is left: not retrained, retrained after one cut, and cut step by step with
retraining after each. The layers keep .08^p, .09^p and .26^p of their weights: all of them at p = 0, and at p = 1 what
the paper keeps at a twelfth. The network that keeps everything is retrained too, so that longer training alone shows.

Source: S. Han, J. Pool, J. Tran, W. Dally, "Learning both weights and connections for efficient neural networks",
2015, arXiv 1506.02626: error of LeNet-300-100 on MNIST 1.64 %, and 1.59 % with 22 of 267 thousand weights. There a
weight goes when it is below a multiple of its layer's standard deviation; here that multiple is the one which leaves
the exact share. Retraining is at a tenth of the rate, as there. Biases are kept and not counted; dropout is not used,
and units without inputs are not removed. On digits a twelfth of the weights is not enough for the paper's finding that
nothing is lost: expected was at most a point, and it is a little more, some five of 360 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from perdure.contract import Method
from perdure.evaluate import Matrix, examine
from perdure.experiments.execution import prepare
from perdure.experiments.figures.lab import (
    HEIGHT,
    SPREAD,
    WIDTH,
    Finding,
    Lab,
    Numbers,
    band,
    headed,
    note,
    plain,
)
from perdure.fold import Moment
from perdure.methods.pruned import drop, retrain
from perdure.model import Model
from perdure.ops.select import largest
from perdure.report.figures import FAINT, HUES
from perdure.rng import fold
from perdure.streams.stream import Stream

SEEDS, NET, RATE = 3, "mlp:300-100", 0.1  # of the learning rate, while retraining
SHARES = (0.08, 0.09, 0.26)  # of each layer's weights that the paper keeps
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.2, 1.4)
CURVES = {"cut": ("not retrained", HUES[1]), "once": ("cut once, retrained", HUES[5]), "steps": ("in steps", HUES[0])}


def budgets(params: dict[str, Tensor], p: float) -> dict[str, int]:
    """How many weights each layer keeps: share^p of them."""
    weights = {name: w.numel() for name, w in params.items() if w.ndim > 1}
    return {name: round(n * share**p) for (name, n), share in zip(weights.items(), SHARES, strict=True)}


def masked(model: Model, kept: dict[str, int]) -> dict[str, Tensor]:
    """Which weights of each layer stay (bool, by name): its largest."""
    return {name: largest(model.params[name], m) for name, m in kept.items()}


def _errors(method: Method, stream: Stream, powers: Sequence[float], key: int) -> dict[str, list[float]]:
    """The density at each power, and the error of each way of pruning to it."""
    (task,), fit = stream, replace(method.fit, lr=RATE * method.fit.lr)

    def error(model: Model) -> float:
        return 1 - examine(method, method.ready(model), stream.exams[0], stream.scenario).asked

    dense, _ = method.learn(method.init(fold(key, "init")), task, fold(key, "learn", 0))
    stepwise, weights = dense, sum(budgets(dense.params, 0).values())
    out: dict[str, list[float]] = {name: [] for name in ("density", *CURVES)}
    for number, kept in enumerate(budgets(dense.params, p) for p in powers):
        walk = fold(key, "retrain", number)
        rough = drop(dense, masks := masked(dense, kept))
        once, _ = retrain(method.net, rough, masks, fit, task, walk)
        masks = masked(stepwise, kept)
        stepwise, _ = retrain(method.net, drop(stepwise, masks), masks, fit, task, walk)
        out["density"].append(sum(kept.values()) / weights)
        for name, model in {"cut": rough, "once": once, "steps": stepwise}.items():
            out[name].append(error(model))
    return out


def measure(lab: Lab) -> Numbers:
    """Errors at each density, before and after retraining, each seed a network of its own."""
    powers = lab.unless_smoke(POWERS, (0.0, 1.0))
    options = {"fit.lr": 0.001, "fit.weight_decay": 1e-4, "fit.steps": 1000 if lab.base == "digits" else 10_000}
    seeds = []
    for seed in range(lab.unless_smoke(SEEDS, 1)):
        experiment = lab.experiment("permuted", "finetune", options, tasks=1, net=NET, seed=seed)
        method, stream = prepare(experiment)
        lab.watch(f"a network at {len(powers)} densities, seed {seed}", Moment("begun", 0, 1))
        with experiment.setting.applied(method.net):
            seeds.append(_errors(method, stream, powers, fold(seed, "learner")))
    curves = {name: plain([errors[name] for errors in seeds]) for name in CURVES}
    return {"net": NET, "fit": options, "powers": list(powers), "density": plain(seeds[0]["density"]), **curves}


def _means(numbers: Numbers) -> dict[str, Matrix]:
    return {name: np.mean(numbers[name], axis=0) for name in CURVES}


def _paper(numbers: Numbers) -> int:
    """The place of the shares that the paper keeps."""
    return int(numbers["powers"].index(1.0))


def title(numbers: Numbers) -> str:
    """The finding."""
    times = 1 / numbers["density"][_paper(numbers)]
    holds = all(finding.holds for finding in findings(numbers))
    return f"One in {times:.0f} weights does most of the work, if retrained" if holds else "Error against density"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    mean, at, density = _means(numbers), _paper(numbers), numbers["density"]
    dense, times = mean["cut"][0], 1 / density[at]
    return [
        Finding(
            f"{100 * (1 - density[1]):.0f} % of the weights can go without retraining for less than a point",
            bool(mean["cut"][1] < dense + 0.01),
            f"error {100 * dense:.2f} %, then {100 * mean['cut'][1]:.2f} %",
        ),
        Finding(
            f"with {times:.0f} times fewer weights it errs less when they were cut in steps than when all at once",
            bool(mean["steps"][at] < mean["once"][at]),
            f"error {100 * dense:.2f} % with all weights ({100 * mean['steps'][0]:.2f} % trained on), "
            f"{100 * mean['steps'][at]:.2f} % with {100 * density[at]:.1f} % of them; cut once "
            f"{100 * mean['once'][at]:.2f} %, and retrained once where the other was after every step",
        ),
        Finding(
            "without retraining so few weights are worth little",
            bool(mean["cut"][at] > 2 * mean["steps"][at]),
            f"error {100 * mean['cut'][at]:.2f} %",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """Error against density, both logarithmic, a line a way of pruning."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    density, at = numbers["density"], _paper(numbers)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, (label, hue) in CURVES.items():
        mean = band(axes, density, 100 * np.array(numbers[name]), hue)
        note(axes, label, (density[-1], mean[-1]), (5, {"cut": 0, "once": 5, "steps": -5}[name]), hue, weight="bold")
    axes.invert_xaxis()
    axes.axvline(density[at], color=FAINT, lw=0.8, ls=(0, (1, 2)), zorder=0)
    shares = ", ".join(f"{100 * share:.0f}" for share in SHARES)
    says = f"{1 / density[at]:.0f}×: {shares} % of the layers "
    axes.text(density[at], 0.93, says, transform=axes.get_xaxis_transform(), ha="right")
    axes.xaxis.set_major_locator(FixedLocator(density))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
    axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("weights left, %")
    axes.set_title("error, %")
    headed(figure, title(numbers), f"LeNet-300-100, the smallest weights of each layer set to 0; {SPREAD}")
    return figure
