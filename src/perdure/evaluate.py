"""Exams and metrics: from a state to a row of R, and from R to what the field reports.

R[i, j] is the accuracy on task j after learning task i; row 0 was taken before any learning. Cells are fractions; a
cell that could not be measured is NaN, never 0, and a figure that follows from one is NaN with a reason.

Definitions: D. Lopez-Paz, M. Ranzato, "Gradient episodic memory for continual learning", 2017, arXiv 1706.08840 (ACC,
BWT, FWT); A. Chaudhry et al., "Riemannian walk for incremental learning", 2018, arXiv 1801.10112 (forgetting).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perdure.contract import Answer, Examples, Method, Scenario, TaskId
from perdure.data import blocks
from perdure.model import narrow
from perdure.rng import permutation

NOT_TAKEN = "this row was not asked for (exam rows)"
UNSEEN = "the method had no row for its labels yet"
UNLEARNED = "given the id of a task that it has not learned, the method has no answer"
Matrix = NDArray[np.float64]


class Exam(Protocol):
    """What an exam needs: examples, and whose they are."""

    @property
    def examples(self) -> Examples: ...
    @property
    def id(self) -> TaskId: ...


class Cell(NamedTuple):
    """What one exam found, in fractions; NaN where the method has no row for any of its labels."""

    asked: float  # accuracy as the scenario asks: with the id in GG, without elsewhere
    given: float  # accuracy with the id; NaN in NNs, which has none
    taken: Mapping[int, int]  # how many of its inputs were taken for each task; none where none is inferred


def _hits(answer: Answer, y: Tensor) -> Tensor:
    return (answer.labels[answer.logits.argmax(1)] == y).sum()


def _measurable(answer: Answer, classes: Tensor) -> bool:
    return bool(torch.isin(answer.labels, classes.to(answer.labels.device)).any())


def examine(
    method: Method,
    ready: Any,
    exam: Exam,
    scenario: Scenario,
    limit: int | None = None,
    device: torch.device | None = None,
) -> Cell:
    """One exam as the scenario asks it, and with the id given.

    Args:
        limit: examine so many of its examples, the same ones every time.
        device: where the state is.
    """
    n = len(exam.examples)
    rows = torch.arange(n) if limit is None or limit >= n else permutation(0, n)[:limit].sort().values
    asked_id = exam.id if scenario is Scenario.GG else None
    asked, given = (torch.zeros((), device=device) for _ in range(2))
    given_measured, tasks = scenario is not Scenario.NNS, list[Tensor]()
    for x, y, _ in blocks(exam.examples, device, rows):
        answer = method.predict(ready, x, asked_id)
        if not _measurable(answer, exam.id.classes):
            return Cell(float("nan"), float("nan"), {})
        hits = _hits(answer, y)
        asked += hits
        if asked_id is None and answer.task is not None:
            tasks.append(answer.task)
        if not given_measured:
            continue
        if asked_id is None:
            narrowed = narrow(answer, exam.id) if answer.task is None else method.predict(ready, x, exam.id)
            given_measured = _measurable(narrowed, exam.id.classes)
            if given_measured:
                given += hits if narrowed.labels is answer.labels else _hits(narrowed, y)
        else:
            given += hits
    found, counts = (torch.cat(tasks) if tasks else torch.empty(0)).unique(return_counts=True)
    taken = dict(zip(found.long().tolist(), counts.tolist(), strict=True))
    return Cell(float(asked) / len(rows), float(given) / len(rows) if given_measured else float("nan"), taken)


def own(cells: Sequence[Cell], tasks: Sequence[int] | None, learned: int) -> Matrix:
    """(T,) of the inputs of each exam, the share that was given its own task; NaN where none was inferred.

    Args:
        tasks: (T,) whose the exams are; None where nobody told the learner (NNs). There what it tells apart has numbers
            of its own, each of which belongs to the learned task that most of the inputs it was found for are from:
            with exams of one size, the mean of the shares of what was learned is then the purity of these numbers.
        learned: how many of the tasks were learned, the first ones.
    """
    if tasks is None:
        numbers = {number for cell in cells[:learned] for number in cell.taken}
        most = {n: max(range(learned), key=lambda j: cells[j].taken.get(n, 0)) for n in numbers}
        counts = [sum(count for n, count in cell.taken.items() if most.get(n) == j) for j, cell in enumerate(cells)]
    else:
        counts = [cell.taken.get(task, 0) for cell, task in zip(cells, tasks, strict=True)]
    inferred = [sum(cell.taken.values()) for cell in cells]
    return np.array([count / n if n else np.nan for count, n in zip(counts, inferred, strict=True)], np.float64)


def acc(R: Matrix) -> float:
    """ACC: mean accuracy over all tasks after the last."""
    return float(R[-1].mean())


def bwt(R: Matrix) -> float:
    """BWT: mean over tasks but the last of R[T, i] - R[i, i]; NaN for one task. Negative: forgetting."""
    final, learned = R[-1, :-1], np.diagonal(R, -1)[:-1]
    return float((final - learned).mean()) if len(final) else float("nan")


def fwt(R: Matrix) -> float:
    """FWT: mean over tasks but the first of R[i-1, i] - R[0, i]; NaN for one task, or where labels had no row yet."""
    before, fresh = np.diagonal(R)[1:], R[0, 1:]
    return float((before - fresh).mean()) if len(fresh) else float("nan")


def forgetting(R: Matrix) -> float:
    """Mean over tasks j but the last of max_l R[l, j] - R[T, j], l from 1 to T-1; NaN for one task.

    Rows before task j was learned count too, as in the paper, where they were measured.
    """
    T = R.shape[1]
    # a row before j was learned may be NaN and is then left out; one after may not
    best = [max(R[j + 1 : T, j].max(), np.fmax.reduce(R[1:T, j])) - R[T, j] for j in range(T - 1)]
    return float(np.mean(best)) if best else float("nan")


def seen(R: Matrix) -> Matrix:
    """(T,) the mean accuracy over the tasks seen so far, after each task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.array([R[i, :i].mean() for i in range(1, len(R))])


