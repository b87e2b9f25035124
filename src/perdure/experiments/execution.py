"""How an experiment is carried out: checked, run, continued, and read back from its folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import perdure
from perdure import nets, streams
from perdure.contract import Method, Refused, Scenario
from perdure.experiments import cost
from perdure.experiments.experiment import Experiment, command, is_own, own_net, plan, recorded
from perdure.fold import Moment, claimed, decided, live, suited
from perdure.methods import METHODS
from perdure.options import build_method, described, known_failure, method_class, of_stream, typed
from perdure.result import FORMAT, Result, read_record
from perdure.rng import fold
from perdure.streams.held_out import held_out
from perdure.streams.stream import Stream


def prepare(experiment: Experiment, net: nn.Module | None = None) -> tuple[Method, Stream]:
    """The method and the stream of an experiment, checked against each other, before any work.

    Raises:
        Refused: with what is wrong.
    """
    cls = method_class(experiment.method)
    build_method(cls, nn.Identity(), experiment.options)  # bad options first, then data
    stream = streams.build(
        experiment.stream,
        tasks=experiment.tasks,
        scenario=experiment.scenario,
        examples_per_task=experiment.examples_per_task,
        data_root=experiment.data_root,
        options=typed(of_stream(experiment.stream), experiment.options),
    )
    stream, options = _part(stream, experiment), experiment.options
    if experiment.smoke:
        stream, options = cost.smoked(stream), cost.quick(options, stream)
    if net is None:
        net = nets.build(experiment.net, stream.shape, 1 if stream.labels is None else int(stream.labels.max()) + 1)
    return suited(build_method(cls, net, options), stream), stream


def _part(stream: Stream, experiment: Experiment) -> Stream:
    """The stream's first tasks, or their held-out examples, where the experiment is about these."""
    if experiment.first is not None:
        if experiment.first > len(stream):
            raise Refused(f"first is {experiment.first}, but the stream has {len(stream)} tasks; use at most that")
        stream = stream[: experiment.first]
    if experiment.hold_out is None:
        return stream
    return held_out(stream, experiment.hold_out, fold(int(experiment.options.get("stream.seed", 0)), "held out"))


