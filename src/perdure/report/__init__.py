"""Reports: the comparison table (`table`), leaderboards with paired tests (`leaderboard`, `paired`), the figures
(`figures`, `tradeoff`) and one self-contained page of all (`page`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.contract import Refused

if TYPE_CHECKING:
    from perdure.report.leaderboard import Leaderboard
    from perdure.result import Result


def write(results: Sequence[Result], path: Path) -> Path:
    """Writes one HTML page on some runs, which needs nothing outside itself; see `perdure.report.page`."""
    from perdure.report import page  # brings matplotlib and jinja2, which the table does without

    return page.write(results, path)


def check_picture(path: Path) -> None:
    """Refuses a file that no picture can be written to, by the ending of its name."""
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise Refused(f"no picture can be written to {path}; its name must end in .svg, .png or .pdf")


def draw(boards: Sequence[Leaderboard], path: Path, stored: bool = False) -> Path:
    """Draws accuracy against bytes into a file whose ending says which kind; see `perdure.report.tradeoff`."""
    import matplotlib

    from perdure.report import tradeoff

    figure = tradeoff.tradeoff(boards, stored)
    with matplotlib.rc_context({"svg.hashsalt": "perdure", "savefig.dpi": 200}):  # equal results give equal bytes
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
