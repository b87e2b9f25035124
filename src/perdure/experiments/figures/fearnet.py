"""Classes one at a time on frozen features: FearNet against nearest class means and iCaRL.

An encoder of three blocks of convolution learns the first half of the classes, and is frozen. Of all images there are
only its features from then on. The classes of the encoder are base knowledge, the others come one at a time; nobody is
told at the exam which they are; 1,000 images of each are learned. Omega_base is what is left of the base, Omega_new how
well a class is known when it was just learned, Omega_all both: means over the tasks after the base, the first and the
last as shares of what joint reaches on all data. Every network is the same but for its head, and takes the same steps a
task; FearNet sleeps after every second class (tenth of a hundred), iCaRL has 20 exemplars a class.

Source: R. Kemker, C. Kanan, "FearNet: brain-inspired model for incremental learning", 2017, arXiv 1711.10563, which has
ResNet-50's features of CIFAR-100: Omega_base .927, Omega_new .824, Omega_all .947.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from perdure import nets
from perdure.contract import Fit, Scenario, Task
from perdure.data import View, blocks
from perdure.datasets import load
from perdure.evaluate import Omega, omega
from perdure.experiments.figures.lab import WIDTH, Finding, Lab, Numbers, band, headed, percent, plain
from perdure.fold import Moment, Setting, live
from perdure.methods import METHODS
from perdure.model import accuracy, features, start
from perdure.options import build_method, method_class
from perdure.report.figures import FAINT, HUES
from perdure.report.table import size
from perdure.streams.arrays import from_arrays
from perdure.streams.stream import Stream
from perdure.train import minimise

BASE = "fashion-mnist"  # ten digits of 64 pixels are known by their pixels
ENCODER, NET = "conv:16-32-64", "mlp:200-100"
PER_CLASS, SEEDS, KEPT = 1000, 3, 20  # images learned of each class, and exemplars of iCaRL
PARTS = Omega._fields


def runs(classes: int) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """By name: the method, its net and its options."""
    sleep = {"method.sleep": max(2, classes // 10)}
    every = {
        "fearnet": ("fearnet", NET, sleep),
        "fearnet, variances only": ("fearnet", NET, sleep | {"method.diagonal": True}),
        "ncm": ("ncm", "linear", {}),
        "icarl": ("icarl", NET, {"method.slots": KEPT * classes}),
        "finetune": ("finetune", NET, {}),
        "joint": ("joint", NET, {}),
    }
    return {name: run for name, run in every.items() if run[0] in METHODS}


def measure(lab: Lab) -> Numbers:
    """By method and seed: the three measures, the accuracy over all classes after each task; the state's bytes."""
    seeds, steps = lab.unless_smoke(SEEDS, 1), lab.unless_smoke(500, 3)
    stream, known = encoded(lab)
    sizes = [len(exam.examples) for exam in stream.exams]
    numbers: Numbers = {"tasks": len(stream), "base_classes": len(stream.exams[0].id.classes), "steps": steps}
    numbers |= {"features": stream.shape[0], "encoder": known, "net": NET, "offline": [], "found": {}}
    lines: dict[str, list[Any]] = {}
    for name, (method, net, options) in runs(numbers["base_classes"] + len(stream) - 1).items():
        made = build_method(method_class(method), nets.build(net, stream.shape, 0), {"fit.steps": steps, **options})
        lines[name] = []
        for seed in range(seeds):
            lab.watch(f"{name}, seed {seed}", Moment("learning", 0, len(stream)))
            lines[name].append(live(made, stream, seed, Setting(device="cpu")))
    numbers["offline"] = plain([np.average(result.R[-1], weights=sizes) for result in lines["joint"]])
    for name, results in lines.items():
        each = [omega(one.R, sizes, a) for one, a in zip(results, numbers["offline"], strict=True)]
        every = [[np.average(r.R[t, :t], weights=sizes[:t]) for t in range(1, len(sizes) + 1)] for r in results]
        numbers["found"][name] = {part: plain([getattr(one, part) for one in each]) for part in PARTS}
        numbers["found"][name] |= {"line": plain(every), "bytes": results[0].state_bytes_by_task}
    return numbers


