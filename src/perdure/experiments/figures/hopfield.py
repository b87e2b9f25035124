"""How many masks does a Hopfield memory hold? HopSupSup's, by Storkey's rule and by Hebb's, at three widths.

A mask a permuted task, on two layers of d normalised units; each is stored in a d x d matrix a layer, and kept nowhere
else. After 1, 2, 3, 5, 8 and 12 tasks each exam so far is asked as a whole and without its id: the mask is searched
for, and answers. Beside it stands the accuracy under the masks that were stored, which is all that a memory could give
back. Both rules store the same masks. A mask that a rule holds is a fixed point: of its units none turns over in
sign(M z).

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769 (its text stores by Hebb's rule, its
code by a simplification of Storkey's); A. Storkey, "Increasing the capacity of a Hopfield network without sacrificing
functionality", 1997; the figure is ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from perdure import tree
from perdure.evaluate import Matrix
from perdure.experiments.execution import prepare
from perdure.experiments.figures.lab import HEIGHT, SPREAD, WIDTH, Finding, Lab, Numbers, band, headed, percent, plain
from perdure.fold import Moment
from perdure.methods.hopsupsup import HopSupSup, Memories, Params, Prepared, Storage, outputs, store
from perdure.report.figures import FAINT, HUES
from perdure.report.table import size
from perdure.rng import fold
from perdure.streams.stream import Stream

WIDTHS, LOOKS, SEEDS = (128, 512, 2048), (1, 2, 3, 5, 8, 12), 3
LINES = {
    "masks": ("the masks themselves", FAINT),
    "storkey": ("Storkey's rule", HUES[0]),
    "hebbian": ("Hebb's", HUES[3]),
}
FIT: dict[str, Any] = {"fit.steps": 100, "fit.batch": 64, "stream.scale": "standard"}


def patterns(states: list[Memories]) -> list[Params]:
    """z (d,) of -1 and 1 by layer, of the task between each two states: what it added to their sum."""
    return [
        {name: total - before.total[name] for name, total in after.total.items()} for before, after in pairwise(states)
    ]


def stored(states: list[Memories], rule: Storage) -> Memories:
    """The last of some states, each a task after the one before, as if a rule had stored the masks of all."""
    hopfield = states[0].hopfield
    for z in patterns(states):
        hopfield = {name: store(M, z[name], rule) for name, M in hopfield.items()}
    return states[-1]._replace(hopfield=hopfield)


def turned(state: Memories, z: Params) -> float:
    """The share of a mask's units that turn over when its memory is asked for it, 0 to 1."""
    parts = [(M @ z[name]) * z[name] < 0 for name, M in state.hopfield.items()]
    return float(torch.cat(parts).double().mean())


def right(ready: Prepared, masks: Params, x: Tensor, y: Tensor) -> float:
    """The share of inputs x (B, ...) whose label y (B,) wins among all that were learned, under masks (d,) by layer."""
    labels = ready.state.labels
    return float((labels[outputs(ready, masks, x)[:, : len(labels)].argmax(1)] == y).double().mean())


def looked(method: HopSupSup, stream: Stream, states: list[Memories]) -> dict[str, tuple[float, float]]:
    """Mean accuracy on the tasks of some states, and the mean share of units turned over, by line."""
    learned, exams = patterns(states), [exam.examples for exam in stream.exams[: len(states) - 1]]
    asked = [(x, y) for exam in exams for x, y, _ in [exam.take(torch.arange(len(exam)))]]
    ready = method.ready(states[-1])
    masks = [{name: (1 + part) / 2 for name, part in z.items()} for z in learned]
    found = {"masks": (float(np.mean([right(ready, m, x, y) for m, (x, y) in zip(masks, asked, strict=True)])), 0.0)}
    for rule in get_args(Storage):
        ready = method.ready(state := stored(states, rule))
        recalled = [right(ready, method.recall(ready, x), x, y) for x, y in asked]
        found[rule] = float(np.mean(recalled)), float(np.mean([turned(state, z) for z in learned]))
    return found


