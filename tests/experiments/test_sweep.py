"""Sweeps: what is run, what is chosen, what the ledger holds, and that the same command again goes on."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import perdure
from perdure.contract import Refused
from perdure.experiments import cost, execute, grid, ledger, plan, presets
from perdure.experiments import sweep as sweeps
from perdure.experiments.grid import Sweep
from perdure.experiments.sweep import Choice, carry_out, checked
from perdure.experiments.tuned import preset
from perdure.result import FORMAT
from perdure.store import locked

FILE = """
stream: permuted-digits
tasks: 2
net: linear
methods:
  finetune:
  ewc: {lam: [0, 10]}
fit: {steps: 20, batch: 32}
"""
TUNED = f"{FILE}fit.lr: [1e-7, 1e-2]\nseeds: 2\ntuning: {{protocol: first-1}}\n"


class Here(Executor):
    """Carries out in this process, one after another."""

    def submit(self, do, /, *words, **options):
        future = Future()
        future.set_result(do(*words, **options))
        return future


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are carried out in this process; the names of those that were."""
    carried = sweeps._carried
    names: list[str] = []

    @contextmanager
    def pool(workers: int) -> Iterator[Here]:
        yield Here()

    def noted(experiment, folder: Path) -> str:
        names.append(folder.name)
        return carried(experiment, folder)

    monkeypatch.setattr(sweeps, "_pool", pool)
    monkeypatch.setattr(sweeps, "_carried", noted)
    return names


def read(tmp_path: Path, text: str = FILE) -> Sweep:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return grid.read(path)


def test_a_run_of_a_sweep_is_the_run_alone(tmp_path: Path) -> None:
    carry_out(read(tmp_path), tmp_path / "out")
    options = {"fit.steps": 20, "fit.batch": 32, "method.lam": 10}
    alone = perdure.run("permuted-digits", "ewc", tasks=2, net="linear", threads=1, options=options)
    first, _, kept = ledger.results(tmp_path / "out")
    assert (first.method, kept.method) == ("finetune", "ewc")
    np.testing.assert_array_equal(kept.R, alone.R)
    assert kept.run_dir == tmp_path / "out" / "runs" / "ewc,lam=10,seed=0"


def test_the_ledger_holds_the_whole_result(tmp_path: Path) -> None:
    sweep, out = read(tmp_path, FILE.replace("tasks: 2", "tasks: 1")), tmp_path / "out"  # one task: no BWT
    carry_out(sweep, out)
    results = ledger.results(out / ledger.NAME)
    for run, result, row in zip(sweep.runs, results, ledger.rows(out), strict=True):
        (alone,) = execute(run.experiment)
        kept, again = result.to_json(), json.loads(json.dumps(alone.to_json()))
        timed = ("run_dir", "learn_seconds", "exam_seconds", "learn_seconds_by_call", "exam_seconds_by_row")
        stored = ("stored_bytes", "stored_bytes_by_task", "stored_components_by_task")
        for name in set(kept) - {*timed, *stored}:
            assert kept[name] == again[name], name
        assert row["bwt"] is None
        assert row["acc"] == result.acc
        assert (row["seed"], row["stream_seed"], row["tasks"], row["scenario"]) == (0, 0, 1, "gns")


def test_the_query_of_the_docs(tmp_path: Path) -> None:
    carry_out(read(tmp_path), tmp_path / "out")
    query = ledger.__doc__.partition("    SELECT")[2].partition(";")[0]
    with sqlite3.connect(tmp_path / "out" / ledger.NAME) as book:
        found = book.execute(f"SELECT{query}").fetchall()
    book.close()
    assert {(method, lam, count) for method, lam, _, count in found} == {
        ("finetune", None, 1),
        ("ewc", 0.0, 1),
        ("ewc", 10.0, 1),
    }
    accuracies = {lam: acc for method, lam, acc, _ in found if method == "ewc"}
    assert accuracies[0.0] == next(acc for method, _, acc, _ in found if method == "finetune")  # EWC at strength 0


def test_again_nothing_is_run_and_more_is_added(tmp_path: Path, here: list[str]) -> None:
    carry_out(read(tmp_path), tmp_path / "out")
    before = ledger.rows(tmp_path / "out")
    here.clear()
    carry_out(read(tmp_path), tmp_path / "out")
    assert (here, ledger.rows(tmp_path / "out")) == ([], before)
    carry_out(read(tmp_path, FILE.replace("[0, 10]", "[0, 10, 100]")), tmp_path / "out")
    assert here == ["ewc,lam=100,seed=0"]
    assert len(ledger.results(tmp_path / "out")) == 4


