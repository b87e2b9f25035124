"""The laws: small functions that take a `Case` and raise `LawBroken` with what was seen and what to do."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from perdure.contract import Method, Refused, Scenario, State, Task
from perdure.data import Arrays, View
from perdure.methods.finetune import Finetune
from perdure.model import Model
from perdure.rng import fold, permutation
from perdure.testing.case import EXAM, KEY, SCALE, TASKS, Case, LawBroken
from perdure.tree import equal, leaves, nbytes, pack, transform, unpack

LEARNED = 0.8  # accuracy on one task of two balanced classes
TOLERANCE = 0.05  # in mean accuracy, when labels have other names


def _difference(a: Any, b: Any) -> str | None:
    """The path of the first leaf in which two trees differ by a bit."""
    one, two = dict(leaves(a)), dict(leaves(b))
    for path in {**one, **two}:
        if path not in one or path not in two or not equal(one[path], two[path]):
            return path or "itself"
    return None


def _luck() -> dict[str, Any]:
    """The state of every global generator, as a tree."""
    numpy = np.random.get_state(legacy=False)["state"]
    words = torch.from_numpy(numpy["key"].astype(np.int64))
    return {"torch": torch.get_rng_state(), "numpy": (words, numpy["pos"]), "python": random.getstate()}


def _raw(task: Task) -> Tensor:
    return task.examples.raw(torch.arange(len(task.examples)))


@contextmanager
def _other_luck() -> Iterator[None]:
    """Global generators seeded anew inside the block, and as they were after it."""
    outer, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(int(outer.sum()))
    np.random.seed(int(outer.sum()) % 2**32)
    random.seed(int(outer.sum()))
    try:
        yield
    finally:
        torch.set_rng_state(outer)
        np.random.set_state(numpy)
        random.setstate(python)


def _stored(state: State, kinds: tuple[type, ...]) -> State:
    """A state written to safetensors and JSON, and read back."""
    try:
        plain, tensors = pack(state)
        files = save({str(place): tensor.clone() for place, tensor in enumerate(tensors)}), json.dumps(plain)
        read = load(files[0])
        return unpack(json.loads(files[1]), [read[str(place)] for place in range(len(tensors))], kinds)
    except (TypeError, ValueError) as error:
        raise LawBroken(
            f"a state cannot be stored: {error}. Build it of tensors, dicts with names, tuples, numbers, strings and "
            "the NamedTuples that the class lists in `states`"
        ) from error


def _around(case: Case, state: State, task: Task, x: Tensor) -> dict[str, Any]:
    """All that a verb might change, as a tree."""
    net = case.method.net
    return {
        "state": state,
        "task": {"x": _raw(task), "labels": task.examples.labels, "id": task.id},
        "x": x,
        "net": dict(net.state_dict()),
        "net's modes": {name: module.training for name, module in net.named_modules()},
        "net's gradients": {name: (param.requires_grad, param.grad) for name, param in net.named_parameters()},
        "global generator": _luck(),
    }


def pure(case: Case) -> None:
    """The verbs change nothing: not the state, the task, the user's module or a global generator."""
    method, state = case.method, case.method.init(fold(KEY, "init"))
    for number, task in enumerate(case.tasks[:2]):
        x = case.inputs(number)
        before = transform(_around(case, state, task, x), torch.clone)
        after, _ = method.learn(state, task, case.key(number))
        if path := _difference(before, _around(case, state, task, x)):
            raise LawBroken(f"learn changed {path}. Let `Descent` copy what is trained; draw from `perdure.rng` keys")
        learned, ready = transform(after, torch.clone), method.ready(after)
        first, second = (transform(method.predict(ready, x, case.id(number)), torch.clone) for _ in range(2))
        if path := _difference(before, _around(case, state, task, x)) or _difference(learned, after):
            raise LawBroken(f"ready or predict changed {path}. An exam must leave everything as it was")
        if path := _difference(first, second):
            raise LawBroken(f"predict answered the same question twice with different {path}. Keep nothing from a call")
        state = after


def repeatable(case: Case) -> None:
    """The same key gives the same bits, whatever the global generators hold."""
    with _other_luck():
        states, traces = case.life(case.anew(), case.tasks)
    for number, pair in enumerate(zip(case.states, states, strict=True)):
        if path := _difference(*pair):
            raise LawBroken(
                f"the state s_{number} differs at {path} when all is run again. Draw everything from the key "
                "(`perdure.rng`), never from torch's, numpy's or Python's global generator"
            )
    if path := _difference(tuple(case.lived[1]), tuple(traces)):
        raise LawBroken(f"the traces of two equal runs differ at {path}. Draw everything from the key (`perdure.rng`)")