class Omega(NamedTuple):
    """Accuracy after a base, as a share of what a network reaches offline; see `omega`."""

    base: float
    new: float
    all: float


def omega(R: Matrix, sizes: Sequence[int], offline: float) -> Omega:
    """What is left of the base, what is learned after it, and all of it: means over the tasks after the first.

    Omega_base = mean_t R[t, 1] / a,  Omega_new = mean_t R[t, t],  Omega_all = mean_t a_t / a, for t = 2 .. T, with a
    the accuracy of the offline network and a_t that on all examples of exams 1 to t. NaN for one task.

    Args:
        sizes: (T,) examples of each exam.
        offline: accuracy of a network that learned all data at once, on all exams.

    Reference: R. Kemker, C. Kanan, "FearNet: brain-inspired model for incremental learning", 2017, arXiv 1711.10563.
    """
    T = R.shape[1]
    if T < 2:
        return Omega(float("nan"), float("nan"), float("nan"))
    every = [np.average(R[t, :t], weights=np.asarray(sizes[:t])) for t in range(2, T + 1)]
    base, new = R[2:, 0].mean() / offline, np.diagonal(R, -1)[1:].mean()
    return Omega(float(base), float(new), float(np.mean(every)) / offline)


def learning_speed(losses: Tensor, fresh: Tensor) -> float:
    """How much faster a task was learned than by a fresh network: 1 - (mean loss) / (mean fresh loss).

    Both are traces of the same batches, over the steps that both took; 0 is no faster, negative is slower.
    """
    steps = min(len(losses), len(fresh))
    return 1.0 - float(losses[:steps].mean()) / float(fresh[:steps].mean()) if steps else float("nan")


def reasons(
    R: Matrix, begins: Sequence[int], ends: Sequence[int], taken: Sequence[int], given: Matrix | None = None
) -> dict[str, str]:
    """Why cells and figures are NaN: {"R[0,1]": reason, "R_given[0,1]": reason, "R[3]": of a row, "fwt": reason}.

    Args:
        taken: the rows that were asked for.
        given: the same exams with the id given; none where there are no ids.
    """
    asked = np.isin(np.arange(len(R)), list(taken))[:, None]
    out = {f"R[{i}]": NOT_TAKEN for i in np.flatnonzero(~asked).tolist()}
    out |= {f"R[{i},{j + 1}]": UNSEEN for i, j in np.argwhere(np.isnan(R) & asked).tolist()}
    if given is not None:
        for i, j in np.argwhere(np.isnan(given) & asked).tolist():
            out[f"R_given[{i},{j + 1}]"] = out.get(f"R[{i},{j + 1}]", UNLEARNED)
        if lacking := np.flatnonzero(np.isnan(given[-1])).tolist():
            out["acc_given"] = out[f"R_given[{len(given) - 1},{lacking[0] + 1}]"]
    if R.shape[1] < 2:
        out |= dict.fromkeys(("bwt", "fwt", "forgetting"), "one task alone can neither forget nor transfer")
    straddled = [j for j in range(1, len(begins)) if begins[j] < ends[j - 1]]
    if straddled:
        out["fwt"] = (
            f"a chunk straddles the border before task {straddled[0] + 1}, so it was partly learned before its exam"
        )
    for name, figure in (("acc", acc), ("bwt", bwt), ("fwt", fwt), ("forgetting", forgetting)):
        if np.isnan(figure(R)) and name not in out:
            needed = {"acc": R[-1:], "fwt": R[:1]}.get(name, R)
            cells = np.argwhere(np.isnan(needed))
            row = len(R) - 1 if name == "acc" else int(cells[0][0]) if len(cells) else 0
            cell = f"R[{row},{int(cells[0][1]) + 1}]" if len(cells) else ""
            out[name] = out.get(cell, out.get(f"R[{row}]", UNSEEN))
    return out
