"""The figures that lectures teach with: measured by real runs, stored as numbers, drawn from them.

`FIGURES` maps a name to its module, which has `measure` (the runs), `findings` (what there is to see, and whether it
is there), `title` and `draw`. The numbers lie inside the package, with the command, commit and date that made them.
"""

from __future__ import annotations

import io
import json
import shlex
import time
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import torch

import perdure
from perdure.contract import unknown
from perdure.experiments.figures.lab import Finding, Lab, Numbers
from perdure.experiments.provenance import commit, today
from perdure.report import check_picture
from perdure.report.figures import STYLE
from perdure.store import read_json, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("plane", "strength", "capacity", "drift", "order", "pruning")
FIGURES = {name: f"perdure.experiments.figures.{name}" for name in NAMES}
STORED = Path(str(resources.files("perdure.experiments"))) / "results" / "figures"
BASE = Lab.base


def module(name: str) -> Any:
    """The module of a figure.

    Raises:
        Refused: there is none of that name; the nearest is named.
    """
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    return import_module(FIGURES[name])


def command(name: str, base: str = BASE, rerun: bool = True) -> str:
    """The command line that makes a figure."""
    words = ["perdure", "figure", name, *(["--base", base] if base != BASE else []), *(["--rerun"] if rerun else [])]
    return shlex.join(words)


def _file(name: str, base: str) -> Path:
    return STORED / (f"{name}.json" if base == BASE else f"{name}-{base}.json")


def stored(name: str, base: str = BASE) -> dict[str, Any] | None:
    """What was measured for a figure, with where it came from; None where nothing was."""
    module(name)
    path = _file(name, base)
    kept: dict[str, Any] | None = read_json(path) if path.exists() else None
    return kept


def measured(name: str, lab: Lab) -> dict[str, Any]:
    """Measures a figure: its numbers, with where they come from.

    Raises:
        Refused: there is no such figure or base.
    """
    made, code, begun = module(name), commit(), time.process_time()  # the code that runs, not what comes after
    numbers = made.measure(lab)
    return {
        "figure": name,
        "base": lab.base,
        "command": command(name, lab.base),
        "commit": code,
        "date": today(),
        "versions": {"perdure": perdure.__version__, "torch": torch.__version__},
        "cpu_seconds": round(time.process_time() - begun),
        "numbers": numbers,
    }


def keep(entry: dict[str, Any]) -> Path:
    """Stores what was measured inside the package, a line for each of the numbers."""
    lines = [f'  "{name}": {json.dumps(value, allow_nan=False)}' for name, value in entry["numbers"].items()]
    head = [f' "{name}": {json.dumps(value)},\n' for name, value in entry.items() if name != "numbers"]
    path = _file(entry["figure"], entry["base"])
    write(path, ("{\n" + "".join(head) + ' "numbers": {\n' + ",\n".join(lines) + "\n }\n}\n").encode())
    return path


def drawn(name: str, numbers: Numbers) -> Figure:
    """The picture of some numbers."""
    with matplotlib.rc_context(STYLE):
        figure: Figure = module(name).draw(numbers)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture by the ending of its name; equal figures give equal SVG files.

    Raises:
        Refused: the ending is unknown, or the file cannot be written.
    """
    check_picture(path)
    file, kind = io.BytesIO(), path.suffix[1:].lower()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "perdure"}):
        figure.savefig(file, format=kind, dpi=200, metadata={} if kind == "png" else {_DATE[kind]: None})
    write(path, file.getvalue())


_DATE = {"svg": "Date", "pdf": "CreationDate"}


def findings(name: str, numbers: Numbers) -> list[Finding]:
    """What there is to see in a figure, and whether it is there."""
    found: list[Finding] = module(name).findings(numbers)
    return found


def page(pictures: str = "figures") -> str:
    """The page about all figures (Markdown), from stored numbers alone.

    Args:
        pictures: where the SVG files lie, as seen from the page.
    """
    lines = [
        "# Figures for lectures",
        "",
        "Each is drawn by one command from numbers that real runs measured, on scikit-learn's digits unless it says",
        "otherwise: nothing to download. Under each stands what there is to see, and whether the numbers show it. The",
        "numbers are inside the package; `--rerun` measures them anew, `--base mnist` on other images, `--out` names a",
        "file (.svg, .png, .pdf). This page and its pictures are written by `make docs`.",
    ]
    for name in FIGURES:
        if (entry := stored(name)) is None:
            continue
        made, numbers = module(name), entry["numbers"]
        first, _, rest = (made.__doc__ or "").strip().partition("\n\n")
        lines += ["", f"## {name}", "", f"![{made.title(numbers)}]({pictures}/{name}.svg)", ""]
        lines += [f"**{' '.join(first.split())}**", "", *rest.splitlines(), ""]
        for claim, holds, says in findings(name, numbers):
            lines.append(f"- {'Seen' if holds else '**Not seen**'}: {claim} ({says}).")
        lines += ["", f"    {command(name, rerun=False)}", ""]
        seconds = entry["cpu_seconds"]
        lines.append(f"Measured on {entry['date']} at commit {entry['commit']} by `{entry['command']}`, {seconds} s.")
    return "\n".join(lines) + "\n"
