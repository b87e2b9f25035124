"""Which task is an input from? SupSup lays the masks of all tasks on top of one another, and one gradient tells.

A mask a permuted task over weights that are never trained. Then single images, without an id: the share that is given
its task, told by the entropy H of the outputs or by those that no label uses (G), and the share whose label is right
too, over the first k masks. Tasks are told apart because a mask is unsure of what it has not learned. Outputs that no
label uses make that plainer; a learning rate that makes masks sure of themselves makes them sure of other tasks too:
with the id answers get better, without it the task is lost. Time is that of one core, for the whole answer.

Source: M. Wortsman et al., "Supermasks in superposition", 2020, arXiv 2006.14769: 94.91 % on 250
permutations of MNIST, most likely on a larger network, with 1,000 steps a task and one gradient.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from perdure import tree
from perdure.contract import Answer
from perdure.experiments.execution import execute, prepare
from perdure.experiments.experiment import Experiment, command
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, headed, labelled, percent, plain
from perdure.experiments.provenance import commit
from perdure.fold import Setting
from perdure.methods.supsup import Supermasks, SupSup, only
from perdure.report.figures import HUES
from perdure.report.table import size
from perdure.result import read_record
from perdure.rng import fold, permutation
from perdure.store import Blobs, load_state
from perdure.streams.stream import Stream

NET, BATCH, RATE = "mlp:300-100", 128, 1e-4
TOLD = {"entropy": ("H", HUES[0]), "surplus": ("G", HUES[1])}
OUTPUTS = {"outputs 25": HUES[5], "outputs 100": HUES[0], "outputs 200": "#1b2a49"}  # light to dark
MAIN, FAST = "outputs 100", "fast"


class Work(NamedTuple):
    """How much is measured on a base."""

    most: tuple[int, ...]  # numbers of masks at which the main line is looked at
    few: tuple[int, ...]  # the same for the other lines
    images: int  # of each task
    steps: int  # of each task
    fast: float  # the learning rate that is too high


WORK = {
    "digits": Work((5, 10, 20, 30, 40), (5, 10, 20, 30, 40), 30, 300, 3e-3),
    "mnist": Work((10, 25, 50, 60, 100, 150, 200, 250), (10, 25, 50, 60), 1000, 1000, 1e-3),
}


@contextmanager
def kept(lab: Lab) -> Iterator[Path]:
    """Where lives lie while they are measured: one that was broken off is continued by the next try at that commit."""
    if lab.smoke:
        with TemporaryDirectory() as folder:
            yield Path(folder)
        return
    home = Path(gettempdir()) / f"perdure-recognise-{commit()}"
    yield home
    shutil.rmtree(home)


def life(experiment: Experiment, home: Path, lab: Lab) -> tuple[SupSup, Stream, Supermasks]:
    """SupSup, its stream, and what it knows after the last task."""
    folder = home / f"{fold(0, command(experiment)):x}"
    label = " ".join(f"{name} {value}" for name, value in experiment.options.items())
    begun = (folder / "experiment.json").exists()
    execute(experiment, folder, resume=begun, watch=partial(lab.watch, label))
    method, stream = prepare(experiment)
    assert isinstance(method, SupSup)
    return method, stream, load_state(Blobs(folder / "states"), read_record(folder)["state"], method.states)


def _share(found: Tensor | None, truth: Tensor | int) -> float:
    assert found is not None
    return float(torch.as_tensor(found == truth).double().mean())


def _right(answer: Answer, y: Tensor) -> float:
    return _share(answer.labels[answer.logits.argmax(1)], y)


def recognised(
    method: SupSup, stream: Stream, state: Supermasks, masks: Sequence[int], images: int, timed: bool
) -> Numbers:
    """Shares of images given their task, and task and label, over the first k masks; and milliseconds an image.

    Args:
        masks: the numbers k.
        images: of each task, drawn by key, each judged alone.
        timed: whether the time is taken: the least of 20 images alone, and of 5 batches.
    """
    exams = [stream.exams[task] for task in range(masks[-1])]
    drawn = [permutation(fold(0, "images", task), len(exam.examples)) for task, exam in enumerate(exams)]
    asked = [exam.examples.take(rows[:images]) for exam, rows in zip(exams, drawn, strict=True)]
    telling = {told: method.with_(told=told) for told in TOLD}
    whole = method.ready(state)
    given = [_right(method.predict(whole, x, exam.id), y) for (x, y, _), exam in zip(asked, exams, strict=True)]
    numbers: Numbers = {"masks": list(masks), "bytes": tree.nbytes((state.masks, state.heads))}
    numbers["given"] = plain([np.mean(given[:k]) for k in masks])
    numbers |= {told: {"task": [], "label": []} for told in TOLD}
    numbers |= {"alone": [], "batch": []} if timed else {}
    for k in masks:
        ready = method.ready(only(state, range(k)))
        for told, one in telling.items():
            answers = [one.predict(ready, x) for x, _, _ in asked[:k]]
            tasks = [_share(answer.task, task) for task, answer in enumerate(answers)]
            labels = [_right(answer, y) for answer, (_, y, _) in zip(answers, asked, strict=False)]
            numbers[told]["task"] += plain([np.mean(tasks)])
            numbers[told]["label"] += plain([np.mean(labels)])
        if timed:
            x = torch.cat([x for x, _, _ in asked[:k]])
            x = x[permutation(0, len(x))]
            for name, parts in (("alone", x[:20].split(1)), ("batch", [x[:BATCH]] * 5)):
                numbers[name] += plain([min(_milliseconds(telling["entropy"], ready, part) for part in parts)])
    return numbers


def _milliseconds(method: SupSup, ready: object, x: Tensor) -> float:
    """Of the processor, for each of some inputs x (B, ...)."""
    begun = time.process_time()
    method.predict(ready, x)  # type: ignore[arg-type]
    return 1000 * (time.process_time() - begun) / len(x)


def measure(lab: Lab) -> Numbers:
    """What is recognised with 25, 100 and 200 outputs, and with 100 at a rate that is too high."""
    work = WORK.get(lab.base, WORK["mnist"])
    most, few = lab.unless_smoke((work.most, work.few), ((1, 2), (1, 2)))
    images, fit = lab.unless_smoke(work.images, 4), {"fit.steps": work.steps, "fit.batch": BATCH}
    lines = {name: (int(name.split()[1]), RATE) for name in OUTPUTS} | {FAST: (100, work.fast)}
    numbers: Numbers = {"net": NET, "fit": fit, "rates": [RATE, work.fast], "images": images}
    with kept(lab) as home:
        for name, (outputs, rate) in lines.items():
            masks = most if name == MAIN else few
            options = {"method.outputs": outputs, "fit.lr": rate, "stream.scale": "standard", **fit}
            experiment = replace(
                lab.experiment("permuted", "supsup", options, tasks=masks[-1], net=NET),
                scenario="gnu",
                setting=Setting(device="cpu", exam_rows="last", exam_examples=1),
            )
            method, stream, state = life(experiment, home, lab)
            with experiment.setting.applied(method.net):
                numbers[name] = recognised(method, stream, state, masks, images, timed=name == MAIN)
    return numbers


def _at(line: Numbers, k: int, told: str = "entropy", what: str = "task") -> float:
    return float(line[told][what][line["masks"].index(k)])


def title(numbers: Numbers) -> str:
    """The finding."""
    k = numbers[MAIN]["masks"][-1]
    holds = all(finding.holds for finding in findings(numbers))
    return f"One gradient tells which of {k} tasks an image is from" if holds else "Which task is an image from?"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see; by H where nothing else is said."""
    main, fast = numbers[MAIN], numbers[FAST]
    k, few = main["masks"][-1], fast["masks"][-1]
    ends = {TOLD[told][0]: [100 * main[told][what][-1] for what in ("task", "label")] for told in TOLD}
    by = {name: _at(numbers[name], few) for name in OUTPUTS}
    at = main["masks"].index(few)
    slow, quick = numbers["rates"]
    grows = [main[name][-1] / main[name][0] for name in ("alone", "batch")]
    return [
        Finding(
            f"at least nine of ten single images are given their task among {k}",
            all(task >= 90 for task, _ in ends.values()),
            "; ".join(f"by {name} {task:.1f} %, label right too {label:.1f} %" for name, (task, label) in ends.items())
            + f"; with the id given {100 * main['given'][-1]:.1f} %; the masks take {size(main['bytes'])}",
        ),
        Finding(
            f"with 25 outputs the task is harder to tell than with 100 or 200, among {few}",
            by["outputs 25"] < min(by["outputs 100"], by["outputs 200"]),
            "; ".join(f"{name.split()[1]} outputs {100 * task:.1f} %" for name, task in by.items()),
        ),
        Finding(
            "masks learned at too high a rate answer better with the id, and worse without: they are sure of what they "
            "do not know",
            fast["given"][-1] > main["given"][at] and _at(fast, few) < _at(main, few),
            f"{few} tasks, rate {slow:g} to {quick:g}: with the id {100 * main['given'][at]:.1f} to "
            f"{100 * fast['given'][-1]:.1f} %, the task recognised {100 * _at(main, few):.1f} to "
            f"{100 * _at(fast, few):.1f} %",
        ),
        Finding(
            "the time an image takes grows more slowly than the number of masks",
            max(grows) < k / main["masks"][0],
            f"{main['masks'][0]} to {k} masks: {main['alone'][0]:.2g} to {main['alone'][-1]:.2g} ms alone, "
            f"{main['batch'][0]:.2g} to {main['batch'][-1]:.2g} ms in batches of {BATCH}",
        ),
    ]


