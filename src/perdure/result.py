"""What a run measured: the matrix R, the figures that follow from it, seconds and bytes; as Python, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from perdure import evaluate
from perdure.contract import Refused
from perdure.evaluate import Matrix
from perdure.store import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 3  # of a run folder
POINTS = 200  # of a loss trace that a result keeps


@dataclass(frozen=True, repr=False)
class Result:
    """What a run measured. Accuracies are fractions; NaN is undefined, and `reasons` says why.

    Lists "by task" have an entry a task; the losses, the learning speed and `learn_seconds_by_call` one a call of
    `learn`, which is the same but in NNs, where a call learns a chunk.
    """

    stream: str
    method: str
    scenario: str
    seed: int
    tasks: int
    R: Matrix  # (T+1, T), row 0 before any learning
    R_given: Matrix | None  # the same exams with the id given; None where there are no ids
    R_task: Matrix | None = None  # the share of their inputs that were given their own task; see `evaluate.own`
    learned: int = 0  # calls of `learn` so far
    finished: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    losses: list[list[float]] = field(default_factory=list)  # thinned traces
    learning_speed: list[float] = field(default_factory=list)  # empty unless asked for
    learn_seconds_by_call: list[float] = field(default_factory=list)
    exam_seconds_by_row: list[float] = field(default_factory=list)
    state_bytes_by_task: list[int] = field(default_factory=list)
    stored_bytes_by_task: list[int] = field(default_factory=list)  # on disk; those of the state without a folder
    components_by_task: list[dict[str, int]] = field(default_factory=list)  # live bytes by part of the state
    stored_components_by_task: list[dict[str, int]] = field(
        default_factory=list
    )  # those on disk; none without a folder
    options: dict[str, Any] = field(default_factory=dict)
    run_dir: Path | None = None

    @classmethod
    def blank(cls, tasks: int, ids: bool, **known: Any) -> Result:
        """A result before anything was measured: every cell is NaN."""
        return cls(
            tasks=tasks,
            R=np.full((tasks + 1, tasks), np.nan),
            R_given=np.full((tasks + 1, tasks), np.nan) if ids else None,
            R_task=np.full((tasks + 1, tasks), np.nan),
            **known,
        )

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """The result of a finished run, from its folder.

        Raises:
            Refused: there is no run, it is not finished, or it is of another version.
        """
        result = cls.from_json({**read_record(Path(folder)), "run_dir": str(folder)})
        if not result.finished:
            raise Refused(f"the run in {folder} is not finished; finish it with: perdure run --resume {folder}")
        return result

    def __repr__(self) -> str:
        """The figures, and not what they were made from."""
        figures = f"acc={self.acc:.4f}, bwt={self.bwt:+.4f}" if self.finished else f"{self.learned} learned"
        about = f"{self.stream!r}, {self.method!r}, {self.scenario}, seed={self.seed}, tasks={self.tasks}"
        return f"Result({about}, {figures})"

    @property
    def acc(self) -> float:
        """Mean accuracy over all tasks after the last."""
        return evaluate.acc(self.R)

    @property
    def acc_given(self) -> float:
        """The same with the id given; NaN where there are no ids."""
        return float("nan") if self.R_given is None else evaluate.acc(self.R_given)

    @property
    def recognised(self) -> float:
        """Mean share of inputs that were given their own task, after the last task; NaN where none is inferred."""
        return float("nan") if self.R_task is None else evaluate.acc(self.R_task)

    @property
    def bwt(self) -> float:
        """Backward transfer; negative is forgetting."""
        return evaluate.bwt(self.R)

    @property
    def fwt(self) -> float:
        """Forward transfer."""
        return float("nan") if "fwt" in self.reasons else evaluate.fwt(self.R)

    @property
    def forgetting(self) -> float:
        """Mean drop from each task's best accuracy."""
        return evaluate.forgetting(self.R)

    @property
    def learn_seconds(self) -> float:
        return sum(self.learn_seconds_by_call)

    @property
    def exam_seconds(self) -> float:
        return sum(self.exam_seconds_by_row)

    @property
    def state_bytes(self) -> int:
        """Bytes of the live state after the last task."""
        return self.state_bytes_by_task[-1]

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk after the last task."""
        return self.stored_bytes_by_task[-1]

    def to_csv(self, path: str | Path | None = None) -> str:
        """R as CSV: a line for each row of R, a column for each task; undefined cells are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["after", *(f"task_{j + 1}" for j in range(self.tasks))])
        for i, row in enumerate(self.R):
            writer.writerow([i, *("" if np.isnan(cell) else repr(float(cell)) for cell in row)])
        if path is not None:
            Path(path).write_text(text.getvalue())
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Everything measured as plain JSON; NaN is null."""
        out = {item.name: getattr(self, item.name) for item in fields(self)}
        out["run_dir"] = None if self.run_dir is None else str(self.run_dir)
        figures = ["acc", "acc_given", "recognised", "bwt", "fwt", "forgetting", "learn_seconds", "exam_seconds"]
        figures += ["state_bytes", "stored_bytes"] if self.state_bytes_by_task else []
        return {name: _plain(value) for name, value in (out | {name: getattr(self, name) for name in figures}).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """The result that `to_json` wrote.

        Raises:
            Refused: something is missing from it, or is of the wrong kind.
        """
        try:
            kept = {item.name: content[item.name] for item in fields(cls)}
            for name in ("R", "R_given", "R_task"):
                if kept[name] is not None:
                    kept[name] = np.array(kept[name], dtype=np.float64).reshape(kept["tasks"] + 1, kept["tasks"])
            kept["learning_speed"] = [float("nan") if speed is None else speed for speed in kept["learning_speed"]]
            kept["run_dir"] = None if kept["run_dir"] is None else Path(kept["run_dir"])
            return cls(**kept)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"the stored result is damaged: {error}") from error

    def plot(self) -> Figure:
        """R as a heat map (a matplotlib figure)."""
        from perdure.report import figures

        return figures.matrix(self)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def thinned(losses: Tensor) -> list[float]:
    """A loss trace as at most `POINTS` means of equal stretches."""
    parts = losses.split(1) if len(losses) <= POINTS else losses.tensor_split(POINTS)
    return [float(part.mean()) for part in parts]


def read_kept(folder: Path, name: str) -> dict[str, Any]:
    """A file of a run folder: `experiment.json`, or `result.json`, finished or not.

    Raises:
        Refused: there is no run, or it is of another version of this format.
    """
    if not folder.is_dir():
        raise Refused(f"there is no run folder {folder}")
    if not (folder / name).exists():
        raise Refused(f"{folder} holds no run (no {name})")
    kept = read_json(folder / name)
    check_format(folder, kept)
    assert isinstance(kept, dict)
    return kept


def check_format(folder: Path, kept: Any) -> None:
    """Raises Refused where what is kept of a run is of another version of the format."""
    found = kept.get("format") if isinstance(kept, dict) else None
    if found != FORMAT:
        raise Refused(
            f"the run in {folder} has format {found}, and this version reads format {FORMAT}; "
            "use the version of perdure that wrote it"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """`result.json` of a run folder."""
    return read_kept(folder, "result.json")


def summary(results: Sequence[Result], listed: bool = False) -> dict[str, Any]:
    """What `--json` prints: the figures of one run, or (always, where `listed`) lists of them over seeds."""
    names = ["stream", "method", "scenario", "seed", "R", "acc", "bwt", "fwt", "forgetting", "learn_seconds"]
    names += [
        "exam_seconds",
        "state_bytes",
        "stored_bytes",
        "state_bytes_by_task",
        "R_given",
        "acc_given",
        "R_task",
        "recognised",
    ]
    names += ["run_dir"]
    figures = [result.to_json() for result in results]
    single = len(figures) == 1 and not listed
    return {name: figures[0][name] if single else [one[name] for one in figures] for name in names}
