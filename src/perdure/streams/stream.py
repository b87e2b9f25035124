"""A stream: tasks as a learner sees them, filtered by the scenario, and an exam for each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil
from typing import Generic, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from perdure.contract import Examples, Refused, Scale, Scenario, Task, TaskId, unknown
from perdure.data import Concat, View
from perdure.rng import fold, permutation

CHUNK = 12_800  # examples a chunk where tasks have no borders

T = TypeVar("T")

NAMES = {
    "gg": Scenario.GG,
    "gns": Scenario.GNS,
    "gnu": Scenario.GNU,
    "nns": Scenario.NNS,
    "task": Scenario.GG,
    "domain": Scenario.GNS,
    "class": Scenario.GNU,
    "free": Scenario.NNS,
}


class Exam(NamedTuple):
    """What is asked about one task. The id is always there: it is the evaluator's knowledge, not the learner's."""

    examples: Examples
    id: TaskId


class Lesson(NamedTuple):
    """One task, everything known about it, before the scenario hides any."""

    train: Examples
    exam: Examples
    classes: Tensor  # (n,) the sorted labels of this task
    most: int | None = None  # how many of `train` are learned, drawn by the key; all when None
    key: int = 0

    @property
    def size(self) -> int:
        """How many examples are learned."""
        return len(self.train) if self.most is None else min(self.most, len(self.train))

    @property
    def learned(self) -> Examples:
        """The examples that are learned, in order of arrival."""
        if self.most is None:
            return self.train
        return View(self.train, permutation(self.key, len(self.train))[: self.most].sort().values)


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are asked for, and not kept."""

    def __init__(self, make: Callable[[int], T], places: range) -> None:
        self.make, self.places = make, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy[T]: ...
    def __getitem__(self, index: int | slice) -> T | Lazy[T]:
        if isinstance(index, slice):
            return Lazy(self.make, self.places[index])
        return self.make(self.places[index])


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks one after another: `stream[i]` is task i as a learner sees it, `stream[:3]` the stream of the first three.

    A slice is a stream of its own: its tasks are numbered from 0.

    Args:
        name: "permuted-mnist".
        scenario: what the learner is told.
        shape: of one input.
        scale: how stored values become network inputs.
        labels: (n,) the labels known from the start; None where the head grows with the tasks.
        ordered: examples must be learned in order of arrival.
        background: examples to meta-train or pre-train on, before any task.
        tasks: what a learner sees, ids only where the scenario gives them; chunks of the flow in NNS.
        exams: one a task.
        ends: how many of `tasks` have been learned when exam i can first be passed, T of them; 1..T unless NNS.
        begins: which of `tasks` first touches the task i, T of them; 0..T-1 unless NNS.
        remade: the stream of other lessons, made from its own.
        words: what the data call each label, where that is no number of its own and one label has one word.
    """

    name: str
    scenario: Scenario
    shape: tuple[int, ...]
    scale: Scale
    labels: Tensor | None
    ordered: bool
    background: Examples | None
    tasks: Sequence[Task]
    exams: Sequence[Exam]
    ends: tuple[int, ...]
    begins: tuple[int, ...]
    remade: Callable[[Callable[[Sequence[Lesson]], Sequence[Lesson]]], Stream] | None = None
    words: dict[int, str | int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.exams)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Stream: ...
    def __getitem__(self, index: int | slice) -> Task | Stream:
        if not isinstance(index, slice):
            return self.tasks[index]
        return self.with_lessons(lambda lessons: lessons[index])

    def with_lessons(self, change: Callable[[Sequence[Lesson]], Sequence[Lesson]]) -> Stream:
        """The same kind of stream, of lessons made from its own."""
        if self.remade is None:
            raise TypeError("this stream was put together by hand; slice its tasks and exams instead")
        return self.remade(change)


def parse_scenario(text: str) -> Scenario:
    """A scenario by its letters (gg, gns, gnu, nns) or its name (task, domain, class, free).

    Raises:
        Refused: there is none of this name.
    """
    if text.lower() == "nnu":
        raise Refused(
            "scenario nnu does not exist: a label never seen before gives the new task away, so the task is known; "
            "use gnu"
        )
    if text.lower() not in NAMES:
        raise unknown("scenario", text, NAMES)
    return NAMES[text.lower()]


def at_least_one(**counts: int) -> None:
    """Refuses counts below one."""
    for name, count in counts.items():
        if count < 1:
            raise Refused(f"{name} is {count}; it must be at least 1")


def apart(classes: Sequence[Tensor]) -> bool:
    """Whether no two tasks share a label."""
    return sum(map(len, classes)) == len(torch.cat(list(classes)).unique())


def alike(classes: Sequence[Tensor]) -> bool:
    """Whether all tasks have the same labels."""
    return all(torch.equal(labels, classes[0]) for labels in classes)


def assemble(
    name: str,
    scenario: Scenario | str,
    lessons: Sequence[Lesson],
    seed: int,
    *,
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
    ordered: bool = False,
    words: Sequence[str | int] = (),
) -> Stream:
    """The stream of some lessons under a scenario.

    Args:
        scenario: or its letters, or its name.
        seed: decides which `examples_per_task` are drawn and how the flow of NNS is shuffled.
        chunk: examples a chunk of the flow (NNS).
        passes: how often each task comes in the flow (NNS), each time shuffled anew unless `ordered`.
        examples_per_task: training examples drawn from each task; all of them when not given.
        words: what the data call the labels 0, 1, ... of the lessons; nothing where these are their own.

    Raises:
        Refused: no task, an option that means nothing here, or labels with which the scenario is void.
    """
    scenario = parse_scenario(scenario) if isinstance(scenario, str) else scenario
    at_least_one(tasks=len(lessons), chunk=chunk, passes=passes)
    free = scenario is Scenario.NNS
    for option, value, default in (("chunk", chunk, CHUNK), ("passes", passes, 1)):
        if not free and value != default:
            raise Refused(
                f"stream.{option} means nothing in scenario {scenario.value}: only in nns do examples come in a flow; "
                "leave it out, or use fit.epochs to repeat"
            )
    if examples_per_task is not None:
        at_least_one(examples_per_task=examples_per_task)
    sizes, classes = [], []
    for i, lesson in enumerate(lessons):
        size = lesson.size
        if not size or not len(lesson.exam):
            raise Refused(f"task {i + 1} has no examples to {'ask' if size else 'learn'}; give it some")
        if (most := examples_per_task or size) > size:
            raise Refused(f"examples_per_task is {most}, but task {i + 1} has {size}; use at most that")
        sizes.append(most)
        classes.append(lesson.classes)
    if examples_per_task is not None:
        lessons = _capped(lessons, examples_per_task, seed)
    names, labels = _names(scenario, classes)

    def train(i: int) -> Examples:
        return _renamed(lessons[i].learned, classes[i], names[i])

    def exam(i: int) -> Exam:
        return Exam(_renamed(lessons[i].exam, classes[i], names[i]), TaskId(i, names[i]))

    count, first = len(lessons), lessons[0].train
    tasks: Sequence[Task] = Lazy(lambda i: Task(train(i), TaskId(i, names[i])), range(count))
    ends, begins = tuple(range(1, count + 1)), tuple(range(count))
    if free:
        tasks, ends, begins = _flow(train, sizes, seed, chunk, passes, ordered)
    return Stream(
        name=name,
        scenario=scenario,
        shape=tuple(first.raw(torch.zeros(1, dtype=torch.int64)).shape[1:]),
        scale=first.scale,
        labels=labels,
        ordered=ordered,
        background=None,
        tasks=tasks,
        exams=Lazy(exam, range(count)),
        ends=ends,
        begins=begins,
        remade=lambda change: assemble(
            name, scenario, change(lessons), seed, chunk=chunk, passes=passes, ordered=ordered, words=words
        ),
        words=_spoken(words, classes, names) if words else {},
    )


def _spoken(words: Sequence[str | int], old: Sequence[Tensor], new: Sequence[Tensor]) -> dict[int, str | int]:
    """The word of each label as a stream has it, from those of its tasks; none where one label has several."""
    pairs = {
        (int(n), words[int(o)]) for olds, news in zip(old, new, strict=True) for o, n in zip(olds, news, strict=True)
    }
    spoken = dict(sorted(pairs, key=lambda pair: pair[0]))
    return spoken if len(spoken) == len(pairs) else {}


def _capped(lessons: Sequence[Lesson], most: int, seed: int) -> Sequence[Lesson]:
    """The same lessons, with fewer training examples to be drawn, by a key each."""
    return Lazy(lambda i: lessons[i]._replace(most=most, key=fold(seed, "examples", i)), range(len(lessons)))


def _names(scenario: Scenario, classes: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor | None]:
    """What each task's labels are called under a scenario, and the labels known from the start.

    Where labels are shared, tasks with nothing in common number theirs 0..l-1 each; others keep common names. Where
    they are not, a label is the pair of task and label, numbered through, unless the tasks have nothing in common.
    """
    union, counts, disjoint = torch.cat(list(classes)).unique(), [len(labels) for labels in classes], apart(classes)
    match scenario:
        case Scenario.GG:
            numbered = alike(classes) and torch.equal(classes[0], torch.arange(counts[0]))
            names, known, least = classes, classes[0] if numbered else None, min(counts)
        case Scenario.GNU:
            starts = [0, *accumulate(counts)]
            pairs = [torch.arange(start, start + n) for start, n in zip(starts, counts, strict=False)]
            names, known, least = classes if disjoint else pairs, None, 2
        case _ if disjoint and len(set(counts)) > 1:
            raise Refused(
                f"scenario {scenario.value} shares labels among tasks, so each needs as many; "
                f"they have {min(counts)} to {max(counts)}. Use gnu or gg, or as many labels in each task"
            )
        case _:
            known = torch.arange(counts[0] if disjoint else len(union))
            names = [known if disjoint else torch.searchsorted(union, labels) for labels in classes]
            least = len(known)
    if least < 2:
        raise Refused(
            f"a task has one label only, and where only its own labels compete (scenario {scenario.value}) every "
            "answer is right; use fewer tasks, so that each has two labels or more, or scenario gnu"
        )
    return names, known


def _renamed(examples: Examples, old: Tensor, new: Tensor) -> Examples:
    if torch.equal(old, new):
        return examples
    return View(examples, labels=new[torch.searchsorted(old, examples.labels)])


def _flow(
    train: Callable[[int], Examples], sizes: Sequence[int], seed: int, chunk: int, passes: int, ordered: bool
) -> tuple[Sequence[Task], tuple[int, ...], tuple[int, ...]]:
    """Chunks cut across borders from all tasks end to end, and where among them each task ends and begins."""
    stops = list(accumulate(size * passes for size in sizes))
    starts = [0, *stops[:-1]]

    def piece(i: int, low: int, high: int) -> Examples:
        """Task i from its `low`-th to its `high`-th place in the flow."""
        n, examples = sizes[i], train(i)
        first = low // n
        orders = [
            torch.arange(n) if ordered else permutation(fold(seed, "flow", i, turn), n)
            for turn in range(first, ceil(high / n))
        ]
        return View(examples, torch.cat(orders)[low - first * n : high - first * n])

    def chunk_at(k: int) -> Task:
        low, high = k * chunk, min((k + 1) * chunk, stops[-1])
        touched = range(bisect_right(stops, low), bisect_left(stops, high) + 1)
        pieces = [piece(i, max(low, starts[i]) - starts[i], min(high, stops[i]) - starts[i]) for i in touched]
        return Task(Concat(pieces), None)

    tasks = Lazy(chunk_at, range(ceil(stops[-1] / chunk)))
    return tasks, tuple(ceil(stop / chunk) for stop in stops), tuple(start // chunk for start in starts)
