"""A sweep carried out: its runs on a pool of processes, a row each in the ledger, and options chosen by tuning.

Every run has a folder of its own, DIR/runs/NAME, that survives a kill; the ledger is written by one process, and only
about folders that are complete. So the same command again goes on: what is done is not run again, what was begun goes
on where it was, and what failed is tried again. A file that has changed may add runs, but not change or drop any.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import isnan
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from perdure.contract import Method, Refused
from perdure.datasets import Base, keeping
from perdure.experiments import ledger
from perdure.experiments.cost import DOUBT, GUESS, LONG, estimate, said, spoken, steps
from perdure.experiments.execution import execute, prepare
from perdure.experiments.experiment import Experiment
from perdure.experiments.grid import Run, Sweep
from perdure.fold import Setting
from perdure.options import known_failure
from perdure.result import Result, read_record
from perdure.store import locked, read_json, write_json
from perdure.streams.stream import Stream

Say = Callable[[str], None]


class Choice(NamedTuple):
    """What tuning chose for a method."""

    combination: str
    score: float  # mean ACC on held-out training examples
    listed: dict[str, Any]


def checked(sweep: Sweep, say: Say = lambda text: None) -> dict[str, float]:
    """Seconds that each run will take, about, by its name: measured on a few steps where the sweep may take long.

    Args:
        say: called once with each method that is known to fail here.

    Raises:
        Refused: a run that cannot be carried out; says which and why. Nothing has been run then.
    """
    kinds, shapes = dict[str, tuple[Method, Stream, Setting]](), dict[str, str]()
    warnings = dict[str, None]()  # each once, in order
    with keeping({}):
        for run in (*sweep.trials, *sweep.runs):
            shapes[run.name] = shape = _text(run.experiment, without=("method.", "fit.lr"))
            if (one := _text(run.experiment)) not in kinds:
                try:
                    kinds[one] = (*prepare(run.experiment), run.experiment.setting)
                except Refused as error:
                    raise Refused(f"{run.combination}: {error}") from None
                method, stream, _ = kinds[one]
                warnings[known_failure(run.experiment.method, method, stream.scenario)] = None
                kinds.setdefault(shape, kinds[one])
    for warning in filter(None, warnings):
        say(f"perdure: {warning}")
    wanted = {shape: kinds[shape] for shape in shapes.values()}
    seconds = {shape: GUESS * sum(steps(method, stream)) for shape, (method, stream, _) in wanted.items()}
    if sum(seconds[shape] for shape in shapes.values()) > DOUBT:
        measured = {shape: estimate(*kind) for shape, kind in wanted.items()}
        seconds |= {shape: known for shape, known in measured.items() if not isnan(known)}
    return {name: seconds[shape] for name, shape in shapes.items()}


def _text(experiment: Experiment, without: tuple[str, ...] = ()) -> str:
    """An experiment but for its seeds, and for some options."""
    left_out = ("stream.seed", *without)
    options = {name: value for name, value in experiment.options.items() if not name.startswith(left_out)}
    return json.dumps(asdict(replace(experiment, seeds=(0,), options=options)), sort_keys=True)


def carry_out(sweep: Sweep, folder: Path, workers: int = 1, say: Say = lambda text: None) -> dict[str, Choice]:
    """Runs what is not done of a sweep, longest first; what was chosen for each method that was tuned.

    Args:
        folder: of the sweep: new, empty, or holding an earlier part of the same one.
        workers: processes; each run has one thread unless the file says otherwise.
        say: called with a line a run.

    Raises:
        Refused: a run cannot be carried out (none has begun then), the folder holds something else, or another process
            works in it.
    """
    if workers < 1:
        raise Refused(f"workers is {workers}; it must be at least 1")
    if folder.is_dir() and not (folder / "sweep.json").exists() and {*os.listdir(folder)} - {"sweep.lock"}:
        raise Refused(f"{folder} holds other files; choose a new or an empty folder for --out")
    with _pool(workers) as pool:
        seconds = checked(sweep, say)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
        with locked(folder / "sweep.lock"):
            _claim(sweep, folder)
            with ledger.opened(folder) as book:
                work = _Work(sweep, folder, book, seconds, workers, say)
                work.through(pool)
                return work.choices


def _claim(sweep: Sweep, folder: Path) -> None:
    """Notes the runs of a sweep in its folder, where there are no others."""
    path = folder / "sweep.json"
    planned = {run.name: json.loads(json.dumps(asdict(run.experiment))) for run in (*sweep.trials, *sweep.runs)}
    for name, experiment in (read_json(path)["runs"] if path.exists() else {}).items():
        if planned.get(name) != experiment:
            what = "with other options" if name in planned else "which is there no more"
            raise Refused(
                f"{folder} holds a sweep with the run {name}, {what}; a sweep may gain runs, but not change or lose "
                "any: choose another --out"
            )
    write_json(path, {"format": 1, "runs": planned})


class _Work:
    """A sweep under way."""

    def __init__(
        self, sweep: Sweep, folder: Path, book: Connection, seconds: dict[str, float], workers: int, say: Say
    ) -> None:
        self.sweep, self.folder, self.book, self.seconds, self.say = sweep, folder, book, seconds, say
        self.rows = {row["name"]: row for row in ledger.rows(folder)}
        self.futures: dict[Future[str], Run] = {}
        self.choices: dict[str, Choice] = {}
        self.tuned = list(dict.fromkeys(run.experiment.method for run in sweep.trials))
        self.waiting = list(self.tuned)  # methods whose trials are not over
        self.names, self.workers, self.spent = list[str](), workers, 0.0
        self.begun: float | None = None

    def _untuned(self) -> list[Run]:
        return [run for run in self.sweep.runs if run.experiment.method not in self.tuned]

    def _left(self) -> list[Run]:
        """What is still to be run: of each method that is being tuned, one combination."""
        left = list(self.futures.values())
        for method in self.waiting:
            runs = [run for run in self.sweep.runs if run.experiment.method == method]
            left += [run for run in runs if run.combination == runs[0].combination]
        return left

    def through(self, pool: ProcessPoolExecutor) -> None:
        """Runs everything, a method's chosen combination when all of its trials are over."""
        first = [*self.sweep.trials, *self._untuned()]
        todo = [run for run in (*first, *self._left()) if not self._complete(run)]
        if (ahead := sum(self.seconds[run.name] for run in todo) / self.workers) >= LONG:
            self.say(said(ahead, "this sweep"))
        self._launch(pool, first)
        while self.waiting or self.futures:
            trying = {run.experiment.method for run in self.futures.values() if run.role == "tuning"}
            for method in [method for method in self.waiting if method not in trying]:
                self.waiting.remove(method)
                self._launch(pool, self._chosen(method))
            if self.futures:
                over, _ = wait(self.futures, return_when=FIRST_COMPLETED)
                for future in over:
                    self._record(self.futures.pop(future), future.result())
        ledger.keep(self.book, self.names)

    def _home(self, run: Run) -> Path:
        return self.folder / "runs" / run.name

    def _complete(self, run: Run) -> bool:
        home = self._home(run)
        return (home / "result.json").exists() and bool(read_record(home)["finished"])

    def _launch(self, pool: ProcessPoolExecutor, runs: Sequence[Run]) -> None:
        self.names += [run.name for run in runs]
        todo = [run for run in runs if not self._complete(run)]
        ledger.put(self.book, [self._row(run) if run not in todo else ledger.pending(run) for run in runs])
        for run in sorted(todo, key=lambda run: -self.seconds[run.name]):
            self.futures[pool.submit(_carried, run.experiment, self._home(run))] = run

    def _row(self, run: Run) -> dict[str, Any]:
        """The row of a run that is complete."""
        row = self.rows.get(run.name)
        if row is None or row["status"] != "done":
            row = ledger.done(run, Result.load(self._home(run)))
        if run.role == "tuning":
            assert self.sweep.tuning is not None
            shutil.rmtree(self._home(run) / "states", ignore_errors=True)  # a score is all that is wanted of it
            row |= {"protocol": self.sweep.tuning.protocol}
        elif choice := self.choices.get(run.experiment.method):
            assert self.sweep.tuning is not None
            row = ledger.tuned(row, self.sweep.tuning.protocol, choice.score, choice.listed)
        self.rows[run.name] = row
        return row

    def _record(self, run: Run, message: str) -> None:
        row = ledger.failed(run, message) if message else self._row(run)
        ledger.put(self.book, [row])
        figure = row["score"] if run.role == "tuning" else row["acc"]
        what = "score" if run.role == "tuning" else "ACC"
        says = f"failed: {message}" if message else f"{what} {100 * (np.nan if figure is None else figure):.1f} %"
        if left := self._left():
            ahead = sum(self.seconds[other.name] for other in left)
            if self.begun is None:  # a pace is known only from the first run on, which waited for its worker
                self.begun, ahead = time.monotonic(), ahead / self.workers
            else:
                self.spent += self.seconds[run.name]
                ahead *= (time.monotonic() - self.begun) / self.spent
            says += f"; {len(left)} left, about {spoken(ahead)}"
        self.say(f"{run.name}: {says}")

    def _chosen(self, method: str) -> list[Run]:
        """The runs of a method's best combination: mean score over all its trials, the first of equals."""
        scores = dict[str, list[float]]()
        for run in self.sweep.trials:
            if run.experiment.method == method:
                score = self.rows.get(run.name, {}).get("score")
                scores.setdefault(run.combination, []).append(np.nan if score is None else score)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        sound = {name: mean for name, mean in means.items() if not isnan(mean)}
        if not sound:
            self.say(f"{method}: a trial of every combination failed, so none is run")
            return []
        best = max(sound, key=lambda name: sound[name])
        runs = [run for run in self.sweep.runs if run.combination == best]
        self.choices[method] = Choice(best, sound[best], runs[0].listed)
        return runs


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that get ready at once, and end at once with the block: a run is whole after each of its tasks."""
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        for _ in range(workers):
            pool.submit(os.getpid)  # a process is started when there is something to do
        yield pool
    except BrokenProcessPool as error:
        why = "a worker died, perhaps for want of memory; go on with the same command, or with fewer --workers"
        raise Refused(why) from error
    finally:
        for process in set(active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


_bases: dict[object, Base] = {}  # of a worker: each data set is read once


def _begin() -> None:
    """Prepares a worker: whoever started it stops it, and it does not outlive them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimiser imports much, which takes a second
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _carried(experiment: Experiment, folder: Path) -> str:
    """Carries out a run, or goes on with it; what went wrong, if anything did."""
    try:
        with keeping(_bases):
            execute(experiment, folder, resume=(folder / "experiment.json").exists())
    except Refused as error:
        return str(error)
    except Exception as error:  # of a method of the user's own: the sweep goes on
        return f"{type(error).__name__}: {error}"
    return ""
