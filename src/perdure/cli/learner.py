"""A learner on disk: teach it your own data a task at a time, ask it, check it, undo.

`perdure learner create DIR` makes one in a folder; `learn`, `predict`, `explain`, `check`, `history`, `promote`,
`rollback`, `forget`, `policy`, `export` and `prune` follow.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from perdure import train
from perdure.cli import Help
from perdure.cli.parser import Parser, add, parsed
from perdure.contract import Refused, Scenario, unknown
from perdure.learner import Change, Entry, Explanation, Learner, Policy, Report
from perdure.learner.intake import read
from perdure.learner.intake.given import listed
from perdure.learner.ledger import makers
from perdure.learner.settings import Settings
from perdure.options import FIT, Part, described, flag, known_failure, method_class, of_method, typed
from perdure.report.table import size
from perdure.store import write

Given = Mapping[str, Any]
SHOWN = 10  # predictions that a terminal is shown
DIGITS = 18  # of the number of an entry
TITLES = ("label", "task", "confidence", "fits")  # of what is said of each input
SETTINGS, POLICY = Part("", Settings, ("options",)), Part("", Policy)
DATA = "X, y in .npz, .npy, .csv or .parquet, or a folder with a sub-folder of images for each class"
ARGUMENTS: dict[str, list[tuple[str, str]]] = {
    "create": [],
    "learn": [("data", DATA)],
    "predict": [("data", "inputs, in any of the forms that are learned from; labels are not needed")],
    "explain": [("data", "inputs, in any of the forms that are learned from; labels are not needed")],
    "check": [],
    "history": [],
    "promote": [("number", "of the candidate, as history shows it")],
    "rollback": [("number", "of the entry after which things should be as they were (default: one version back)")],
    "forget": [("name", "of the task")],
    "policy": [],
    "export": [("file", "to write: .pt2 for torch, .onnx for ONNX (needs perdure[onnx])")],
    "prune": [],
}
OPTIONAL = {("rollback", "number")}


def main(words: list[str]) -> int:
    """Carries out the verb."""
    if not words or words[0] in ("-h", "--help"):
        raise Help(_usage())
    verb, *rest = words
    if verb not in VERBS:
        raise unknown("learner verb", verb, VERBS)
    parser = _parser(verb)
    given = parsed(parser, rest) if verb == "create" else parser.read(rest)
    if given.pop("help", False):
        raise Help(parser.format_help())
    for name in ("dir", *(name for name, _ in ARGUMENTS[verb] if (verb, name) not in OPTIONAL)):
        if given.get(name) is None:
            parser.error(f"{name.upper()} is missing")
    console = Console(stderr="json" in given, highlight=False, soft_wrap=True)
    return VERBS[verb](given, console)


def _usage() -> str:
    lines = [f"  {verb:<10} {(do.__doc__ or '').partition('.')[0]}" for verb, do in VERBS.items()]
    return "\n".join(
        [
            "usage: perdure learner VERB DIR ...",
            "",
            "A learner in a folder: your own data, a task at a time, for years.",
            "",
            *lines,
            "",
            "perdure learner VERB --help says more of one. A start: perdure learner create plants",
            "",
        ]
    )


def _parser(verb: str) -> Parser:
    arguments = ["DIR", *(name.upper() for name, _ in ARGUMENTS[verb])]
    usage = f"perdure learner {verb} {' '.join(arguments)} [OPTIONS]"
    parser = Parser(f"learner {verb}", usage, VERBS[verb].__doc__ or "")
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the learner's folder")
    for name, words in ARGUMENTS[verb]:
        parser.add_argument(name, nargs="?", metavar=name.upper(), help=words)
    if verb == "create":
        for part in (SETTINGS, POLICY):
            for option in described(part):
                add(parser, option)
        parser.epilog = (
            "Options such as --fit.steps are in: perdure run --help; such as --method.slots in: perdure show METHOD"
        )
        return parser
    if verb == "policy":
        for option in described(POLICY):
            add(parser, option)
        parser.epilog = "What is not given stays as it is. --byte-budget none: no limit. Without options it is shown."
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait so long for another process that writes")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on the last line of stdout")
    if verb in ("learn", "check"):
        parser.add_argument(
            "--exam", action="append", metavar="NAME=DATA", help="your own exam of a task that has none stored"
        )
    if verb in ("learn", "predict", "explain", "check"):
        parser.add_argument("--label", metavar="COLUMN", help="the column of labels in a table")
    if verb == "learn":
        parser.add_argument("--name", metavar="NAME", help="of the task; that of a known one teaches it more")
        parser.add_argument(
            "--validation", metavar="SHARE", help="held back for the exam, or the exam's own data (default: 0.2)"
        )
        parser.add_argument("--hold", action="store_true", help="keep the candidate back until it is promoted")
    if verb in ("predict", "explain"):
        parser.add_argument("--task", metavar="NAME", help="the task that all inputs are of; inferred when not given")
        parser.add_argument("--out", metavar="FILE", help="also write a line for each input here, as CSV")
    if verb == "export":
        parser.add_argument("--task", metavar="NAME", help="whose labels compete (default: all that were learned)")
    if verb == "forget":
        parser.add_argument("--purge", action="store_true", help="also delete all other versions: there is no way back")
    if verb == "prune":
        parser.add_argument("--versions", type=int, metavar="N", help="how many to keep (default: 1)")
    return parser


def _warn(settings: Settings) -> None:
    """Says on stderr where the method is known to fail: a learner learns classes, and is asked without ids."""
    if not settings.ids and (known := known_failure(settings.method, settings.nowhere(), Scenario.GNU)):
        print(f"perdure: {known}", file=sys.stderr)


def _opened(given: Given) -> Learner:
    return Learner(given["dir"], **{name: given[name] for name in ("wait", "device") if name in given})


def _create(given: Given, console: Console) -> int:
    """Makes a learner in a new folder."""
    settings, policy = typed(SETTINGS, given), typed(POLICY, given)
    options = {name: value for name, value in given.items() if "." in name}
    if strange := given.keys() - options.keys() - settings.keys() - policy.keys() - {"dir"}:
        parts = (FIT, of_method(method_class(settings.get("method", Settings.method))))
        known = [*_parser("create").known, *(flag(option.name) for part in parts for option in described(part))]
        raise unknown("option", flag(min(strange)), known, "See: perdure learner create --help")
    learner = Learner.create(given["dir"], **settings, policy=Policy(**policy), options=options)
    _warn(learner.settings)
    made = f"{learner.settings.method} on {learner.settings.net}"
    console.print(f"made {learner.folder} ({made})\nnext: perdure learner learn {learner.folder} DATA", markup=False)
    return 0


def _learn(given: Given, console: Console) -> int:
    """Learns a task, and keeps the old version where the new one would cost too much."""
    learner = _opened(given)
    _warn(learner.settings)
    asked: Any = given.get("validation", "0.2")
    try:
        asked = float(asked)
    except ValueError:
        asked = Path(asked)
    with _bar() as watch:
        report = learner.learn(
            Path(given["data"]),
            given.get("name"),
            validation=asked,
            label=given.get("label"),
            exams=_exams(given),
            promote="hold" not in given,
            watch=watch,
        )
    _show(console, report, given["dir"])
    if "json" in given:
        print(json.dumps(report.to_json()))
    return 0 if report.verdict != "kept back" or "hold" in given else 1


def _predict(given: Given, console: Console) -> int:
    """Predicts labels; the task of each input is inferred unless it is named."""
    said = _said(given)
    if "json" in given:
        print(json.dumps({name: part.tolist() for name, part in said._asdict().items() if name != "fits"}))
    elif "out" not in given:
        print("\n".join(map(str, said.labels.tolist())))
    return 0


def _explain(given: Given, console: Console) -> int:
    """Says of every input its label, its task, how sure that is, and whether it fits any known task."""
    said = _said(given)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="right" if title == "confidence" else "left")
    for row in list(zip(*(part.tolist() for part in said), strict=True))[:SHOWN]:
        table.add_row(*(f"{part:.2f}" if isinstance(part, float) else escape(str(part)) for part in row))
    console.print(table)
    if len(said.labels) > SHOWN:
        console.print(f"... and {len(said.labels) - SHOWN} more; --out FILE or --json has all")
    if "json" in given:
        print(json.dumps({name: part.tolist() for name, part in said._asdict().items()}))
    return 0


def _said(given: Given) -> Explanation:
    """What is said of inputs, written to a file if that is asked for."""
    path = Path(given["data"])
    said = _opened(given).explain(path, given.get("task"), label=given.get("label"))
    if "out" in given:
        names = read(path, labelled=False).names if path.is_dir() else ()
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["file" if names else "row", *TITLES])
        parts = zip(*(part.tolist() for part in said), strict=True)
        lines.writerows([name, *row] for name, row in zip(names or range(len(said.labels)), parts, strict=True))
        write(Path(given["out"]), text.getvalue().encode())
    return said


def _check(given: Given, console: Console) -> int:
    """Reads every file, asks every exam again, and says what is damaged or lost; exit status 1 if anything is."""
    found = _opened(given).check(_exams(given), label=given.get("label"))
    for problem in found.problems:
        console.print(f"wrong: {problem}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    _changed(console, found.tasks, "when made")
    if not found.problems:
        console.print(f"all is well: every file is whole, and {len(found.tasks)} exams are answered as they were")
    if "json" in given:
        tasks = {name: change._asdict() for name, change in found.tasks.items()}
        print(json.dumps({"problems": found.problems, "notes": found.notes, "tasks": tasks}))
    return 1 if found.problems else 0


def _history(given: Given, console: Console) -> int:
    """Shows everything that was ever done, the newest last."""
    learner = _opened(given)
    entries, left = learner.history(), {version for _, version in learner.archive.there()}
    numbers = {version: entry.number for version, entry in makers(entries).items()}
    head = numbers[entries[0].version]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for title in ("", "when (UTC)", "what", "task", "accuracy", "bytes", ""):
        table.add_column(title, justify="right" if title in ("", "accuracy", "bytes") else "left", no_wrap=True)
    for entry in reversed(entries):
        found = entry.report
        accuracy = f"{found['accuracy']:.1%}" if found.get("accuracy") is not None else ""
        nbytes = size(found["nbytes"]) if "nbytes" in found else ""
        when, task = _printed(entry.when[:16].replace("T", " ")), _printed(found.get("task") or "")
        made = entry.candidate or entry.version
        gone = numbers[made] == entry.number and made not in left
        now = "answers" if entry.number == head else "pruned" if gone else ""
        table.add_row(str(entry.number), when, _event(entry), task, accuracy, nbytes, now)
    console.print(table)
    if "json" in given:
        print(json.dumps({"head": head, "versions": _versions(entries, numbers)}))
    return 0


def _event(entry: Entry) -> str:
    """What was done, and to which entry."""
    return {"promoted": f"promoted {entry.base}", "rolled back": f"rolled back to {entry.base}"}.get(
        entry.event, entry.event
    )


def _printed(text: str) -> str:
    """Text of anyone's as a table may show it."""
    return escape(text if text.isprintable() else repr(text))


