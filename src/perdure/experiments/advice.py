"""Advice: from what may be stored and what will be known to methods in order, each with its bytes and its reason.

What is needed decides the scenario, and the scenario the order of the families of methods; in a family, what was
measured and is stored in the package decides. Bytes are those of states that each method really learns, with the net,
the inputs and the number of labels and examples that are asked for, in a few steps: they hardly depend on how many.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan, prod
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from perdure import nets, tree
from perdure.contract import Method, Refused, Scale, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.experiments.reproduction import STORED, findings
from perdure.experiments.tables import table
from perdure.fold import Setting
from perdure.learner.policy import nbytes
from perdure.learner.settings import NUMBERS, Settings
from perdure.methods import METHODS
from perdure.model import head_of, parts_of, probe, with_outputs
from perdure.options import build_method, method_class
from perdure.report.table import size
from perdure.rng import fold, integers
from perdure.train import for_scenario

COUNTS = (10, 100, 1000)  # tasks
TAUGHT, STEPS, BATCH = 3, 2, 4  # of a trial: tasks, steps of each, examples of a step
ENOUGH, LEAST = 2000, 300  # examples of a task in a trial: no memory of a default size is larger; and with large inputs
POOR = 0.5  # of joint's accuracy: below it a method that was measured has failed
WORDS = {
    Scenario.GG: "task-incremental: the id of the task is given with every question",
    Scenario.GNS: "domain-incremental: the same labels in every task, and no id with a question",
    Scenario.GNU: "class-incremental: new labels in every task, and no id with a question",
    Scenario.NNS: "task-free: the same labels throughout, and nobody says where a task ends",
}

Kept = Literal["examples", "nothing"]
Known = Literal["known", "unknown"]
Family = Literal["baseline", "isolated", "replay", "projected", "generative", "prototypes", "distilled", "regularised"]


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


class Row(NamedTuple):
    """What advice knows of a method beyond what its class declares."""

    family: Family
    but: str = ""  # what one should know of it
    why: str = ""  # what speaks for it, where that is not what speaks for its family
    trial: dict[str, Any] = {}  # options of the trial that shows its bytes, where the defaults do not; read only
    about: bool = False  # its bytes depend on the data
    room: Callable[[Method], int] | None = None  # how many tasks it can learn
    awake: str = ""  # the option that says every how many tasks it lets examples go


def _room(method: Method) -> int:
    """The tasks after which PackNet's smallest layer has nothing left to give."""
    head = parts_of(head_of(method.net, method.fit))
    free = min(w.numel() for name, w in method.net.named_parameters() if w.ndim > 1 and name not in head)
    tasks = 0
    while free and tasks < 255:
        tasks, free = tasks + 1, int(method.prune * free)  # type: ignore[attr-defined]  # PackNet
    return tasks


ROWS: dict[str, Row] = {
    "finetune": Row("baseline"),
    "joint": Row("baseline"),
    "independent": Row("baseline"),
    "heads": Row("isolated", "later tasks learn a head alone, on the trunk of the first"),
    "l2": Row("regularised"),
    "ewc": Row("regularised"),
    "online-ewc": Row("regularised"),
    "si": Row("regularised"),
    "mas": Row("regularised"),
    "l-mas": Row("regularised"),
    "rwalk": Row("regularised"),
    "scp": Row("regularised"),
    "lwf": Row("distilled", "it needs tasks that look alike"),
    "er": Row("replay"),
    "der": Row("replay", why="repeats kept examples with what was answered to them"),
    "ewc-er": Row("replay", why="repeats kept examples, and holds what old tasks need of the weights"),
    "icarl": Row("replay", why="repeats chosen examples of each class, and answers with the nearest class"),
    "gem": Row("projected"),
    "a-gem": Row("projected"),
    "dgr": Row(
        "generative",
        "inputs from 0 to 1; what its generator cannot draw is lost, and it may draw what nearly is an example",
    ),
    "fearnet": Row(
        "generative",
        "made for inputs that are features",
        "repeats examples that it dreams; the last tasks' own are kept until it sleeps",
        trial={"method.sleep": 1},
        awake="sleep",
    ),
    "ncm": Row(
        "prototypes", "give it a backbone, or inputs that are features; the mean of one example is that example"
    ),
    "packnet": Row("isolated", room=_room),
    "piggyback": Row("isolated", trial={"fit.lr": 1.0}, about=True),  # so wild that masks take the most they can
    "supsup": Row("isolated", about=True),
    "hopsupsup": Row("isolated", "it must be asked many inputs of one task together"),
    "batch-ensemble": Row("isolated"),
    "psp": Row(
        "isolated", "the more tasks, the more they disturb one another", "tasks share weights, each under a key"
    ),
    "hat": Row("isolated", "later tasks find less and less room"),
    "cpg": Row("isolated", "its net grows beyond these bytes where it must", trial={"method.limit": 1.0}, about=True),
}