def _curve(axes: Axes, line: Numbers, values: Sequence[float], hue: str, style: Any = "solid") -> None:
    axes.plot(line["masks"], values, color=hue, ls=style, marker="o", ms=2.8, lw=1.6, clip_on=False)


def draw(numbers: Numbers) -> Figure:
    """By H and by G; by outputs; by learning rate; and the time."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    (how, outputs), (rates, times) = figure.subplots(2, 2)
    main, fast = numbers[MAIN], numbers[FAST]

    def end(line: Numbers, values: Sequence[float], hue: str) -> tuple[float, float, str]:
        return line["masks"][-1], values[-1], hue

    places = {}
    for told, (name, hue) in TOLD.items():
        for what, words, style in (("task", "task", "solid"), ("label", "both", (0, (2, 1)))):
            _curve(how, main, main[told][what], hue, style)
            places[f"{words} by {name}"] = end(main, main[told][what], hue)
    how.set_title("task right, both task and label right, %")
    panels = [(how, places)]

    places = {}
    for name, hue in OUTPUTS.items():
        values = numbers[name]["entropy"]["task"][: len(fast["masks"])]
        line = {"masks": numbers[name]["masks"][: len(values)]}
        _curve(outputs, line, values, hue)
        places[name] = end(line, values, hue)
    outputs.set_title("task right by outputs (H), %")
    panels.append((outputs, places))

    places = {}
    for line, rate, hue in zip((main, fast), numbers["rates"], (HUES[0], HUES[3]), strict=True):
        for name, values, style in (("id", line["given"], (0, (2, 1))), ("none", line["entropy"]["label"], "solid")):
            n = len(fast["masks"])
            part = {"masks": line["masks"][:n]}
            _curve(rates, part, values[:n], hue, style)
            places[f"{rate:g}, {'id given' if name == 'id' else 'no id'}"] = end(part, values[:n], hue)
    rates.set_title("label right by learning rate, %")
    panels.append((rates, places))

    for axes, places in panels:
        low = min(np.min(line.get_ydata()) for line in axes.lines)
        percent(axes, low - low % 0.1)
        labelled(axes, places, 0.075 * (1 - low + low % 0.1))
    for name, hue in (("alone", HUES[1]), ("batch", HUES[2])):
        _curve(times, main, main[name], hue)
    ends = {"alone": end(main, main["alone"], HUES[1]), f"in {BATCH}": end(main, main["batch"], HUES[2])}
    times.set_ylim(bottom=0)
    labelled(times, ends, 0.075 * times.get_ylim()[1])
    times.set_title("ms an image")
    for axes in (how, outputs, rates, times):
        axes.set_xlim(left=0)
        axes.set_xlabel("masks")
    under = f"LeNet-300-100, permuted pixels; {numbers['images']} images of each task, each judged alone"
    headed(figure, title(numbers), under)
    return figure
