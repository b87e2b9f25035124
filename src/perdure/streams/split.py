"""Split: the labels of the base are divided among the tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.contract import Examples, Refused, Scenario
from perdure.data import View
from perdure.datasets.base import Base, Scaling
from perdure.rng import fold, permutation
from perdure.streams.stream import CHUNK, Lesson, Stream, assemble, at_least_one


def _order(class_order: str, classes: int, key: int) -> Tensor:
    if class_order == "seed":
        return permutation(key, classes)
    listed = [int(label) if label.strip().isdecimal() else -1 for label in class_order.split(",")]
    if sorted(listed) != list(range(classes)):
        raise Refused(
            f"stream.class_order is {class_order!r}; use seed, or each label from 0 to {classes - 1} once, "
            "with commas between"
        )
    return torch.tensor(listed)


def split(
    base: Base,
    tasks: int = 5,
    seed: int = 0,
    scenario: Scenario | str | None = None,
    *,
    class_order: str = "seed",
    scale: Scaling = "unit",
    chunk: int = CHUNK,
    passes: int = 1,
    examples_per_task: int | None = None,
) -> Stream:
    """Every task has its own labels of the base (default gnu).

    Args:
        base: what is divided.
        tasks: how many tasks; if they do not divide the labels evenly, the first ones have one more.
        seed: decides the stream.
        scenario: gnu when not given; in gns and nns the labels of every task are numbered from 0.
        class_order: in which order labels are dealt: seed (a random one), or labels with commas between (0,1,2).
        scale: how stored values become inputs: unit, standard or none.
        chunk: examples a chunk (nns only).
        passes: how often each task comes (nns only).
        examples_per_task: training examples drawn from each task.

    Raises:
        Refused: more tasks than labels, one label where only a task's own compete, or an option is out of range.
    """
    at_least_one(tasks=tasks)
    if tasks > base.classes:
        raise Refused(f"the {base.classes} labels of {base.name} cannot be split over {tasks} tasks; use fewer tasks")
    order, base = _order(class_order, base.classes, fold(seed, "split")), base.scaled(scale)

    def of(part: Examples, classes: Tensor) -> View:
        return View(part, torch.isin(part.labels, classes).nonzero()[:, 0])

    dealt = [classes.sort().values for classes in order.tensor_split(tasks)]
    return assemble(
        f"split-{base.name}",
        scenario or Scenario.GNU,
        [Lesson(of(base.train, classes), of(base.exam, classes), classes) for classes in dealt],
        seed,
        chunk=chunk,
        passes=passes,
        examples_per_task=examples_per_task,
    )
