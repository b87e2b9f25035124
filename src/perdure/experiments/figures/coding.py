"""Below their entropy: what earlier masks say of the next, and where it starts from them.

SupSup on images turned by 10 degrees more with every task, the id given: bits a weight for each mask in turn, as it is
stored; log2 C(n, m), below which no code comes that knows no more than that m of a layer's n weights are kept; and the
ideal length where earlier masks are known. There the t-th mask keeps a weight with probability

    p = (S + 2 a q) / (t - 1 + 2 a)          S of the t - 1 masks before keep it; q = m / n; a = 1/2

which counts as much before any mask as one mask does: the first costs its entropy, and where earlier masks say nothing
the later ones cost more. Scores start anew, at the mean of earlier scores, or at the mean of earlier masks; left, a
mask keeps what scores at least 0, right, the tenth that is largest in size. An experiment, and never the store's
format: there every mask stands alone, so that one task can be forgotten without a word from another.

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769 (masks, transfer); R. Krichevsky, V.
Trofimov, "The performance of universal encoding", IEEE Trans. Information Theory 1981 (a = 1/2); the figure is ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

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
    labelled,
    plain,
)
from perdure.fold import Moment
from perdure.methods.supsup import Supermasks, SupSup
from perdure.ops.codec import entropy_bits, unpack
from perdure.report.figures import FAINT, HUES, INK
from perdure.rng import fold

TASKS, SEEDS, NET, A = 10, 3, "mlp:300-100", 0.5
STEPS = {"digits": (100, 3e-4), "mnist": (200, 1e-4)}  # of each task, and their rate
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "threshold": ("masks by threshold", {}),
    "largest": ("masks of the largest tenth", {"method.density": 0.1}),
}
STARTS = {"none": ("anew", HUES[3]), "scores": ("mean of scores", HUES[0]), "masks": ("mean of masks", HUES[1])}
LENGTHS = ("stored", "alone", "told")  # on disk, log2 C(n, m), and where earlier masks are known


def told(masks: Tensor) -> Tensor:
    """(T,) float64, the ideal bits of each of (T, n) bool masks where those before it, and its density, are known."""
    kept = masks.double()
    before, known = kept.cumsum(0) - kept, torch.arange(len(masks))[:, None]
    p = (before + 2 * A * kept.mean(1, keepdim=True)) / (known + 2 * A)
    return -p.where(masks, 1 - p).log2().sum(1)


def lengths(method: SupSup, state: Supermasks) -> dict[str, Matrix]:
    """(T,) bits a weight of each mask, by `LENGTHS`."""
    stack = method.ready(state).stack
    codes = [{**mask, **head} for mask, head in zip(state.masks, state.heads, strict=True)]
    bits, weights = {name: np.zeros(len(codes)) for name in LENGTHS}, 0
    for name, packed in stack.bits.items():
        n = stack.weights[name].numel()
        masks = torch.stack([unpack(row, n) for row in packed])
        bits["stored"] += [8 * code[name].numel() for code in codes]
        bits["alone"] += [entropy_bits(n, int(mask.sum())) for mask in masks]
        bits["told"] += told(masks).numpy()
        weights += n
    return {name: total / weights for name, total in bits.items()}


def measure(lab: Lab) -> Numbers:
    """Bits a weight of each mask, and ACC, by rule and start, each seed a stream of its own."""
    steps, rate = STEPS.get(lab.base, STEPS["mnist"])
    tasks, seeds = lab.unless_smoke(TASKS, 2), range(lab.unless_smoke(SEEDS, 1))
    shared = {"fit.lr": rate, "fit.steps": steps, "method.outputs": 10, "stream.scale": "standard", "stream.step": 10.0}

    def life(seed: int, rule: str, start: str) -> Numbers:
        options = shared | RULES[rule][1] | {"method.rule": rule, "method.transfer": start}
        experiment = lab.experiment("rotated", "supsup", options, tasks=tasks, net=NET, seed=seed)
        method, stream = prepare(replace(experiment, scenario="gg"))
        assert isinstance(method, SupSup)
        key = fold(seed, "learner")
        with experiment.setting.applied(method.net):
            state = method.init(fold(key, "init"))
            for call, task in enumerate(stream.tasks):
                state, _ = method.learn(state, task, fold(key, "learn", call))
                lab.watch(f"{rule} {start}, seed {seed}", Moment("learned", call + 1, tasks))
            ready = method.ready(state)
            cells = [examine(method, ready, exam, stream.scenario).asked for exam in stream.exams]
        return {**lengths(method, state), "acc": np.mean(cells)}

    numbers: Numbers = {"tasks": tasks, "net": NET, "options": shared, "a": A}
    for rule in RULES:
        numbers[rule] = {}
        for start in STARTS:
            lives = [life(seed, rule, start) for seed in seeds]
            numbers[rule][start] = {name: plain([one[name] for one in lives]) for name in lives[0]}
    return numbers


def means(numbers: Numbers, rule: str, start: str) -> dict[str, float]:
    """Over seeds and masks: bits a weight by `LENGTHS`, and ACC; `last` is `told` of the last mask alone."""
    kept = numbers[rule][start]
    mean = {name: float(np.mean(kept[name])) for name in (*LENGTHS, "acc")}
    return mean | {"last": float(np.mean(kept["told"], axis=0)[-1])}


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "Masks that start from earlier ones can be told by them" if holds else "Bits of a mask, told earlier ones"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    mean = {start: {rule: means(numbers, rule, start) for rule in RULES} for start in STARTS}

    def says(start: str) -> str:
        return "; ".join(
            f"{rule}: {one['told']:.3f} bits a weight told, {one['alone']:.3f} alone, the last mask {one['last']:.3f}, "
            f"ACC {100 * one['acc']:.1f} %"
            for rule, one in mean[start].items()
        )

    return [
        Finding(
            "masks that start anew cannot be coded below their entropy by what earlier ones keep",
            all(one["told"] >= one["alone"] for one in mean["none"].values()),
            says("none"),
        ),
        Finding(
            "masks that start from the mean of scores can",
            all(one["told"] < one["alone"] for one in mean["scores"].values()),
            says("scores"),
        ),
        Finding(
            "masks that start from the mean of masks take fewer bits still, and answer worse",
            all(
                mean["masks"][rule]["told"] < mean["scores"][rule]["told"]
                and mean["masks"][rule]["acc"] < mean["scores"][rule]["acc"]
                for rule in RULES
            ),
            says("masks"),
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel a rule: bits of each mask, a line a start, beside what is stored and the entropy."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    tasks = np.arange(1, numbers["tasks"] + 1)
    for axes, (rule, (words, _)) in zip(figure.subplots(1, len(RULES)), RULES.items(), strict=True):
        places = {}
        for name, label, hue in (("stored", "stored", FAINT), ("alone", "entropy", INK)):
            mean = np.mean([numbers[rule][start][name] for start in STARTS], axis=(0, 1))
            axes.plot(tasks, mean, color=hue, lw=1, ls=(0, (2, 1)))
            places[label] = (tasks[-1], mean[-1], hue)
        for start, (label, hue) in STARTS.items():
            mean = band(axes, tasks, numbers[rule][start]["told"], hue)
            acc = means(numbers, rule, start)["acc"]
            places[f"{label}, {100 * acc:.0f} %"] = (tasks[-1], mean[-1], hue)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{words}: bits a weight")
        axes.set_xlabel("number of the mask")
        axes.set_xticks(tasks)
        labelled(axes, places, 0.065 * axes.get_ylim()[1])
    headed(figure, title(numbers), f"LeNet-300-100, images turned by 10° more a task; % are ACC; {SPREAD}")
    return figure
