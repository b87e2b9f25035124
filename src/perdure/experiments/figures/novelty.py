"""New or known? What learners on disk say of batches of what they learned, of the same when it drifts, and of others.

Two streams of own data, as in the figure learner: new classes, two a task, of which the last two are never learned; and
other sources, the pixels permuted anew for every task. Known batches are images that were neither learned nor in an
exam, of one task or of all. Drifted ones are such images of one task, turned by 20 degrees, with noise of 0.3 standard
deviations, or brighter by 0.5. New ones are of classes or sources that were never learned, or pieces of a photograph
that are, on the whole, as bright as the images. Every group, and every kind within it, weighs alike. Precision is the
share of what is called new that is new, recall the share of what is new that is called so, F1 their harmonic mean: 0.50
for whoever calls everything new, 0 for whoever calls nothing new. Alone, an image is called new where it does not fit.
Every learner has the defaults but for the steps.

Source: ours; the rule is that of `perdure.learner.novelty`, after V. Vovk, A. Gammerman, G. Shafer, "Algorithmic
learning in a random world", 2005.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from perdure.data import Arrays
from perdure.datasets import load
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, headed
from perdure.fold import Moment
from perdure.learner import Learner, Policy
from perdure.learner.settings import Settings
from perdure.report.figures import HUES, INK
from perdure.rng import fold, normal, permutation, uniform
from perdure.streams.rotated import turned

STREAMS = ("new classes", "other sources")
METHODS = ("supsup", "independent", "piggyback", "er", "ewc")
OWN = ("supsup", "independent", "piggyback")  # weights of its own for each task
VERDICTS = {"known": HUES[0], "drifted": HUES[4], "new": HUES[1]}
KINDS = {
    "known": ("one task", "all tasks"),
    "drifted": ("turned", "noisy", "brighter"),
    "new": ("never learned", "photograph"),
}
TASKS, SIZE, PIECE = 5, 50, 64  # images of a batch; pixels a side of a piece of a photograph
TURN, NOISE, BRIGHTER = 20.0, 0.3, 0.5  # degrees, and standard deviations of all pixels


class Batch(NamedTuple):
    """Inputs of a learner, and their labels where these were learned."""

    x: Tensor  # (B, pixels)
    y: Any = None  # (B,)


@dataclass(frozen=True)
class World:
    """A stream of own data: what is learned, and what batches are made of."""

    stream: str
    seed: int
    train: Arrays
    exam: Arrays  # what nobody learns from
    photo: Tensor  # (height, width), its values spread as those of the images

    @property
    def tasks(self) -> int:
        """How many are learned; those after them are not."""
        return TASKS - 1 if self.stream == "new classes" else TASKS

    def drawn(self, part: Arrays, task: int, key: int, count: int | None = None) -> tuple[Tensor, Tensor]:
        """So many images of a task, or all, (n, height, width), and their classes (n,)."""
        y = part.labels
        rows = (y // 2 == task).nonzero()[:, 0] if self.stream == "new classes" else torch.arange(len(y))
        rows = rows[permutation(key, len(rows))[:count]]
        return part.x[rows].float(), y[rows]

    def shown(self, x: Tensor, y: Tensor | None, task: int) -> Batch:
        """Images as inputs of a task, with the labels that it gives to their classes."""
        flat, source = x.flatten(1), ""
        if self.stream == "other sources":
            flat, source = flat[:, permutation(fold(self.seed, "order", task), flat.shape[1])], f"source {task} "
        return Batch(flat, None if y is None else np.array([f"{source}class {label}" for label in y.tolist()]))

    def batch(self, kind: str, place: int) -> Batch:
        """A batch of a kind; most are of one task, the next one of the next."""
        key, task = fold(self.seed, kind, place), place % self.tasks
        if kind == "photograph":
            return self.shown(self.pieces(key), None, task)
        if kind == "never learned":
            task = self.tasks + (place if self.stream == "other sources" else 0)
            return self.shown(self.drawn(self.exam, task, key, SIZE)[0], None, task)
        if kind == "all tasks":
            few = SIZE // self.tasks
            parts = [self.shown(*self.drawn(self.exam, i, fold(key, i), few), i) for i in range(self.tasks)]
            return Batch(torch.cat([part.x for part in parts]), np.concatenate([part.y for part in parts]))
        x, y = self.drawn(self.exam, task, key, SIZE)
        return self.shown(self.drifted(kind, x, fold(key, "drift")), y, task)

    def drifted(self, kind: str, x: Tensor, key: int) -> Tensor:
        """Images (n, height, width) that have changed; as they were for a kind that does not drift."""
        deviation = float(self.exam.x.float().std())
        match kind:
            case "turned":
                return turned(x, torch.tensor([TURN], dtype=torch.float64), "bilinear")
            case "noisy":
                return x + NOISE * deviation * normal(key, x.numel()).view(x.shape).float()
            case "brighter":
                return x + BRIGHTER * deviation
        return x

    def pieces(self, key: int) -> Tensor:
        """Pieces of the photograph as images (n, height, width)."""
        top, left = ((uniform(fold(key, side), SIZE) * (side - PIECE)).long().tolist() for side in self.photo.shape)
        cut = [self.photo[i : i + PIECE, j : j + PIECE] for i, j in zip(top, left, strict=True)]
        return F.adaptive_avg_pool2d(torch.stack(cut), self.exam.x.shape[-1])


def measure(lab: Lab) -> Numbers:
    """By stream, method, group and kind: shares of verdicts, of single images that do not fit, and of right answers."""
    steps, seeds, count = lab.unless_smoke((500, (0, 1), 15), (3, (0,), 2))
    numbers: Numbers = {"tasks": TASKS, "steps": steps, "net": Settings.net, "size": SIZE, "seeds": len(seeds)}
    numbers |= {"batches": count, "found": {}}
    for stream in STREAMS:
        found: dict[str, list[Numbers]] = {}
        for seed in seeds:
            world = _world(lab, stream, seed)
            for method in lab.unless_smoke(METHODS, METHODS[:2]):
                lab.watch(f"{method}, {stream}, seed {seed}", Moment("learning", 0, world.tasks))
                found.setdefault(method, []).append(_said(method, world, steps, count))
        numbers["found"][stream] = {method: _mean(lives) for method, lives in found.items()}
    return numbers


def _world(lab: Lab, stream: str, seed: int) -> World:
    """A stream over the base."""
    from sklearn.datasets import load_sample_image

    base = load(lab.base, lab.data_root)
    assert isinstance(base.train, Arrays)
    assert isinstance(base.exam, Arrays)
    x, photo = base.train.x.float(), torch.tensor(load_sample_image("china.jpg")).float().mean(2)
    return World(stream, seed, base.train, base.exam, (photo - photo.mean()) / photo.std() * x.std() + x.mean())


def _said(method: str, world: World, steps: int, count: int) -> Numbers:
    """What one learner says of batches of every kind."""
    with TemporaryDirectory() as home:
        learner = Learner.create(
            Path(home) / "learner", method, policy=Policy(1.0, 1.0), seed=world.seed, options={"fit.steps": steps}
        )
        for task in range(world.tasks):
            learner.learn(tuple(world.shown(*world.drawn(world.train, task, fold(world.seed, "learned")), task)))
        return {
            group: {kind: _judged(learner, [world.batch(kind, place) for place in range(count)]) for kind in kinds}
            for group, kinds in KINDS.items()
        }


def _judged(learner: Learner, batches: list[Batch]) -> Numbers:
    """Shares of the batches by verdict; of their images those that do not fit, and those that are answered rightly."""
    verdicts: list[str] = [learner.relation(batch.x).verdict for batch in batches]
    said = learner.explain(torch.cat([batch.x for batch in batches]))
    out: Numbers = {verdict: verdicts.count(verdict) / len(verdicts) for verdict in VERDICTS}
    out["alone"] = float(1 - said.fits.mean())
    if batches[0].y is not None:
        out["right"] = float((said.labels == np.concatenate([batch.y for batch in batches])).mean())
    return out


def _mean(lives: list[Numbers]) -> Numbers:
    """What learners of several seeds say, in the mean."""
    return {
        group: {
            kind: {what: round(float(np.mean([life[group][kind][what] for life in lives])), 4) for what in first}
            for kind, first in kinds.items()
        }
        for group, kinds in lives[0].items()
    }


def share(life: Numbers, group: str, what: str) -> float:
    """Of a group, the mean over its kinds of what is said of them."""
    return float(np.mean([kind[what] for kind in life[group].values()]))


def scores(life: Numbers, what: str = "new") -> tuple[float, float, float]:
    """Precision, recall and F1 of what is called new; precision is nan where nothing is.

    Args:
        what: new, or alone for single images.
    """
    known, drifted, new = (share(life, group, what) for group in KINDS)
    called = known + drifted + new
    return new / called if called else float("nan"), new, 2 * new / (called + 1)


def f1(numbers: Numbers, stream: str, method: str, what: str = "new") -> float:
    """F1 of a method on a stream."""
    return scores(numbers["found"][stream][method], what)[2]


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "What is known is not called new, what looks unlike it mostly is" if holds else "Known, drifted or new?"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    (alike, unlike) = numbers["found"].values()
    lives = {(stream, method): life for stream, found in numbers["found"].items() for method, life in found.items()}
    false = {pair: share(life, "known", "new") for pair, life in lives.items()}
    most = max(false, key=lambda pair: false[pair])
    unseen = {method: [found[method]["new"]["never learned"]["new"] for found in (alike, unlike)] for method in alike}
    seen, cost = {}, {}
    for kind in KINDS["drifted"]:
        drifts = [(life["known"]["one task"], life["drifted"][kind]) for life in lives.values()]
        seen[kind] = float(np.mean([1 - drifted["known"] for _, drifted in drifts]))
        cost[kind] = float(np.mean([known["right"] - drifted["right"] for known, drifted in drifts]))
    return [
        Finding(
            "at most one in a hundred batches of what is known is called new",
            false[most] <= 0.01,
            f"at most {100 * false[most]:.1f} %, by any of {len(lives)} learners, each on {numbers['seeds']} seeds",
        ),
        Finding(
            "every method but ewc, which forgets, tells what is new better than whoever calls everything new",
            all(f1(numbers, *pair) > 0.5 for pair in lives if pair[1] != "ewc"),
            "F1 "
            + "; ".join(
                f"{stream}: " + ", ".join(f"{method} {f1(numbers, stream, method):.2f}" for method in found)
                for stream, found in numbers["found"].items()
            )
            + "; always new 0.50",
        ),
        Finding(
            "new classes of a known kind are called new less often than new sources, and never by what has weights of "
            "its own for each task",
            all(a < b for a, b in unseen.values()) and not any(unseen[method][0] for method in OWN if method in unseen),
            "called new, of batches never learned: "
            + ", ".join(
                f"{method} {100 * a:.0f} % of classes, {100 * b:.0f} % of sources" for method, (a, b) in unseen.items()
            ),
        ),
        Finding(
            "of three drifts the one that costs most is seen most often",
            max(seen, key=lambda kind: seen[kind]) == max(cost, key=lambda kind: cost[kind]),
            ", ".join(
                f"{kind}: {100 * cost[kind]:.1f} points of accuracy, {100 * seen[kind]:.0f} % not called known"
                for kind in seen
            ),
        ),
    ]


def table(numbers: Numbers) -> str:
    """Verdicts on batches, and scores of what is called new, as a table in Markdown."""
    shown = ("known called new", "drifted called drifted", "drifted called new")
    head = ["stream", "method", *shown, *(f"{kind} called new" for kind in KINDS["new"])]
    lines = [[*head, "precision", "recall", "F1", "F1 alone"], ["---", "---", *["--:"] * 9]]
    lines += [["both", "always new", *["100 %", "0 %", *["100 %"] * 3], "0.33", "1.00", "0.50", "0.50"]]
    lines += [["both", "never new", *["0 %"] * 5, "", "0.00", "0.00", "0.00"]]
    for stream, found in numbers["found"].items():
        for method, life in found.items():
            shares = [share(life, "known", "new"), share(life, "drifted", "drifted"), share(life, "drifted", "new")]
            shares += [life["new"][kind]["new"] for kind in KINDS["new"]]
            both = (*scores(life), scores(life, "alone")[2])
            cells = [*(f"{100 * value:.0f} %" for value in shares), *("" if isnan(s) else f"{s:.2f}" for s in both)]
            lines.append([stream, method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(numbers: Numbers) -> Figure:
    """For every method what it says of batches of each group, for each stream; and its F1."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    rows = {"known": ("known", None), "drifted": ("drifted", None)} | {kind: ("new", kind) for kind in KINDS["new"]}
    for axes, (stream, found) in zip(figure.subplots(1, 2, sharey=True), numbers["found"].items(), strict=True):
        places: list[float] = []
        for top, method in enumerate(found):
            start = (len(rows) + 1.3) * top
            words = f"{method}, F1 {f1(numbers, stream, method):.2f}"
            axes.text(0.005, start, words, color=INK, fontsize=8.5, fontweight="bold", va="center")
            for row, (group, kind) in enumerate(rows.values(), 1):
                left = 0.0
                for verdict, hue in VERDICTS.items():
                    life = found[method]
                    width = life[group][kind][verdict] if kind else share(life, group, verdict)
                    axes.barh(start + row, width, 0.78, left, color=hue, label=verdict if top + row == 1 else None)
                    left += width
                places.append(start + row)
        axes.set_yticks(places, list(rows) * len(found))
        axes.set_ylim(places[-1] + 0.7, -0.8)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}"))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.set_title(f"{stream}: batches called so, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    under = f"batches of {SIZE}, mean of {numbers['seeds']} seeds; who calls everything new has an F1 of 0.50"
    headed(figure, title(numbers), under)
    return figure
