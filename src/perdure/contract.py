"""The contract: what a task, an answer, a scenario and a method are. Read this file first.

Lifelong learning is a fold over tasks::

    s_0        = method.init(key)                     before life
    s_t, trace = method.learn(s_{t-1}, task_t, key)   one task, and nothing else in sight
    answer     = method.predict(method.ready(s_t), x, id)   the exam; id is None when the scenario withholds it

The verbs are pure: they never change their arguments. Everything a method remembers is in its state.

Shapes, for the whole package: B batch, N examples, C classes, n competing logits, T tasks, P parameters,
M memory slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from math import inf
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, device, nn


class Refused(ValueError):
    """An input that cannot be used. The message says what was wrong and what to do next."""


def unknown(what: str, name: str, known: Iterable[str], see: str = "") -> Refused:
    """The error for a name that is not known: it says which is nearest, and all there are (or where to `see` them)."""
    known = list(known)
    near = get_close_matches(name.lower(), known, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    return Refused(f"unknown {what} {name!r}{hint} {see or 'There are: ' + ', '.join(known)}")


def check_finite(name: str, value: float) -> None:
    """Raises Refused where an option of a method is no finite number from 0 on."""
    if not 0 <= value < inf:
        raise Refused(f"method.{name} is {value}; it must be finite and not negative")


def check_limit(name: str, value: int | None) -> None:
    """Raises Refused where an option of a method is no number of examples."""
    if value is not None and value < 1:
        raise Refused(f"method.{name} is {value}; use at least 1, or leave it out for all examples")


def check_share(name: str, value: float) -> None:
    """Raises Refused where an option of a method is no share of something, and a share of it must be left."""
    if not 0 < value < 1:
        raise Refused(f"method.{name} is {value}; it must lie between 0 and 1, both excluded")


def check_words(of: str, options: Any) -> None:
    """Raises Refused where one of some options (a dataclass) that takes one of a few words has another value."""
    for name, words in _choices(options.__class__).items():
        if (value := getattr(options, name)) not in words:
            raise Refused(f"{of}.{name} is {value!r}; use one of {', '.join(words)}")


@cache
def _choices(kind: Any) -> dict[str, tuple[str, ...]]:
    """The words that each field takes which takes only some."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}


class Scenario(Enum):
    """What the learner is told: is the task's id given in training, is it given at the exam, are labels shared?"""

    GG = "gg"  # task-incremental: given, given; only the task's own logits compete
    GNS = "gns"  # domain-incremental: given, not given, labels shared
    GNU = "gnu"  # class-incremental: given, not given, labels unshared
    NNS = "nns"  # task-free: never given, labels shared


class TaskId(NamedTuple):
    """Which task this is. Present only where the scenario gives it."""

    index: int  # type: ignore[assignment]  # 0 for the first task of the stream
    classes: Tensor  # (n,) int64, the sorted labels of this task


class Batch(NamedTuple):
    """Examples as the network takes them."""

    x: Tensor  # (B, ...) float32, scaled
    y: Tensor  # (B,) int64
    rows: Tensor  # (B,) int64, the place of each example in its set


class Scale(NamedTuple):
    """How stored values become network inputs: (x - shift) * factor."""

    shift: float = 0.0
    factor: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        if self == (0.0, 1.0):
            return x.float()
        scaled = x.to(torch.float32, copy=True)  # one copy, then in place
        if self.shift:
            scaled.sub_(self.shift)
        return scaled.mul_(self.factor)


class Examples(Protocol):
    """An indexable set of examples. Labels are always in memory; inputs may be computed or read when taken."""

    @property
    def labels(self) -> Tensor: ...  # (N,) int64
    @property
    def scale(self) -> Scale: ...
    def __len__(self) -> int: ...
    def raw(self, indices: Tensor) -> Tensor: ...  # (B, ...) as stored: uint8 stays uint8
    def take(self, indices: Tensor) -> Batch: ...
    def split(self, key: int, share: float) -> tuple[Examples, Examples]: ...  # (the rest, the share)
    def materialise(self, where: device | None = None) -> Examples: ...  # every transform applied, once


class Task(NamedTuple):
    """All that a method sees while it learns."""

    examples: Examples
    id: TaskId | None


class Answer(NamedTuple):
    """What a method says of B inputs.

    `labels` names the columns of `logits`; it is empty when the method cannot answer yet. `task` holds the inferred
    task of each input, or None where nothing was inferred: an id then only narrows which columns compete. `doubt` says
    how little each input looks like its task, by the same measure whether that was inferred or given; where it is None
    that measure is the entropy of the logits.
    """

    logits: Tensor  # (B, n)
    labels: Tensor  # (n,) int64
    task: Tensor | None = None  # (B,) int64
    doubt: Tensor | None = None  # (B,) float64, low where it is sure