def resumable(case: Case) -> None:
    """A state that was saved and loaded learns on as if nothing had happened, bit for bit."""
    state = case.anew().init(fold(KEY, "init"))
    for number, task in enumerate(case.tasks):
        state, _ = case.anew().learn(_stored(state, case.method.states), task, case.key(number))
        if path := _difference(case.states[number + 1], state):
            raise LawBroken(
                f"saved, loaded and continued, the state s_{number + 1} differs at {path}. Keep everything that "
                "learning needs in the state, and nothing on the method"
            )


def hidden(case: Case) -> None:
    """What is hidden changes nothing: other exams and their ids, and what lies around a task's examples."""
    asked = [transform(answer, torch.clone) for answer in case.answers(case.states[-1])]
    method = case.anew()
    ready = method.ready(case.states[-1])
    for number in reversed(range(TASKS)):
        if case.scenario is not Scenario.NNS:
            method.predict(ready, case.inputs(number), case.lessons[(number + 1) % TASKS].id)
        again = method.predict(ready, case.inputs(number), case.id(number))
        if path := _difference(asked[number], again):
            raise LawBroken(
                f"the {path} of an answer changed with the order of the exams, or with the id another one had. "
                "Answer from `ready`, `x` and `id` alone"
            )
    x = torch.cat([_raw(task) for task in case.tasks])
    order = permutation(fold(KEY, "pile"), len(x))
    places = order.argsort().split([len(task.examples) for task in case.tasks])
    pile = Arrays(x[order], torch.zeros(len(x), dtype=torch.int64), SCALE)
    views = [
        Task(View(pile, rows, labels=task.examples.labels), task.id)
        for rows, task in zip(places, case.tasks, strict=True)
    ]
    states, _ = case.life(case.anew(), views)
    for number, pair in enumerate(zip(case.states, states, strict=True)):
        if path := _difference(*pair):
            raise LawBroken(
                f"the state s_{number} differs at {path} when the same examples are a view of a larger set. "
                "Use `len`, `labels`, `take`, `raw`, `split` and `materialise` of a task's examples, nothing beneath"
            )


def alone(case: Case) -> None:
    """An example's answer does not depend on the others in its batch."""
    ready = case.method.ready(case.states[-1])
    groups = [(case.inputs(number), case.id(number)) for number in range(TASKS)]
    if case.scenario is not Scenario.GG:
        groups = [(torch.cat([x for x, _ in groups]), None)]
    for x, id in groups:
        whole = case.method.predict(ready, x, id)
        order = permutation(fold(KEY, "mixed"), len(x))
        for size in (len(x), 7, 1):
            parts = [case.method.predict(ready, part, id) for part in x[order].split(size)]
            if not all(torch.equal(part.labels, whole.labels) for part in parts):
                raise LawBroken(f"the labels of an answer change with the batch (of {size}). Take them from the state")
            logits = torch.cat([part.logits for part in parts])[order.argsort()]
            if not torch.allclose(logits, whole.logits, rtol=1e-3, atol=1e-4):
                raise LawBroken(
                    f"logits change when the same examples come {size} at a time. Judge every example on its own "
                    "(batch statistics belong to training), or declare `pools = True`"
                )
            if not torch.equal(logits.argmax(1), whole.logits.argmax(1)):
                raise LawBroken(f"the winning label changes when the same examples come {size} at a time")


def answered(case: Case) -> None:
    """Answers are well formed at every time: before any task, for every exam, and with an id never learned."""
    for state in case.states:
        ready = case.method.ready(state)
        for number in range(TASKS):
            for id in (None,) if case.scenario is Scenario.NNS else (None, case.lessons[number].id):
                answer = case.method.predict(ready, case.inputs(number), id)
                logits, labels = answer.logits, answer.labels
                if logits.shape != (EXAM, len(labels)) or labels.dtype != torch.int64:
                    raise LawBroken(
                        f"logits have shape {tuple(logits.shape)} for {EXAM} inputs and {len(labels)} labels of type "
                        f"{labels.dtype}; give (B, n) logits and (n,) int64 labels"
                    )
                if len(labels.unique()) != len(labels):
                    raise LawBroken(f"the labels {labels.tolist()} name a column twice")
                if logits.isnan().any() or (logits == torch.inf).any():
                    raise LawBroken("a logit is NaN or +inf; where a label cannot be, give -inf")
                if id is not None and not torch.isin(labels, id.classes).all():
                    raise LawBroken(
                        f"with the id given, labels {labels.tolist()} compete, but the task has {id.classes.tolist()}; "
                        "see `perdure.model.narrow`"
                    )
                if answer.task is not None and (answer.task.shape != (EXAM,) or answer.task.dtype != torch.int64):
                    raise LawBroken("`task` holds one int64 task index for each input, or is None")