def test_a_lost_ledger_is_made_again_from_the_folders(tmp_path: Path, here: list[str]) -> None:
    out = tmp_path / "out"
    carry_out(read(tmp_path), out)
    before = [row | {"finished_at": ""} for row in ledger.rows(out)]
    (out / ledger.NAME).unlink()
    here.clear()
    carry_out(read(tmp_path), out)
    assert (here, [row | {"finished_at": ""} for row in ledger.rows(out)]) == ([], before)


def test_a_row_of_another_format_is_refused_as_its_folder_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(read(tmp_path), out)
    row, *_ = ledger.rows(out)
    kept = json.loads(row["result"])
    kept["options"]["format"] -= 1
    del kept["R_task"]  # which that format did not have
    with ledger.opened(out) as book:
        ledger.put(book, [row | {"result": json.dumps(kept)}])
    with pytest.raises(Refused) as refused:
        ledger.results(out)
    assert str(refused.value) == (
        f"the run in {out / 'runs' / row['name']} has format {FORMAT - 1}, and this version reads format {FORMAT}; "
        "use the version of perdure that wrote it"
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("lam: [0, 10]", "lam: [0, 1]"), "ewc,lam=10,seed=0, which is there no more"),
        (("steps: 20", "steps: 21"), "finetune,seed=0, with other options"),
    ],
)
def test_a_file_that_changes_runs_needs_another_folder(tmp_path: Path, change: tuple[str, str], what: str) -> None:
    carry_out(read(tmp_path), tmp_path / "out")
    with pytest.raises(Refused) as refused:
        carry_out(read(tmp_path, FILE.replace(*change)), tmp_path / "out")
    assert str(refused.value) == (
        f"{tmp_path / 'out'} holds a sweep with the run {what}; a sweep may gain runs, but not change or lose any: "
        "choose another --out"
    )


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    sweep = read(tmp_path)
    with pytest.raises(Refused, match=r"holds other files; choose a new or an empty folder for --out"):
        carry_out(sweep, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / "sweep.lock"), pytest.raises(Refused, match="another process is working in"):
        carry_out(sweep, out)
    with pytest.raises(Refused, match="workers is 0; it must be at least 1"):
        carry_out(sweep, out, 0)


def test_nothing_begins_when_one_run_is_refused(tmp_path: Path, here: list[str]) -> None:
    with pytest.raises(Refused, match=r"^ewc,lam=0,scenario=nns: EWC does not work in scenario nns"):
        carry_out(read(tmp_path, f"{FILE}scenario: [gns, nns]".replace("steps: 20", "epochs: 1")), tmp_path / "out")
    assert here == []
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_is_a_row_and_the_others_go_on(tmp_path: Path, here: list[str]) -> None:
    text = FILE.replace("fit:", "fit.optimizer: sgd\nfit.lr: [0.01, 1e38]\nfit:").replace("  ewc: {lam: [0, 10]}\n", "")
    said: list[str] = []
    carry_out(read(tmp_path, text), tmp_path / "out", say=said.append)
    good, bad = ledger.rows(tmp_path / "out")
    assert (good["status"], bad["status"], bad["acc"]) == ("done", "failed", None)
    assert "training diverged" in bad["message"]
    assert any(line.startswith("finetune,fit.lr=1e+38,seed=0: failed: ") for line in said)
    assert len(ledger.results(tmp_path / "out")) == 1
    here.clear()
    carry_out(read(tmp_path, text), tmp_path / "out")
    assert here == ["finetune,fit.lr=1e+38,seed=0"]  # tried again


def test_tuning_runs_the_best_combination_only_and_says_so(tmp_path: Path, here: list[str]) -> None:
    sweep, out = read(tmp_path, TUNED), tmp_path / "out"
    choices = carry_out(sweep, out)
    rows = {row["name"]: row for row in ledger.rows(out)}
    assert len(rows) == (2 + 4) + (1 + 1) * 2
    for method, choice in choices.items():
        tried = [row for row in rows.values() if (row["method"], row["role"]) == (method, "tuning")]
        assert choice.score == max(row["score"] for row in tried)
        assert choice.listed["fit.lr"] == 1e-2
        assert all((row["acc"], row["bwt"]) == (None, None) for row in tried)  # it saw no exam
    assert choices["finetune"].combination == "finetune,fit.lr=0.01"
    for result in ledger.results(out):
        choice = choices[result.method]
        assert result.options["tuning"] == {"protocol": "first-1", "score": choice.score, "chosen": choice.listed}
        row = rows[f"{choice.combination},seed={result.seed}"]
        assert (row["protocol"], row["score"], row["tasks"]) == ("first-1", choice.score, 2)
    assert not [*out.glob("runs/tuning*/states")]  # scores are all that is kept of them
    here.clear()
    assert carry_out(sweep, out) == choices
    assert here == []


