"""What ten tasks cost: accuracy against stored bytes, for every way to keep many networks in one.

Permuted pixels, the id given at the exam; each method with its defaults, all with as many steps a task (but for cpg,
which trains a task several times over). Bytes are those of the state on disk after the last task. Two bounds: finetune
keeps one network and forgets, independent keeps a network a task, each begun at the one before. SupSup stores a seed
and a mask a task, with as many outputs as labels since the id is given: by threshold at a bit a weight, or the largest
scores within Erdos-Renyi budgets, e (in + out) weights a layer. hopsupsup masks units, in layers of 2,048 as in its
paper, keeps the masks in matrices only, and has to find them again whether the id is given or not.

Source: after figure 2 of M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769, which has split
ImageNet and CIFAR-100.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from perdure.experiments.execution import execute
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, headed, plain
from perdure.fold import Setting
from perdure.report.figures import FAINT, HUES
from perdure.report.table import size
from perdure.report.tradeoff import Point, write_names

TASKS, NET, LABELS = 10, "mlp:300-100", 10
NETS = {"hopsupsup": "bn-mlp:2048-2048"}  # the others, by method
BUDGETS = (2.0, 6.0, 18.0)  # e
LARGEST = {"method.rule": "largest", "method.budget": "erdos-renyi"}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {}),
    "heads": ("heads", {}),
    "psp": ("psp", {}),
    "batch-ensemble": ("batch-ensemble", {}),
    "piggyback": ("piggyback", {}),
    "hat": ("hat", {}),
    "packnet": ("packnet", {}),
    "pruned": ("pruned", {}),
    "cpg": ("cpg", {}),
    "hopsupsup": ("hopsupsup", {}),
    "supsup": ("supsup", {"method.outputs": LABELS}),
    **{f"supsup e {e:g}": ("supsup", {"method.outputs": LABELS, "method.density": e, **LARGEST}) for e in BUDGETS},
    "independent": ("independent", {"method.begin": "previous"}),
}
BOUNDS, ROOMY, SEEKER = ("finetune", "independent"), "independent", "hopsupsup"
SUPSUP = [name for name in RUNS if name.startswith("supsup e")]


def measure(lab: Lab) -> Numbers:
    """ACC and bytes on disk after the last task, by run."""
    tasks = lab.unless_smoke(TASKS, 2)
    shared = {"fit.steps": 300 if lab.base == "digits" else 1000, "stream.scale": "standard"}
    numbers: Numbers = {"tasks": tasks, "net": NET, "options": shared, "acc": {}, "bytes": {}}
    for name, (method, options) in RUNS.items():
        experiment = lab.experiment("permuted", method, shared | options, tasks=tasks, net=NETS.get(method, NET))
        experiment = replace(experiment, scenario="gg", setting=Setting(exam_rows="last"))
        with TemporaryDirectory() as home:
            (result,) = execute(experiment, Path(home) / "run", watch=partial(lab.watch, name))
        numbers["acc"] |= {name: plain([result.acc])[0]}
        numbers["bytes"] |= {name: result.stored_bytes}
    return numbers


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return f"{numbers['tasks']} networks for less than the bytes of one" if holds else "Accuracy against bytes"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    acc, count = numbers["acc"], numbers["bytes"]
    best = max((name for name in RUNS if name.startswith("supsup")), key=lambda name: acc[name])
    above = {name: value for name, value in acc.items() if value > acc[ROOMY]}
    return [
        Finding(
            f"masks for {numbers['tasks']} tasks take less than one network, and are within 3 points of a network each",
            count[best] < count["finetune"] and acc[best] > acc[ROOMY] - 0.03,
            f"{best} {100 * acc[best]:.1f} % in {size(count[best])}, independent {100 * acc[ROOMY]:.1f} % in "
            f"{size(count[ROOMY])}; one network {size(count['finetune'])}",
        ),
        Finding(
            "the more weights a mask keeps, the more bytes and the more accuracy",
            all(x[a] < x[b] for x in (acc, count) for a, b in pairwise(SUPSUP)),
            ", ".join(
                f"{name.removeprefix('supsup ')}: {100 * acc[name]:.1f} % in {size(count[name])}" for name in SUPSUP
            ),
        ),
        Finding(
            "whatever keeps tasks apart is far above finetune, and nothing is more than a point above a network a task",
            all(value > acc["finetune"] + 0.1 for name, value in acc.items() if name not in ("finetune", SEEKER))
            and max(acc.values()) < acc[ROOMY] + 0.01,
            f"finetune {100 * acc['finetune']:.1f} %; "
            + (", ".join(f"{name} {100 * value:.1f} %" for name, value in above.items()) or "nothing")
            + " above independent",
        ),
        Finding(
            f"{SEEKER} takes the most bytes, and finds too few of its masks again to be worth them",
            count[SEEKER] == max(count.values()) and acc[SEEKER] < acc[SUPSUP[-1]],
            f"{100 * acc[SEEKER]:.1f} % in {size(count[SEEKER])}",
        ),
    ]


def draw(numbers: Numbers) -> Figure:
    """A named point a run; the accuracies near 100 % are drawn apart."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes, acc, count = figure.subplots(), numbers["acc"], numbers["bytes"]
    axes.set_xscale("log")
    axes.set_yscale("logit")
    for name, value in acc.items():
        hue = FAINT if name in BOUNDS else HUES[0 if name.startswith("supsup") else 1]
        axes.plot(count[name], value, "o", color=hue, ms=5)
    axes.plot(*([x[name] for name in SUPSUP] for x in (count, acc)), color=HUES[0], lw=0.8, zorder=1)
    axes.set_xlim(min(count.values()) / 1.8, max(count.values()) * 2.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda bytes, _: size(bytes)))
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{100 * tick:g}" for tick in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes of the state on disk")
    axes.set_title("ACC, %")
    headed(
        figure, title(numbers), f"{numbers['tasks']} tasks of permuted pixels, the id given; LeNet-300-100, one seed"
    )
    figure.draw_without_rendering()  # places the axes, whose size in points decides where names are free
    unit, box = 72 / figure.dpi, axes.bbox
    spots = {name: (axes.transData.transform((count[name], acc[name])) - box.p0) * unit for name in acc}
    points = [Point(name, float(x), float(y), 0.0) for name, (x, y) in spots.items()]
    taken = [(x - 4, y - 4, x + 4, y + 4) for _, x, y, _ in points]
    write_names(axes, points, taken, box.width * unit, box.height * unit)
    return figure