ORDER: dict[tuple[Scenario, str], tuple[Family, ...]] = {
    **dict.fromkeys(  # no task has to be recognised
        ((Scenario.GG, "alike"), (Scenario.GG, "unlike")),
        ("isolated", "replay", "projected", "distilled", "regularised", "generative", "prototypes"),
    ),
    (Scenario.GNS, "alike"): (
        "replay",
        "projected",
        "generative",
        "regularised",
        "distilled",
        "isolated",
        "prototypes",
    ),
    (Scenario.GNS, "unlike"): (
        "replay",
        "projected",
        "isolated",
        "regularised",
        "distilled",
        "generative",
        "prototypes",
    ),
    (Scenario.GNU, "alike"): (
        "replay",
        "projected",
        "prototypes",
        "generative",
        "isolated",
        "distilled",
        "regularised",
    ),
    (Scenario.GNU, "unlike"): (
        "replay",
        "isolated",
        "projected",
        "generative",
        "prototypes",
        "distilled",
        "regularised",
    ),
    (Scenario.NNS, "alike"): (
        "replay",
        "generative",
        "isolated",
        "prototypes",
        "projected",
        "distilled",
        "regularised",
    ),
    (Scenario.NNS, "unlike"): (
        "replay",
        "isolated",
        "generative",
        "prototypes",
        "projected",
        "distilled",
        "regularised",
    ),
}
REASONS: dict[Family, str] = {
    "baseline": "",
    "isolated": "what a task learned is its own: nothing is forgotten",
    "replay": "repeats kept examples, so that labels of all tasks are learned against each other",
    "projected": "no step may raise the loss on kept examples",
    "generative": "repeats examples that its own generator draws; none is kept",
    "prototypes": "a mean of each class over features that never change: nothing is forgotten",
    "distilled": "answers new inputs as it did before the task; nothing else is kept",
    "regularised": "holds what old tasks need of the weights; nothing else is kept",
}
RECOGNISED = {
    "alike": "; but tasks that look alike are taken for one another",
    "unlike": "; tasks that look unlike are recognised by their inputs",
}


class Source(NamedTuple):
    """Accuracies that were measured in one scenario, and are stored in the package."""

    on: str  # what was learned
    command: str  # that shows them
    acc: dict[str, float]  # by method


class Projection(NamedTuple):
    """Bytes of a method's state after 1, 2 and 3 tasks, and those of each task beyond."""

    sizes: tuple[int, ...]
    growth: int
    room: int | None = None  # how many tasks it can learn; None where that is not known
    task: int = 0  # bytes of a task's examples
    awake: int = 0  # tasks whose examples may be held beside

    def at(self, tasks: int) -> int:
        """After so many tasks, at most."""
        known = len(self.sizes)
        size = self.sizes[tasks - 1] if tasks <= known else self.sizes[-1] + self.growth * (tasks - known)
        return size + self.task * min(tasks - 1, self.awake)


class Advised(NamedTuple):
    """One method that is advised."""

    method: str
    reason: str
    accuracy: float | None  # as measured in this scenario, a fraction
    source: str  # what showed it; empty where nothing did, and its paper's claim is all there is
    bytes: dict[int, int | None]  # by number of tasks; None where it cannot learn so many
    about: bool  # they depend on the data

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {**self._asdict(), "bytes": {str(tasks): count for tasks, count in self.bytes.items()}}


