"""Every method: a known task learned again with more of the same or a new class, and a task of one class alone."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from perdure import tree
from perdure.contract import Answer, Fit, Method, Refused, Scale, Scenario, State, Task, TaskId
from perdure.data import Arrays
from perdure.methods import METHODS
from perdure.methods.supsup import SupSup
from perdure.model import with_outputs
from perdure.nets.mlp import bn_mlp, mlp
from perdure.rng import fold, normal, permutation
from perdure.train import for_scenario

NETS = {"hopsupsup": bn_mlp((8,), (256,))}  # too few masks of 32 units know a task
OPTIONS = {
    "supsup": {"outputs": 20},
    "dgr": {"likelihood": "gaussian"},  # any numbers, which know no bounds
    "pruned": {"density": 0.5},  # of a small network
}
ALONE = (
    "supsup",
    "finetune",
    "joint",
    "l2",
    "ewc",
    "online-ewc",
    "si",
    "mas",
    "l-mas",
    "rwalk",
    "scp",
    "lwf",
    "icarl",
    "dgr",
    "fearnet",
    "ncm",
    "er",
    "ewc-er",
    "der",
    "gem",
    "a-gem",
)  # have what to tell it from
CENTRES = 3 * normal(11, 8 * 8).view(8, 8).float()  # of the classes
CLASSES = ((0, 1), (2, 3), (4, 5))  # of the tasks that are learned first


def _task(index: int, classes: tuple[int, ...], key: int = 0, n: int = 90) -> Task:
    key = fold(3, index, len(classes), key)
    labels = torch.tensor(classes)[permutation(fold(key, "classes"), n) % len(classes)]
    x = CENTRES[labels] + normal(key, 8 * n).view(n, 8).float()
    return Task(Arrays(x, labels), TaskId(index, torch.tensor(classes)))


@lru_cache
def _method(name: str) -> Method:
    module, _, kind = METHODS[name].partition(":")
    made = getattr(importlib.import_module(module), kind)
    fit: Fit = made(bn_mlp((8,), (4,))).fit
    rate = (0.1 if fit.optimizer == "sgd" else 0.02) * (1 - fit.momentum)
    fit = for_scenario(replace(fit, lr=rate, steps=60, batch=15), Scenario.GNU)
    method: Method = made(with_outputs(NETS.get(name, mlp((8,), (32,))), fit, 0), fit, **OPTIONS.get(name, {}))
    return method


@lru_cache
def _three(name: str) -> State:
    """The state after three tasks of two classes."""
    method = _method(name)
    state = method.init(5)
    for index, classes in enumerate(CLASSES):
        state, _ = method.learn(state, _task(index, classes), fold(5, index))
    return state


def _ask(method: Method, state: State, exam: Task, given: bool = True) -> Answer:
    assert isinstance(exam.examples, Arrays)
    return method.predict(method.ready(state), exam.examples.x, exam.id if given else None)


def _accuracy(answer: Answer, exam: Task) -> float:
    return float((answer.labels[answer.logits.argmax(1)] == exam.examples.labels).float().mean())


def _entries(state: Any) -> Iterator[int]:
    """The index of each task, as often as a state holds something of its own."""
    if isinstance(state, TaskId):
        yield state.index
    elif "task" in getattr(state, "_fields", ()):
        yield state.task
    elif isinstance(state, (tuple, dict)):
        for branch in state.values() if isinstance(state, dict) else state:
            yield from _entries(branch)


@pytest.mark.parametrize(("index", "classes"), [(1, (2, 3)), (0, (0, 1, 6))], ids=["more of the same", "a new class"])
@pytest.mark.parametrize("name", METHODS)
def test_a_known_task_is_learned_again(name: str, index: int, classes: tuple[int, ...]) -> None:
    method, before = _method(name), _three(name)
    if name == "hopsupsup":
        endless = method.with_(fit=replace(method.fit, steps=10**9))
        with pytest.raises(Refused, match=f"task {index} is learned already, and HopSupSup cannot learn one again"):
            endless.learn(before, _task(index, classes, key=1), 8)
        return
    exam = _task(index, classes, key=9)
    after, _ = method.learn(before, _task(index, classes, key=1), 8)

    given, asked = _ask(method, after, exam), _ask(method, after, exam, given=False)
    assert sorted(given.labels.tolist()) == list(classes)
    assert _accuracy(given, exam) > 0.8
    assert sorted(asked.labels.tolist()) == sorted({*classes, *range(6)})
    assert not asked.logits.isnan().any()
    if asked.task is not None:
        assert set(asked.task.tolist()) <= {0, 1, 2}
    else:  # one head for all, which has just learned it
        assert _accuracy(asked, exam) > 0.8

    assert len(list(_entries(after))) == len(set(_entries(after)))
    assert set(_entries(after)) == set(_entries(before))
    if method.isolates:
        for other in {0, 1, 2} - {index}:
            exam = _task(other, CLASSES[other], key=9)
            assert tree.equal(_ask(method, before, exam), _ask(method, after, exam))


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        *(("heads", "trunk"), ("piggyback", "trunk"), ("batch-ensemble", "model"), ("hat", "model")),
        *(("independent", "start"), ("supsup", "seed"), ("packnet", ""), ("cpg", "size")),
    ],
)
def test_all_tasks_are_forgotten_one_by_one_and_life_goes_on(name: str, stays: str) -> None:
    method, state = _method(name), _three(name)
    for index in (1, 0, 2):
        state = method.forget(state, index)
        with pytest.raises(Refused, match=f"no task of index {index} is kept; those kept are"):
            method.forget(state, index)
    assert list(_entries(state)) == []
    if stays:
        assert tree.equal(getattr(state, stays), getattr(_three(name), stays))
    state, _ = method.learn(state, _task(1, CLASSES[1]), 8)
    exam = _task(1, CLASSES[1], key=9)
    for given in (True, False):
        assert _accuracy(_ask(method, state, exam, given), exam) > 0.8


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("name", METHODS)
def test_a_task_of_one_class(name: str, later: bool) -> None:
    method, index = _method(name), 3 if later else 0
    before = _three(name) if later else method.init(5)
    alone = _task(index, (7,))
    if name not in ALONE:
        endless = method.with_(fit=replace(method.fit, steps=10**9))  # refused before any step
        with pytest.raises(Refused, match=r"show one class, and a task of one class teaches nothing on its own"):
            endless.learn(before, alone, 8)
        return
    after, _ = method.learn(before, alone, 8)
    for given in (True, False):
        answer = _ask(method, after, alone, given)
        assert answer.logits.isfinite().any(1).all()
        if given or not method.isolates:
            assert _accuracy(answer, alone) > 0.9
    after, _ = method.learn(after, _task(4, (0, 1)), 9)  # and life goes on
    exam = _task(4, (0, 1), key=9)
    assert _accuracy(_ask(method, after, exam), exam) > 0.8


@pytest.mark.parametrize("name", ["joint", "er"])
def test_a_first_class_alone_is_told_from_later_ones_where_examples_are_kept(name: str) -> None:
    method, tasks = _method(name), (_task(0, (7,)), _task(1, (2, 3)), _task(2, (4, 5)))
    state = method.init(5)
    for place, task in enumerate(tasks):
        state, _ = method.learn(state, task, place)
    for task in tasks:
        assert _accuracy(_ask(method, state, task, given=False), task) > 0.9


def test_supsup_recognises_a_class_that_was_learned_alone() -> None:
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(column) for column in load_digits(return_X_y=True))
    order = permutation(1, len(x))
    fit = Fit(optimizer="rmsprop", lr=1e-3, steps=300)
    method = SupSup(with_outputs(mlp((64,), (200,)), fit, 0), fit)

    def lesson(index: int, classes: tuple[int, ...], rows: torch.Tensor) -> Task:
        rows = rows[torch.isin(y[rows], torch.tensor(classes))]
        return Task(Arrays(x[rows].float(), y[rows].long(), Scale(4.9, 1 / 6)), TaskId(index, torch.tensor(classes)))

    plan = ((0, (0,)), (1, (1, 2)), (2, (3, 4)))
    state = method.init(3)
    for index, classes in plan:
        state, _ = method.learn(state, lesson(index, classes, order[:1300]), index)
    ready = method.ready(state)
    for index, classes in plan:
        batch = (exam := lesson(index, classes, order[1300:]).examples).take(torch.arange(len(exam)))
        found = method.predict(ready, batch.x).task
        assert found is not None
        assert float((found == index).float().mean()) > 0.5  # of three; chance is a third
