"""A run: the fold of a method over a stream, its exams, and the folder that makes it resumable.

    R[0] = exams(s_0);  for each task t:  s_t = learn(s_{t-1}, task_t);  R[t] = exams(s_t)

After every task the folder is complete: the state's blobs first, then `result.json`, which names them, by one rename.
A kill at any moment therefore loses at most the task that was being learned, and since every task has a key of its
own, a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from perdure import evaluate, tree
from perdure.contract import Method, Refused, Scenario, State
from perdure.half import halved
from perdure.model import check_classes, probe, with_outputs
from perdure.result import FORMAT, Result, read_record, thinned
from perdure.rng import fold
from perdure.store import ASIDE, Blobs, load_state, locked, read_json, save_state, write_json
from perdure.streams.stream import Stream
from perdure.train import BATCH, LONE_EXAMPLE, Progress, for_scenario, length, trains_on_one, watching

LOOKED = 16  # examples of a set that is recognised by them and by its labels
SMALL = 1_000_000  # parameters below which one thread is fastest


class Moment(NamedTuple):
    """Where a run is, for whoever watches it."""

    doing: str  # "begun" (with a note), "learning", "learned" or "examined"
    call: int  # which task (in NNs: chunk), 1 for the first; 0 before any
    calls: int
    progress: Progress | None = None
    accuracy: float = float("nan")  # mean over the tasks seen so far
    seconds: float = 0.0
    seed: int = 0
    note: str = ""  # what the user should know


@dataclass(frozen=True)
class Setting:
    """How a run is carried out; none of it changes what is learned, but for bf16.

    Args:
        device: auto, cpu or cuda.
        threads: CPU threads of torch; when not given, one for a network below a million parameters (two would wait for
            each other longer than they work), and torch's own choice above.
        bf16: forward passes in bfloat16; states and logits are in single precision all the same.
        exam_rows: which rows of R to take: all, last, or every:K.
        exam_examples: examine so many examples of each exam, the same ones every time; all when not given.
        fresh: also learn every task from a fresh network, for the learning speed (doubles the time).
    """

    device: str = "auto"
    threads: int | None = None
    bf16: bool = False
    exam_rows: str = "all"
    exam_examples: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        self.rows(1)
        if self.device not in ("auto", "cpu", "cuda"):
            raise Refused(f"device {self.device!r} is unknown; use auto, cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise Refused("device cuda was asked for, but torch sees no GPU; use --device cpu")
        for name in ("threads", "exam_examples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"{name} is {value}; it must be at least 1")

    def rows(self, tasks: int) -> set[int]:
        """The rows of R to take."""
        match self.exam_rows.split(":"):
            case ["all"]:
                return set(range(tasks + 1))
            case ["last"]:
                return {tasks}
            case ["every", step] if step.isdecimal() and int(step) > 0:
                return {*range(0, tasks + 1, int(step)), tasks}
        raise Refused(f"exam rows {self.exam_rows!r} are unknown; use all, last or every:K (every:10)")

    @property
    def where(self) -> torch.device:
        """The device of the state."""
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    def threads_for(self, net: nn.Module) -> int:
        """The CPU threads for runs of a network."""
        small = sum(param.numel() for param in net.parameters()) < SMALL
        return self.threads or (1 if small else torch.get_num_threads())

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Threads and precision inside the block; as they were after it."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads_for(net))
        try:
            with halved(self.bf16):
                yield
        finally:
            torch.set_num_threads(threads)


def suited(method: Method, stream: Stream) -> Method:
    """The method fitted to a stream: its head, whose logits compete, the order of examples. Checks all before any work.

    Its net is a copy, so that it stays what it is whatever becomes of the user's.

    Raises:
        Refused: the method has no such scenario, the net cannot take the inputs, a batch exceeds a task, ...
    """
    name, scenario = type(method).__name__, stream.scenario
    if scenario not in method.scenarios:
        works = ", ".join(s.value for s in Scenario if s in method.scenarios)
        why = "tasks have no borders there, and it needs them" if scenario is Scenario.NNS else "it is not made for it"
        raise Refused(f"{name} does not work in scenario {scenario.value}: {why}. It works in {works}")
    if lazy := [name for name, param in method.net.named_parameters() if is_lazy(param)]:
        raise Refused(f"{lazy[0]} has no shape yet; pass one batch through the net first")
    method = method.with_(net=copy.deepcopy(method.net))
    fit = for_scenario(method.fit, scenario)
    if stream.ordered:
        fit = replace(fit, order="arrival")
    x = stream.exams[0].examples.take(torch.arange(1)).x
    fit = replace(fit, head=probe(method.net, fit, x))
    one = trains_on_one(method.net, x)
    for number, task in enumerate(stream.tasks):
        try:
            size, _ = length(fit if number else replace(fit, order="shuffled"), n := len(task.examples))
            if not one and (size == 1 or n % size == 1):
                raise Refused(LONE_EXAMPLE)
            if method.alone:
                check_classes(task)
        except Refused as error:
            raise Refused(f"{'chunk' if scenario is Scenario.NNS else 'task'} {number + 1}: {error}") from None
        if fit.compete == "task" and task.id is not None and len(task.id.classes) < 2:
            raise Refused(
                f"task {number + 1} has one class, and only the task's own logits compete: nothing can be learned. "
                "Use scenario gnu, or give each task two classes"
            )
    labels = stream.labels
    if labels is None and fit.compete == "all":
        labels = torch.cat([exam.id.classes for exam in stream.exams])
    rows = 0 if labels is None else int(labels.max()) + 1
    method = method.with_(net=with_outputs(method.net, fit, rows), fit=fit)
    method.vet(stream.tasks)
    return method


def decided(method: Method, stream: Stream) -> dict[str, Any]:
    """What decides a run beside its seed and its net, as plain JSON; of the data a hash of some of them."""
    hyper = {item.name: getattr(method, item.name) for item in fields(method) if item.name not in ("net", "fit")}
    data = hashlib.sha256()
    for part in (stream.tasks, stream.exams):
        for examples in (part[0].examples, part[len(part) - 1].examples):
            shown = examples.raw(torch.arange(min(LOOKED, len(examples))))
            for tensor in (examples.labels, shown):
                data.update(tensor.cpu().contiguous().numpy().tobytes())
    return {"method": hyper, "fit": asdict(method.fit), "data": data.hexdigest()[:16]}


def cut(method: Method, stream: Stream) -> str:
    """What to say where a task is smaller than the default batch; nothing where it fits."""
    least = min((len(task.examples) for task in stream.tasks), default=BATCH)
    if method.fit.batch is not None or least >= BATCH:
        return ""
    return f"the smallest task has {least} examples: the default batch of {BATCH} is cut to fit where it must"


def live(
    method: Method,
    stream: Stream,
    seed: int = 0,
    setting: Setting = Setting(),
    *,
    name: str | None = None,
    options: dict[str, Any] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Result:
    """Learns a stream task by task and examines on the way.

    Args:
        seed: of the learner (start values, order, noise); the stream has its own.
        name: of the method, as the result shows it.
        options: kept with the result, and as `experiment.json`; what `decided` says when not given.
        folder: where every task is saved; nothing is saved when not given.
        resume: continue what the folder holds.
        watch: called with every `Moment`.

    Raises:
        Refused: method and stream do not suit each other, or the folder cannot be used.
    """
    method = suited(method, stream)
    options = decided(method, stream) if options is None else options

    def seen(moment: Moment) -> None:
        watch(moment._replace(seed=seed))

    if note := cut(method, stream):
        seen(Moment("begun", 0, len(stream.tasks), note=note))
    blank = Result.blank(
        stream=stream.name,
        method=name or type(method).__name__.lower(),
        scenario=stream.scenario.value,
        seed=seed,
        tasks=len(stream),
        ids=stream.scenario is not Scenario.NNS,
        options=options,
        run_dir=folder,
    )
    if folder is None:
        with setting.applied(method.net):
            return _Life(method, stream, setting, seen, None).run(blank)
    with claimed(folder, resume, options), setting.applied(method.net):
        begun = (folder / "result.json").exists()
        return _Life(method, stream, setting, seen, Blobs(folder / "states")).run(blank, resume=begun)


class _Life:
    """One method living through one stream; `result` and `state` always belong together."""

    def __init__(
        self, method: Method, stream: Stream, setting: Setting, watch: Callable[[Moment], None], blobs: Blobs | None
    ) -> None:
        self.method, self.stream, self.setting, self.watch, self.blobs = method, stream, setting, watch, blobs
        self.rows = setting.rows(len(stream))
        self.state: State = None

    def run(self, result: Result, resume: bool = False) -> Result:
        self.key = fold(result.seed, "learner")
        if resume:
            result = self._resumed(result)
        else:
            self.state = self._fresh()
            result = self._saved(self._examined(result, [0]))
        for call in range(result.learned, calls := len(self.stream.tasks)):
            result = self._learned(result, call)
            done = [row + 1 for row, end in enumerate(self.stream.ends) if end == call + 1]
            result = self._examined(result, done)
            if call + 1 == calls:
                stream = self.stream
                why = evaluate.reasons(result.R, stream.begins, stream.ends, sorted(self.rows), result.R_given)
                result = replace(result, finished=True, reasons=why)
            result = self._saved(result, len(done))
        return result

    def _fresh(self) -> State:
        return tree.to(self.method.init(fold(self.key, "init"), self.stream.background), self.setting.where)

    def _learned(self, result: Result, call: int) -> Result:
        task, key, calls = self.stream.tasks[call], fold(self.key, "learn", call), len(self.stream.tasks)
        started = time.perf_counter()
        with watching(lambda progress: self.watch(Moment("learning", call + 1, calls, progress))):
            self.state, trace = self.method.learn(self.state, task, key)
        seconds = time.perf_counter() - started
        self.watch(Moment("learned", call + 1, calls, seconds=seconds))
        speed = list(result.learning_speed)
        if self.setting.fresh:
            speed.append(evaluate.learning_speed(trace.loss, self.method.learn(self._fresh(), task, key)[1].loss))
        return replace(
            result,
            learned=call + 1,
            losses=[*result.losses, thinned(trace.loss)],
            learning_speed=speed,
            learn_seconds_by_call=[*result.learn_seconds_by_call, seconds],
        )

    def _examined(self, result: Result, rows: list[int]) -> Result:
        started, setting = time.perf_counter(), self.setting
        matrices = {"R": result.R, "R_given": result.R_given, "R_task": result.R_task}
        found: dict[str, Any] = {name: matrix.copy() for name, matrix in matrices.items() if matrix is not None}
        if wanted := [row for row in rows if row in self.rows]:
            ready, exams, scenario = self.method.ready(self.state), self.stream.exams, self.stream.scenario
            cells = [
                evaluate.examine(self.method, ready, exam, scenario, setting.exam_examples, setting.where)
                for exam in exams
            ]
            told = None if scenario is Scenario.NNS else [exam.id.index for exam in exams]
            for row in wanted:
                shares = {
                    "R": [cell.asked for cell in cells],
                    "R_given": [cell.given for cell in cells],
                    "R_task": evaluate.own(cells, told, row),
                }
                for name, matrix in found.items():
                    matrix[row] = shares[name]
        seconds = time.perf_counter() - started
        if rows:
            mean = float(np.mean(found["R"][rows[-1], : rows[-1]])) if rows[-1] else float("nan")
            self.watch(Moment("examined", result.learned, len(self.stream.tasks), None, mean, seconds))
        spent = [*result.exam_seconds_by_row, *(seconds / len(rows) for _ in rows)]
        return replace(result, **found, exam_seconds_by_row=spent)

    def _saved(self, result: Result, tasks: int = 0) -> Result:
        """The state on disk, then the result that names it. `tasks`: how many were completed by it."""
        saved = None if self.blobs is None else save_state(self.blobs, self.state)
        size, parts = tree.nbytes(self.state), tree.components(self.state)
        stored = size if saved is None else sum(saved.nbytes.values())
        result = replace(
            result,
            state_bytes_by_task=[*result.state_bytes_by_task, *[size] * tasks],
            stored_bytes_by_task=[*result.stored_bytes_by_task, *[stored] * tasks],
            components_by_task=[*result.components_by_task, *[parts] * tasks],
            stored_components_by_task=[*result.stored_components_by_task, *([saved.nbytes] * tasks if saved else [])],
        )
        if self.blobs is not None and saved is not None and result.run_dir is not None:
            record = {"format": FORMAT, "state": saved.name, **result.to_json()}
            write_json(result.run_dir / "result.json", record)
            self.blobs.keep(saved.parts)
        return result

    def _resumed(self, blank: Result) -> Result:
        assert self.blobs is not None
        assert blank.run_dir is not None
        record = read_record(blank.run_dir)
        result = replace(Result.from_json(record), run_dir=blank.run_dir)
        for what in ("stream", "method", "scenario", "seed", "tasks"):
            if getattr(result, what) != getattr(blank, what):
                raise Refused(
                    f"{blank.run_dir} holds a run with {what} {getattr(result, what)}, not {getattr(blank, what)}; "
                    "resume it as it began"
                )
        for part, words in {"method": "options of its method", "fit": "options of its fit", "data": "data"}.items():
            if _differ(result.options.get(part), blank.options.get(part)):
                raise Refused(f"{blank.run_dir} holds a run with other {words}; resume it as it began")
        self.state = tree.to(load_state(self.blobs, record["state"], self.method.states), self.setting.where)
        return result


def _differ(one: Any, other: Any) -> bool:
    """Whether two things are not the same, once they are JSON."""
    return bool(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))


@contextmanager
def claimed(folder: Path, resume: bool, options: dict[str, Any] | None = None) -> Iterator[None]:
    """Holds a folder for one run: missing, empty, or left by a run that never began; or, to resume, holding one.

    Where nothing had been learned when an error came, all is left as it was found; an interruption is no error.

    Args:
        options: written as `experiment.json` when a run begins.

    Raises:
        Refused: it holds a run and `resume` is not set, holds other files, another process works in it, or it cannot
            be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    if not resume:
        _check_free(folder)
    elif not (folder / "experiment.json").exists():
        raise Refused(f"{folder} holds no run to resume (no experiment.json)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
    with locked(folder / "run.lock"):
        if not resume:
            _check_free(folder)  # again: another process may have begun since
        try:
            if not resume:
                _clear(folder)
                write_json(folder / "experiment.json", options or {})
            yield
        except Exception:
            if not (resume or _learned(folder)):
                _clear(folder)
                (folder / "run.lock").unlink(missing_ok=True)
                with suppress(OSError):  # another process may have put something there
                    for place in made:
                        place.rmdir()
            raise


def _records(folder: Path) -> list[Path]:
    return [path for path in (folder / "result.json", *folder.glob("seed-*/result.json")) if path.exists()]


def _learned(folder: Path) -> bool:
    return any(read_json(path)["learned"] for path in _records(folder))


def _leftovers(folder: Path) -> set[Path]:
    """What a run that never began may have left."""
    names = ("experiment.json", "result.json", "run.lock", "states", "experiment.json" + ASIDE, "result.json" + ASIDE)
    return {folder / name for name in names} | set(folder.glob("seed-*"))


def _check_free(folder: Path) -> None:
    if _records(folder):
        raise Refused(
            f"{folder} holds a run; continue it with: perdure run --resume {folder} (in Python: resume=True), "
            "or choose another folder"
        )
    others = set(folder.iterdir()) - _leftovers(folder) if folder.is_dir() else set()
    if others:
        raise Refused(f"{folder} holds other files ({min(others).name}); choose a new or an empty folder")


def _clear(folder: Path) -> None:
    for leftover in _leftovers(folder) - {folder / "run.lock"}:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
