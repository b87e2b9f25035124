"""Below their entropy: what earlier masks say of the next, and where it starts from them.

SupSup on images turned by 10 degrees more with every task, the id given: bits a weight for each mask in turn, as it is
stored; log2 C(n, m), below which no code comes that knows no more than that m of a layer's n weights are kept; and the
ideal length where earlier masks are known. There the t-th mask keeps a weight with probability

    p = (S + 2 a q) / (t - 1 + 2 a)          S of the t - 1 masks before keep it; q = m / n

so the first costs its entropy; a = .5, 2, 8, 32 or 128 is what suits a life best, the larger the less earlier masks
say. Scores start anew, at the mean of earlier scores, or at the mean of earlier masks; left, a mask keeps what scores
at least 0, right, the tenth that is largest in size. From the mean of masks still shorter codes were expected, and
worse answers: on digits both are the other way round. An experiment, and never the store's format: there every mask
stands alone, so that one task can be forgotten and no other mask is touched.

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
    note,
    plain,
)
from perdure.fold import Moment
from perdure.methods.supsup import Supermasks, SupSup
from perdure.ops.codec import entropy_bits, unpack
from perdure.report.figures import HUES, INK
from perdure.rng import fold

TASKS, SEEDS, NET = 10, 3, "mlp:300-100"
PRIORS = (0.5, 2.0, 8.0, 32.0, 128.0)  # a
STEPS = {"digits": (100, 3e-4), "mnist": (200, 1e-4)}  # of each task, and their rate
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "threshold": ("masks by threshold", {}),
    "largest": ("masks of the largest tenth", {"method.density": 0.1}),
}
STARTS = {  # with the place of the words, in points from the line
    "none": ("anew", HUES[3], -9),
    "scores": ("mean of scores", HUES[0], -9),
    "masks": ("mean of masks", HUES[1], 12),
}
LENGTHS = ("stored", "alone", "told")  # on disk, log2 C(n, m), and where earlier masks are known


def told(masks: Tensor, a: float) -> Tensor:
    """(T,) float64, the ideal bits of each of (T, n) bool masks where those before it, and its density, are known."""
    kept = masks.double()
    before, known = kept.cumsum(0) - kept, torch.arange(len(masks))[:, None]
    p = (before + 2 * a * kept.mean(1, keepdim=True)) / (known + 2 * a)
    return -p.where(masks, 1 - p).log2().sum(1)


def lengths(method: SupSup, state: Supermasks) -> dict[str, Matrix]:
    """(T,) bits a weight of each mask, by `LENGTHS`; and the a which makes all of them the shortest."""
    stack = method.ready(state).stack
    codes = [{**mask, **head} for mask, head in zip(state.masks, state.heads, strict=True)]
    stored, alone, by = np.zeros(len(codes)), np.zeros(len(codes)), np.zeros((len(PRIORS), len(codes)))
    for name, packed in stack.bits.items():
        n = stack.weights[name].numel()
        masks = torch.stack([unpack(row, n) for row in packed])
        stored += [8 * code[name].numel() for code in codes]
        alone += [entropy_bits(n, int(mask.sum())) for mask in masks]
        by += [told(masks, a).numpy() for a in PRIORS]
    best, weights = by.sum(axis=1).argmin(), sum(stack.weights[name].numel() for name in stack.bits)
    bits = {"stored": stored, "alone": alone, "told": by[best]}
    return {"a": np.array(PRIORS[best])} | {name: total / weights for name, total in bits.items()}


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

    numbers: Numbers = {"tasks": tasks, "net": NET, "options": shared}
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
    return "Beside those it starts from, a mask takes fewer bits" if holds else "Bits of a mask beside earlier ones"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    mean = {start: {rule: means(numbers, rule, start) for rule in RULES} for start in STARTS}

    def says(start: str) -> str:
        return "; ".join(
            f"{rule}: {one['told']:.3f} bits a weight, the last mask {one['last']:.3f}, entropy {one['alone']:.3f}; "
            f"ACC {100 * one['acc']:.1f} %"
            for rule, one in mean[start].items()
        )

    return [
        Finding(
            "of masks that start anew, what earlier ones keep saves less than a hundredth",
            all(one["told"] > 0.99 * one["alone"] for one in mean["none"].values()),
            says("none"),
        ),
        *(
            Finding(
                f"masks that start from the {STARTS[start][0]} can be coded below their entropy",
                all(one["told"] < one["alone"] for one in mean[start].values()),
                says(start),
            )
            for start in ("scores", "masks")
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel a rule: bits of each mask, a line a start, beside what is stored and the entropy."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    tasks = np.arange(1, numbers["tasks"] + 1)
    for axes, (rule, (kind, _)) in zip(figure.subplots(1, len(RULES)), RULES.items(), strict=True):
        stored, alone = (np.mean([numbers[rule][start][name] for start in STARTS]) for name in ("stored", "alone"))
        axes.axhline(alone, color=INK, lw=1, ls=(0, (2, 1)))
        note(axes, f"stored {stored:.3f}, entropy {alone:.3f}", (tasks[-1], alone), (0, 8), INK, "right")
        for start, (label, hue, shift) in STARTS.items():
            mean = band(axes, tasks, numbers[rule][start]["told"], hue)
            words = f"{label}, ACC {100 * means(numbers, rule, start)['acc']:.0f} %"
            note(axes, words, (tasks[-1], mean[-1]), (0, shift), hue, "right", "bold")
        axes.set_ylim(0, 1.15 * alone)
        axes.set_title(f"{kind}: bits a weight")
        axes.set_xlabel("number of the mask")
        axes.set_xticks(tasks)
    headed(figure, title(numbers), f"LeNet-300-100, images turned by 10° more a task; {SPREAD}")
    return figure
