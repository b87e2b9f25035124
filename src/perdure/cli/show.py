"""Say everything about one method, stream, experiment, figure, preset or sweep.

What a method does, its paper, options, scenarios and memory come from its own file: there is no second list.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perdure.cli.docstrings import docstring
from perdure.cli.parser import Parser
from perdure.contract import Fit, Method, Scenario, unknown
from perdure.experiments import grid, presets
from perdure.experiments.experiment import command
from perdure.experiments.figures import FIGURES
from perdure.experiments.reproduction import stored
from perdure.experiments.tables import TABLES, table
from perdure.methods import METHODS
from perdure.options import (
    Part,
    default_fit,
    described,
    flag,
    method_class,
    of_method,
    of_stream,
)
from perdure.streams import STREAMS

MEMORY = {
    "constant": "does not grow",
    "task": "grows with the tasks",
    "class": "grows with the classes",
    "data": "grows with the data",
}


def main(words: list[str]) -> int:
    """Carries out the verb."""
    parser = Parser("show", "perdure show NAME", "Says everything about one method, stream, experiment, figure, ...")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name that perdure list has, or FILE.py:CLASS")
    given = parser.read(words)
    if "names" not in given:
        parser.error("name what to show; perdure list says what there is")
    for name in given["names"]:
        _show(name)
    return 0


def _show(name: str) -> None:
    """All that goes by a name: a sweep may be called as its stream is, and a preset as its method."""
    meanings = {
        "method": (name in METHODS or ":" in name or name.endswith(".py"), _method),
        "experiment": (name in TABLES, _experiment),
        "preset": (name in presets.presets(), lambda name: _file(presets.file_of(name))),
        "sweep": (name in grid.shipped(), lambda name: _file(grid.file_of(name))),
        "figure": (name in FIGURES, _figure),
        "stream": (name.partition("-")[0] in STREAMS or name.endswith(".npz"), _stream),
    }
    found = {what: show for what, (there, show) in meanings.items() if there}
    if not found:
        raise unknown("name", name, [*METHODS, *STREAMS, *TABLES, *presets.presets(), *grid.shipped(), *FIGURES])
    for place, (what, show) in enumerate(found.items()):
        if place:
            print(f"\nThere is a {what} of this name too:\n")
        show(name)


def _file(path: Path) -> None:
    print(path.read_text(encoding="utf-8").rstrip())


def _figure(name: str) -> None:
    print(f"{docstring(FIGURES[name])}\n\n  perdure figure {name}")


def _method(name: str) -> None:
    cls = method_class(name)
    print(_said(sys.modules[cls.__module__], cls))
    works = ", ".join(scenario.value for scenario in Scenario if scenario in cls.scenarios)
    print(f"\nScenarios: {works}. Its state {MEMORY[cls.memory]}.")
    for scenario, why in cls.fails.items():
        print(f"Known to fail in {scenario.value}: {why}.")
    print(f"Fit: {_fit(cls)}.\n")
    _options(of_method(cls), f"It has no options but those of fitting (perdure run STREAM {name} --help).")


def _fit(cls: type[Method]) -> str:
    """How a method's own fit differs from the common one."""
    own, common = default_fit(cls), Fit()
    differing = [name for name in vars(common) if getattr(own, name) != getattr(common, name)]
    return ", ".join(f"{name} {getattr(own, name)}" for name in differing) or "as common to all methods"


def _stream(name: str) -> None:
    part = of_stream(name)
    print(_said(sys.modules[part.signature.__module__], part.signature), end="\n\n")
    _options(part, "It has no options.")


def _experiment(name: str) -> None:
    of = table(name)
    print(f"{of.title}\n\n{of.protocol}\n\n{len(stored(of))} of its {len(of.runs)} runs are stored. They are:\n")
    for experiment in of.runs.values():
        print(f"  {command(experiment)}")


def _said(module: Any, thing: Any) -> str:
    """The docstrings of a module and of its class or function, without the arguments."""
    own = (inspect.getdoc(thing) or "").partition("Args:")[0].partition("Raises:")[0]
    return f"{inspect.cleandoc(module.__doc__ or '')}\n\n{own}".strip()


def _options(part: Part, none: str) -> None:
    grid = Table.grid(padding=(0, 2))
    for option in described(part):
        default = "" if option.default is None else f", default {option.default}" if option.default != "" else ""
        grid.add_row(f"  {flag(option.name)}", f"{option.help} ({option.kind}{default})")
    Console(highlight=False).print(grid if grid.row_count else none, markup=False)
