"""What was measured and is stored in the package: by scenario, the accuracy of methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

from perdure.contract import Method, Scenario
from perdure.experiments.reproduction import STORED, findings
from perdure.experiments.tables import table
from perdure.methods import METHODS

POOR = 0.5  # of joint's accuracy: below it a method that was measured has failed


class Source(NamedTuple):
    """Accuracies that were measured in one scenario, and are stored in the package."""

    on: str  # what was learned
    command: str  # that shows them
    acc: dict[str, float]  # by method


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


def rank(name: str, found: Sequence[Source]) -> tuple[int, float, int]:
    """What a method is ranked by in its family: where it was measured, how well, and its place in the list."""
    for place, source in enumerate(found):
        if name in source.acc:
            return place, -source.acc[name], 0
    return len(found), 0.0, list(METHODS).index(name)


def failure(name: str, cls: type[Method], scenario: Scenario, found: Sequence[Source]) -> str:
    """Why a method fails in a scenario, by what it declares or by what was measured; nothing where it does not."""
    if why := cls.fails.get(scenario):
        return why
    source = next((source for source in found if name in source.acc), Source("", "", {name: 1.0}))
    own, ceiling = source.acc[name], source.acc.get("joint", 0.0)
    if own >= POOR * ceiling:
        return ""
    return f"{own:.1%} on {source.on}, where joint has {ceiling:.1%} ({source.command})"


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
