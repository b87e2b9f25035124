"""The ledger of a sweep: one SQLite table, a row a run, for `perdure compare` and anybody's own SQL.

    SELECT method, json_extract(options, '$."method.lam"') AS lam, avg(acc), count(*)
    FROM runs WHERE role = 'run' AND status = 'done' GROUP BY method, lam ORDER BY avg(acc) DESC;

Figures are of exams, as fractions; what is undefined is NULL. A tuning run has none of them, since it saw no exam: it
has a score, the ACC on training examples held out from learning. A run with chosen options has the mean score that
they were chosen by, and the protocol.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from perdure.contract import Refused
from perdure.experiments.grid import Run
from perdure.result import Result, check_format

NAME = "sweep.sqlite"
FIGURES = ("acc", "bwt", "fwt", "forgetting")
COLUMNS = {
    "name": "TEXT PRIMARY KEY",  # and the folder: DIR/runs/NAME
    "stream": "TEXT",
    "method": "TEXT",
    "scenario": "TEXT",
    "tasks": "INTEGER",
    "seed": "INTEGER",  # of the learner
    "stream_seed": "INTEGER",
    "role": "TEXT",  # run or tuning
    "status": "TEXT",  # done, failed or pending
    "message": "TEXT",  # why it failed
    **dict.fromkeys(FIGURES, "REAL"),
    "state_bytes": "INTEGER",
    "stored_bytes": "INTEGER",
    "learn_seconds": "REAL",
    "exam_seconds": "REAL",
    "protocol": "TEXT",  # of the tuning: oracle or first-K; NULL where nothing was tuned
    "score": "REAL",
    "options": "TEXT",  # JSON: those listed in the sweep file, {"method.lam": 10}
    "result": "TEXT",  # JSON: everything measured
    "finished_at": "TEXT",  # UTC
}


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """The ledger in a folder, to be written; made where there is none."""
    with closing(_connected(folder / NAME, "rwc")) as book, _understood(folder / NAME):
        book.execute(f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{n} {kind}' for n, kind in COLUMNS.items())})")
        yield book


def pending(run: Run) -> dict[str, Any]:
    """The row of a run that is not done."""
    experiment = run.experiment
    return {
        **dict.fromkeys(COLUMNS),
        "name": run.name,
        "stream": experiment.stream,
        "method": experiment.method,
        "scenario": experiment.scenario,
        "tasks": experiment.first or experiment.tasks,
        "seed": experiment.seeds[0],
        "stream_seed": int(experiment.options.get("stream.seed", 0)),
        "role": run.role,
        "status": "pending",
        "options": json.dumps(run.listed),
    }


def failed(run: Run, message: str) -> dict[str, Any]:
    """The row of a run that was refused or diverged."""
    return pending(run) | {"status": "failed", "message": message, "finished_at": _now()}


def done(run: Run, result: Result) -> dict[str, Any]:
    """The row of a finished run."""
    plain = result.to_json()
    figures = {name: plain[name] for name in FIGURES} if run.role == "run" else {"score": plain["acc"]}
    shared = ("scenario", "tasks", "state_bytes", "stored_bytes", "learn_seconds", "exam_seconds")
    return {
        **pending(run),
        **figures,
        **{name: plain[name] for name in shared},
        "status": "done",
        "result": json.dumps(plain, allow_nan=False),
        "finished_at": _now(),
    }


def tuned(row: dict[str, Any], protocol: str, score: float, chosen: dict[str, Any]) -> dict[str, Any]:
    """The row of a run whose options were chosen, and by what; its result says so too, among the options."""
    known = score if isfinite(score) else None
    result = json.loads(row["result"])
    result["options"]["tuning"] = {"protocol": protocol, "score": known, "chosen": chosen}
    return row | {"protocol": protocol, "score": known, "result": json.dumps(result, allow_nan=False)}


def put(book: sqlite3.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows, each over the one of its name, all of them or none."""
    with book:
        book.executemany(
            f"INSERT INTO runs VALUES ({', '.join(f':{name}' for name in COLUMNS)}) ON CONFLICT(name) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS),
            rows,
        )


def keep(book: sqlite3.Connection, names: Sequence[str]) -> None:
    """Deletes the rows of all other runs."""
    with book:
        book.execute(f"DELETE FROM runs WHERE name NOT IN ({', '.join('?' * len(names))})", list(names))


def rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a sweep's folder or file, in the order of the sweep.

    Raises:
        Refused: there is no ledger, or it cannot be read.
    """
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise Refused(
            f"{path.parent} holds no sweep (no {path.name}); make one with: perdure sweep FILE.yaml --out DIR"
        )
    with closing(_connected(path, "ro")) as book, _understood(path):
        book.row_factory = sqlite3.Row
        return [dict(row) for row in book.execute("SELECT * FROM runs ORDER BY rowid")]


def results(path: Path) -> list[Result]:
    """The results of the finished runs of a sweep's folder or file; those of tuning are not among them.

    Raises:
        Refused: there is no ledger, it cannot be read, or a run is of another version of the format.
    """
    home = path if path.is_dir() else path.parent
    finished = [row for row in rows(path) if (row["role"], row["status"]) == ("run", "done")]
    return [_result(json.loads(row["result"]), home / "runs" / row["name"]) for row in finished]


def _result(kept: dict[str, Any], folder: Path) -> Result:
    """The result in a row, which is of the format of its run folder."""
    check_format(folder, kept.get("options"))
    return Result.from_json(kept | {"run_dir": str(folder)})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)
    except sqlite3.OperationalError as error:
        raise Refused(f"{path} cannot be opened ({error}); choose another folder") from error


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise Refused(f"{path} cannot be used as the ledger of a sweep: {error}") from error
