"""Leaderboards: the comparison table of each stream, best accuracy first, with paired tests; as Python, CSV and JSON.

Runs of different streams or files, numbers of tasks, scenarios or stream options, or of a part of a stream or of its
exams, did not sit the same exams, so each of those has a table of its own; seeds, of the stream and of the learner, are
what figures are averaged over. The p values are corrected for every pair of a table, not only for those with its best:
which row is best was read off the same data.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import isnan, nan
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.contract import Refused
from perdure.report import table
from perdure.report.paired import Paired, holm, paired
from perdure.report.table import RETENTION, Cell, Column, Row, Seeds, seeds_of

if TYPE_CHECKING:
    from perdure.result import Result

BEST = "ACC against the best"
PAIRED = (
    Column("behind", BEST, "Behind", "points", "ACC of the best row less its own, at the seeds that both have"),
    Column("p", BEST, "p", "", "paired t test of that over the seeds, corrected for all pairs of the table by Holm"),
)


class Pair(NamedTuple):
    """Two rows of a leaderboard."""

    better: str  # the label of the upper row
    worse: str
    test: Paired  # ACC of the better less that of the worse
    holm: float  # the p value, corrected for all pairs


class Leaderboard(NamedTuple):
    """All experiments on one stream."""

    about: dict[str, Any]  # stream, tasks, scenario and the stream's options as given: {"stream": ..., "tasks": 5, ...}
    rows: list[Row]  # highest ACC first
    pairs: list[Pair]  # every two rows; first those with the best

    @property
    def title(self) -> str:
        """The stream in words: "rotated-digits, 5 tasks, gns, stream.angles evenly"."""
        stream, tasks, scenario, *options = self.about.items()
        counted = f"{tasks[1]} task{'s' * (tasks[1] > 1)}"
        return ", ".join([stream[1], counted, scenario[1], *(f"{name} {value}" for name, value in options)])

    @property
    def columns(self) -> list[Column]:
        """The columns that say something; the tests stand behind those on retention."""
        found = table.columns(self.rows)
        if not self.pairs:
            return found
        kept = [column for column in found if column.group == RETENTION]
        return [*kept, *PAIRED, *found[len(kept) :]]

    @property
    def tuning(self) -> str:
        """How options were chosen, in a sentence; empty where nothing was tuned."""
        rows = {row.label: protocol(row) for row in self.rows if protocol(row)}
        by = [
            f"{name} ({', '.join(label for label in rows if rows[label] == name)})"
            for name in dict.fromkeys(rows.values())
        ]
        return f"Options tuned by protocol {'; '.join(by)}." if by else ""

    @property
    def tests(self) -> str:
        """What the p values are, in a sentence; empty where there is none."""
        tested = sum(not isnan(pair.holm) for pair in self.pairs)
        corrected = f", corrected for all {tested} pairs by Holm's method" if tested > 1 else ""
        said = "Behind: ACC of the best row less its own, at the seeds that both have; p: paired t test of it"
        return f"{said}{corrected}." if tested else ""


def protocol(row: Row) -> str:
    """The protocol by which a sweep chose a row's options: "oracle", "first-3"; empty where they were given."""
    named: str = row.results[0].options.get("tuning", {}).get("protocol", "")
    return named


def leaderboards(results: Sequence[Result]) -> list[Leaderboard]:
    """A leaderboard for each stream, in the order in which the streams first appear.

    Raises:
        Refused: there are no results, or one run is given twice.
    """
    if not results:
        raise Refused("there are no results to compare; give at least one finished run")
    streams: dict[str, list[Result]] = {}
    for result in results:
        exams = table.exams_of(result, table.options(result))
        streams.setdefault(json.dumps(exams, sort_keys=True, default=str), []).append(result)
    return [_leaderboard(of_one, _about(of_one[0], results)) for of_one in streams.values()]


