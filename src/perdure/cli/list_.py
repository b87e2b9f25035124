"""Say what there is: methods, streams, experiments, presets, sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perdure.cli.docstrings import first_sentence
from perdure.methods import METHODS
from perdure.streams import STREAMS


def main(words: list[str]) -> int:
    """Carries out the verb."""
    from perdure.cli.parser import Parser
    from perdure.contract import unknown

    usage = f"perdure list [{'|'.join(SECTIONS)}]"
    parser = Parser("list", usage, "Says what there is, all of it or one kind of things; perdure show NAME says more.")
    parser.add_argument("sections", nargs="*", metavar="KIND", help=", ".join(SECTIONS))
    given = parser.read(words)
    sections = given.get("sections", SECTIONS)
    for section in sections:
        if section not in SECTIONS:
            raise unknown("kind of things", section, SECTIONS)
    for section in sections:
        table = Table.grid(padding=(0, 2))
        for name, words_on_it in SECTIONS[section]().items():
            table.add_row(f"  {name}", words_on_it)
        console = Console(highlight=False)
        console.print(f"[bold]{section}[/]")
        console.print(table)
    return 0


def methods() -> dict[str, str]:
    """Every method and what it is."""
    return {name: first_sentence(place.partition(":")[0]) for name, place in METHODS.items()}


def streams() -> dict[str, str]:
    """Every kind of stream, and the data sets they can be made of."""
    from perdure.datasets import BASES

    kinds = {
        "FILE.npz" if name == "arrays" else f"{name}-BASE": first_sentence(place.partition(":")[0])
        for name, place in STREAMS.items()
    }
    return kinds | {"BASE": f"{', '.join(BASES)}, or NAME where a data root has NAME.npz or NAME/CLASS/"}


def experiments() -> dict[str, str]:
    """Every published table."""
    from perdure.experiments.tables import TABLES, table

    return {name: table(name).title for name in TABLES}


def presets() -> dict[str, str]:
    """Every preset and what it is for."""
    from perdure.experiments import presets

    return _files(presets.presets(), presets.file_of)


def sweeps() -> dict[str, str]:
    """Every sweep and what it is for."""
    from perdure.experiments import grid

    return _files(grid.shipped(), grid.file_of)


def figures() -> dict[str, str]:
    """Every figure and what it shows."""
    from perdure.experiments.figures import FIGURES

    return {name: first_sentence(module) for name, module in FIGURES.items()}


def _files(names: Iterable[str], file_of: Callable[[str], Path]) -> dict[str, str]:
    """Configuration files, and the first sentence that each says of itself."""
    from perdure.experiments.presets import about

    return {name: about(file_of(name)).partition(". ")[0] for name in names}


SECTIONS = {
    "methods": methods,
    "streams": streams,
    "experiments": experiments,
    "figures": figures,
    "presets": presets,
    "sweeps": sweeps,
}