class Advice(NamedTuple):
    """What is advised, the best first, and what is not, with reasons."""

    needs: Needs
    scenario: Scenario
    said: tuple[str, ...]  # what to know of the scenario
    advised: tuple[Advised, ...]
    baselines: tuple[Advised, ...]  # what to compare with
    warned: dict[str, str]  # methods that run here, and fail
    ruled_out: dict[str, str]  # methods that cannot be used here
    next: str  # a command that goes on

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        lists = {name: [one.to_json() for one in getattr(self, name)] for name in ("advised", "baselines")}
        return {**self._asdict(), "needs": asdict(self.needs), "scenario": self.scenario.value, **lists}


def advise(needs: Needs) -> Advice:
    """Methods in order for what is needed.

    Raises:
        Refused: the net cannot be read, or has no use for such inputs.
    """
    scenario = needs.scenario
    net = _net(needs)
    found, warned, out = sources(scenario, needs.look), dict[str, str](), dict[str, str]()
    advised, baselines = list[Advised](), list[Advised]()
    for name in METHODS:
        row, cls = ROWS[name], method_class(name)
        if scenario not in cls.scenarios:
            out[name] = f"does not work in scenario {scenario.value}"
        elif row.family != "baseline" and cls(net).rehearses and needs.store == "nothing":
            out[name] = "keeps examples"
        elif row.family != "baseline" and (why := _failure(name, cls, scenario, found)):
            warned[name] = why
        else:
            try:
                one = _advised(name, needs, net, found)
            except Refused as refused:
                out[name] = str(refused)
                continue
            if row.family == "baseline":
                baselines.append(one)
            elif needs.bytes is not None and (one.bytes[needs.tasks] or 0) > int(needs.bytes):
                out[name] = f"takes more than {size(int(needs.bytes))} after {needs.tasks:,} tasks"
            else:
                advised.append(one)
    families = ORDER[scenario, needs.look]
    advised.sort(key=lambda one: (families.index(ROWS[one.method].family), *_measured(one.method, found)))
    said = tuple(_said(needs, warned))
    return Advice(needs, scenario, said, tuple(advised), tuple(baselines), warned, out, _next(needs, advised))


def _said(needs: Needs, warned: Mapping[str, str]) -> Iterator[str]:
    """What to know of the scenario."""
    scenario = needs.scenario
    yield f"Scenario {scenario.value}, {WORDS[scenario]}."
    if needs.boundaries == "unknown" and scenario is Scenario.GNU:
        yield "Unknown boundaries do no harm: a label that was never seen says that a new task has begun."
    if scenario is Scenario.GNU:
        held = [name for name in warned if ROWS[name].family == "regularised"]
        yield (
            "Weight regularisers alone fail class-incrementally: they hold what each task learned, but never set the "
            f"labels of one task against those of another ({', '.join(held)})."
        )


def _next(needs: Needs, advised: Sequence[Advised]) -> str:
    """A command that goes on with the first method advised; nothing where there is none."""
    if not advised:
        return ""
    method = advised[0].method
    if needs.scenario is Scenario.NNS:
        return f"perdure run DATA.npz {method} --scenario nns"
    if Scenario.GNU not in method_class(method).scenarios:
        return f"perdure run DATA.npz {method} --scenario {needs.scenario.value}"
    words = ["perdure", "learner", "create", "DIR", "--method", method]
    words += ["--net", needs.net] if needs.net != Settings.net else []
    words += ["--ids"] if needs.id == "known" else []
    words += ["--store-no-data"] if needs.store != "examples" else []
    words += ["--byte-budget", str(needs.bytes)] if needs.bytes is not None else []
    return " ".join(words)