def _versions(entries: Sequence[Entry], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Every version that was made, oldest first, with the one that it was made from and all that was found."""
    by_number = {entry.number: entry for entry in entries}
    out = []
    for number in sorted(numbers.values()):
        entry = by_number[number]
        parent = numbers[by_number[number - 1].version] if number else None
        verdict = entry.report.get("verdict", entry.event)
        said = {"version": number, "name": entry.report.get("task", ""), "verdict": verdict, "parent": parent}
        out.append(said | {"when": entry.when, "software": entry.software, "report": entry.report})
    return out


def _promote(given: Given, console: Console) -> int:
    """Lets a candidate that was kept back answer."""
    learner = _opened(given)
    return _done(given, console, learner, learner.promote(_whole(given["number"])))


def _rollback(given: Given, console: Console) -> int:
    """Lets an older version answer again; the newer ones stay."""
    learner, to = _opened(given), given.get("number")
    return _done(given, console, learner, learner.rollback(None if to is None else _whole(to)))


def _forget(given: Given, console: Console) -> int:
    """Lets a version answer that never knew a task."""
    learner = _opened(given)
    return _done(given, console, learner, learner.forget(given["name"], purge="purge" in given))


def _policy(given: Given, console: Console) -> int:
    """Shows what an update may cost, or lets another policy judge from now on."""
    learner = _opened(given)
    asked = {name: value for name, value in given.items() if name in vars(learner.policy)}
    lifted = {"byte_budget": None} if asked.get("byte_budget") == "none" else {}
    if asked:
        more = typed(POLICY, {name: value for name, value in asked.items() if name not in lifted})
        entry = learner.change_policy(replace(learner.policy, **more | lifted))
        console.print(f"changed (entry {entry.number}):")
    for name, value in vars(learner.policy).items():
        console.print(f"  {flag(name)} {'none' if value is None else value}", markup=False)
    if "json" in given:
        print(json.dumps(asdict(learner.policy)))
    return 0


def _export(given: Given, console: Console) -> int:
    """Writes what is answered as one file that needs no Perdure, for torch or ONNX."""
    made = _opened(given).export(given["file"], given.get("task"))
    inputs, labels = ", ".join(map(str, ("n", *made.shape))), listed(map(str, made.labels))
    console.print(f"wrote {made.path} ({size(made.nbytes)})", markup=False)
    console.print(f"it takes float32 of shape ({inputs}), and gives logits of: {labels}", markup=False)
    if "json" in given:
        print(json.dumps(made._asdict() | {"path": str(made.path)}))
    return 0


def _prune(given: Given, console: Console) -> int:
    """Deletes old versions, and candidates that were kept back."""
    freed = _opened(given).prune(given.get("versions", 1))
    console.print(f"freed {size(freed)}")
    if "json" in given:
        print(json.dumps({"freed": freed}))
    return 0


def _done(given: Given, console: Console, learner: Learner, entry: Entry) -> int:
    """Says what was done, and what answers now."""
    tasks = listed(learner.tasks) or "no task"
    console.print(f"{_event(entry)}: {learner.folder} answers for {tasks} (entry {entry.number})", markup=False)
    if "json" in given:
        print(json.dumps(entry.to_json()))
    return 0


def _exams(given: Given) -> dict[str, Path]:
    """Exams by the name of their task, as they are given."""
    pairs = [word.partition("=") for word in given.get("exam", [])]
    if wrong := [name for name, equals, data in pairs if not (name and equals and data)]:
        raise Refused(f"--exam {wrong[0]!r} is no exam; write NAME=DATA, as in --exam orchids=exam.npz")
    return {name: Path(data) for name, _, data in pairs}


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > DIGITS:
        raise Refused(f"{text[:DIGITS]!r} is no number of an entry; see perdure learner history")
    return int(text)


def _show(console: Console, report: Report, folder: str) -> None:
    """What an update did."""
    learned = f"{report.task}: {report.examples} examples learned in {report.seconds['learn']:.1f} s"
    exam = "no exam" if report.accuracy is None else f"{report.accuracy:.1%} on its exam of {report.asked}"
    given = "" if report.given in (None, report.accuracy) else f" ({report.given:.1%} with its name given)"
    console.print(f"{learned}, {exam}{given}", markup=False)
    if report.looked:
        like = f"; most was taken for {report.like}" if report.like else ""
        fitted = f"{report.fit:.0%} of it fitted what was known{like}"
        console.print(f"before it was learned, it looked {report.looked}: {fitted}", markup=False)
    _changed(console, report.changes, "before")
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    for reason in report.reasons:
        console.print(f"kept back: {reason}", markup=False)
    where = "the version before still answers" if report.verdict == "kept back" else f"{size(report.nbytes)} in all"
    console.print(f"{report.verdict} (entry {report.number}); {where}", markup=False)
    if report.verdict == "kept back":
        console.print(f"to let it answer all the same: perdure learner promote {folder} {report.number}", markup=False)


def _changed(console: Console, changes: Mapping[str, Change], before: str) -> None:
    """What happened to tasks of which anything changed."""
    shown = {name: change for name, change in changes.items() if change.flips or change.gains}
    if not shown:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("task", before, "now", "turned wrong", "turned right", "asked"):
        table.add_column(title, justify="left" if title == "task" else "right")
    for name, change in shown.items():
        shares = (change.before, change.after, change.flips, change.gains)
        table.add_row(escape(name), *(f"{share:.1%}" for share in shares), str(change.asked))
    console.print(table)


@contextmanager
def _bar() -> Iterator[Callable[[train.Progress], None]]:
    """Shows the steps on a terminal, and nothing elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda progress: None
        return
    with Progress(
        BarColumn(), TextColumn("{task.fields[says]}"), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None, says="")

        def watch(progress: train.Progress) -> None:
            step, steps, loss = progress
            bar.update(task, completed=step, total=steps, says=f"step {step:,}, loss {loss:.3f}")

        yield watch


VERBS: dict[str, Callable[[Given, Console], int]] = {
    "create": _create,
    "learn": _learn,
    "predict": _predict,
    "explain": _explain,
    "check": _check,
    "history": _history,
    "promote": _promote,
    "rollback": _rollback,
    "forget": _forget,
    "policy": _policy,
    "export": _export,
    "prune": _prune,
}
