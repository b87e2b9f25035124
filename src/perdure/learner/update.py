"""An update: from a version and new examples to a candidate, learned and examined; nobody sees it yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perdure import tree
from perdure.contract import Answer, Examples, Method, Refused, Scale, State, Task, TaskId
from perdure.data import BLOCK, Arrays, Mapped, View, blocks
from perdure.datasets.base import scale_of
from perdure.learner.intake import Array, Given, aligned
from perdure.learner.novelty import Relation, Usual, calibrate, doubt, relation
from perdure.learner.pool import Pool, read_pool
from perdure.learner.settings import Scaling, Settings
from perdure.learner.version import Branch, Known, Version, numbered, packed
from perdure.rng import fold, permutation
from perdure.store import Blobs, refusing

SAMPLE = 256  # new examples that are compared with what is known
DRY = 2  # steps of the trial that shows how many bytes a task will take


class Lesson(NamedTuple):
    """What one task is learned from, and what it will be asked."""

    branch: Branch  # the task's, with its labels and a scale; the task itself is not in it yet
    known: Known  # the task: as it was where it is known, without an exam where it is new
    fresh: Pool  # new examples to learn
    again: Pool  # those that were kept of the task, to be learned beside them
    exam: Pool  # what was asked before, and then what is new
    kept: Pool

    @property
    def task(self) -> Task:
        """As the method is told."""
        return Task(shown(self.branch, self.fresh.join(self.again)), self.known.id)


class Asked(NamedTuple):
    """What some examples were answered."""

    right: Array  # (n,) bool
    doubt: Tensor  # (n,) float64
    task: Tensor | None  # (n,) int64, the index of the task that each was taken for; None where none is told apart

    def pick(self, rows: Tensor) -> Asked:
        """The same of some of them."""
        return Asked(self.right[rows.numpy()], self.doubt[rows], None if self.task is None else self.task[rows])


class Outcome(NamedTuple):
    """What a lesson led to."""

    branch: Branch
    rights: dict[str, Array]  # (asked,) bool by task, of all exams; the learned one's begins with what was asked before
    given: float | None  # accuracy on the learned task with its id given; None without an exam
    learn_seconds: float
    exam_seconds: float


def shown(branch: Branch, pool: Pool) -> Examples:
    """Examples as the network of a branch takes them."""
    held = isinstance(pool.x, Tensor)
    if branch.shift.ndim:
        plain = Arrays(pool.x, pool.y) if held else Mapped(pool.x, pool.y)
        return View(plain, transform=lambda x, rows: branch.scale(x))
    scale = Scale(float(branch.shift), float(branch.factor))
    return Arrays(pool.x, pool.y, scale) if held else Mapped(pool.x, pool.y, scale)


def scaled(branch: Branch, how: Scaling, x: Any) -> Branch:
    """The branch with a scale that is found on inputs x (N, ...), on a sample of those on disk.

    Inputs without columns have one scale, even where one for each column is asked for.
    """
    if how == "none":
        return branch
    sample = x if isinstance(x, Tensor) else torch.as_tensor(x[permutation(0, x.shape[0])[:BLOCK].numpy()])
    if how == "one" or sample.ndim != 2:
        found = scale_of(sample, "standard")
        return branch._replace(shift=torch.tensor(found.shift), factor=torch.tensor(found.factor))
    deviation, mean = torch.std_mean(sample.double(), 0, correction=0)
    return branch._replace(shift=mean.float(), factor=deviation.where(deviation > 0, 1).reciprocal().float())


def lesson(
    blobs: Blobs,
    version: Version,
    name: str,
    given: Given,
    asked: float | Given,
    least: int,
    settings: Settings,
    key: int,
) -> Lesson:
    """Deals new examples into those that are learned, asked and kept, beside what a task of that name has already.

    Args:
        asked: the share of every class to hold back for the exam, or the exam's own examples.
        least: examples that are learned before any is held back.

    Raises:
        Refused: a task of that name has other inputs, or the labels are of another kind.
    """
    assert given.y is not None
    if (home := version.branch_of(name)) is not None and home.signature != given.signature:
        raise Refused(f"{name} was learned from {home.signature}, and these are {given.signature}; use another name")
    branch = version.branch_for(given.signature)
    if branch is None:
        bits = torch.empty(0, dtype=torch.uint8)
        none = torch.empty(0, 2)
        start = Branch(given.signature, torch.tensor(0.0), torch.tensor(1.0), (), (), 0, None, bits, none)
        branch = scaled(start, settings.scaling, given.x)
    labels, y = numbered(branch.labels, given.y)
    pool = Pool(given.x, y)
    if isinstance(asked, float):
        fresh, exam = pool.deal(min(asked, settings.exam / len(y)), fold(key, "exam"))
        if len(fresh.y) < least:
            fresh, exam = pool.deal(0, 0)
    else:
        asked = aligned(asked, given.signature)
        if asked.signature != given.signature or asked.y is None:
            raise Refused(f"the exam is {asked.signature}, and what is learned {given.signature}; give both alike")
        labels, numbers = numbered(labels, asked.y)
        fresh, exam = pool, Pool(asked.x, numbers)
    known = next((task for task in branch.tasks if task.name == name), None)
    if known is None:
        known = Known(name, branch.following, y[:0], "", 0, "", 0)
    before = read_pool(blobs, known.exam, given.signature.shape, known.classes, known.asked)
    kept = read_pool(blobs, known.kept, given.signature.shape, known.classes)
    classes = torch.cat([known.classes, fresh.y]).unique()
    if len(strange := exam.y[~torch.isin(exam.y, classes)]):
        raise Refused(f"the exam asks the label {labels[int(strange[0])]!r}, which no example shows")
    return Lesson(
        branch._replace(labels=labels),
        known._replace(classes=classes),
        fresh.held_if_small(),
        fresh.pick(torch.arange(0)) if kept is None else kept.weighed(fresh),
        exam if before is None else before.join(exam),
        fresh.join(kept).few(settings.kept, fold(key, "keep")),
    )


def device_of(state: State) -> torch.device:
    """Where a state is."""
    return next((leaf.device for _, leaf in tree.leaves(state) if isinstance(leaf, Tensor)), torch.device("cpu"))


def answered(method: Method, ready: Any, branch: Branch, x: Tensor, id: TaskId | None) -> Answer:
    """What is said of inputs as the network of a branch takes them (B, ...); at least one label competes.

    Raises:
        Refused: it is no answer: the state may be that of a stranger.
    """
    with refusing(f"what was learned from {branch.signature} gives no answer"):
        logits, labels, task, _ = answer = method.predict(ready, x, id)
        named = labels.dtype == torch.int64 and int(labels.min()) >= 0 and int(labels.max()) < len(branch.labels)
        told = task is None or (task.shape == x.shape[:1] and task.dtype == torch.int64)
        whole = logits.shape == (len(x), len(labels)) and logits.is_floating_point() and not logits.isnan().any()
        if not (named and told and whole):
            raise Refused(f"what was learned from {branch.signature} is damaged: it answers with other labels or tasks")
    return answer


def ask(method: Method, ready: Any, branch: Branch, pool: Pool, id: TaskId | None) -> Asked:
    """Answers examples, of a task that is given or is to be found."""
    device, right, doubts, tasks = device_of(branch.state), [], [], []
    for x, y, _ in blocks(shown(branch, pool), device):
        answer = answered(method, ready, branch, x, id)
        right.append((answer.labels[answer.logits.argmax(1)] == y).cpu())
        doubts.append(doubt(answer).cpu())
        if (task := torch.full_like(y, id.index) if id else answer.task) is not None:
            tasks.append(task.cpu())
    nothing = torch.zeros(0, dtype=torch.float64)
    found = torch.cat(tasks) if tasks else None if len(pool.y) else nothing.long()
    return Asked(torch.cat([nothing.bool(), *right]).numpy(), torch.cat([nothing, *doubts]), found)


def examined(
    method: Method, blobs: Blobs, branch: Branch, ids: bool, brought: Mapping[str, Pool], but: str = ""
) -> dict[str, Asked]:
    """What a branch answers to the exam of each task, of all but one: to the stored one, or one that is brought."""
    ready, none = method.ready(branch.state), Pool(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return {
        task.name: ask(method, ready, branch, exam or brought.get(task.name, none), task.id if ids else None)
        for task in branch.tasks
        if task.name != but
        for exam in [read_pool(blobs, task.exam, branch.signature.shape, task.classes, task.asked)]
    }


def judged(branch: Branch, asked: Mapping[str, Asked]) -> Branch:
    """The branch with what its exams show: which answers are right, and what doubt is usual."""
    tasks = [asked[task.name].pick(torch.arange(task.asked)) for task in branch.tasks]  # without what was brought
    own = [torch.full((len(found.right),), task.index) for task, found in zip(branch.tasks, tasks, strict=True)]
    taken = [found.task for found in tasks if found.task is not None]
    usual = calibrate(
        torch.cat(own),
        torch.cat([found.doubt for found in tasks]),
        torch.cat(taken) if len(taken) == len(tasks) else None,
    )
    found = [usual.get(task.index, Usual(inf, 0, 0)) for task in branch.tasks]
    limits = torch.tensor([each.limit for each in found], dtype=torch.float64)
    up = limits.float().nextafter(torch.tensor(inf))  # in fewer bits, and no example of an exam is left out by them
    doubts = torch.stack([up, torch.tensor([each.misfits for each in found]).float()], 1)
    return branch._replace(right=packed([found.right for found in tasks]), doubts=doubts)


def relation_of(method: Method, ready: Any, branch: Branch, pool: Pool, key: int) -> tuple[Relation, str]:
    """How examples look before they are learned, by a sample, and the name of the task they are nearest to."""
    rows = permutation(key, len(pool.y))[:SAMPLE].sort().values
    found = ask(method, ready, branch, pool.pick(rows), None)
    looks = relation(found.doubt, found.task, branch.usual)
    return looks, next((task.name for task in branch.tasks if task.index == looks.task), "")


def first_state(method: Method, branch: Branch, seed: int, device: torch.device) -> State:
    """The state of a branch before its next task."""
    if branch.tasks:
        return branch.state
    return tree.to(method.init(fold(seed, "branch", *map(str, branch.signature))), device)


def learned(method: Method, state: State, lesson: Lesson, key: int) -> State:
    """The state after a lesson.

    Raises:
        Refused: it cannot be learned from this state, which may be that of a stranger.
    """
    with refusing(f"{lesson.known.name} cannot be learned"):
        return method.learn(state, lesson.task, key)[0]


def projected(method: Method, lesson: Lesson, settings: Settings, key: int, device: torch.device) -> int:
    """Bytes by which a version will grow, by a trial of a few steps: they hardly depend on how many."""
    state = first_state(method, lesson.branch, settings.seed, device)
    steps = replace(method.fit, steps=DRY, epochs=None)
    after = learned(method.with_(fit=steps), state, lesson, key)
    old = tree.nbytes(state) if lesson.branch.tasks else 0
    pools = [pool for pool in (lesson.exam, lesson.kept) if len(pool.y)]
    new = sum(tree.nbytes(tuple(pool.pick(torch.arange(1)).held())) * len(pool.y) for pool in pools)
    return tree.nbytes(after) - old + new - lesson.known.nbytes


def updated(
    method: Method,
    blobs: Blobs,
    lesson: Lesson,
    settings: Settings,
    key: int,
    device: torch.device,
    brought: Mapping[str, Pool],
) -> Outcome:
    """Learns a lesson and asks all exams of its branch; writes the examples that are to be kept.

    Args:
        brought: exams of tasks that have none stored; that of the learned one is asked before what is new.
    """
    state, begun = first_state(method, lesson.branch, settings.seed, device), time.perf_counter()
    state, taught = learned(method, state, lesson, key), time.perf_counter()
    branch, known = lesson.branch._replace(state=state), lesson.known
    ready, exam, first = method.ready(state), lesson.exam, brought.get(known.name, lesson.exam.pick(torch.arange(0)))
    answered(method, ready, branch, torch.zeros(1, *branch.signature.shape, device=device), None)  # as whoever opens it
    given = ask(method, ready, branch, first.join(exam), known.id)
    own = given if settings.ids else ask(method, ready, branch, first.join(exam), None)
    others = examined(method, blobs, branch, settings.ids, brought, known.name)
    done = time.perf_counter()

    rows = exam._replace(x=torch.arange(len(exam.y))).few(cap(settings.asked, exam.y), fold(key, "cap")).x
    (exam_name, exam_bytes), (kept_name, kept_bytes) = exam.pick(rows).write(blobs), lesson.kept.write(blobs)
    known = known._replace(exam=exam_name, asked=len(rows), kept=kept_name, nbytes=exam_bytes + kept_bytes)
    place = next((i for i, task in enumerate(branch.tasks) if task.name == known.name), len(branch.tasks))
    tasks = (*branch.tasks[:place], known, *branch.tasks[place + 1 :])
    branch = branch._replace(tasks=tasks, following=max(branch.following, known.index + 1))
    return Outcome(
        judged(branch, others | {known.name: own.pick(len(first.y) + rows)}),
        {name: found.right for name, found in (others | {known.name: own}).items()},
        float(given.right.mean()) if len(given.right) else None,
        taught - begun,
        done - taught,
    )


def cap(most: int, y: Tensor) -> int:
    """How many of each class make an exam of about `most` examples of labels y (n,): at least one, or none at all."""
    if not most:
        return 0
    return max(1, most // max(1, len(y.unique()))) if len(y) > most else max(1, len(y))


def without(method: Method, blobs: Blobs, branch: Branch, name: str, ids: bool) -> Branch:
    """The branch of one who never kept a task, with labels that no other task has forgotten too.

    Raises:
        Refused: the method cannot forget one task.
    """
    task = next(task for task in branch.tasks if task.name == name)
    tasks = tuple(other for other in branch.tasks if other is not task)
    if not tasks:
        return branch._replace(tasks=())
    with refusing(f"{name} cannot be taken out of what was learned from {branch.signature}"):
        forgotten = method.forget(branch.state, task.index)
    used = torch.cat([other.classes for other in tasks])
    labels = tuple(label if bool((used == number).any()) else None for number, label in enumerate(branch.labels))
    after = branch._replace(state=forgotten, tasks=tasks, labels=labels)
    same_answers(method, blobs, branch, after)
    return judged(after, examined(method, blobs, after, ids, {}))


def same_answers(method: Method, blobs: Blobs, before: Branch, after: Branch) -> int:
    """How many examples of the exams of all tasks of `after` both branches answer with the same bits, the task given.

    Raises:
        Refused: an answer is another.
    """
    ready, count = (method.ready(before.state), method.ready(after.state)), 0
    for task in after.tasks:
        pool = read_pool(blobs, task.exam, after.signature.shape, task.classes, task.asked)
        if pool is None:
            continue
        for x, *_ in blocks(shown(after, pool), device_of(after.state)):
            logits = [answered(method, each, before, x, task.id).logits for each in ready]
            if not torch.equal(*logits):
                raise Refused(f"without it {task.name} would be answered otherwise; nothing was changed")
        count += len(pool.y)
    return count