def learns(case: Case) -> None:
    """One easy task is learned well above chance, and the trace tells how."""
    accuracy, trace = case.accuracy(case.answers(case.states[1])[0], 0), case.lived[1][0]
    if not accuracy >= LEARNED:
        raise LawBroken(
            f"after one easy task of two classes its accuracy is {accuracy:.2f}; at least {LEARNED} was expected. Does "
            "the loss fall? Give check_method a `fit` that suits the method if its hyper-parameters need one"
        )
    loss = trace.loss
    if loss.ndim != 1 or not len(loss) or loss.dtype != torch.float32 or not bool(loss.isfinite().all()):
        raise LawBroken("the trace must hold the loss of each batch before its step: (steps,) float32, all finite")


def memory(case: Case) -> None:
    """The state grows with what the class declares, and never faster than the data; names of labels are free."""
    case = case if case.shared else case.other(rows=2 * TASKS)  # the head is as wide as it will ever be
    sizes, declared = [nbytes(state) for state in case.states[1:]], case.method.memory
    growth = [after - before for before, after in pairwise(sizes)]
    names = 0 if case.shared else nbytes(case.lessons[0].id)
    if declared == "constant" or (declared == "class" and case.shared):
        if not all(0 <= more <= names for more in growth):
            raise LawBroken(f"it is declared {declared}, but the state takes {sizes} bytes. Declare what it grows with")
        return
    if not sum(growth) > 0:
        raise LawBroken(f"it is declared to grow with the {declared}, but the state takes {sizes} bytes")
    data = [nbytes((_raw(task), task.examples.labels)) for task in case.tasks]
    for number, (more, size) in enumerate(zip(growth, data[1:], strict=True), 2):
        if more > size + names:
            raise LawBroken(
                f"task {number} has {size} bytes of data, but the state grew by {more}. Keep examples as they are "
                "stored (`raw`), and no model for each task"
            )


def isolated(case: Case) -> None:
    """Old logits keep their bits, given the id; also under weight decay and kept moments."""
    fit = replace(case.method.fit, momentum=0.0, nesterov=False)
    decay = replace(fit, optimizer="adamw", lr=min(fit.lr, 0.02), weight_decay=0.1, moments="kept")
    for where, lived in (("", case), (" under AdamW with weight decay and kept moments", case.other(fit=decay))):
        method, final = lived.method, lived.method.ready(lived.states[-1])
        for number in range(TASKS):
            x, id = lived.inputs(number), lived.lessons[number].id
            then = method.predict(method.ready(lived.states[number + 1]), x, id)
            if path := _difference(then, method.predict(final, x, id)):
                raise LawBroken(
                    f"the {path} of task {number + 1} changed with later tasks{where}. Hold its weights (`Descent(hold="
                    "...)`), keep its head and statistics apart, and answer at the shape it was learned at"
                )


def forgotten(case: Case) -> None:
    """One task can be forgotten, and the others keep their bits; or forgetting is refused, and it says what to do."""
    method, state = case.method, case.states[-1]
    must = method.isolates and case.scenario is not Scenario.NNS  # without ids there are no tasks to forget
    before, ready = transform(state, torch.clone), method.ready(state)
    for gone, lesson in enumerate(case.lessons):
        try:
            left = method.forget(state, lesson.id.index)
        except Refused as refused:
            if must:
                raise LawBroken(
                    f"it isolates tasks, but refuses to forget one ({refused}). Write `forget`"
                ) from refused
            if "oll back" not in str(refused):
                raise LawBroken(f"forgetting is refused with {str(refused)!r}. Say to roll back instead") from refused
            return
        if path := _difference(before, state):
            raise LawBroken(f"forget changed {path} of the state that it was given. Return another")
        if nbytes(left) > nbytes(state):
            raise LawBroken(f"without task {gone + 1} the state takes {nbytes(left)} bytes, with it {nbytes(state)}")
        _only_gone(case, ready, left, gone)
        again, _ = method.learn(left, case.tasks[gone], case.key(gone))
        was, now = (
            case.accuracy(method.predict(known, case.inputs(gone), lesson.id), gone)
            for known in (ready, method.ready(again))
        )
        if not now >= min(was, LEARNED) - TOLERANCE:
            raise LawBroken(f"task {gone + 1}, forgotten and learned again, has accuracy {now:.2f}; it was {was:.2f}")


def _only_gone(case: Case, ready: Any, left: State, gone: int) -> None:
    """Raises where a task that is forgotten still answers, or another answers otherwise than `ready` does."""
    method, less = case.method, case.method.ready(left)
    for number, lesson in enumerate(case.lessons):
        x = case.inputs(number)
        answer = method.predict(less, x, lesson.id)
        if number == gone and len(answer.labels):
            raise LawBroken(f"the id of task {gone + 1} was forgotten, and still has labels {answer.labels.tolist()}")
        if number != gone and (path := _difference(method.predict(ready, x, lesson.id), answer)):
            raise LawBroken(f"the {path} of task {number + 1} changed when task {gone + 1} was forgotten")
        found = method.predict(less, x).task
        if found is not None and bool((found == case.lessons[gone].id.index).any()):
            raise LawBroken(f"task {gone + 1} was forgotten, and inputs are still taken for its own")


