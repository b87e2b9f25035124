"""Advice: from what may be stored and what will be known to methods in order, each with its bytes and its reason.

What is needed decides the scenario, and the scenario the order of the families of methods; in a family, what was
measured and is stored in the package decides. Bytes are those of states that each method really learns, with the net,
the inputs and the number of labels and examples that are asked for, in a few steps: they hardly depend on how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import nn

from perdure.contract import Refused, Scenario
from perdure.experiments.advice.families import ORDER, REASONS, RECOGNISED, ROWS
from perdure.experiments.advice.measured import Source, failure, rank, sources
from perdure.experiments.advice.needs import WORDS, Needs
from perdure.experiments.advice.projection import build, projected
from perdure.learner.settings import Settings
from perdure.methods import METHODS
from perdure.options import method_class
from perdure.report.table import size

COUNTS = (10, 100, 1000)  # tasks


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
    net = build(needs)
    found, warned, out = sources(scenario, needs.look), dict[str, str](), dict[str, str]()
    advised, baselines = list[Advised](), list[Advised]()
    for name in METHODS:
        row, cls = ROWS[name], method_class(name)
        if scenario not in cls.scenarios:
            out[name] = f"does not work in scenario {scenario.value}"
        elif row.family != "baseline" and cls(net).rehearses and needs.store == "nothing":
            out[name] = "keeps examples"
        elif row.family != "baseline" and (why := failure(name, cls, scenario, found)):
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
    advised.sort(key=lambda one: (families.index(ROWS[one.method].family), *rank(one.method, found)))
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
