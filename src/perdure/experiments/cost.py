"""How long a run will take, measured on a few of its steps, and how to try it in seconds instead."""

from __future__ import annotations

import time
from dataclasses import replace
from math import nan
from typing import Any, NamedTuple

import torch

from perdure import tree
from perdure.contract import Fit, Method, Scenario, State, Task
from perdure.data import View
from perdure.fold import Setting
from perdure.streams.held_out import small
from perdure.streams.stream import Stream
from perdure.train import length

LONG = 60.0  # seconds from which a run is announced
GUESS = 1e-3  # seconds of a step, where nothing is measured
DOUBT = 10.0  # seconds from which a first look is not enough
ENOUGH = 0.2  # seconds of steps that are measured well
BATCHES = 4  # of a task that is learned to measure
SMOKE_TASKS, SMOKE_EXAMPLES, SMOKE_STEPS, SMOKE_BATCH = 2, 64, 5, 16
SMOKE = (
    f"smoke: {SMOKE_TASKS} tasks of {SMOKE_EXAMPLES} examples, {SMOKE_STEPS} steps each; "
    "this shows that the experiment runs, and its figures mean nothing"
)


class Speed(NamedTuple):
    """What was measured of a method on a stream."""

    step: float  # seconds
    first: float  # steps it took on the first task, for one that was asked
    second: float  # and on the second: a method that learns old data again takes more
    example: float  # seconds to examine one


def total(speed: Speed, asked: list[int], exams: int, fresh: bool = False) -> float:
    """Seconds of a run: tasks x steps x measured speed, and its exams.

    Args:
        asked: steps of each task, as `fit` has them; what a method does beyond is taken to grow evenly with the tasks.
        exams: examples that are examined in all.
        fresh: every task is also learned from a fresh network, as the first one is.
    """
    growth = speed.second - speed.first
    taken = sum(n * (speed.first + i * growth + fresh * speed.first) for i, n in enumerate(asked))
    return speed.step * taken + speed.example * exams


def steps(method: Method, stream: Stream) -> list[int]:
    """The steps of each task, as `fit` has them."""
    return [length(method.fit, len(task.examples))[1] for task in stream.tasks]


def estimate(method: Method, stream: Stream, setting: Setting) -> float:
    """Seconds that a run will take, about; NaN where a few steps say nothing. Takes some hundredths of a second.

    Nothing is changed: it learns a few batches of the first two tasks on states of its own.

    Args:
        method: as `fold.suited` returns it.
    """
    exams = len(setting.rows(len(stream))) * sum(
        min(len(exam.examples), setting.exam_examples or len(exam.examples)) for exam in stream.exams
    )
    with setting.applied(method.net):
        try:
            trial = _Trial(method, stream, setting)
            speed = trial.speed(2)
            if total(speed, steps(method, stream), exams, setting.fresh) > DOUBT:
                speed = trial.speed(max(2, min(100, round(ENOUGH / max(BATCHES * speed.step, 1e-4)))))
        except Exception:  # whatever it is, the run will say it, and better
            return nan
    return total(speed, steps(method, stream), exams, setting.fresh)


class _Trial:
    """A method that has learned a few batches of the first task and goes on with a few of the second."""

    def __init__(self, method: Method, stream: Stream, setting: Setting) -> None:
        self.method, self.where = method, setting.where
        self.tasks = [self._part(stream.tasks[i]) for i in (0, min(1, len(stream.tasks) - 1))]
        begun = tree.to(method.init(0, stream.background), self.where)
        self.state, taken = self._learn(begun, 0, 1)  # which also warms up
        self.first = taken / self._asked(0, 1)

    def _part(self, task: Task) -> Task:
        batch, n = length(self.method.fit, len(task.examples))[0], len(task.examples)
        return Task(View(task.examples, torch.arange(min(n, BATCHES * batch))), task.id)

    def _fit(self, passes: int) -> Fit:
        if self.method.fit.epochs is None:
            return replace(self.method.fit, steps=passes * BATCHES)
        return replace(self.method.fit, epochs=passes)

    def _asked(self, which: int, passes: int) -> int:
        return length(self._fit(passes), len(self.tasks[which].examples))[1]

    def _learn(self, state: State, which: int, passes: int) -> tuple[State, int]:
        """The state after so many passes over a part, and how many steps they took."""
        after, trace = self.method.with_(fit=self._fit(passes)).learn(state, self.tasks[which], 0)
        return after, len(trace.loss)

    def speed(self, passes: int) -> Speed:
        """The speed of the steps of so many passes beyond a first one, which has what is done but once a task."""
        taken, spent = [0, 0], [0.0, 0.0]
        for i, number in enumerate((1, 1 + passes)):
            started = time.perf_counter()
            _, taken[i] = self._learn(self.state, 1, number)
            spent[i] = time.perf_counter() - started
        step = max(spent[1] - spent[0], 0.0) / max(taken[1] - taken[0], 1)
        examples = self.tasks[0].examples
        started = time.perf_counter()
        asked = examples.take(torch.arange(len(examples))).x.to(self.where)
        self.method.predict(self.method.ready(self.state), asked, self.tasks[0].id)
        example = (time.perf_counter() - started) / len(examples)
        return Speed(step, self.first, taken[0] / self._asked(1, 1), example)


def said(seconds: float, what: str) -> str:
    """How a long run is announced."""
    return f"{what} will take about {spoken(seconds)}; try it in seconds with --smoke"


def spoken(seconds: float) -> str:
    """A time as people say it: 40 s, 3 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def smoked(stream: Stream) -> Stream:
    """A stream to be learned and examined in no time."""
    return small(stream, SMOKE_TASKS, SMOKE_EXAMPLES)


def quick(options: dict[str, Any], stream: Stream) -> dict[str, Any]:
    """Options under which a task takes a few steps (a flow is short as it is)."""
    kept = {name: value for name, value in options.items() if name not in ("fit.epochs", "fit.steps")}
    return kept | {"fit.batch": SMOKE_BATCH} | ({} if stream.scenario is Scenario.NNS else {"fit.steps": SMOKE_STEPS})
