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

import torch

import perdure
from perdure.contract import unknown
from perdure.experiments.cost import spoken
from perdure.experiments.provenance import commit, today
from perdure.report import check_picture
from perdure.store import read_json, write

if TYPE_CHECKING:  # those who only ask for names need no matplotlib
    from matplotlib.figure import Figure

    from perdure.experiments.figures.lab import Finding, Lab, Numbers

NAMES = (
    "plane",
    "strength",
    "permutations",
    "overlap",
    "fearnet",
    "capacity",
    "drift",
    "order",
    "pruning",
    "flow",
    "angles",
    "recognise",
    "hopfield",
    "bytes",
    "transfer",
    "packing",
    "coding",
    "learner",
    "novelty",
    "years",
)
FIGURES = {name: f"perdure.experiments.figures.{name}" for name in NAMES}
STORED = Path(str(resources.files("perdure.experiments"))) / "results" / "figures"


def module(name: str) -> Any:
    """The module of a figure.

    Raises:
        Refused: there is none of that name; the nearest is named.
    """
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    return import_module(FIGURES[name])


def base_of(name: str) -> str:
    """On which images a figure is measured when nothing else is said: digits, but where they are too small for it."""
    from perdure.experiments.figures.lab import Lab

    base: str = getattr(module(name), "BASE", Lab.base)
    return base


def how_long(name: str, base: str) -> str:
    """How long it takes to measure a figure, by how long it took."""
    entry = stored(name, base)
    return f"about {spoken(entry['cpu_seconds'])} of one core" if entry else "longer than on other images"


def command(name: str, base: str, rerun: bool = True) -> str:
    """The command line that makes a figure."""
    other = ["--base", base] if base != base_of(name) else []
    return shlex.join(["perdure", "figure", name, *other, *(["--rerun"] if rerun else [])])


def stem(name: str, base: str) -> str:
    """The name of the files of a figure."""
    return name if base == base_of(name) else f"{name}-{base}"


def stored(name: str, base: str | None = None) -> dict[str, Any] | None:
    """What was measured for a figure, with where it came from; None where nothing was."""
    path = STORED / f"{stem(name, base or base_of(name))}.json"
    kept: dict[str, Any] | None = read_json(path) if path.exists() else None
    return kept


def all_stored() -> list[dict[str, Any]]:
    """Everything that was measured: each figure on its own images first, then on others."""
    entries = []
    for name in FIGURES:
        paths = [STORED / f"{name}.json", *sorted(STORED.glob(f"{name}-*.json"))]
        entries += [read_json(path) for path in paths if path.exists()]
    return entries


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
    path = STORED / f"{stem(entry['figure'], entry['base'])}.json"
    write(path, ("{\n" + "".join(head) + ' "numbers": {\n' + ",\n".join(lines) + "\n }\n}\n").encode())
    return path


def drawn(name: str, numbers: Numbers) -> Figure:
    """The picture of some numbers."""
    import matplotlib

    from perdure.report.figures import STYLE

    with matplotlib.rc_context(STYLE):
        figure: Figure = module(name).draw(numbers)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture by the ending of its name; equal figures give equal SVG files.

    Raises:
        Refused: the ending is unknown, or the file cannot be written.
    """
    import matplotlib

    from perdure.report.figures import STYLE

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
    for entry in all_stored():
        name, base, numbers = entry["figure"], entry["base"], entry["numbers"]
        made, own = module(name), base == base_of(name)
        first, _, rest = (made.__doc__ or "").strip().partition("\n\n")
        title = f"## {name}" if own else f"### {name} on {base}"
        lines += ["", title, "", f"![{made.title(numbers)}]({pictures}/{stem(name, base)}.svg)", ""]
        if own:
            lines += [f"**{' '.join(first.split())}**", "", *rest.splitlines(), ""]
        for claim, holds, says in findings(name, numbers):
            lines.append(f"- {'Seen' if holds else '**Not seen**'}: {claim} ({says}).")
        lines += ["", f"    {command(name, base, rerun=False)}", ""]
        seconds = entry["cpu_seconds"]
        lines.append(f"Measured on {entry['date']} at commit {entry['commit']} by `{entry['command']}`, {seconds} s.")
    return "\n".join(lines) + "\n"