def encoded(lab: Lab) -> tuple[Stream, float]:
    """The stream of features, and the accuracy of the encoder on its own classes, which are the first half."""
    base, fit = load(lab.base, lab.data_root).scaled("unit"), Fit(steps=lab.unless_smoke(600, 3))
    first, net = base.classes // 2, nets.build(ENCODER, base.shape, base.classes // 2)
    own = [View(part, (part.labels < first).nonzero()[:, 0]) for part in (base.train, base.exam)]
    lab.watch("the encoder", Moment("learning", 0, 1))
    model, _ = minimise(net, start(net, fit, 0), fit, Task(own[0], None), 0)
    few = [(base.train.labels == label).nonzero()[:PER_CLASS, 0] for label in range(base.classes)]
    arrays: dict[str, Any] = {}
    for test, part in (("", View(base.train, torch.cat(few))), ("_test", base.exam)):
        arrays[f"X{test}"] = torch.cat([features(net, fit, model, x) for x, *_ in blocks(part)])
        arrays[f"y{test}"] = part.labels
        arrays[f"task{test}"] = (part.labels - first + 1).clamp(min=0)
    stream = from_arrays(**arrays, name=f"features of {base.name}", scenario=Scenario.GNU, scale="standard")
    return stream, accuracy(net, model, own[1])


def mean(numbers: Numbers, method: str, part: str) -> float:
    """One of the three measures of a method, over seeds; NaN where it was not measured."""
    found = numbers["found"].get(method, {})
    return float(np.mean(found.get(part, [np.nan])))


def three(numbers: Numbers, method: str) -> str:
    """All three measures of a method."""
    return f"{method} {' / '.join(f'{mean(numbers, method, part):.3f}' for part in PARTS)}"


def title(numbers: Numbers) -> str:
    """The finding."""
    own, means = (100 * mean(numbers, method, "all") for method in ("fearnet", "ncm"))
    return f"With sleep, {own:.0f} % of what joint training reaches; with class means {means:.0f} %"


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see."""
    every = {part: {name: mean(numbers, name, part) for name in numbers["found"]} for part in PARTS}
    found = [
        Finding(
            "FearNet is ahead of class means in all three measures, as in the paper, and of finetuning in Omega_all",
            all(every[part]["fearnet"] > every[part]["ncm"] for part in PARTS)
            and every["all"]["fearnet"] > every["all"]["finetune"] + 0.5,
            f"Omega_base / new / all: {', '.join(three(numbers, name) for name in ('fearnet', 'ncm', 'finetune'))}",
        ),
        Finding(
            "whole covariances dream better of the base than variances alone, as in the paper",
            every["base"]["fearnet"] > every["base"]["fearnet, variances only"],
            ", ".join(three(numbers, name) for name in ("fearnet", "fearnet, variances only")),
        ),
    ]
    if "icarl" in every["all"]:
        kept = [numbers["found"][name]["bytes"] for name in ("fearnet", "icarl")]
        found.append(
            Finding(
                f"iCaRL with {KEPT} exemplars a class is not behind FearNet here; in the paper it is",
                every["all"]["icarl"] > every["all"]["fearnet"] - 0.01,
                f"{three(numbers, 'icarl')}; states of {size(min(kept[0]))} to {size(max(kept[0]))} (FearNet, asleep "
                f"and awake) and {size(max(kept[1]))} (iCaRL)",
            )
        )
    return found


def draw(numbers: Numbers) -> Figure:
    """Accuracy over all classes so far, and the three measures: a hue a method."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    first, marks = numbers["base_classes"], dict(zip(PARTS, "so^", strict=True))
    for row, (name, found) in enumerate(reversed(numbers["found"].items())):
        hue = FAINT if name == "joint" else HUES[list(numbers["found"]).index(name)]
        band(left, np.arange(first, first + numbers["tasks"]), found["line"], hue)
        for part, mark in marks.items():
            right.plot(np.mean(found[part]), row, mark, color=hue, ms=5, mfc=hue if part == "all" else "white")
        left.plot([], [], color=hue, label=name)
    for part, mark in marks.items():
        right.plot([], [], mark, color=FAINT, mfc=FAINT if part == "all" else "white", label=part)
    left.set_xlabel("classes so far")
    left.set_title("accuracy on all of them, %")
    percent(left)
    left.legend(frameon=False, fontsize=7, loc="center right", bbox_to_anchor=(1, 0.4), reverse=True)
    right.set_yticks([])
    right.set_xlim(-0.03, 1.05)
    right.set_title("Omega")
    right.legend(frameon=False, fontsize=7, loc="center left")
    what = f"{numbers['features']} features of an encoder of the first {first} classes; {numbers['net']}"
    headed(figure, title(numbers), f"{what}; {len(numbers['offline'])} seeds, band from lowest to highest")
    return figure
