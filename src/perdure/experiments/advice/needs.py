"""What is needed of a method: what may be stored, and what will be known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Literal

from perdure.contract import Refused, Scenario
from perdure.learner.policy import nbytes
from perdure.learner.settings import NUMBERS, Settings

WORDS = {
    Scenario.GG: "task-incremental: the id of the task is given with every question",
    Scenario.GNS: "domain-incremental: the same labels in every task, and no id with a question",
    Scenario.GNU: "class-incremental: new labels in every task, and no id with a question",
    Scenario.NNS: "task-free: the same labels throughout, and nobody says where a task ends",
}
Kept = Literal["examples", "nothing"]
Known = Literal["known", "unknown"]


@dataclass(frozen=True)
class Needs:
    """What is asked of a method.

    Args:
        store: what may be kept of old tasks: some of their examples, or nothing but what was learned.
        id: whether it is known which task an input is of when its label is asked for.
        labels: shared by all tasks, or each task has its own.
        boundaries: whether it is known in training where a task ends.
        look: whether inputs of different tasks look alike (new classes of one source) or unlike (other sources): what
            decides if a task can be recognised by its inputs.
        tasks: how many there will be.
        bytes: the most that the state may take after so many tasks, as a number or as "20MB"; no limit when not given.
        classes: labels of each task.
        examples: of each task.
        net: mlp:300-100, conv:16-32, ...
        input: the shape of one input, such as 28x28, 3x32x32 or 128; images count as bytes, rows of numbers as floats.
    """

    store: Kept = "examples"
    id: Known = "unknown"
    labels: Literal["shared", "unshared"] = "unshared"
    boundaries: Known = "known"
    look: Literal["alike", "unlike"] = "alike"
    tasks: int = 10
    bytes: int | str | None = None
    classes: int = 2
    examples: int = 1000
    net: str = Settings.net
    input: str = "28x28"

    def __post_init__(self) -> None:
        for name in ("tasks", "classes", "examples"):
            if (value := getattr(self, name)) < 1:
                raise Refused(f"{name} is {value}; it must be at least 1")
        if self.examples < self.classes:
            raise Refused(f"examples is {self.examples}, fewer than the {self.classes} classes of a task")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", self.input) or prod(self.shape) > NUMBERS:
            raise Refused(f"input {self.input!r} is no shape; write sizes joined by x, such as 28x28 or 3x32x32")
        if self.bytes is not None:
            object.__setattr__(self, "bytes", nbytes(self.bytes))
        if self.boundaries == "unknown" and self.id == "known":
            raise Refused(
                "the id is known when asked, but not where a task ends in training: whoever can name the task of an "
                "input can say which task an example is of; use boundaries known, or id unknown"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(int(number) for number in self.input.split("x"))

    @property
    def scenario(self) -> Scenario:
        """What the learner is told."""
        if self.id == "known":
            return Scenario.GG
        if self.labels == "unshared":
            return Scenario.GNU  # also without borders: a label that is new names its task
        return Scenario.GNS if self.boundaries == "known" else Scenario.NNS