def test_tuning_reads_no_exam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perdure.data import Arrays
    from perdure.datasets import digits

    class Sealed(Arrays):
        def raw(self, indices):
            raise AssertionError("an exam was read")

    real = digits.read("digits", ())
    sealed = type(real)("digits", real.train, Sealed(real.exam.x, real.exam.labels), 10)
    monkeypatch.setitem(perdure.datasets.BASES, "digits", lambda *_: sealed)
    monkeypatch.setattr(sweeps, "_bases", {})
    monkeypatch.setattr(sealed.__class__, "scaled", lambda self, how: self)
    sweep = read(tmp_path, TUNED.replace("first-1", "oracle"))
    for trial in sweep.trials:
        execute(trial.experiment)
    with pytest.raises(AssertionError, match="an exam was read"):
        execute(sweep.runs[0].experiment)


def test_of_equal_scores_the_first_is_chosen(tmp_path: Path) -> None:
    text = FILE.replace("lam: [0, 10]", "fisher: [exact, empirical], lam: 0").replace("  finetune:\n", "")
    choices = carry_out(read(tmp_path, f"{text}tuning: {{protocol: first-2}}"), tmp_path / "out")
    assert choices["ewc"].combination == "ewc,fisher=exact"


def test_a_combination_whose_trial_failed_is_not_chosen(tmp_path: Path) -> None:
    only = FILE.replace("  ewc: {lam: [0, 10]}\n", "").replace("fit:", "fit.optimizer: sgd\nfit.lr: LRS\nfit:")
    only = f"{only}tuning: {{protocol: first-1}}"
    said: list[str] = []
    choices = carry_out(read(tmp_path, only.replace("LRS", "[1e38, 0.01]")), tmp_path / "one")
    assert choices["finetune"].listed == {"fit.lr": 0.01}
    assert carry_out(read(tmp_path, only.replace("LRS", "[1e38, 3e38]")), tmp_path / "two", say=said.append) == {}
    assert said[-1] == "finetune: a trial of every combination failed, so none is run"


def test_a_preset_of_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = read(tmp_path, TUNED)
    choices = {
        "finetune": Choice("finetune,fit.lr=0.01", 0.5, {"fit.lr": 0.01}),
        "ewc": Choice("ewc,lam=10,fit.lr=1e-07", 0.25, {"method.lam": 10.0, "fit.lr": 1e-7}),
    }
    scores = {"finetune,fit.lr=0.01": 0.5, "ewc,lam=10,fit.lr=1e-07": 0.25}
    path = tmp_path / "mine.yaml"
    path.write_text(preset(sweep, choices, scores, "perdure sweep my.yaml --out out"))
    said = presets.about(path)
    assert said.startswith("Tuned for permuted-digits: finetune, ewc. Protocol first-1: chosen by the mean ACC on 10 %")
    assert "perdure sweep my.yaml --out out" in path.read_text()
    assert "ewc,lam=10,fit.lr=1e-07  25.0" in path.read_text()
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    for method, options in (("finetune", {"fit.lr": 0.01}), ("ewc", {"fit.lr": 1e-7, "method.lam": 10.0})):
        experiment = plan("permuted-digits", method, {}, preset="mine")
        assert (experiment.tasks, experiment.net) == (2, "linear")
        assert experiment.options == {"fit.steps": 20, "fit.batch": 32, **options}
    beaten = plan("permuted-digits", "ewc", {"method.lam": 3, "fit.epochs": 1}, preset="mine")
    assert beaten.options == {"method.lam": 3.0, "fit.epochs": 1, "fit.lr": 1e-7, "fit.batch": 32}
    assert "method.lam" not in plan("permuted-digits", "joint", {}, preset="mine").options


def test_the_longest_runs_come_first(tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = read(tmp_path, FILE.replace("steps: 20, ", "").replace("fit:", "fit.steps: [2, 9, 4]\nfit:"))
    seconds = checked(sweep)
    assert seconds["finetune,fit.steps=9,seed=0"] == pytest.approx(2 * 9 * cost.GUESS)
    carry_out(sweep, tmp_path / "out")
    assert [int(name.partition("steps=")[2][0]) for name in here] == [9] * 3 + [4] * 3 + [2] * 3
    assert [row["name"] for row in ledger.rows(tmp_path / "out")] == [run.name for run in sweep.runs]


def test_a_long_sweep_is_measured_and_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "DOUBT", 0.0)
    monkeypatch.setattr(sweeps, "estimate", lambda method, stream, setting: 100.0)
    said: list[str] = []
    carry_out(read(tmp_path), tmp_path / "out", 2, said.append)
    assert said[0] == "this sweep will take about 2 minutes; try it in seconds with --smoke"  # 3 runs of 100 s by 2


def test_what_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"holds no sweep \(no sweep.sqlite\)"):
        ledger.results(tmp_path)
    (tmp_path / ledger.NAME).write_text("nothing of the kind, and long enough to be looked at" * 20)
    with pytest.raises(Refused, match="cannot be used as the ledger of a sweep"):
        ledger.results(tmp_path)
