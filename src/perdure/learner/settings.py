"""What a learner is made with, for life, and where that is stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from perdure import tree
from perdure.contract import Method, Refused, Scenario
from perdure.learner.hints import record, settle
from perdure.learner.ledger import Entry, Ledger
from perdure.learner.policy import Policy
from perdure.model import probe, with_outputs
from perdure.nets import build
from perdure.options import build_method, method_class
from perdure.store import JSON, parse, refusing
from perdure.train import for_scenario

Scaling = Literal["one", "columns", "none"]
NUMBERS = 1 << 27  # that a learner may ask to have in memory before it was taught anything
TEXT = 100  # characters of a net or of an option: they are taken apart before it is known what they are
RANGES = {"keep": (0, 1 << 32), "exam": (0, 1 << 32), "size": (1, 1024), "seed": (0, (1 << 64) - 1)}


@dataclass(frozen=True)
class Settings:
    """What a learner is made with, for life.

    Args:
        method: by name; see perdure list methods.
        net: mlp:300-100, dropout-mlp:300-100, bn-mlp:300-100, conv:16-32, resnet18:20, resnet50:64, or linear.
        scaling: one mean and one deviation over all columns; of each column (tasks are then harder to tell apart),
            where inputs have columns; or none. Found on the first task of its kind of inputs, and kept.
        keep: examples of each class that are kept, so that a task can be learned again with more data; 0 keeps none.
        exam: the most examples of a task that are held back for its exam.
        size: pixels a side to which images are brought.
        ids: exams say which task an input is of, as those who ask then must.
        seed: of everything random.
        store_no_data: no example is ever written: exams are held back, asked and thrown away, or are your own. A mean
            of one example is that example: of a class with ncm, of a column where the first task has one.
        options: of the method and its fitting, by name: {"fit.steps": 500, "method.outputs": 50}.
    """

    method: str = "er"
    net: str = "mlp:300-100"
    scaling: Scaling = "one"
    keep: int = 20
    exam: int = 1000
    size: int = 64
    ids: bool = False
    seed: int = 0
    store_no_data: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self)
        for name, (least, most) in RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise Refused(f"{name} is {value}; it must be {least} to {most}")
        if ":" in self.method:
            raise Refused(f"method {self.method!r} is a file, and a learner on disk runs none; use a name")
        for name, value in {"net": self.net, **self.options}.items():
            if name != "net" and not name.startswith(("fit.", "method.")):
                raise Refused(f"unknown option {name[:TEXT]!r}; options are called as in fit.steps and method.outputs")
            if not isinstance(value, (str, int, float, NoneType)) or len(str(value)) > TEXT:
                raise Refused(f"{name[:TEXT]} must be a number, or text of at most {TEXT} characters")
        self.numbers((1, 64, 64))
        if self.store_no_data and self.nowhere().rehearses:
            raise Refused(f"{self.method} keeps examples in its state; with store_no_data take one that keeps none")

    def __hash__(self) -> int:
        return hash((self.method, self.net, *self.options))

    @property
    def kept(self) -> int:
        """Examples of each class that are stored, to be learned again."""
        return 0 if self.store_no_data else self.keep

    @property
    def asked(self) -> int:
        """Examples of an exam that are stored."""
        return 0 if self.store_no_data else self.exam

    def suited(self, shape: tuple[int, ...]) -> Method:
        """The method for inputs of a shape; its head grows as labels come.

        Raises:
            Refused: the net has no use for such inputs, or it would take more than `NUMBERS` numbers.
        """
        self.numbers(shape)
        return self.made(shape)

    def numbers(self, shape: tuple[int, ...]) -> int:
        """How many numbers are in the network and in what it makes of one input of a shape, or in the first state.

        None of them is made: this is found from shapes alone.

        Raises:
            Refused: as `suited`.
        """
        if (size := max(_numbers(self, shape))) > NUMBERS:
            raise Refused(
                f"net {self.net!r} with {self.method} takes {size:,} numbers for inputs of shape {shape}; at most "
                f"{NUMBERS:,} may be asked for"
            )
        return size

    def unfolded(self, shape: tuple[int, ...], tasks: int) -> int:
        """How many numbers a state of so many tasks may keep in memory, however small it is on disk.

        Raises:
            Refused: as `suited`.
        """
        self.numbers(shape)
        masks = tasks // 32 if method_class(self.method).memory == "task" else 0  # a task may keep a bit a weight
        return _numbers(self, shape).kept * (1 + masks)

    def nowhere(self) -> Method:
        """The method on a network that is in no memory, for what it says of itself."""
        with torch.device("meta"):
            return self.made((1, 64, 64))

    def made(self, shape: tuple[int, ...]) -> Method:
        """The same, however many numbers it takes."""
        method = build_method(method_class(self.method), build(self.net, shape, 0), self.options)
        if Scenario.GNU not in method.scenarios:
            raise Refused(f"{self.method} cannot answer without a task's id; see perdure list methods")
        fit = for_scenario(method.fit, Scenario.GNU)
        fit = replace(fit, head=probe(method.net, fit, torch.zeros(1, *shape)))
        return method.with_(net=with_outputs(method.net, fit, 0), fit=fit)


class _Numbers(NamedTuple):
    """How many numbers there are."""

    kept: int  # in the network, or in the first state
    made: int  # in the network and in what it makes of one input


@lru_cache(64)
def _numbers(settings: Settings, shape: tuple[int, ...]) -> _Numbers:
    """The same, also where they are too many."""
    with refusing(f"net {settings.net!r} cannot be made so for inputs of shape {shape}"), torch.device("meta"):
        method = settings.made(shape)
        net = with_outputs(method.net, method.fit, max(1, getattr(method, "outputs", 1)))
        passed = list[Tensor]()
        for layer in net.modules():
            layer.register_forward_hook(lambda _, __, out: passed.append(out))
        net.eval()(torch.zeros(1, *shape))
        state = [leaf for _, leaf in tree.leaves(method.init(0)) if isinstance(leaf, Tensor)]
    weights, made, first = (sum(part.numel() for part in parts) for parts in (net.parameters(), passed, state))
    return _Numbers(max(weights, first), weights + made)


def store_settings(ledger: Ledger, settings: Settings, policy: Policy) -> str:
    """Stores what a learner is made with, and what judges it now; the name of both together."""
    return ledger.blobs.put(json.dumps({"settings": asdict(settings), "policy": asdict(policy)}).encode())


def read_settings(ledger: Ledger, entry: Entry) -> tuple[Settings, Policy]:
    """What an entry names of them.

    Raises:
        Refused: it is missing or damaged.
    """
    blobs = ledger.blobs
    plain = parse(blobs.get(entry.settings, JSON), blobs.folder / entry.settings)
    try:
        if not isinstance(plain, dict) or plain.keys() != {"settings", "policy"}:
            raise Refused("they are none")
        return record(Settings, plain["settings"]), record(Policy, plain["policy"])
    except Refused as error:
        raise Refused(f"the settings of {ledger.folder} cannot be used: {error}") from error
