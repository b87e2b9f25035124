"""A learner from a stranger: whatever is in its folder, it answers or is refused in a sentence; nothing else happens.

Files are damaged as they lie; and they are forged, which is worse: whatever names a changed file is changed with it, up
to HEAD, so that every name is right.
"""

import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from clouds import blobs
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import load, save

from perdure.contract import Refused
from perdure.learner import Learner, Policy
from perdure.learner.ledger import HEAD
from perdure.store import locked

GENTLY = settings(deadline=None, derandomize=True, database=None)  # the same files each time
NAME = re.compile(rb"[0-9a-f]{64}")
LIVELY = {"er": {"method.slots": 8}, "supsup": {"method.outputs": 6}, "packnet": {}, "pruned": {}}
SECONDS, GROWN = 20.0, 1 << 30  # that one case may take on a slow machine; bytes that all may take together
X = blobs(0, n=12, d=3, seed=9)[0]
Files = dict[str, bytes]


class Touched:
    """What a stretch of code did beyond reading: files that it wrote, removed or made, programs that it ran."""

    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    KINDS = ("os.", "subprocess.", "shutil.", "socket.", "pty.", "ctypes.", "pickle.", "webbrowser.")
    HARMLESS = ("os.listdir", "os.scandir", "os.getxattr", "os.listxattr", "os.walk", "os.fwalk")

    def __init__(self) -> None:
        self.found: list[str] | None = None
        sys.addaudithook(self.note)

    def note(self, event: str, given: tuple[Any, ...]) -> None:
        if self.found is None:
            return
        if event == "open" and isinstance(given[2], int) and given[2] & self.WRITES:
            self.found.append(f"{event} {given}")
        if event.startswith(self.KINDS) and event not in self.HARMLESS:
            self.found.append(f"{event} {given}")

    def by(self, do: Callable[[], Any]) -> tuple[Any, list[str]]:
        self.found = []
        try:
            return do(), self.found
        finally:
            self.found = None


TOUCHED = Touched()


