"""Where a figure is measured: on which data, for how long, and what is said of the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perdure.experiments.execution import execute
from perdure.experiments.experiment import Experiment
from perdure.fold import Moment
from perdure.result import Result

T = TypeVar("T")
Numbers = dict[str, Any]  # what was measured, as plain JSON

FIT = {"fit.lr": 0.003, "fit.steps": 150, "stream.scale": "standard"}  # seconds a run on digits
SPREAD = "mean of 3 seeds, band from lowest to highest"
WIDTH, HEIGHT = 6.4, 3.3  # inches: half a page


class Finding(NamedTuple):
    """One thing that a figure is there to show, and whether it does."""

    claim: str  # "EWC ends where both losses are low"
    holds: bool
    measured: str  # the numbers that say so


@dataclass(frozen=True)
class Lab:
    """Where a figure is measured.

    Args:
        base: the data set.
        data_root: where it is looked for first.
        smoke: do as little as shows that everything works; the figure then means nothing.
        watch: called with what is being run and every `Moment`.
    """

    base: str = "digits"
    data_root: str | None = None
    smoke: bool = False
    watch: Callable[[str, Moment], None] = lambda run, moment: None

    def unless_smoke(self, full: T, smoke: T) -> T:
        """The first; the second where only a smoke test is wanted."""
        return smoke if self.smoke else full

    def experiment(
        self, kind: str, method: str, options: Mapping[str, Any], *, tasks: int, net: str, seed: int = 0
    ) -> Experiment:
        """A method on a kind of stream over the base; the seed is both the stream's and the learner's."""
        options = {"stream.seed": seed, **options}
        return Experiment(
            f"{kind}-{self.base}",
            method,
            tasks=tasks,
            seeds=(seed,),
            net=net,
            data_root=self.data_root,
            options=options | {"fit.steps": 3} if self.smoke and "fit.steps" in options else options,
        )

    def run(self, kind: str, method: str, options: Mapping[str, Any], *, tasks: int, net: str, seed: int = 0) -> Result:
        """The result of such an experiment."""
        experiment = self.experiment(kind, method, options, tasks=tasks, net=net, seed=seed)
        label = " ".join([method, net, *(f"{name} {value}" for name, value in options.items() if "method." in name)])
        (result,) = execute(experiment, watch=lambda moment: self.watch(f"{label}, seed {seed}", moment))
        return result


def plain(numbers: Any) -> list[Any]:
    """An array as plain lists, to five digits."""
    array = np.asarray(numbers, dtype=np.float64)
    return [plain(row) if array.ndim > 1 else float(f"{row:.5g}") for row in array]


def headed(figure: Figure, title: str, under: str) -> None:
    """The finding as the title, and in small print under it what was done."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=10.5, fontweight="bold", va="top")
    figure.text(0.1 / width, 1 - 0.32 / height, under, fontsize=8, color="#5f5f5f", va="top")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - 0.55 / height))  # type: ignore[call-arg]


def percent(axes: Axes, low: float = 0.0) -> None:
    """An axis of accuracies from `low` (a fraction) to 100 %."""
    step = 0.25 if low < 0.3 else 0.1
    ticks = np.arange(1, low - 1e-9, -step)[::-1]
    axes.set_ylim(low - 0.02 * (1 - low), 1 + 0.03 * (1 - low))
    axes.set_yticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])


def labelled(axes: Axes, places: Mapping[str, tuple[float, float, str]], gap: float) -> None:
    """Writes each name at its (x, y) in its colour, to the right, moved apart where they would overlap.

    Args:
        gap: the least distance between two of them along y.
    """
    last, top = -np.inf, axes.get_ylim()[1]
    ordered = sorted(places.items(), key=lambda item: item[1][1])
    for above, (name, (x, y, hue)) in zip(reversed(range(len(ordered))), ordered, strict=True):
        last = min(max(y, last + gap), top - above * gap)  # none above the axes
        note(axes, name, (x, last), (5, 0), hue, weight="bold")


def band(
    axes: Axes, x: Any, stack: Any, hue: str, line: str = "solid", mark: str = "o", width: float = 1.6
) -> np.ndarray[Any, Any]:
    """The mean over seeds of (seeds, points), with a band from the lowest to the highest; the mean."""
    stack = np.asarray(stack)
    mean: np.ndarray[Any, Any] = stack.mean(axis=0)
    axes.plot(x, mean, color=hue, ls=line, marker=mark, ms=2.8, lw=width, clip_on=False)
    axes.fill_between(x, stack.min(axis=0), stack.max(axis=0), color=hue, alpha=0.16, linewidth=0)
    return mean


def note(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    shift: tuple[float, float],
    hue: str,
    side: str = "left",
    weight: str = "normal",
) -> None:
    """Words beside a place, moved by so many points, in its colour; `side` is the side of them that lies there."""
    axes.annotate(text, place, shift, textcoords="offset points", color=hue, ha=side, va="center", weight=weight)