def resolved(experiment: Experiment, method: Method, stream: Stream) -> dict[str, Any]:
    """Everything that decided a run, as plain JSON."""
    part = of_stream(experiment.stream)
    kind = {option.name.removeprefix(part.prefix): option.default for option in described(part)}
    return {
        "experiment": asdict(experiment),
        "stream": kind | typed(part, experiment.options),
        **decided(method, stream),
        "net": {"name": experiment.net, "shape": list(stream.shape), "labels": _rows(method)},
        "scale": stream.scale._asdict(),
        "words": list(stream.words.items()),
        "classes": [] if stream.scenario is Scenario.NNS else [exam.id.classes.tolist() for exam in stream.exams],
        "versions": {
            "perdure": perdure.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {"processor": platform.machine(), "threads": experiment.setting.threads_for(method.net)},
        "command": command(experiment),
    }


def _rows(method: Method) -> int:
    head = method.net.get_submodule(method.fit.head)
    assert isinstance(head, nn.Linear)
    return head.out_features


def execute(
    experiment: Experiment,
    out: Path | None = None,
    *,
    resume: bool = False,
    net: nn.Module | None = None,
    watch: Callable[[Moment], None] = lambda moment: None,
    announce: bool = False,
) -> list[Result]:
    """Runs an experiment, a result for each seed. With several seeds each has a folder of its own under `out`.

    Args:
        out: the run folder; nothing is saved when not given.
        resume: continue what the folder holds.
        net: a module of the user's own, instead of `experiment.net`.
        announce: tell `watch` how long it will take, where that is more than a minute, and that the method is known to
            fail here, where it is.

    Raises:
        Refused: with what is wrong, before any work where it can be known; no run folder is left then.
    """
    method, stream = prepare(experiment, net)
    notes = [cost.SMOKE] if experiment.smoke else []
    if announce and (warning := known_failure(experiment.method, method, stream.scenario)):
        notes.append(warning)
    if announce and not experiment.smoke:
        seconds = cost.estimate(method, stream, experiment.setting) * len(experiment.seeds)
        notes += [cost.said(seconds, "this run")] if seconds >= cost.LONG else []
    for note in notes:
        watch(Moment("begun", 0, len(stream.tasks), seed=experiment.seeds[0], note=note))
    if out is None or len(experiment.seeds) == 1:
        return [_one(experiment, method, stream, seed, out, resume, watch) for seed in experiment.seeds]
    with claimed(out, resume, {"format": FORMAT, **resolved(experiment, method, stream)}):
        folders = {seed: out / f"seed-{seed}" for seed in experiment.seeds}
        return [
            _one(experiment, method, stream, seed, folder, (folder / "experiment.json").exists(), watch)
            for seed, folder in folders.items()
        ]


def _one(
    experiment: Experiment,
    method: Method,
    stream: Stream,
    seed: int,
    folder: Path | None,
    resume: bool,
    watch: Callable[[Moment], None],
) -> Result:
    record = {"format": FORMAT, **resolved(replace(experiment, seeds=(seed,)), method, stream)}
    name = experiment.method.rpartition("/")[2]
    return live(
        method, stream, seed, experiment.setting, name=name, options=record, folder=folder, resume=resume, watch=watch
    )


def results_of(folder: Path) -> list[Result]:
    """The results of a finished run, one a seed.

    Raises:
        Refused: there is no run, it is not finished, or it is of another version.
    """
    seeds = recorded(folder).seeds
    homes = [folder] if len(seeds) == 1 else [folder / f"seed-{seed}" for seed in seeds]
    if not all((home / "result.json").exists() and read_record(home)["finished"] for home in homes):
        raise Refused(f"the run in {folder} is not finished; finish it with: perdure run --resume {folder}")
    return [Result.load(home) for home in homes]


def continue_(
    folder: Path,
    *,
    method: str | None = None,
    net: nn.Module | None = None,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> list[Result]:
    """Continues the run in a folder.

    Args:
        method: FILE.py:CLASS again, where the run's method is the user's own: a folder alone never runs code.

    Raises:
        Refused: there is no run, or it cannot be continued.
    """
    experiment = recorded(folder)
    _refuse_foreign(folder, experiment.method, method)
    if is_own(experiment.net) and net is None:
        raise Refused(
            f"the run in {folder} has a net of your own ({experiment.net}), which no folder can hold; continue it in "
            f"Python, where that net is made again: {command(experiment)} with out={str(folder)!r} and resume=True"
        )
    return execute(experiment, folder, resume=True, net=net, watch=watch)


def _refuse_foreign(folder: Path, recorded: str, named: str | None) -> None:
    if recorded not in METHODS and recorded != named:
        raise Refused(
            f"the run in {folder} uses {recorded}, a method of your own; name it again, so that its code may run: "
            f"perdure run --resume {folder} STREAM {recorded}"
        )


def run(
    stream: str | Path,
    method: str,
    *,
    tasks: int | None = None,
    examples_per_task: int | None = None,
    scenario: str | Scenario | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    net: str | nn.Module | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    preset: str | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    **setting: Any,
) -> Any:
    """Learns a stream with a method, as `perdure run` does.

    Args:
        stream: "permuted-mnist", "split-digits", ... or a file of arrays.
        method: "ewc", ... or "my_file.py:MyMethod".
        seed: of the learner; 0 when not given.
        seeds: run so many seeds, 0, 1, 2, ..., and return a list of results.
        net: "mlp:400-400", or a module of your own, which is copied and not changed.
        out: the run folder; nothing is saved when not given.
        resume: continue the same run in `out`, where there is one.
        preset: options by the name of a preset; what is given here beats them.
        config: a YAML file of options; beats the preset.
        options: the dotted ones: {"fit.lr": 0.1, "method.lam": 10, "stream.seed": 3}.
        setting: `device`, `threads`, `bf16`, `exam_rows`, `exam_examples`, `fresh`.

    Returns:
        a `Result`, or a list of them where `seeds` is given, or more than one in a file.

    Raises:
        Refused: with what is wrong and what to do.
    """
    for name, value in {"stream": stream, "method": method}.items():
        if not isinstance(value, (str, Path)):
            raise Refused(
                f"{name} is a {type(value).__name__}; give its name, as in perdure.run('permuted-digits', 'ewc'). "
                "perdure.live takes methods and streams, perdure.from_arrays makes a stream of arrays"
            )
    if isinstance(net, type):
        raise Refused(f"net is a class; give a module: net={net.__name__}()")
    module = net if isinstance(net, nn.Module) else None
    given = {
        "tasks": tasks,
        "examples_per_task": examples_per_task,
        "scenario": scenario,
        "seed": seed,
        "seeds": seeds,
        "net": net if module is None else own_net(module),
        "data_root": None if data_root is None else str(data_root),
        **setting,
    }
    given = {name: value for name, value in given.items() if value is not None} | dict(options or {})
    plain = {name: _plain(value) for name, value in given.items()}
    experiment, folder = plan(str(stream), str(method), plain, preset, config), None if out is None else Path(out)
    begun = resume and folder is not None and (folder / "experiment.json").exists()
    if begun and folder is not None and (found := recorded(folder)) != experiment:
        raise Refused(f"{folder} holds another run, which was begun by: {command(found)}")
    results = execute(experiment, folder, resume=begun, net=module)
    return results[0] if seeds is None and len(results) == 1 else results


def _plain(value: Any) -> Any:
    """A value as options are written: a number of numpy's is Python's, a scenario or a path its name."""
    if isinstance(value, Enum):
        return value.value
    return value.item() if isinstance(value, np.generic) else str(value) if isinstance(value, Path) else value
