"""Teach a network a stream of tasks, or continue where a run stopped.

`perdure run STREAM METHOD` learns, examines after every task, prints what it measured, and writes a page about it.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from perdure import report
from perdure.cli import Help, fail
from perdure.cli.parser import Parser, add, parsed
from perdure.cli.present import present
from perdure.cli.progress import Watch, shown
from perdure.contract import Fit, Refused
from perdure.experiments import continue_, execute, plan
from perdure.experiments.experiment import GENERAL, Experiment, recorded
from perdure.methods import METHODS
from perdure.options import FIT, default_fit, described, flag, method_class, of_method, of_stream
from perdure.result import Result, summary

USAGE = """perdure run STREAM METHOD [OPTIONS]
       perdure run STREAM METHOD --help      (the options of that stream and that method)
       perdure run --resume DIR"""
OWN = ("preset", "config", "out", "resume", "json", "help")


class Work(NamedTuple):
    """A run that can begin."""

    experiment: Experiment
    folder: Path
    do: Callable[[Watch], list[Result]]


def main(words: list[str]) -> int:
    """Carries out the verb."""
    given = parsed(_parser(), words)
    if given.pop("help", False):
        raise Help(_help(given.get("stream"), given.get("method")))
    as_json = given.pop("json", False)
    work = _resumed(given) if "resume" in given else _begun(given)
    noun = "chunk" if work.experiment.scenario in ("nns", "free") else "task"
    try:
        with shown(work.experiment.seeds, noun) as watch:
            results = work.do(watch)
    except KeyboardInterrupt:
        return fail(_stopped(work), 130)
    finally:
        if "out" not in given and "resume" not in given:
            _leave(work.folder)
    try:
        page = report.write(results, work.folder / "report.html")
    except OSError as error:
        folder = shlex.quote(str(work.folder))
        raise Refused(
            f"the run in {folder} is complete, but its page could not be written ({error.strerror}); "
            f"write it with: perdure report {folder}"
        ) from error
    present(Console(stderr=as_json, highlight=False), results, work.folder, page)
    if as_json:
        print(json.dumps(summary(results, listed="seeds" in given or len(results) > 1)))
    return 0


def _parser() -> Parser:
    parser = Parser("run", USAGE, "Teaches a network a stream of tasks with a method, and shows what it forgot.")
    parser.add_argument("stream", nargs="?", metavar="STREAM", help="KIND-BASE (permuted-mnist) or a file (my.npz)")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="a name (ewc) or FILE.py:CLASS")
    for part in GENERAL:
        for option in described(part):
            add(parser, option)
    parser.add_argument("--preset", metavar="NAME", help="options by name; see perdure list presets")
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, with the names they have here")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/STREAM-METHOD)")
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    parser.add_argument("--json", action="store_true", help="the result as JSON on the last line of stdout")
    return parser


def _help(stream: str | None, method: str | None) -> str:
    """General options, those of fitting, and those of the stream and the method that are named."""
    parser, parts = _parser(), {"fitting a network to one task": FIT}
    fit = Fit()
    if method is not None:
        fit = default_fit(method_class(method))
        parts[f"the method {method}"] = of_method(method_class(method))
    if stream is not None:
        parts[f"the stream {stream}"] = of_stream(stream)
    for title, part in parts.items():
        group = parser.add_argument_group(title)
        for option in described(part):
            shipped = getattr(fit, option.name.removeprefix("fit.")) if part is FIT else option.default
            add(group, option._replace(default=shipped))
    return parser.format_help()


def _begun(given: Mapping[str, Any]) -> Work:
    """A run from its beginning."""
    missing = [name.upper() for name in ("stream", "method") if name not in given]
    if missing:
        raise Refused(
            f"{' and '.join(missing)} missing: perdure run STREAM METHOD, as in: perdure run permuted-digits ewc"
        )
    options = {name: value for name, value in given.items() if name not in (*OWN, "stream", "method")}
    experiment = plan(given["stream"], given["method"], options, given.get("preset"), given.get("config"))
    folder = Path(given["out"]) if "out" in given else _own_folder(experiment)
    return Work(experiment, folder, lambda watch: execute(experiment, folder, watch=watch, announce=True))


def _resumed(given: Mapping[str, Any]) -> Work:
    """A run that goes on."""
    folder, others = Path(given["resume"]), [name for name in given if name not in ("resume", "stream", "method")]
    if others:
        raise Refused(f"--resume continues a run as it began; leave out {', '.join(map(flag, others))}")
    experiment = recorded(folder)
    for name in ("stream", "method"):
        if given.get(name, getattr(experiment, name)) != getattr(experiment, name):
            raise Refused(f"{folder} holds a run with {name} {getattr(experiment, name)}, not {given[name]}")
    return Work(experiment, folder, lambda watch: continue_(folder, method=given.get("method"), watch=watch))


def _own_folder(experiment: Experiment) -> Path:
    """runs/STREAM-METHOD, or with -2, -3, ... behind it where that is taken; a passing one for a smoke test.

    It is made at once, so that no other run takes it.
    """
    if experiment.smoke:
        return Path(tempfile.mkdtemp(prefix="perdure-smoke-"))
    name = f"{Path(experiment.stream).stem}-{experiment.method.rpartition(':')[2].lower()}"
    folder, number = Path("runs") / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = Path("runs") / f"{name}-{number}"
        except OSError as error:
            raise Refused(f"{folder} cannot be made ({error.strerror}); choose another place with --out") from error


def _leave(folder: Path) -> None:
    """Takes away a folder in which nothing was begun, and that of all runs if there is none."""
    with suppress(OSError):
        for place in (folder, Path("runs")):
            place.rmdir()


def _stopped(work: Work) -> str:
    if not (work.folder / "experiment.json").exists():
        return "stopped; nothing had been learned"
    own = [] if work.experiment.method in METHODS else [work.experiment.stream, work.experiment.method]
    return f"stopped. Continue with: {shlex.join(['perdure', 'run', '--resume', str(work.folder), *own])}"
