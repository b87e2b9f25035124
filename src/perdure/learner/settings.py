"""What a learner is made with, for life."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from perdure.contract import Method, Refused, Scenario
from perdure.model import probe, with_outputs
from perdure.nets import build
from perdure.options import build_method, method_class
from perdure.train import for_scenario

Scaling = Literal["one", "columns", "none"]
WEIGHTS = 1 << 30  # that a network may have: no stored learner can ask for more memory than that


@dataclass(frozen=True)
class Settings:
    """What a learner is made with, for life.

    Args:
        method: by name; see perdure list methods.
        net: mlp:300-100, bn-mlp:300-100, conv:16-32, resnet18:20, resnet50:64, or linear.
        scaling: one mean and one deviation over all columns; of each column (tasks are then harder to tell apart); or
            none. Found on the first task of its kind of inputs, and kept.
        keep: examples of each class that are kept, so that a task can be learned again with more data; 0 keeps none.
        exam: the most examples of a task that are held back for its exam.
        size: pixels a side to which images are brought.
        ids: exams say which task an input is of, as those who ask then must.
        seed: of everything random.
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
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("keep", 0), ("exam", 0), ("size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise Refused(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.scaling not in ("one", "columns", "none"):
            raise Refused(f"scaling is {self.scaling!r}; use one, columns or none")
        if ":" in self.method:
            raise Refused(f"method {self.method!r} is a file, and a learner on disk runs none; use a name")
        self.suited((3, 64, 64))

    def suited(self, shape: tuple[int, ...]) -> Method:
        """The method for inputs of a shape; its head grows as labels come.

        Raises:
            Refused: the net has no use for such inputs, or more than `WEIGHTS` weights.
        """
        with torch.device("meta"):
            size = sum(param.numel() for param in build(self.net, shape, 0).parameters())
        if size > WEIGHTS:
            raise Refused(f"net {self.net!r} has {size:,} weights for inputs of shape {shape}; at most {WEIGHTS:,}")
        method = build_method(method_class(self.method), build(self.net, shape, 0), self.options)
        if Scenario.GNU not in method.scenarios:
            raise Refused(f"{self.method} cannot answer without a task's id; see perdure list methods")
        fit = for_scenario(method.fit, Scenario.GNU)
        fit = replace(fit, head=probe(method.net, fit, torch.zeros(1, *shape)))
        return method.with_(net=with_outputs(method.net, fit, 0), fit=fit)
