"""What a law looks at: one method in one scenario, on tiny tasks that are the laws' own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from perdure.contract import Answer, Fit, Method, Scale, Scenario, State, Task, TaskId, Trace
from perdure.data import Arrays
from perdure.model import with_outputs
from perdure.rng import fold, normal, permutation
from perdure.train import for_scenario

KEY = 20
TASKS, EXAMPLES, EXAM = 4, 120, 40  # tasks of a stream; examples to learn and to be examined on, a task
SHAPE, SCALE = (2, 4), Scale(128.0, 1 / 32)  # of one input, stored as bytes
BATCH, STEPS = 12, 40
PASSES, CHUNK = 4, 320  # in NNs: a task's examples arrive so often, and are cut into chunks that ignore its borders


class LawBroken(AssertionError):
    """A method breaks a law. The message names the law, what was seen, and what to do."""


class _Lesson(NamedTuple):
    """One task of a tiny stream."""

    train: Arrays
    exam: Arrays
    id: TaskId


def _lesson(number: int, shared: bool, rename: Callable[[Tensor], Tensor]) -> _Lesson:
    """Two classes of 8 normal features, far apart; where they lie differs from task to task."""
    key = fold(KEY, "lesson", number)
    means = 1.5 * normal(fold(key, "means"), 16).view(2, 8)
    first = 0 if shared else 2 * number

    def arrays(n: int, part: str) -> Arrays:
        classes = permutation(fold(key, part, "classes"), n) % 2
        x = means[classes] + normal(fold(key, part), n * 8).view(n, 8)
        stored = (x / SCALE.factor + SCALE.shift).round().clamp(0, 255).byte().view(n, *SHAPE)
        return Arrays(stored, rename(classes + first), SCALE)

    classes = rename(torch.arange(first, first + 2)).sort().values
    return _Lesson(arrays(EXAMPLES, "train"), arrays(EXAM, "exam"), TaskId(number, classes))


def _flow(lessons: list[_Lesson]) -> list[Task]:
    """The same examples in chunks that ignore where a task ends, without ids."""
    x = torch.cat([lesson.train.x.repeat(PASSES, 1, 1) for lesson in lessons])
    labels = torch.cat([lesson.train.labels.repeat(PASSES) for lesson in lessons])
    return [Task(Arrays(*part, SCALE), None) for part in zip(x.split(CHUNK), labels.split(CHUNK), strict=True)]


def _network() -> nn.Module:
    """A network with what goes wrong most easily: batch statistics, noise, and parts in different modes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(KEY)
        dropout = nn.Dropout(0.1).eval()
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), dropout, nn.Linear(16, 2))


def _shortened(fit: Fit) -> Fit:
    """The same optimiser, with a length and a rate that suit the tiny tasks and nothing that names layers."""
    rate = (0.1 if fit.optimizer == "sgd" else 0.02) * (1 - fit.momentum)
    fit = replace(fit, lr=rate, epochs=None, steps=STEPS, batch=BATCH, warmup=min(fit.warmup, 4))
    return replace(fit, start="fresh", freeze="", head="")


class Case:
    """One method in one scenario, on a tiny stream; what several laws need is computed once.

    Args:
        method: its net and its fit are replaced by tiny ones, or by those given here.
        rows: rows of the head at the start; as the scenario has it when not given.
        rename: other names for the labels.
    """

    def __init__(
        self,
        method: Method,
        scenario: Scenario,
        net: nn.Module | None = None,
        fit: Fit | None = None,
        rows: int | None = None,
        rename: Callable[[Tensor], Tensor] = lambda labels: labels,
    ) -> None:
        shared = scenario in (Scenario.GNS, Scenario.NNS)
        fit = fit or _shortened(method.fit)
        if scenario is Scenario.NNS:
            fit = replace(fit, steps=None)
        fit = for_scenario(fit, scenario)
        self.given, self.scenario, self.shared = (method, net, fit), scenario, shared
        rows = rows if rows is not None else 2 if shared else 0
        self.method = method.with_(net=with_outputs(net or _network(), fit, rows), fit=fit)
        self.lessons = [_lesson(number, shared, rename) for number in range(TASKS)]
        tasks = [Task(lesson.train, lesson.id) for lesson in self.lessons]
        self.tasks = _flow(self.lessons) if scenario is Scenario.NNS else tasks

    def other(self, **changes: Any) -> Case:
        """The same case with other arguments."""
        method, net, fit = self.given
        return Case(**{"method": method, "scenario": self.scenario, "net": net, "fit": fit, **changes})

    def anew(self) -> Method:
        """The method as another process would make it: nothing remembered outside the state survives."""
        return self.method.with_(net=copy.deepcopy(self.method.net))

    def life(self, method: Method, tasks: Iterable[Task]) -> tuple[list[State], list[Trace]]:
        """The states before and after each task, and what happened on the way."""
        states, traces = [method.init(fold(KEY, "init"))], []
        for number, task in enumerate(tasks):
            state, trace = method.learn(states[-1], task, self.key(number))
            states.append(state)
            traces.append(trace)
        return states, traces

    def key(self, number: int) -> int:
        return fold(KEY, "learn", number)

    @cached_property
    def lived(self) -> tuple[list[State], list[Trace]]:
        return self.life(self.method, self.tasks)

    @property
    def states(self) -> list[State]:
        return self.lived[0]

    def id(self, number: int) -> TaskId | None:
        """The id of an exam, if the scenario gives it."""
        return self.lessons[number].id if self.scenario is Scenario.GG else None

    def inputs(self, number: int) -> Tensor:
        return self.lessons[number].exam.take(torch.arange(EXAM)).x

    def answers(self, state: State) -> list[Answer]:
        """To every exam, as the scenario asks it."""
        ready = self.method.ready(state)
        return [self.method.predict(ready, self.inputs(number), self.id(number)) for number in range(TASKS)]

    def accuracy(self, answer: Answer, number: int) -> float:
        if not len(answer.labels):
            return float("nan")
        hits = answer.labels[answer.logits.argmax(1)] == self.lessons[number].exam.labels
        return float(hits.float().mean())