def _advised(name: str, needs: Needs, net: nn.Module, found: Sequence[Source]) -> Advised:
    """A method with its bytes and what speaks for it.

    Raises:
        Refused: it cannot learn this.
    """
    row, measured = ROWS[name], next((source for source in found if name in source.acc), None)
    counts = sorted({needs.tasks, *COUNTS})
    projection = projected(name, needs, net)
    inferred = row.family == "isolated" and needs.scenario is not Scenario.GG
    reason = (row.why or REASONS[row.family]) + (RECOGNISED[needs.look] if inferred else "")
    if row.family == "regularised" and needs.scenario is Scenario.GNS:
        reason += "; how strongly must be tuned (perdure sweep)"
    return Advised(
        name,
        reason + (f"; {row.but}" if row.but else ""),
        measured.acc[name] if measured else None,
        f"{measured.on}: {measured.command}" if measured else "",
        {tasks: projection.at(tasks) if tasks <= (projection.room or tasks) else None for tasks in counts},
        row.about,
    )


def _measured(name: str, found: Sequence[Source]) -> tuple[int, float, int]:
    """What a method is ranked by in its family: where it was measured, how well, and its place in the list."""
    for place, source in enumerate(found):
        if name in source.acc:
            return place, -source.acc[name], 0
    return len(found), 0.0, list(METHODS).index(name)


def _failure(name: str, cls: type[Method], scenario: Scenario, found: Sequence[Source]) -> str:
    """Why a method fails in a scenario, by what it declares or by what was measured; nothing where it does not."""
    if why := cls.fails.get(scenario):
        return why
    source = next((source for source in found if name in source.acc), Source("", "", {name: 1.0}))
    own, ceiling = source.acc[name], source.acc.get("joint", 0.0)
    if own >= POOR * ceiling:
        return ""
    return f"{own:.1%} on {source.on}, where joint has {ceiling:.1%} ({source.command})"


def sources(scenario: Scenario, look: str) -> list[Source]:
    """What was measured in a scenario and is stored in the package, the most telling first."""
    stream = "new classes" if look == "alike" else "other sources"
    words = "5 tasks of digits, two new classes each" if look == "alike" else "5 tasks of digits, their pixels permuted"
    figure, pixels = "perdure figure", "permuted MNIST"
    match scenario, look:
        case Scenario.GG, "alike":
            return [
                Source(f"{words}, the id given", f"{figure} learner", _learners(stream, "given")),
                _table("vdv-split", "split MNIST, the id given", " task"),
            ]
        case Scenario.GG, _:
            return [
                Source(f"{words}, the id given", f"{figure} learner", _learners(stream, "given")),
                Source("10 tasks of digits, their pixels permuted", f"{figure} bytes", dict(_figure("bytes")["acc"])),
            ]
        case Scenario.GNU, _:
            learner = Source(words, f"{figure} learner", _learners(stream, "asked"))
            return [learner] if look == "unlike" else [learner, _own(), _table("vdv-split", "split MNIST", " class")]
        case Scenario.GNS, "alike":
            return [
                _table("vdv-split", "split MNIST with shared labels", " domain"),
                _table("der-rotated", "rotated MNIST"),
            ]
        case Scenario.GNS, _:
            flow = {"supsup": _mean(_figure("flow")["accuracy"]["gns"])}
            return [
                _table("a-gem-permuted", f"17 tasks of {pixels}"),
                Source(f"50 tasks of {pixels}", f"{figure} flow", flow),
                _table("hw14-21", f"5 tasks of {pixels}"),
            ]
    flow = {"supsup": _mean(_figure("flow")["accuracy"]["nns"])} if look == "unlike" else {}
    return [Source(f"50 tasks of {pixels} without borders", f"{figure} flow", flow)]


def _figure(name: str) -> Any:
    """The stored numbers of a figure."""
    return json.loads((STORED / "figures" / f"{name}.json").read_text())["numbers"]


def _learners(stream: str, what: str) -> dict[str, float]:
    return {method: found[what] for method, found in _figure("learner")["found"][stream].items()}


def _own() -> Source:
    """What was measured for advice alone: every method that no figure or table has in this scenario."""
    kept = json.loads((STORED / "advice.json").read_text())
    return Source(kept["on"], kept["command"], kept["acc"])