def files_in(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Case:
    """A learner in a folder, what its files should be, and which of them are others now."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole = folder, files_in(folder)
        self.names = list(self.reached(self.head))

    def put(self, changed: Files) -> None:
        for name, content in changed.items():
            (self.folder / name).write_bytes(content)

    def restore(self, changed: Files) -> None:
        for name in changed:
            if name in self.whole:
                (self.folder / name).write_bytes(self.whole[name])
            else:
                (self.folder / name).unlink()

    def fate(self, changed: Files) -> tuple[str, str]:
        """What comes of it with some files changed or added; it is as it was afterwards."""
        self.put(changed)
        try:
            begun = time.perf_counter()
            found, touched = TOUCHED.by(lambda: fate(self.folder))
            assert touched == [], touched
            assert time.perf_counter() - begun < SECONDS
        finally:
            self.restore(changed)
        return found

    def content(self, name: str) -> bytes:
        return self.whole[f"blobs/{name}"]

    def plain(self, name: str) -> Any:
        return json.loads(self.content(name))

    def reached(self, name: str) -> dict[str, None]:
        """The files that one names, and those that these name; always in the same order."""
        found = {name: None}
        if self.content(name)[:1] == b"{":
            for part in NAME.findall(self.content(name)):
                found |= self.reached(part.decode()) if f"blobs/{part.decode()}" in self.whole else {}
        return found

    @property
    def head(self) -> str:
        return self.whole[HEAD].decode().strip()

    def forged(self, changes: Files, more: Files | None = None) -> Files:
        """The files with the content of some names changed, and everything that names them, up to HEAD."""
        made: Files = {f"blobs/{name}": content for name, content in (more or {}).items()}
        new: dict[bytes, bytes] = {}

        def renamed(found: re.Match[bytes]) -> bytes:
            name = found[0]
            if name.decode() not in self.names:
                return name
            if name not in new:
                new[name] = name  # a file that is made to name itself cannot
                content = changes.get(name.decode(), self.content(name.decode()))
                content = NAME.sub(renamed, content) if content[:1] == b"{" else content
                new[name] = sha256(content).hexdigest().encode()
                made[f"blobs/{new[name].decode()}"] = content
            return new[name]

        return {HEAD: NAME.sub(renamed, self.whole[HEAD]), **made}


def fate(folder: Path) -> tuple[str, str]:
    """What comes of opening, asking and checking a folder: answers, something wrong, or refused; and what was said."""
    said = []
    try:
        learner = Learner(folder)
        for task in (None, *list(learner.tasks)[:1]):
            try:
                assert all(len(part) == len(X) for part in learner.explain(X, task))
            except Refused as error:
                said.append(str(error))
        check = learner.check()
        said += check.problems
        learner.history()
        outcome = "wrong" if said else "answers"
    except Refused as error:
        said, outcome = [str(error)], "refused"
    for sentence in said:
        assert 10 < len(sentence) < 2000, sentence
        assert sentence.isprintable(), sentence
    return outcome, "; ".join(said)


def teach(folder: Path, method: str, options: dict[str, Any]) -> Path:
    fit = {"fit.steps": 3, "fit.batch": 4} | options
    loose = Policy(max_drop=1.0, max_flips=1.0)
    learner = Learner.create(folder, method, "mlp:4", policy=loose, keep=2, exam=4, options=fit)
    for task in range(2):
        learner.learn(blobs(task, n=12, d=3), f"task {task}")
    learner.learn(blobs(2, n=12, d=3), "waits", promote=False)
    learner.rollback(1)
    learner.rollback(2)
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """One learner for each kind of state."""
    there = tmp_path_factory.mktemp("hostile")
    return {method: Case(teach(there / method, method, options)) for method, options in LIVELY.items()}


@pytest.fixture(scope="module", autouse=True)
def modest() -> Iterator[None]:
    """All cases together take little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWN


def test_the_learners_are_whole(cases: dict[str, Case]) -> None:
    for case in cases.values():
        assert case.fate({}) == ("answers", "")
        assert case.fate(case.forged({})) == ("answers", "")
        assert files_in(case.folder) == case.whole


# --- damage


@some.composite
def turned(draw: Any, content: bytes, others: list[bytes]) -> bytes:
    """Some bytes turned, set, taken away, doubled, or taken from another file."""
    out = bytearray(content)
    for _ in range(draw(some.integers(1, 3))):
        at, to = sorted((draw(some.integers(0, len(out))), draw(some.integers(0, len(out)))))
        match draw(some.sampled_from(["turn", "set", "cut", "drop", "double", "splice", "whole"])):
            case "turn" if at < len(out):
                out[at] ^= 1 << draw(some.integers(0, 7))
            case "set" if at < len(out):
                out[at] = draw(some.integers(0, 255))
            case "cut":
                del out[to:]
            case "drop":
                del out[at:to]
            case "double":
                out[at:at] = out[at:to]
            case "splice":
                out[at:] = draw(some.sampled_from(others))[at:]
            case "whole":
                out[:] = draw(some.sampled_from(others))
    return bytes(out)


@pytest.mark.parametrize("method", LIVELY)
def test_damaged_files_are_refused_or_found_by_the_check(cases: dict[str, Case], method: str) -> None:
    case, fates = cases[method], []
    names = sorted(name for name in case.whole if name != "lock")

    @settings(GENTLY, max_examples=300)
    @given(data=some.data())
    def examine(data: some.DataObject) -> None:
        name = data.draw(some.sampled_from([HEAD, *names]))
        content = data.draw(turned(case.whole[name], list(case.whole.values())))
        found, _ = case.fate({name: content})
        same = content == case.whole[name] or (name == HEAD and content.strip() == case.whole[name].strip())
        assert same or found != "answers" or content.decode("ascii", "replace").strip() in case.names
        fates.append(found)

    examine()
    assert {"wrong", "refused"} <= set(fates)


# --- forgeries


VALUES: list[Any] = [
    None, True, -1, 0, 1, 2, 7, 10**6, 10**12, 10**30, -(10**30), 1 << 63, 1 << 64, 0.5, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "..", "../HEAD", "\x1b[31mred", "[/red]", "\n", "mlp:4", "mlp:4-4-4", "er", "supsup",
    "heads", "hopsupsup", "evil.py:Evil", "0" * 64, "z" * 64, "Z" * 5000, "nan", "1e9", "100GB", "mlp:" + "9" * 80,
    "mlp:999999-999999", "resnet50:64", "conv:1000000", "linear", "2026-11-21", "2026-11-21T13:14:20+00:00", "tuple",
    "TaskId", "Version", "Known", "Pool", "images", "table", [], {}, [[]], [[[[[[[[1]]]]]]]], {"value": None},
    {"value": 3}, {"value": "x"}, {"tensor": 0}, {"tensor": "0" * 64}, {"dict": {}}, {"tuple": "tuple", "items": []},
    {"tuple": "TaskId", "items": [{"value": 0}, {"value": 1}]}, {"tuple": "tuple", "parts": []},
]  # fmt: skip


def places(plain: Any) -> list[tuple[Any, ...]]:
    """The ways to every part of plain JSON."""
    match plain:
        case dict():
            return [(), *((key, *way) for key, part in plain.items() for way in places(part))]
        case list():
            return [(), *((at, *way) for at, part in enumerate(plain) for way in places(part))]
    return [()]


@some.composite
def edited(draw: Any, plain: Any, names: list[str]) -> Any:
    """Plain JSON with a few parts replaced, removed, doubled, added or exchanged."""
    plain = json.loads(json.dumps(plain))
    for _ in range(draw(some.integers(1, 2))):
        *way, last = draw(some.sampled_from(places(plain)[1:] or [()])) or [None]
        holder = plain
        for step in way:
            holder = holder[step]
        value = draw(some.sampled_from([*VALUES, *names]))
        value = json.loads(json.dumps(value))  # a copy
        if last is None:
            return value
        match draw(some.sampled_from(["replace", "replace", "replace", "remove", "double", "add", "exchange"])):
            case "replace":
                holder[last] = value
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(holder[last])
            case "add" if isinstance(holder, dict):
                holder[draw(some.sampled_from(["value", "items", "parts", "name", "evil", "tensor", "fit.lr"]))] = value
            case "exchange":
                part = plain
                for step in draw(some.sampled_from(places(plain))):
                    part = part[step]
                holder[last] = json.loads(json.dumps(part))
    return plain


@some.composite
def remade(draw: Any, content: bytes) -> bytes:
    """A tensor of another shape or type, with other numbers, or none; or its file turned."""
    tensor = load(content)["tensor"]
    match draw(some.sampled_from(["type", "flat", "longer", "shorter", "deeper", "empty", "values", "name", "turn"])):
        case "type":
            to = draw(some.sampled_from([torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool,
                                         torch.complex64, torch.bfloat16]))  # fmt: skip
            tensor = tensor.to(to)
        case "flat":
            tensor = tensor.flatten()
        case "longer":
            tensor = torch.cat([torch.atleast_1d(tensor)] * 3)
        case "shorter":
            tensor = torch.atleast_1d(tensor)[: max(0, len(torch.atleast_1d(tensor)) - 1)]
        case "deeper":
            tensor = tensor[None]
        case "empty":
            tensor = tensor.new_zeros(draw(some.sampled_from([(0,), (0, 3), (10**9, 0), (1 << 40, 0)])))
        case "values":
            value = draw(some.sampled_from([-1, 0, 1, 5, 255, 1 << 31, -(1 << 62), float("nan"), float("inf")]))
            if tensor.is_floating_point() or value in (-1, 0, 1, 5):
                tensor = torch.full(tensor.shape, value).to(tensor.dtype)
        case "name":
            return save({"other": tensor})
        case "turn":
            return draw(turned(content, [content]))
    return save({"tensor": tensor.contiguous()})


@pytest.mark.parametrize("method", LIVELY)
def test_forged_files_are_refused_or_answered_from(cases: dict[str, Case], method: str) -> None:
    case, fates = cases[method], []
    entry, names = case.plain(case.head), case.names
    newest = list(case.reached(entry["version"]))

    @settings(GENTLY, max_examples=300)
    @given(data=some.data())
    def examine(data: some.DataObject) -> None:
        those = data.draw(some.sampled_from([[case.head], [entry["settings"]], newest, newest, newest, names]))
        name = data.draw(some.sampled_from(those))
        if case.content(name)[:1] == b"{":
            content = json.dumps(data.draw(edited(case.plain(name), names))).encode()
        else:
            content = data.draw(remade(case.content(name)))
        fates.append(case.fate(case.forged({name: content}))[0])

    examine()
    assert set(fates) == {"answers", "wrong", "refused"}


# --- forgeries that were thought of


Change = Callable[[Case], tuple[Files, Files]]


def with_settings(**changes: Any) -> Change:
    """The settings with some changed; with `policy` the policy."""

    def forge(case: Case) -> tuple[Files, Files]:
        name = case.plain(case.head)["settings"]
        plain = case.plain(name)
        plain["policy" if changes.pop("policy", False) else "settings"] |= changes
        return {name: json.dumps(plain).encode()}, {}

    return forge


def with_branch(at: int, change: Callable[[Any], Any]) -> Change:
    """The version that answers with an item of its branch changed, as JSON."""

    def forge(case: Case) -> tuple[Files, Files]:
        name = case.plain(case.head)["version"]
        plain = case.plain(name)
        items = plain["items"][0]["items"][0]["items"]
        items[at] = change(items[at])
        return {name: json.dumps(plain).encode()}, {}

    return forge


def with_task(at: int, value: Any) -> Change:
    """The version that answers with an item of its first task changed."""

    def change(tasks: Any) -> Any:
        tasks["items"][0]["items"][at] = {"value": value}
        return tasks

    return with_branch(4, change)


def with_version(content: Callable[[], tuple[bytes, Files]]) -> Change:
    """Another file in place of the version that answers, and more files beside it."""

    def forge(case: Case) -> tuple[Files, Files]:
        top, more = content()
        return {case.plain(case.head)["version"]: top}, more

    return forge


def with_entry(**changes: Any) -> Change:
    """The newest entry with some changes."""
    return lambda case: ({case.head: json.dumps({**case.plain(case.head), **changes}).encode()}, {})


def nested(depth: int) -> tuple[bytes, Files]:
    return b'{"tuple":"tuple","items":[' * depth + b"]}" * depth, {}


def shared(leaf: Any, width: int, depth: int) -> tuple[bytes, Files]:
    """A small file that unfolds into width ** depth of its leaf."""
    content, more = json.dumps(leaf).encode(), {}
    for _ in range(depth):
        more[name := sha256(content).hexdigest()] = content
        content = json.dumps({"tuple": "tuple", "parts": [name] * width}).encode()
        content = json.dumps({"items": [json.loads(content)]}).encode()
    more[name := sha256(content).hexdigest()] = content
    return json.dumps({"tuple": "Version", "parts": [name]}).encode(), more


def chained(depth: int, items: int) -> tuple[bytes, Files]:
    content, more = json.dumps({"items": [{"value": 0}] * items}).encode(), {}
    for _ in range(depth):
        more[name := sha256(content).hexdigest()] = content
        content = json.dumps({"parts": [name]}).encode()
    return json.dumps({"tuple": "Version", **json.loads(content)}).encode(), more


LAUGHS = "[&a [l,l,l,l,l,l,l,l,l]" + "".join(
    f",&{chr(98 + at)} [{','.join(['*' + chr(97 + at)] * 9)}]" for at in range(20)
)  # nine times as much a line
FORGERIES: dict[str, tuple[str, Change, str]] = {
    "a method in a file": ("er", with_settings(method="evil.py:Evil"), "is a file, and a learner on disk runs none"),
    "a method of another kind": ("er", with_settings(method="heads", options={}), "which this method does not declare"),
    "a method that is a list": ("er", with_settings(method=["er"]), "its method is a list that it may not be"),
    "no such method": ("er", with_settings(method="err"), "unknown method 'err'; did you mean er"),
    "a net of terabytes": ("er", with_settings(net="mlp:999999-999999"), "numbers for inputs of shape"),
    "a net of no number": ("er", with_settings(net="mlp:" + "9" * 60), "cannot be made so"),
    "images of terabytes": ("er", with_settings(net="conv:1000000"), "numbers for inputs of shape"),
    "a net of many layers": ("er", with_settings(net="mlp:" + "-".join("1" * 999)), "text of at most 100 characters"),
    "terabytes of exemplars": ("er", with_settings(options={"method.slots": 10**12}), "numbers for inputs of shape"),
    "terabytes of outputs": ("supsup", with_settings(options={"method.outputs": 10**12}), "numbers for inputs of"),
    "an option that unfolds": ("er", with_settings(options={"fit.steps": LAUGHS}), "text of at most 100 characters"),
    "an option that is a list": ("er", with_settings(options={"fit.lr": [1]}), "fit.lr must be a number, or text"),
    "an option without a part": ("er", with_settings(options={"lr": 1}), "unknown option 'lr'"),
    "no such option": ("er", with_settings(options={"fit.lrr": 1}), "unknown option '--fit.lrr'"),
    "an option of nothing": ("er", with_settings(options={"fit.lr": None}), "--fit.lr is None; it must be a number"),
    "images of terapixels": ("er", with_settings(size=10**9), "size is 1000000000; it must be 1 to 1024"),
    "a seed below 0": ("er", with_settings(seed=-1), "seed is -1; it must be 0 to"),
    "a seed beyond 64 bits": ("er", with_settings(seed=1 << 64), "its seed is a int that it may not be"),
    "half a seed": ("er", with_settings(seed=0.5), "its seed is a float that it may not be"),
    "no number to keep": ("er", with_settings(keep=float("nan")), "its keep is a float that it may not be"),
    "a setting more": ("er", with_settings(evil=1), "it holds 'evil', which is unknown"),
    "a policy of nothing": ("er", with_settings(policy=True, max_drop=float("nan")), "max_drop is nan"),
    "a budget of words": ("er", with_settings(policy=True, byte_budget="all"), "'all' is no number of bytes"),
    "an endless budget": ("er", with_settings(policy=True, byte_budget="9" * 400), "is no number of bytes"),
    "inputs of no size": ("er", with_branch(0, lambda old: signature((0,))), "no inputs have such a shape"),
    "inputs of terabytes": ("er", with_branch(0, lambda old: signature((10**12,))), "an input has more than"),
    "inputs of other shape": ("er", with_branch(0, lambda old: signature((4,))), "gives no answer"),
    "inputs of no kind": ("er", with_branch(0, lambda old: signature((3,), "evil")), "no inputs have such a shape"),
    "columns of no inputs": ("er", with_branch(0, lambda old: signature((3,), columns=("a",))), "no inputs have such"),
    "a scale of words": ("er", with_branch(1, lambda old: {"value": "x"}), "Branch.shift is a str that it may not be"),
    "a label twice": ("er", with_branch(3, lambda old: {**old, "items": old["items"][:1] * 2}), "two labels are"),
    "a label that acts": ("er", with_branch(3, lambda old: {**old, "items": [{"value": "\x1b[2J"}]}), "labels are"),
    "no labels": ("er", with_branch(3, lambda old: {"tuple": "tuple", "items": []}), "has other classes"),
    "no tasks": ("er", with_branch(4, lambda old: {"tuple": "tuple", "items": []}), "two tasks have one index"),
    "a task twice": ("er", with_branch(4, lambda old: {**old, "items": old["items"] * 2}), "two tasks have one name"),
    "a task without a name": ("er", with_task(0, ""), "a task has no name"),
    "a task of one's own": ("er", with_task(1, 10**9), "task 0 has index 1000000000"),
    "classes that are none": ("er", with_task(2, 1), "Known.classes is a int that it may not be"),
    "an exam outside": ("er", with_task(3, "../../secret"), "names no file in"),
    "more asked than there are": ("er", with_task(4, 1000), "bits of exams are missing"),
    "examples outside": ("er", with_task(5, "/etc/passwd"), "names no file in"),
    "a next task of the past": ("er", with_branch(5, lambda old: {"value": 0}), "has index 0"),
    "no state": ("er", with_branch(6, lambda old: {"value": None}), "gives no answer"),
    "a tuple for a state": ("er", with_branch(6, lambda old: {"tuple": "tuple", "items": []}), "gives no answer"),
    "no version": ("er", with_version(lambda: (b'{"value": 1}', {})), "is damaged: it holds none"),
    "an empty file": ("er", with_version(lambda: (b"", {})), "cannot be read"),
    "a deep file": ("er", with_version(lambda: nested(100_000)), "cannot be read"),
    "a less deep file": ("er", with_version(lambda: nested(330)), "damaged"),
    "a state that unfolds": ("er", with_version(lambda: shared({"items": [{"value": 0}]}, 16, 9)), "has more than"),
    "a state of nothing": ("er", with_version(lambda: shared({"items": []}, 16, 9)), "has more than 1048576 items"),
    "dicts that unfold": (
        "er",
        with_version(lambda: shared({"items": [{"dict": {str(at): {"value": 0} for at in range(9999)}}]}, 16, 4)),
        "has more than 1048576 items",
    ),
    "a long chain": ("er", with_version(lambda: chained(300, 20_000)), "'Version', which"),
    "parts of a tensor": ("er", with_version(lambda: (b'{"tuple": "Version", "parts": [[1]]}', {})), "is damaged"),
    "an event of no kind": ("er", with_entry(event="evil"), "its event is a str that it may not be"),
    "an entry of lists": ("er", with_entry(report=[]), "its report is a list that it may not be"),
    "an entry that acts": ("er", with_entry(**{"\x1b[2J": 1}), "holds '.x1b.2J', which is unknown"),
    "an entry of the future": ("er", with_entry(format=2), "has format 2, and this version reads format 1"),
    "no time": ("er", with_entry(when="yesterday"), "the ledger of .* is damaged .*yesterday"),
    "a number too high": ("er", with_entry(number=9), "entry 9 follows 4"),
    "no parent": ("er", with_entry(parent=""), "it begins with entry 5"),
    "a settings file outside": ("er", with_entry(settings="../settings"), "names no file in"),
}  # fmt: skip


def signature(shape: tuple[int, ...], kind: str = "numbers", columns: tuple[str, ...] = ()) -> Any:
    tuples = [{"tuple": "tuple", "items": [{"value": part} for part in parts]} for parts in (shape, columns)]
    return {"tuple": "Signature", "items": [{"value": kind}, *tuples]}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_is_refused_in_a_sentence(cases: dict[str, Case], what: str) -> None:
    method, forge, sentence = FORGERIES[what]
    case = cases[method]
    outcome, said = case.fate(case.forged(*forge(case)))
    assert outcome in ("refused", "wrong")
    assert re.search(sentence, said), said


def test_masks_that_unfold_are_refused(cases: dict[str, Case]) -> None:
    """A mask that keeps nothing is a few bytes, however many weights it is over."""
    case, many = cases["supsup"], 10_000

    def change(branch: Any) -> None:
        for parts in (branch[4], *branch[6]["items"][2:6]):
            parts["items"] = parts["items"][:1] * many
        branch[4]["items"] = [json.loads(json.dumps(task)) for task in branch[4]["items"]]
        for at, task in enumerate(branch[4]["items"]):
            task["items"][0:2] = [{"value": f"task {at}"}, {"value": at}]
            task["items"][3:6] = [{"value": ""}, {"value": 0}, {"value": ""}]
        branch[0], branch[5] = signature((1, 64, 64), "images"), {"value": many}
        for place, rows in ((7, 0), (8, many)):  # the bits of exams that were not asked, and what doubt is usual
            old = load(case.content(branch[place]["tensor"]))["tensor"]
            content = save({"tensor": torch.zeros(rows, *old.shape[1:], dtype=old.dtype)})
            more[name := sha256(content).hexdigest()] = content
            branch[place] = {"tensor": name}

    more: Files = {}
    entry = case.plain(case.head)
    version, kept = case.plain(entry["version"]), case.plain(entry["settings"])
    change(version["items"][0]["items"][0]["items"])
    kept["settings"] |= {"net": "mlp:20000", "options": {"method.outputs": 2}}
    forged = {entry["version"]: json.dumps(version).encode(), entry["settings"]: json.dumps(kept).encode()}
    outcome, said = case.fate(case.forged(forged, more))
    assert outcome == "refused"
    assert "numbers, and is smaller than that" in said


# --- what is not a plain file


ODD = ("link to a file", "link to a folder", "link to nothing", "link to itself", "pipe", "folder", "hole")
PLACES = (HEAD, f"{HEAD}.aside", "lock", "blobs", "version", "version.aside")


def lay(path: Path, what: str, secret: Path) -> None:
    """Puts something that is no plain file in a place."""
    if path.is_dir():
        path.rename(path.parent.parent / "moved")
    path.unlink(missing_ok=True)
    match what:
        case "link to a file":
            path.symlink_to(secret / "file")
        case "link to a folder":
            path.symlink_to(secret)
        case "link to nothing":
            path.symlink_to(secret / "new")
        case "link to itself":
            path.symlink_to(path.name)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
            (path / "evil.py").touch()
        case "hole":
            with open(path, "wb") as file:
                file.truncate(1 << 33)


@pytest.fixture
def stranger(cases: dict[str, Case], tmp_path: Path) -> tuple[Path, Path]:
    """A learner, and a folder that is none of its business."""
    folder, secret = tmp_path / "learner", tmp_path / "secret"
    for name, content in cases["er"].whole.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    secret.mkdir()
    (secret / "file").write_text("years of work")
    for name in (cases["er"].head, cases["er"].plain(cases["er"].head)["version"]):
        (secret / name).write_bytes(cases["er"].content(name))
    return folder, secret


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_outside_is_read_or_written_through_what_is_no_plain_file(
    cases: dict[str, Case], stranger: tuple[Path, Path], place: str, what: str
) -> None:
    (folder, secret), name = stranger, cases["er"].plain(cases["er"].head)["version"]
    lay(folder / place.replace("version", f"blobs/{name}"), what, secret)
    before = files_in(secret)
    (outcome, said), touched = TOUCHED.by(lambda: fate(folder))
    assert touched == []
    assert outcome == "answers" if place in ("lock", f"{HEAD}.aside", "version.aside") else outcome == "refused", said
    if outcome == "answers":
        learner = Learner(folder)
        verbs: list[Callable[[], Any]] = [lambda: learner.learn(blobs(5, n=12, d=3)), learner.rollback, learner.prune]
        for verb in verbs:
            with suppress(Refused):
                verb()
    assert files_in(secret) == before


def test_files_that_are_links_to_others_are_not_shared(stranger: tuple[Path, Path], tmp_path: Path) -> None:
    """A writer makes files anew: what has the same content by another name stays as it was."""
    folder, secret = stranger
    for name in (HEAD, "lock"):
        (tmp_path / name).hardlink_to(folder / name)
    for name in (f"{HEAD}.aside", "blobs/x.aside"):
        (folder / name).hardlink_to(secret / "file")
    before = {path.name: path.read_bytes() for path in (tmp_path / HEAD, tmp_path / "lock", secret / "file")}
    Learner(folder).rollback()
    assert {path.name: path.read_bytes() for path in (tmp_path / HEAD, tmp_path / "lock", secret / "file")} == before


def test_a_lock_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("mine")
    with locked(tmp_path / "lock"), pytest.raises(Refused, match="another process"), locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


def test_pruning_leaves_what_is_no_file_of_a_learner(stranger: tuple[Path, Path]) -> None:
    folder, secret = stranger
    (folder / "blobs" / "thesis.tex").write_text("years of work")
    for name in ("0" * 64, f"{'1' * 64}.aside"):
        (folder / "blobs" / name).symlink_to(secret / "file")
    (folder / "blobs" / "mine").mkdir()
    (folder / "blobs" / "mine" / "thesis.tex").write_text("years of work")
    before = files_in(secret)
    Learner(folder).prune()
    assert (folder / "blobs" / "mine" / "thesis.tex").exists()
    assert (folder / "blobs" / "thesis.tex").exists()
    assert not any(path.is_symlink() for path in (folder / "blobs").iterdir())
    assert files_in(secret) == before


# --- learning on


@pytest.mark.parametrize("at", [3, 5])
def test_examples_of_another_task_are_refused_before_anything_is_learned(cases: dict[str, Case], at: int) -> None:
    case = cases["er"]
    items = case.plain(case.plain(case.head)["version"])["items"][0]["items"][0]["items"][4]["items"][0]["items"]
    content = save({"tensor": torch.zeros(4, 7)})
    plain = case.plain(items[at]["value"])
    plain["items"][0] = {"tensor": sha256(content).hexdigest()}
    changed = case.forged({items[at]["value"]: json.dumps(plain).encode()}, {sha256(content).hexdigest(): content})
    case.put(changed)
    try:
        learner = Learner(case.folder)
        with pytest.raises(Refused, match=r"the stored examples .* are damaged"):
            learner.learn(blobs(0, n=12, d=3), "task 0")
        if at == 3:
            with pytest.raises(Refused, match=r"the stored examples .* are damaged"):
                learner.check()
    finally:
        case.restore(changed)
    assert files_in(case.folder) == case.whole


@pytest.mark.parametrize("method", LIVELY)
def test_who_works_on_with_a_forged_learner_is_refused_or_served(
    cases: dict[str, Case], tmp_path: Path, method: str
) -> None:
    case, fates, folder = cases[method], [], tmp_path / "learner"
    newest = list(case.reached(case.plain(case.head)["version"]))

    @settings(GENTLY, max_examples=40)
    @given(data=some.data())
    def examine(data: some.DataObject) -> None:
        name = data.draw(some.sampled_from(newest))
        if case.content(name)[:1] == b"{":
            content = json.dumps(data.draw(edited(case.plain(name), case.names))).encode()
        else:
            content = data.draw(remade(case.content(name)))
        shutil.rmtree(folder, ignore_errors=True)
        for path, made in {**case.whole, **case.forged({name: content})}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(made)
        try:
            learner = Learner(folder)
        except Refused:
            return
        verbs: list[Callable[[], Any]] = [
            lambda: learner.learn(blobs(0, n=12, d=3), "task 0"),
            lambda: learner.learn(blobs(5, n=12, d=3), "five"),
            lambda: learner.forget("task 0"),
            learner.rollback,
            lambda: learner.promote(3),
            lambda: learner.change_policy(Policy()),
            lambda: learner.prune(2),
        ]
        for verb in verbs:
            try:
                verb()
                fates.append("served")
            except Refused:
                fates.append("refused")

    examine()
    assert set(fates) == {"served", "refused"}
