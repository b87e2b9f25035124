"""Results from where they lie: run folders and sweeps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from perdure.experiments.execution import results_of
from perdure.result import Result


def gathered(paths: Iterable[Path]) -> list[Result]:
    """The results of run folders, of sweep folders and of the SQLite files in those, in order.

    Raises:
        Refused: a path holds neither, or a run that is not finished, or is of another version.
    """
    from perdure.experiments import ledger  # most runs are no sweep, and do without SQLite

    results: list[Result] = []
    for path in paths:
        sweep = path.is_file() or (path / ledger.NAME).exists()
        results += ledger.results(path) if sweep else results_of(path)
    return results
