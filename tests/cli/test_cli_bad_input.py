"""Bad input: one message that says what was wrong and what to do, exit 2, no traceback, no run folder."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from perdure.cli import VERBS
from perdure.datasets import BASES
from perdure.experiments.figures import FIGURES
from perdure.experiments.grid import shipped
from perdure.experiments.presets import presets
from perdure.experiments.tables import TABLES
from perdure.methods import METHODS
from perdure.store import locked
from perdure.streams import STREAMS

RUN = "run permuted-digits ewc"
KINDS, BASES = ", ".join(STREAMS), ", ".join(BASES)
SEE = "See: perdure run permuted-digits ewc --help"

MESSAGES = {
    "runn permuted-digits ewc": f"unknown verb 'runn'; did you mean run? There are: {', '.join(VERBS)}",
    "xyz": f"unknown verb 'xyz'. There are: {', '.join(VERBS)}",
    "run": "STREAM and METHOD missing: perdure run STREAM METHOD, as in: perdure run permuted-digits ewc",
    "run permuted-digits": "METHOD missing: perdure run STREAM METHOD, as in: perdure run permuted-digits ewc",
    "run permuted-digits ewcc": f"unknown method 'ewcc'; did you mean ewc? There are: {', '.join(METHODS)}",
    "run permutd-digits ewc": f"unknown kind of stream 'permutd'; did you mean permuted? There are: {KINDS}",
    "run permuted-digit ewc": f"unknown base 'digit'; did you mean digits? There are: {BASES}",
    "run permuted ewc": "'permuted' is a kind of stream; name a base after it: permuted-digits",
    f"{RUN} --tsks 3": f"unknown option '--tsks'; did you mean --tasks? {SEE}",
    f"{RUN} --lr 3": f"unknown option '--lr'; did you mean --fit.lr? {SEE}",
    f"{RUN} --method.lamb 3": f"unknown option '--method.lamb'; did you mean --method.lam? {SEE}",
    f"{RUN} --stream.angles 3": f"unknown option '--stream.angles'; did you mean --stream.scale? {SEE}",
    f"{RUN} more": "unrecognized arguments: more. See: perdure run --help",
    f"{RUN} --tasks": "argument --tasks: expected one argument. See: perdure run --help",
    f"{RUN} --tasks many": "--tasks is 'many'; it must be a whole number",
    f"{RUN} --tasks 2.5": "--tasks is '2.5'; it must be a whole number",
    "reproduce --all --threads 2.5": "--threads is '2.5'; it must be a whole number. See: perdure reproduce --help",
    f"{RUN} --fit.lr": "--fit.lr is ''; it must be a number",
    f"{RUN} --fit.lr fast": "--fit.lr is 'fast'; it must be a number",
    f"{RUN} --fit.nesterov 3": "--fit.nesterov is '3'; it must be true or false",
    f"{RUN} --fit.optimizer adan": "--fit.optimizer is 'adan'; it must be sgd or adam or adamw or rmsprop",
    f"{RUN} --fit.lr -1": "fit.lr is -1.0; it must be finite and not negative",
    f"{RUN} --fit.lr .nan": "--fit.lr is '.nan'; it must be a number",
    f"{RUN} --fit.clip .inf": "--fit.clip is '.inf'; it must be a number",
    f"{RUN} --method.lam nan": "--method.lam is 'nan'; it must be a number",
    f"{RUN} --fit.optimizer null": "--fit.optimizer is 'null'; it must be sgd or adam or adamw or rmsprop",
    f"{RUN} --stream.seed null": "--stream.seed is 'null'; it must be a whole number",
    f"{RUN} --fit.momentum 0.9": "fit.momentum is 0.9, and adam has none; use sgd or rmsprop",
    f"{RUN} --exam-rows every:²": "exam rows 'every:²' are unknown; use all, last or every:K (every:10)",
    "run permuted-digits finetune --scenario nns --fit.epochs 5": (
        "fit.epochs has no meaning in scenario nns, where examples arrive once, in a flow; use --stream.passes and "
        "--stream.chunk instead"
    ),
    f"{RUN} --fit.epochs 1 --fit.steps 1": "fit.epochs and fit.steps are both given; give one of them",
    f"{RUN} --method.lam -1": "method.lam is -1.0; it must be finite and not negative",
    f"{RUN} --stream.centre 9": "stream.centre is 9, but an input has shape (8, 8); use 2 to its smaller side",
    f"{RUN} --tasks 0": "tasks is 0; it must be at least 1",
    f"{RUN} --examples-per-task 0": "examples_per_task is 0; it must be at least 1",
    f"{RUN} --examples-per-task 9999": "examples_per_task is 9999, but task 1 has 1438; use at most that",
    f"{RUN} --seeds 0": "there must be at least one seed",
    f"{RUN} --seed 1 --seeds 2": ("seed 1 and seeds 2 are both given: seed S runs that one, seeds N runs 0 to N-1"),
    f"{RUN} --net mlp:4x4": (
        "net 'mlp:4x4' cannot be read: sizes are positive numbers joined by dashes; "
        "write a kind and its sizes, such as mlp:400-400 or conv:16-32"
    ),
    f"{RUN} --net mpl:4": (
        "net 'mpl:4' is unknown, the nearest kind is mlp; write a kind and its sizes, such as mlp:400-400 or conv:16-32"
    ),
    f"{RUN} --fit.batch 5000": "task 1: fit.batch is 5000, but a task has 1438 examples; use at most that",
    f"{RUN} --scenario gn": (
        "unknown scenario 'gn'; did you mean gnu? There are: gg, gns, gnu, nns, task, domain, class, free"
    ),
    f"{RUN} --scenario nnu": (
        "scenario nnu does not exist: a label never seen before gives the new task away, so the task is known; use gnu"
    ),
    f"{RUN} --scenario free": (
        "EWC does not work in scenario nns: tasks have no borders there, and it needs them. It works in gg, gns, gnu"
    ),
    "run permuted-digits finetune --scenario nns --fit.steps 3": (
        "fit.steps has no meaning in scenario nns, where examples arrive once, in a flow; "
        "use --stream.passes and --stream.chunk instead"
    ),
    "run split-digits ewc --tasks 10 --scenario gg": (
        "a task has one label only, and where only its own labels compete (scenario gg) every answer is right; "
        "use fewer tasks, so that each has two labels or more, or scenario gnu"
    ),
    f"{RUN} --device tpu": "device 'tpu' is unknown; use auto, cpu or cuda",
    f"{RUN} --threads 0": "threads is 0; it must be at least 1",
    f"{RUN} --exam-rows some": "exam rows 'some' are unknown; use all, last or every:K (every:10)",
    f"{RUN} --preset hw41": f"unknown preset 'hw41'; did you mean hw14? There are: {', '.join(presets())}",
    f"{RUN} --config none.yaml": "there is no configuration file none.yaml",
    f"{RUN} --data-root none": "--data-root none is not a folder; name one that exists",
    "run none.npz ewc": "there is no file none.npz; check the path",
    "run permuted-digits none.py:X": "there is no file none.py (a method of your own is named FILE.py:CLASS)",
    "run --resume none": "there is no run folder none",
    "run --resume .": ". holds no run (no experiment.json)",
    "run --resume . --tasks 3": "--resume continues a run as it began; leave out --tasks",
    "list method": (
        "unknown kind of things 'method'; did you mean methods? "
        "There are: methods, streams, experiments, figures, presets, sweeps"
    ),
    "show": "name what to show; perdure list says what there is. See: perdure show --help",
    "show ewcc": (
        "unknown name 'ewcc'; did you mean ewc? There are: "
        + ", ".join([*METHODS, *STREAMS, *TABLES, *presets(), *shipped(), *FIGURES])
    ),
    "report": "name at least one run folder. See: perdure report --help",
    "report none": "there is no run folder none",
    "report --xyz 3": "unknown option '--xyz'. See: perdure report --help",
}


@pytest.mark.parametrize("line", MESSAGES)
def test_the_message(line: str, perdure) -> None:
    said = perdure(line)
    assert said.err == f"perdure: {MESSAGES[line]}\n"
    assert said.out == ""
    assert said.status == 2
    assert list(Path().iterdir()) == []


X, Y, TASK = np.arange(160.0).reshape(40, 4), np.tile([0, 1], 20), np.repeat([0, 1], 20)
ARRAYS = {
    "X holds NaN or infinite numbers, first in row 3; fill or drop such rows": {"X": np.where(X == 13, np.nan, X)},
    "X has 40, y has 39, task has 40 examples; they must be as many": {"y": Y[1:]},
    "y holds labels that are not whole numbers; labels are integers or strings": {"y": Y + 0.5},
}


@pytest.mark.parametrize("message", ARRAYS)
def test_the_message_about_arrays(message: str, perdure) -> None:
    np.savez("my.npz", **{"X": X, "y": Y, "task": TASK, **ARRAYS[message]})
    said = perdure("run my.npz finetune")
    assert (said.status, said.err) == (2, f"perdure: {message}\n")
    assert not Path("runs").exists()


def test_a_label_that_no_task_taught(perdure) -> None:
    test = {"X_test": X, "y_test": Y + 1, "task_test": TASK}
    np.savez("my.npz", X=X, y=Y, task=TASK, **test)
    said = perdure("run my.npz finetune")
    assert said.status == 2
    assert re.fullmatch(r"perdure: y_test .*2.*\n", said.err)


def test_an_empty_task(perdure) -> None:
    np.savez("my.npz", X=X[:0], y=Y[:0], task=TASK[:0])
    said = perdure("run my.npz finetune")
    assert said.status == 2
    assert said.err.startswith("perdure: X has shape (0, 4); it needs a row for each example")


def test_missing_data_says_where_it_looked(perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("perdure.datasets.roots.urlopen", offline)
    Path("data").mkdir()
    said = perdure("run permuted-mnist finetune --data-root data")
    assert said.status == 2
    assert "Looked in data/mnist, " in said.err
    assert said.err.count("\n") == 1
    assert not Path("runs").exists()


def offline(*_, **__):
    raise OSError("no network")


def test_corrupt_data_is_kept_aside_and_not_used(perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("perdure.datasets.roots.urlopen", offline)
    home = tmp_path / "cache" / "perdure" / "mnist"
    home.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (home / f"{name}-ubyte").write_bytes(b"no images")
    said = perdure("run permuted-mnist finetune")
    assert said.status == 2
    assert "is corrupt: the SHA-256 of its content is" in said.err
    assert "it is kept aside as" in said.err
    assert list(home.glob("*.corrupt"))


CONFIGS = {
    "fit: [1": r"my.yaml is no YAML: while parsing .*",
    "just words": r"my.yaml must hold options by name, such as net: mlp:400, not str",
    "fit: {lr: 1}\nfit.lr: 2": r"my.yaml gives fit.lr twice; give it once",
    "fit: {lrr: 1}": r"my.yaml: unknown option '--fit.lrr'; did you mean --fit.lr\? See: .*",
    "fit: {lr: fast}": r"--fit.lr is 'fast'; it must be a number",
    "tasks: {many: 3}": r"my.yaml: unknown option '--tasks.many'; did you mean --tasks\? See: .*",
    "method: {lam: 3}\nstream: permuted-digits": r"my.yaml: stream is no option of a file: it is a word of the command",
}


@pytest.mark.parametrize("content", CONFIGS)
def test_the_message_about_a_config_file(content: str, perdure) -> None:
    Path("my.yaml").write_text(content)
    said = perdure(f"{RUN} --config my.yaml")
    assert said.status == 2
    assert re.fullmatch(f"perdure: {CONFIGS[content]}\n", said.err)


FILES = {
    "class X: pass": "my.py has no method 'X'; it has none",
    "from perdure import Method\nclass Y(Method): pass": "my.py has no method 'X'; it has Y",
    "import nowhere": "my.py cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
    "def": "my.py cannot be imported: SyntaxError: invalid syntax (my.py, line 1)",
}


@pytest.mark.parametrize("content", FILES)
def test_the_message_about_a_method_of_ones_own(content: str, perdure) -> None:
    Path("my.py").write_text(content)
    said = perdure("run permuted-digits my.py:X")
    assert (said.status, said.err) == (2, f"perdure: {FILES[content]}\n")


@pytest.mark.usefixtures("no_page")
class TestFolders:
    """What `--out` and `--resume` refuse."""

    BEGIN = "run permuted-digits finetune --tasks 2 TINY --out out"

    def test_a_folder_that_holds_a_run(self, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        before = Path("out/result.json").read_bytes()
        said = perdure(self.BEGIN)
        hint = "continue it with: perdure run --resume out (in Python: resume=True), or choose another folder"
        assert (said.status, said.err) == (2, f"perdure: out holds a run; {hint}\n")
        assert Path("out/result.json").read_bytes() == before

    def test_a_folder_that_holds_other_files(self, perdure) -> None:
        Path("out").mkdir()
        Path("out/thesis.tex").write_text("years of work")
        said = perdure(self.BEGIN)
        hint = "choose a new or an empty folder"
        assert (said.status, said.err) == (2, f"perdure: out holds other files (thesis.tex); {hint}\n")
        assert os.listdir("out") == ["thesis.tex"]

    def test_a_folder_where_another_process_works(self, perdure) -> None:
        Path("out").mkdir()
        with locked(Path("out/run.lock")):
            said = perdure(self.BEGIN)
        message = "another process is working in out; wait for it or choose another folder"
        assert (said.status, said.err) == (2, f"perdure: {message}\n")

    def test_a_folder_that_cannot_be_made(self, perdure) -> None:
        Path("out").write_text("a file")
        said = perdure(self.BEGIN + "/below")
        message = "out/below cannot be made (Not a directory); choose another --out"
        assert (said.status, said.err) == (2, f"perdure: {message}\n")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_cannot_be_written(self, perdure) -> None:
        Path("out").mkdir(mode=0o500)
        said = perdure(self.BEGIN)
        message = "out cannot be written (Permission denied); choose another folder"
        assert (said.status, said.err) == (2, f"perdure: {message}\n")

    def test_a_divergent_run_leaves_nothing(self, perdure) -> None:
        said = perdure(self.BEGIN + " --fit.optimizer sgd --fit.lr 1e30")
        assert said.status == 2
        assert re.fullmatch(
            r"perdure: the loss is \w+ after \d+ steps: training diverged. Lower fit.lr \(now 1e\+30\), set fit.clip, "
            r"or lower the method's strength\n",
            said.err,
        )
        assert not Path("out").exists()

    def test_a_full_disk_at_the_first_write_leaves_nothing(self, perdure, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("perdure.store.os.fsync", full)
        said = perdure(self.BEGIN)
        assert said.status == 2
        assert said.err.startswith("perdure: out/experiment.json could not be written (No space left on device)")
        assert not Path("out").exists()

    def test_a_tampered_state(self, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        name = json.loads(Path("out/result.json").read_text())["state"]
        path = Path("out/states") / name
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
        said = perdure("run --resume out")
        message = f"the state file {path} was changed or damaged: its content no longer has its SHA-256"
        assert (said.status, said.err) == (2, f"perdure: {message}\n")

    @pytest.mark.parametrize("file", ["experiment.json", "result.json"])
    def test_a_run_of_another_version(self, file: str, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        path = Path("out") / file
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
        message = (
            "the run in out has format 99, and this version reads format 3; use the version of perdure that wrote it"
        )
        for verb in ("run --resume", "report"):
            said = perdure(f"{verb} out")
            assert (said.status, said.err) == (2, f"perdure: {message}\n")

    def test_a_damaged_record(self, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        Path("out/result.json").write_text("{")
        said = perdure("run --resume out")
        assert said.status == 2
        assert said.err.startswith("perdure: out/result.json cannot be read: ")

    def test_resuming_another_stream_or_method(self, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        for words, what in (
            ("rotated-digits finetune", "stream permuted-digits, not rotated-digits"),
            ("permuted-digits ewc", "method finetune, not ewc"),
        ):
            said = perdure(f"run --resume out {words}")
            assert (said.status, said.err) == (2, f"perdure: out holds a run with {what}\n")

    def test_reporting_a_run_that_is_not_finished(self, perdure) -> None:
        assert perdure(self.BEGIN).status == 0
        record = json.loads(Path("out/result.json").read_text())
        Path("out/result.json").write_text(json.dumps({**record, "finished": False}))
        said = perdure("report out")
        message = "the run in out is not finished; finish it with: perdure run --resume out"
        assert (said.status, said.err) == (2, f"perdure: {message}\n")