def _table(name: str, on: str, ending: str = "") -> Source:
    """What is stored of a published table's runs: the claims that are called as a method, with an ending."""
    known = {one.claim: one.ours for one in findings([table(name)]) if one.figure == "acc" and not isnan(one.ours)}
    acc = {method: known[method + ending] for method in METHODS if method + ending in known}
    return Source(on, f"perdure reproduce {name}", acc)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _net(needs: Needs) -> nn.Module:
    """The network, which takes such inputs and is not too large to be tried.

    Raises:
        Refused: it does not, or is.
    """
    with torch.device("meta"):
        numbers = sum(param.numel() for param in nets.build(needs.net, needs.shape, 0).parameters())
    if numbers > NUMBERS:
        raise Refused(f"net {needs.net!r} has {numbers:,} numbers; at most {NUMBERS:,} can be tried")
    return nets.build(needs.net, needs.shape, 0)


def projected(name: str, needs: Needs, net: nn.Module) -> Projection:
    """The bytes of a method's state, from a trial: it learns three tasks in a few steps.

    Args:
        net: for such inputs; its head grows.

    Raises:
        Refused: it cannot learn such tasks, or so many.
    """
    scenario, row, cls = needs.scenario, ROWS[name], method_class(name)
    shared = 0 if needs.labels == "unshared" else needs.classes
    method = build_method(cls, net, row.trial)
    fit = replace(method.fit, epochs=None, steps=None if scenario is Scenario.NNS else STEPS, batch=BATCH)
    fit = for_scenario(fit, scenario)
    fit = replace(fit, head=probe(net, fit, torch.zeros(1, *needs.shape)))
    method = method.with_(net=with_outputs(net, fit, shared), fit=fit)
    room = row.room(method) if row.room else None
    if room is not None and needs.tasks > room:
        raise Refused(f"its network is full after {room} tasks; use a wider net")
    state, sizes = method.init(0), list[int]()
    begun = tree.nbytes(state)
    with Setting(threads=1).applied(net):
        for task in _tasks(needs, n := _examples(needs, method)):
            state, _ = method.learn(state, task, fold(0, "trial", len(sizes)))
            sizes.append(tree.nbytes(state))
    growth = sizes[-1] - sizes[-2]
    if scenario is Scenario.NNS and cls.memory == "task":  # a trial is too short to find a border
        sizes = [begun + (sizes[0] - begun) * tasks for tasks in range(1, TAUGHT + 1)]
        growth = sizes[0] - begun
    example = prod(needs.shape) * (1 if len(needs.shape) > 1 else 4) + 8  # and its label
    if row.awake:
        lasting = getattr(build_method(cls, net, {}), row.awake)
        return Projection(tuple(sizes), growth, room, needs.examples * example, lasting - 1)
    if cls.memory == "data":  # the examples that the trial left out
        more = (needs.examples - n) * example
        sizes, growth = [known + more * tasks for tasks, known in enumerate(sizes, 1)], growth + more
    return Projection(tuple(sizes), growth, room)


def _examples(needs: Needs, method: Method) -> int:
    """Of a task in a trial: few where none leave a trace in the state."""
    few = max(4 * BATCH, 2 * needs.classes)
    if method.rehearses:
        few = max(LEAST, min(ENOUGH, NUMBERS // 4 // prod(needs.shape)))
    return max(needs.classes, min(needs.examples, few))


def _tasks(needs: Needs, n: int) -> Iterator[Task]:
    """Tasks of n examples, all noise."""
    images, unshared = len(needs.shape) > 1, needs.labels == "unshared"
    values = integers(0, torch.full((n * prod(needs.shape),), 256), n * prod(needs.shape)).view(n, *needs.shape)
    x, scale = (values.byte(), Scale(128.0, 1 / 64)) if images else (values / 256.0, Scale())
    for number in range(TAUGHT):
        classes = torch.arange(needs.classes) + unshared * number * needs.classes
        labels = classes[torch.arange(n) % needs.classes]
        yield Task(Arrays(x, labels, scale), None if needs.scenario is Scenario.NNS else TaskId(number, classes))