class Trace(NamedTuple):
    """What happened while learning one task."""

    loss: Tensor  # (steps,) float32, the loss of each batch before its step


@dataclass(frozen=True)
class Fit:
    """How a network is fitted to one task.

    Args:
        optimizer: a stock optimiser of `torch.optim`.
        lr: learning rate.
        momentum: momentum of sgd and rmsprop.
        nesterov: Nesterov momentum (sgd).
        weight_decay: L2 decay; decoupled in adamw.
        epochs: passes over the task. Give `epochs` or `steps`.
        steps: gradient steps a task; 1,000 when neither is given.
        batch: examples a step; when not given 128, cut to fit a smaller task.
        schedule: learning rate after the warm-up: constant, or a cosine down to zero.
        warmup: steps over which the learning rate rises linearly.
        clip: largest norm of the whole gradient; none when not given.
        moments: start each task with fresh optimiser moments, or keep them.
        compete: whose logits compete in training: those of the task, of all labels seen, of all labels there will
            ever be; `scenario` takes the task's in GG and all seen elsewhere.
        order: shuffled every epoch, or in order of arrival.
        start: fresh start values from each layer's `reset_parameters`, or those of the net as it is given.
        freeze: parameters that never move, as name patterns separated by commas (`features.*`).
        head: name of the layer whose rows are the labels; the last Linear layer when empty.
    """

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    epochs: int | None = None
    steps: int | None = None
    batch: int | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None
    moments: Literal["fresh", "kept"] = "fresh"
    compete: Literal["scenario", "task", "seen", "all"] = "scenario"
    order: Literal["shuffled", "arrival"] = "shuffled"
    start: Literal["fresh", "net"] = "fresh"
    freeze: str = ""
    head: str = ""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise Refused("fit.epochs and fit.steps are both given; give one of them")
        check_words("fit", self)
        for name in ("epochs", "steps", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refused(f"fit.{name} is {value}; it must be at least 1")
        for name in ("lr", "momentum", "weight_decay", "warmup"):
            if not 0 <= getattr(self, name) < inf:
                raise Refused(f"fit.{name} is {getattr(self, name)}; it must be finite and not negative")
        if self.clip is not None and not 0 < self.clip < inf:
            raise Refused(f"fit.clip is {self.clip}; it must be finite and positive")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise Refused("fit.nesterov needs fit.optimizer sgd and a positive fit.momentum")


State = Any  # a pytree of tensors: each method names its own NamedTuple
Ready = Any


@dataclass(frozen=True, eq=False)
class Method(ABC):
    """A continual-learning method: a frozen set of hyper-parameters and five pure verbs.

    Final: write a new file rather than a subclass of a method. `net` gives shapes and start values; it is never
    changed.
    """

    net: nn.Module
    fit: Fit = Fit()

    scenarios: ClassVar[frozenset[Scenario]] = frozenset(Scenario)
    memory: ClassVar[Literal["constant", "task", "class", "data"]] = "constant"  # what the state grows with
    states: ClassVar[tuple[type, ...]] = ()  # the NamedTuples of its state
    isolates: ClassVar[bool] = False  # old answers stay bit-identical
    rehearses: ClassVar[bool] = False  # its state holds examples as they were given
    alone: ClassVar[bool] = False  # a task's labels compete among themselves only, so that one class teaches nothing
    pools: ClassVar[bool] = False  # an answer may depend on the other inputs of its batch
    off: ClassVar[Mapping[str, Any]] = {}  # options under which it is finetune, bit for bit
    fails: ClassVar[Mapping[Scenario, str]] = {}  # where it runs and is known to fail, with what showed it

    @abstractmethod
    def init(self, key: int, background: Examples | None = None) -> State:
        """The state before any task."""

    @abstractmethod
    def learn(self, state: State, task: Task, key: int) -> tuple[State, Trace]:
        """The state after one more task, and what happened on the way."""

    def ready(self, state: State) -> Ready:
        """What an exam needs again and again, computed once per state and never stored."""
        return state

    @abstractmethod
    def predict(self, ready: Ready, x: Tensor, id: TaskId | None = None) -> Answer:
        """The answer for inputs x (B, ...), each on its own."""

    def vet(self, tasks: Sequence[Task]) -> None:
        """Looks at all tasks of a run before the first is learned.

        Raises:
            Refused: one of them could not be learned after those before it, as `learn` would say when hours are spent.
        """
        return

    def forget(self, state: State, index: int) -> State:
        """The state of one who never kept the task of this index: the others answer as before, to the bit.

        Raises:
            Refused: the method cannot forget one task, or keeps none of this index.
        """
        raise Refused(
            f"{type(self).__name__} cannot forget one task: its weights are shared by all of them. "
            "Roll back to a state before it was learned"
        )

    def with_(self, **changes: Any) -> Self:
        """The same method with other hyper-parameters."""
        from dataclasses import replace

        return replace(self, **changes)
