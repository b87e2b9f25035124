"""What is known of methods beyond what their classes declare: families, their order by scenario, and reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from perdure.contract import Method, Scenario
from perdure.model import head_of, parts_of

Family = Literal["baseline", "isolated", "replay", "projected", "generative", "prototypes", "distilled", "regularised"]


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
    "pruned": Row("isolated", about=True),
    "packnet": Row("isolated", room=_room, about=True),
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
