"""Why EWC works: the losses of two tasks around theta_1, where task 1 was learned, with the paths taken from there.

The plane through theta_1, theta_joint and theta_EWC holds a region where both tasks are solved. EWC and training on
both tasks end in it. Plain training on task 2 does not: most of what makes it forget lies outside this plane, so a
second one, through its own end, shows it walk out of the region where task 1 is solved.

Source: after figure 1 of J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv
1612.00796, which is a sketch; here losses and paths are measured. Training on both tasks begins at theta_1 too, as in
S. I. Mirzadeh et al., "Linear mode connectivity in multitask and continual learning", 2020, arXiv 2010.04495.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import cross_entropy

from perdure.contract import Method, Task
from perdure.evaluate import examine
from perdure.experiments.execution import prepare
from perdure.experiments.figures.lab import FIT, WIDTH, Finding, Lab, Numbers, headed, note, plain
from perdure.fold import Moment
from perdure.model import Model, forward
from perdure.report.figures import HUES, INK
from perdure.rng import fold
from perdure.streams.stream import Stream
from perdure.train import Layout

NET, GRID, LAM = "mlp:200", 31, 100.0
MARKS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 120, 150)  # steps of task 2 after which a path is looked at
PATHS = {"finetune": ("plain training", HUES[1]), "ewc": ("EWC", HUES[2]), "joint": ("both tasks", INK)}
PLANES = {"joint": "through θ₁, θ joint and θ EWC", "finetune": "through θ₁, θ₂ and θ EWC"}  # by its third point
TASKS = (HUES[0], HUES[4])
SOLVED, LEVELS = 0.3, (0.3, 1.0, 2.0, 3.0)  # mean losses
KEY = fold(0, "learner")


def _path(name: str, method: Method, stream: Stream, marks: tuple[int, ...]) -> list[Any]:
    """States of a method: after task 1, then after some steps of task 2.

    Equal keys give equal batches, so a shorter walk is the beginning of a longer one.
    """
    first, _ = method.learn(method.init(fold(KEY, "init")), stream[0], fold(KEY, "learn", 0))
    if name == "joint":  # it begins anew with every task: here at theta_1, as the others do
        first = first._replace(first=first.model)
    walks = [method.with_(fit=replace(method.fit, steps=steps)) for steps in marks]
    return [first, *(walk.learn(first, stream[1], fold(KEY, "learn", 1))[0] for walk in walks)]


def _params(state: Any) -> dict[str, Tensor]:
    model: Model = state if isinstance(state, Model) else state.model
    return model.params


def _loss(method: Method, params: dict[str, Tensor], task: Task) -> float:
    """The mean loss on the training examples of a task."""
    batch = task.examples.take(torch.arange(len(task.examples)))
    model = Model(params, {}, torch.arange(0), {})  # an MLP has no buffers
    return float(cross_entropy(forward(method.net, model, batch.x), batch.y))


def _plane(
    method: Method, stream: Stream, walked: dict[str, Tensor], through: str, layout: Layout, grid: int
) -> Numbers:
    """The losses in the plane through theta_1, the end of one path and that of EWC, and all paths projected onto it."""
    origin = walked["ewc"][0]
    directions = torch.linalg.qr(torch.stack([walked[through][-1] - origin, walked["ewc"][-1] - origin], 1)).Q.T
    directions *= (directions @ (walked["ewc"][-1] - origin)).sign()[:, None]  # EWC's end is up and to the right
    paths = {name: (thetas - origin) @ directions.T for name, thetas in walked.items()}
    beside = {name: walked[name][-1] - origin - path[-1] @ directions for name, path in paths.items()}
    ends = torch.cat(list(paths.values()))
    low, high = ends.min(0).values, ends.max(0).values
    margin = 0.3 * (high - low).max()
    x, y = (torch.linspace(float(a - margin), float(b + margin), grid) for a, b in zip(low, high, strict=True))
    return {
        "x": plain(x),
        "y": plain(y),
        "losses": plain(
            [
                [[_loss(method, layout.views(origin + torch.stack([a, b]) @ directions), task) for a in x] for b in y]
                for task in stream
            ]
        ),
        "paths": {name: plain(path) for name, path in paths.items()},
        "beside": {name: round(float(rest.norm()), 2) for name, rest in beside.items()},
    }


def measure(lab: Lab) -> Numbers:
    """The losses in both planes, the paths of finetune, EWC and joint projected onto them, and accuracies."""
    marks, grid = lab.unless_smoke(MARKS, (1, 2)), lab.unless_smoke(GRID, 3)
    walked: dict[str, Tensor] = {}
    accuracies = {}
    for name in PATHS:
        options = FIT | ({"method.lam": LAM} if name == "ewc" else {})
        experiment = lab.experiment("permuted", name, options, tasks=2, net=NET)
        method, stream = prepare(experiment)
        lab.watch(f"the path of {name}", Moment("begun", 0, 1))
        with experiment.setting.applied(method.net):
            states = _path(name, method, stream, marks)
            accuracies[name] = [
                [examine(method, method.ready(state), exam, stream.scenario).asked for exam in stream.exams]
                for state in states
            ]
        layout = Layout(_params(states[0]))
        walked[name] = torch.stack([layout.flat(_params(state)) for state in states])
    with experiment.setting.applied(method.net):
        planes = {through: _plane(method, stream, walked, through, layout, grid) for through in PLANES}
    found = {name: plain(rows) for name, rows in accuracies.items()}
    return {"net": NET, "fit": FIT, "lam": LAM, "marks": [0, *marks], "planes": planes, "accuracies": found}


def title(numbers: Numbers) -> str:
    """The finding."""
    holds = all(finding.holds for finding in findings(numbers))
    return "EWC stays where task 1 is solved; plain training walks out" if holds else "Two tasks in two planes"


def _end(numbers: Numbers, name: str) -> str:
    return " / ".join(f"{100 * cell:.0f}" for cell in numbers["accuracies"][name][-1])


def _at_end(plane: Numbers, name: str, task: int) -> float:
    """The loss of a task (0 or 1) in a plane at the point of its grid nearest to where a path ends."""
    x, y = plane["paths"][name][-1]
    column, row = (int(np.abs(np.array(plane[axis]) - at).argmin()) for axis, at in (("x", x), ("y", y)))
    return float(plane["losses"][task][row][column])


def findings(numbers: Numbers) -> list[Finding]:
    """What there is to see; accuracies on task 1 / task 2."""
    ends, start = {name: numbers["accuracies"][name][-1] for name in PATHS}, numbers["accuracies"]["ewc"][0]
    near, far = numbers["planes"]["joint"], numbers["planes"]["finetune"]
    lost = [_at_end(plane, "finetune", 0) for plane in (near, far)]
    return [
        Finding(
            "EWC and training on both tasks end where both tasks are solved",
            min(*ends["ewc"], *ends["joint"]) > start[0] - 0.05,
            f"EWC {_end(numbers, 'ewc')}, both {_end(numbers, 'joint')} % on task 1 / task 2",
        ),
        Finding(
            "plain training walks out of the region where task 1 is solved",
            ends["finetune"][0] < start[0] - 0.1 and lost[1] > SOLVED,
            f"{100 * start[0]:.0f} / {100 * start[1]:.0f} % at theta_1, then {_end(numbers, 'finetune')} %; its "
            f"loss on task 1 ends at {lost[1]:.2f}",
        ),
        Finding(
            "it does so outside the plane of EWC and joint, where its shadow would still solve task 1",
            lost[0] < SOLVED < lost[1],
            f"it ends {near['beside']['finetune']:.1f} beside that plane, where the loss on task 1 is {lost[0]:.2f}",
        ),
    ]


def _regions(plane: Numbers) -> dict[str, tuple[float, float]]:
    """Where there is most room to name each region: the place in it that is farthest from its border and every path."""
    x, y = np.array(plane["x"]), np.array(plane["y"])
    first, second = (np.array(losses) < SOLVED for losses in plane["losses"])
    free = np.ones_like(first)
    for path in plane["paths"].values():
        for along, up in path:
            free[np.abs(y - up).argmin(), np.abs(x - along).argmin()] = False
    regions = {"task 1 solved": first & ~second, "task 2 solved": second & ~first, "both solved": first & second}
    places = {}
    for words, region in regions.items():
        room = distance_transform_edt(np.pad(region & free, 1))[1:-1, 1:-1]
        if room.max() >= 3:
            row, column = np.unravel_index(room.argmax(), room.shape)
            places[words] = (float(x[column]), float(y[row]))
    return places


def draw(numbers: Numbers) -> Figure:
    """Both planes: contours of both losses, and the three paths; dashed where a path ends outside the plane."""
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (through, says) in zip(panels, PLANES.items(), strict=True):
        plane = numbers["planes"][through]
        x, y = np.array(plane["x"]), np.array(plane["y"])
        for losses, hue in zip(plane["losses"], TASKS, strict=True):
            axes.contourf(x, y, losses, levels=[0, SOLVED], colors=[hue], alpha=0.22)
            axes.contour(x, y, losses, levels=LEVELS, colors=[hue], linewidths=[1.1] + [0.5] * (len(LEVELS) - 1))
        for name, (label, hue) in PATHS.items():
            path, outside = np.array(plane["paths"][name]), plane["beside"][name] > 0.1
            axes.plot(*path.T, color=hue, lw=1.0 if outside else 2.0, ls=(0, (2, 1.5)) if outside else "solid")
            axes.plot(*path[-1], color=hue, marker="o", ms=5, mfc="white" if outside else hue)
            note(axes, label, path[-1], (0, 10), hue, "center")
        axes.plot(0, 0, marker="o", ms=5, color="black")
        note(axes, "θ₁", (0, 0), (-6, 0), INK, "right")
        for words, where in _regions(plane).items():
            axes.text(*where, words, color="#5f5f5f", fontsize=8, ha="center", va="center")
        axes.set_title(says)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MultipleLocator(2))
        axes.yaxis.set_major_locator(MultipleLocator(2))
        axes.set_xlabel("distance in weights")
    under = f"Training losses of task 1 (blue) and 2 (orange), shaded below {SOLVED}. Dashed: ends outside the plane"
    headed(figure, title(numbers), under)
    return figure
