"""Reports: the comparison table (`table`), the figures (`figures`) and one self-contained page of both (`page`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.result import Result


def write(results: Sequence[Result], path: Path) -> Path:
    """Writes one HTML page on some runs, which needs nothing outside itself; see `perdure.report.page`."""
    from perdure.report import page  # brings matplotlib and jinja2, which the table does without

    return page.write(results, path)