def _about(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    """What the exams of a result depend on, as it is printed: a file by its name, unless another has the same."""
    about = table.exams_of(result, table.given(result))
    named = {table.stream_of(other) for other in results if other.stream == result.stream} == {about["stream"]}
    return about | {"stream": result.stream} if named else about


def _leaderboard(results: Sequence[Result], about: dict[str, Any]) -> Leaderboard:
    rows = sorted(table.comparison(results), key=lambda row: (isnan(acc := row.cells["acc"].mean), -acc))
    accs = {row.label: {seeds_of(result): result.acc for result in row.results} for row in rows}
    labels = list(combinations(accs, 2))
    tests = [paired(accs[better], accs[worse]) for better, worse in labels]
    corrected = holm([test.p for test in tests])
    pairs = [Pair(*two, test, p) for two, test, p in zip(labels, tests, corrected, strict=True)]
    best = "the best row, which the others are compared with"
    cells = [{"behind": Cell(nan, nan, best), "p": Cell(nan, nan, best)}, *map(_cells, pairs[: len(rows) - 1])]
    rows = [row._replace(cells=row.cells | own) for row, own in zip(rows, cells, strict=True)]
    return Leaderboard(about, rows, pairs)


def _cells(pair: Pair) -> dict[str, Cell]:
    test = pair.test
    return {
        "behind": Cell(test.mean, test.half, "" if test.seeds else "needs a shared seed"),
        "p": Cell(pair.holm, nan, test.reason),
    }


def as_json(boards: Sequence[Leaderboard]) -> dict[str, Any]:
    """Everything the tables say as plain JSON: accuracies are fractions, NaN is null."""
    return {"leaderboards": [{**board.about, "rows": _rows(board), "pairs": _pairs(board)} for board in boards]}


def _rows(board: Leaderboard) -> list[dict[str, Any]]:
    return [
        {
            "label": row.label,
            "method": row.method,
            "tuning": row.results[0].options.get("tuning"),
            **_seeds(map(seeds_of, row.results)),
            "acc_by_seed": [_plain(result.acc) for result in row.results],
            **{key: _cell(row.cells[key]) for key in (column.key for column in board.columns)},
        }
        for row in board.rows
    ]


def _seeds(seeds: Iterable[Seeds]) -> dict[str, list[int]]:
    both = list(seeds)
    return {"seeds": [one.learner for one in both], "stream_seeds": [one.stream for one in both]}


def _cell(cell: Cell) -> dict[str, Any]:
    said = {"reason": cell.reason} if isnan(cell.mean) else {}
    return {"mean": _plain(cell.mean), "half": _plain(cell.half), **said}


def _pairs(board: Leaderboard) -> list[dict[str, Any]]:
    return [
        {
            "better": pair.better,
            "worse": pair.worse,
            **_seeds(pair.test.seeds),
            "difference": _plain(pair.test.mean),
            "half": _plain(pair.test.half),
            "p": _plain(pair.test.p),
            "p_holm": _plain(pair.holm),
            **({"reason": pair.test.reason} if pair.test.reason else {}),
        }
        for pair in board.pairs
    ]


def _plain(value: float) -> float | None:
    return None if isnan(value) else value


def as_csv(boards: Sequence[Leaderboard]) -> str:
    """A line for each row of each table: means and half-widths of 95 % intervals; what is undefined is empty."""
    streams = list(dict.fromkeys(name for board in boards for name in board.about))
    figures = [column.key for column in (*table.COLUMNS, *PAIRED)]
    names = [name for key in figures for name in ([key] if key == "p" else [key, f"{key}_half"])]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*streams, "label", "method", "protocol", "seeds", *names], lineterminator="\n")
    writer.writeheader()
    for board in boards:
        for row in board.rows:
            line = {"label": row.label, "method": row.method, "protocol": protocol(row), "seeds": len(row.results)}
            means = {key: _plain(row.cells[key].mean) for key in figures}
            halves = {f"{key}_half": _plain(row.cells[key].half) for key in figures if key != "p"}
            writer.writerow({**board.about, **line, **means, **halves})
    return text.getvalue()
