"""Times what constraint, rehearsal and distillation add to a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench import raw
from bench.timing import base, ratio, seconds
from perdure.contract import Fit, Method, Task, TaskId
from perdure.data import Arrays
from perdure.methods.dgr import DGR
from perdure.methods.gem import GEM
from perdure.methods.icarl import herd
from perdure.methods.lwf import LwF
from perdure.methods.mas import MAS
from perdure.methods.rwalk import RWalk
from perdure.methods.scp import SCP

LR = 0.01
PAST, SLOTS = 10, 256  # tasks in GEM's memory, and examples of each
BOUNDS = {
    "mas, batch 128": 1.12,
    "scp, batch 128": 1.12,
    "rwalk, batch 128": 1.5,
    "lwf, batch 128": 1.25,  # ten epochs of 6,000 examples: the teacher answers to each once
    "dgr, batch 128": 1.2,  # of the same sums by hand, generator and all
    "gem, ten memories, of ten backward passes and a general QP": 1 / 3,
    "importance by mas of 60,000 examples, in training epochs (batch 128)": 1.0,
}


HERDING = "herding 2,000 of 60,000 examples of 10 classes by 256 features"


def herding(rounds: int) -> dict[str, float]:
    """Least milliseconds, on the threads that are set."""
    phi = torch.nn.functional.normalize(torch.rand(60_000, 256, generator=torch.Generator().manual_seed(0)), dim=1)

    def work() -> None:
        for part in phi.split(6000):
            herd(part, part.mean(0), 200)

    return {HERDING: 1000 * min(seconds(work) for _ in range(rounds))}


def remembering(part: int, rounds: int) -> dict[str, dict[str, float]]:
    """Ratios; `part` times fewer steps than a whole measurement."""
    images, out = base()[0].train, {}
    x, y = images.take(torch.arange(60_000)).x.flatten(1) / 255, images.labels
    task, steps, epoch = Task(Arrays(x, y), TaskId(1, torch.arange(10))), 469 // part, 469
    fit = Fit(optimizer="sgd", lr=LR, steps=steps, batch=128, compete="seen")
    plain = partial(raw.train, raw.mlp(), x, y, 128, LR, steps)

    def second(method: Method) -> Callable[[], object]:
        """The second task: what is added to the loop is on."""
        return partial(method.learn, method.learn(method.init(0), task, 0)[0], task, 1)

    for label, method in {
        "mas": MAS(raw.mlp(), fit, lam=1e-3, omega_examples=1),  # the importance is timed by itself
        "scp": SCP(raw.mlp(), fit, lam=1e-3, gamma_examples=1),
        "rwalk": RWalk(raw.mlp(), fit),
    }.items():
        out[f"{label}, batch 128"] = ratio(second(method), plain, rounds)

    many = Task(Arrays(x[:6000], y[:6000]), task.id)
    lwf = LwF(raw.mlp(), fit)
    out["lwf, batch 128"] = ratio(
        partial(lwf.learn, lwf.learn(lwf.init(0), many, 0)[0], many, 1),
        partial(raw.train, raw.mlp(), many.examples.x, many.examples.labels, 128, LR, steps),
        rounds,
    )
    slow = Fit(lr=1e-3, steps=steps // 4, batch=128, compete="seen")  # each of these steps is many times as long
    out["dgr, batch 128"] = ratio(
        second(DGR(raw.mlp(400, 400), slow)),
        partial(raw.train_generative, raw.mlp(400, 400), x, y, 128, slow.lr, steps // 4),
        rounds,
    )

    few, short = Fit(optimizer="sgd", lr=LR, steps=60 // part, batch=10, compete="seen"), Task(Arrays(x, y), None)
    gem = GEM(raw.mlp(), few, slots=SLOTS)
    state = gem.init(0)
    for index in range(PAST):
        rows = torch.arange(index, len(x), PAST)
        state, _ = gem.with_(fit=Fit(optimizer="sgd", lr=LR, steps=1, batch=10, compete="seen")).learn(
            state, Task(Arrays(x[rows], y[rows]), TaskId(index, torch.arange(10))), index
        )
    memories = [(x[rows], y[rows]) for rows in torch.arange(PAST * SLOTS).split(SLOTS)]
    name = "gem, ten memories, of ten backward passes and a general QP"
    out[name] = ratio(
        partial(gem.learn, state, short._replace(id=TaskId(PAST, torch.arange(10))), 1),
        partial(raw.train_constrained, raw.mlp(), x, y, 10, LR, 60 // part, memories, gem.margin),
        rounds,
    )

    mas = MAS(raw.mlp(), fit)
    model = mas.init(0).model
    name = "importance by mas of 60,000 examples, in training epochs (batch 128)"
    out[name] = {
        figure: value * steps / epoch
        for figure, value in ratio(partial(mas._omega, 0, model, task.examples, None), plain, rounds).items()
    }
    for name, figures in out.items():
        print(name, figures, flush=True)
    return out