def measure(lab: Lab) -> Numbers:
    """Accuracy and units turned over after some numbers of tasks, by width and line, each seed a stream of its own."""
    looks, seeds = lab.unless_smoke(LOOKS, LOOKS[:2]), range(lab.unless_smoke(SEEDS, 1))
    numbers: Numbers = {"widths": list(lab.unless_smoke(WIDTHS, WIDTHS[:1])), "tasks": list(looks), "fit": FIT}
    numbers["found"] = {}
    for width in numbers["widths"]:
        lives = []
        for seed in seeds:
            net, key = f"bn-mlp:{width}-{width}", fold(seed, "learner")
            method, stream = prepare(lab.experiment("permuted", "hopsupsup", FIT, tasks=looks[-1], net=net, seed=seed))
            assert isinstance(method, HopSupSup)
            states = [method.init(fold(key, "init"))]
            for call, task in enumerate(stream.tasks):
                states.append(method.learn(states[-1], task, fold(key, "learn", call))[0])
                lab.watch(f"{width} units, seed {seed}", Moment("learned", call + 1, len(stream)))
            lives.append([looked(method, stream, states[: 1 + k]) for k in looks])
        numbers["found"][str(width)] = {
            what: {line: plain([[look[line][place] for look in life] for life in lives]) for line in LINES}
            for place, what in enumerate(("accuracy", "turned"))
        }
        numbers["found"][str(width)]["matrices"] = tree.nbytes(states[-1].hopfield)
        numbers["found"][str(width)]["bits"] = sum(looks[-1] * len(total) // 8 for total in states[-1].total.values())
    return numbers


def means(numbers: Numbers, width: int, line: str, what: str = "accuracy") -> Matrix:
    """In percent, over seeds, after each number of tasks."""
    mean: Matrix = 100 * np.mean(numbers["found"][str(width)][what][line], axis=0)
    return mean


def whole(numbers: Numbers, width: int, rule: str) -> int:
    """How many tasks, of those looked at, are answered within a point of the masks themselves."""
    missed = means(numbers, width, "masks") - means(numbers, width, rule)
    return max((k for k, gap in zip(numbers["tasks"], missed, strict=True) if gap <= 1), default=0)


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "A mask is lost by the search before it is lost by the memory" if holds else "Masks in Hopfield memories"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    widths, k = numbers["widths"], numbers["tasks"][-1]
    most = {rule: [whole(numbers, width, rule) for width in widths] for rule in get_args(Storage)}
    ends = {line: [means(numbers, width, line)[-1] for width in widths] for line in LINES}
    turned = {rule: [means(numbers, width, rule, "turned")[-1] for width in widths] for rule in get_args(Storage)}
    matrices, bits = (numbers["found"][str(widths[-1])][what] for what in ("matrices", "bits"))

    def said(found: dict[str, list[Any]], form: str) -> str:
        return "; ".join(f"{LINES[line][0]} {', '.join(format(x, form) for x in row)}" for line, row in found.items())

    at = f"at {', '.join(f'{width:,}' for width in widths)} units"
    return [
        Finding(
            "the wider the layers, the more masks are recalled as well as if they had been kept, and by Storkey's rule "
            "at least as many as by Hebb's",
            all(row == sorted(row) and row[0] < row[-1] for row in most.values())
            and all(a >= b for a, b in zip(most["storkey"], most["hebbian"], strict=True)),
            f"of {', '.join(map(str, numbers['tasks']))}: {said(most, 'd')}, {at}",
        ),
        Finding(
            f"after {k} tasks masks are missed at every width; beyond the narrowest, fewer by Storkey's rule",
            all(a < b - 10 for a, b in zip(ends["storkey"], ends["masks"], strict=True))
            and all(a > b for a, b in zip(ends["storkey"][1:], ends["hebbian"][1:], strict=True)),
            f"{said(ends, '.1f')} %, {at}",
        ),
        Finding(
            "yet the memories still hold them all: of the units of their masks, hardly one turns over",
            max(max(row) for row in turned.values()) < 1,
            f"{said(turned, '.2f')} %, {at}",
        ),
        Finding(
            "as plain bits the same masks take a thousandth",
            1000 * bits < matrices,
            f"{k} masks of two layers of {widths[-1]:,} units: {size(matrices)} as matrices, {size(bits)} as bits",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A panel a width: accuracy against tasks, a line a rule."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels, tasks = np.atleast_1d(figure.subplots(1, len(numbers["widths"]), sharey=True)), numbers["tasks"]
    for axes, width in zip(panels, numbers["widths"], strict=True):
        for line, (words, hue) in LINES.items():
            band(axes, tasks, numbers["found"][str(width)]["accuracy"][line], hue)
            axes.lines[-1].set_label(words)
        percent(axes)
        axes.set_xticks(tasks)
        axes.set_xlabel("tasks stored")
        axes.set_title(f"{width:,} units a layer, %")
    panels[0].legend(loc="upper right")
    headed(figure, title(numbers), f"Mean accuracy on the tasks so far, no id; permuted pixels; {SPREAD}")
    return figure