def _models(tree: Any) -> Iterator[Model]:
    """Every model in a state."""
    if isinstance(tree, Model):
        yield tree
    elif isinstance(tree, (tuple, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _models(branch)


def off(case: Case) -> None:
    """Switched off (`off`: strength 0, empty memory), it is finetune, bit for bit."""
    method = case.method.with_(**case.method.off)
    plain = Finetune(case.method.net, case.method.fit)
    (states, traces), (fine, losses) = case.life(method, case.tasks), case.life(plain, case.tasks)
    for number, (state, expected) in enumerate(zip(states, fine, strict=True)):
        if path := _difference(next(_models(state), expected), expected):
            raise LawBroken(f"with {dict(method.off)} the model of s_{number} is not finetune's: {path} differs")
        for exam in range(TASKS):
            x, id = case.inputs(exam), case.id(exam)
            ours, theirs = method.predict(method.ready(state), x, id), plain.predict(expected, x, id)
            if path := _difference(ours, theirs):
                raise LawBroken(
                    f"with {dict(method.off)} an answer from s_{number} differs from finetune's in its {path}"
                )
    if path := _difference(tuple(traces), tuple(losses)):
        raise LawBroken(f"with {dict(method.off)} the traces differ from finetune's at {path}")


def relabelled(case: Case) -> None:
    """Other names for the labels, in another order, leave accuracy where it was."""
    plain = case.other(rows=0) if case.shared else case
    named = case.other(rows=0, rename=lambda labels: 5 + 3 * (2 * TASKS - labels))
    was, now = (
        np.mean([c.accuracy(answer, i) for i, answer in enumerate(c.answers(c.states[-1]))]) for c in (plain, named)
    )
    if not abs(was - now) <= TOLERANCE:
        raise LawBroken(
            f"mean accuracy is {was:.3f}, and {now:.3f} where labels have other names. A label is a name, not a place: "
            "use `Descent.targets`, `rows_of` and `TaskId.classes`"
        )


def documented(case: Case) -> None:
    """The module says reference, deviations and memory; the class says what it is and what each option means."""
    kind = type(case.method)
    module = (inspect.getmodule(kind).__doc__ if inspect.getmodule(kind) else None) or ""
    for word in ("Reference", "Deviations:", "Memory:"):
        if word not in module:
            raise LawBroken(f"the docstring of the module has no {word!r}. Say it there, `Deviations: none` included")
    text = kind.__doc__ or ""
    if not text.strip() or text.startswith(kind.__name__ + "("):
        raise LawBroken("the class has no docstring. Open it with one plain sentence")
    for field in fields(kind):
        if field.name not in ("net", "fit") and f"{field.name}:" not in text:
            raise LawBroken(f"the docstring of the class does not say what {field.name!r} is. List it under `Args:`")


def declared(case: Case) -> None:
    """A frozen, final dataclass whose declarations hold."""
    method, kind = case.method, type(case.method)
    if "__dataclass_params__" not in vars(kind):
        raise LawBroken("the class is not a frozen dataclass. Write @dataclass(frozen=True, eq=False) above it")
    parents = [base.__name__ for base in kind.__mro__[1:] if issubclass(base, Method) and base is not Method]
    if parents:
        raise LawBroken(f"it is a subclass of {parents[0]}, but methods are final. Share functions, not classes")
    if method.memory not in ("constant", "task", "class", "data"):
        raise LawBroken(f"`memory` is {method.memory!r}; it must be constant, task, class or data")
    names = [field.name for field in fields(kind)]
    if unknown := [name for name in method.off if name not in names]:
        raise LawBroken(f"`off` names {unknown[0]!r}, which is no option of it")
    for scenario, why in method.fails.items():
        if scenario not in method.scenarios:
            raise LawBroken(f"`fails` names {scenario!r}, where it does not work at all. Name scenarios it works in")
        if not (isinstance(why, str) and why.strip()):
            raise LawBroken(
                f"`fails` says {why!r} of scenario {scenario.value}. Say what showed it, and by which command"
            )
    for state in (case.states[0], case.states[-1]):
        if path := _difference(state, _stored(state, method.states)):
            raise LawBroken(f"a state comes back from storage with another {path}")


LAWS: dict[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        declared,
        documented,
        pure,
        repeatable,
        resumable,
        hidden,
        alone,
        answered,
        learns,
        memory,
        isolated,
        forgotten,
        off,
        relabelled,
    )
}
ONCE = ("declared", "documented")  # laws about the class alone, checked in one scenario
