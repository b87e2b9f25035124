"""Reproduction: claims measure the figure they name, verdicts follow bands, and only what is missing runs."""

from dataclasses import asdict, replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from perdure.experiments import reproduction
from perdure.experiments.experiment import Experiment, command, plan, recorded
from perdure.experiments.tables import TABLES, Claim, Table, table
from perdure.fold import Setting
from perdure.report.table import interval


def tiny(seed: int) -> Experiment:
    options = {"fit.steps": 5, "fit.batch": 16, "stream.seed": seed}
    return Experiment("permuted-digits", "finetune", tasks=2, seeds=(seed,), net="mlp:8", options=options)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of two seconds, whose results are kept apart."""
    monkeypatch.setattr(reproduction, "STORED", tmp_path / "stored")
    runs = {f"finetune seed {seed}": tiny(seed) for seed in range(2)}
    claims = (
        Claim("acc", 0.1, "a book", runs, band=1.0),
        Claim("first", None, "nobody", {"finetune seed 0": runs["finetune seed 0"]}, figure="R[2,1]"),
    )
    return Table("small", "A small table", "Two tasks.", claims)


def test_verdicts() -> None:
    claim = Claim("x", 0.90, "", {}, band=0.02)
    assert [claim.verdict(mean) for mean in (0.879, 0.881, 0.9, 0.919, 0.921)] == [
        "differs", "reproduced", "reproduced", "reproduced", "differs",
    ]  # fmt: skip
    assert [Claim("x", 0.9, "", {}, at_least=0.95).verdict(mean) for mean in (0.94, 0.95, 1.0)] == [
        "differs", "reproduced", "reproduced",
    ]  # fmt: skip
    assert Claim("x", None, "", {}).verdict(0.5) == "measured"
    assert [claim.loose(half) for half in (0.019, 0.021, float("nan"))] == [False, True, False]
    assert not Claim("x", None, "", {}).loose(0.5)


def test_a_claim_reads_its_own_figure() -> None:
    entry = {"acc": 0.7, "bwt": -0.1, "R": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]}
    figures = {"acc": 0.7, "bwt": -0.1, "R[1,2]": 0.4, "R[2,1]": 0.5, "R[0,1]": 0.1}
    for figure, value in figures.items():
        assert Claim("x", None, "", {}, figure=figure).value(entry) == value


def test_nothing_is_measured_before_it_has_run(small: Table) -> None:
    first, second = reproduction.findings([small])
    assert (first.verdict, first.done, first.runs, second.verdict) == ("not run", 0, 2, "not run")
    assert isnan(first.ours)
    assert first.to_json()["ours"] is None
    assert reproduction.missing(small) == small.runs
    assert list(reproduction.missing(small, "seed 1")) == ["finetune seed 1"]


def test_what_is_missing_runs_once_and_is_kept_with_its_origin(small: Table, tmp_path: Path) -> None:
    begun: list[str] = []

    def watch(run: str, moment: object) -> None:
        begun.append(run)

    reproduction.reproduce(small, tmp_path / "runs", watch, "seed 1")
    assert set(begun) == {"finetune seed 1"}
    begun.clear()
    reproduction.reproduce(small, tmp_path / "runs", watch)
    assert set(begun) == {"finetune seed 0"}
    begun.clear()
    reproduction.reproduce(small, tmp_path / "runs", watch)
    assert not begun
    entries = reproduction.stored(small)
    for seed in range(2):
        entry = entries[f"finetune seed {seed}"]
        assert entry["acc"] == np.mean(entry["R"][-1])
        assert {"command", "commit", "date", "versions", "machine", "learn_seconds"} <= set(entry)
    first, second = reproduction.findings([small])
    accs = [entries[f"finetune seed {seed}"]["acc"] for seed in range(2)]
    assert (first.ours, first.half) == interval(accs)
    assert (first.done, first.verdict) == (2, "reproduced")
    assert second.ours == entries["finetune seed 0"]["R"][2][0]
    assert second.verdict == "measured"


def test_a_result_of_what_is_another_run_by_now_is_none(small: Table, tmp_path: Path) -> None:
    reproduction.reproduce(small, tmp_path / "runs", lambda run, moment: None, threads=1)
    assert not reproduction.missing(small)
    claim, _ = small.claims
    runs = claim.runs | {"finetune seed 1": replace(tiny(1), net="mlp:9")}
    other = replace(small, claims=(replace(claim, runs=runs),))
    assert list(reproduction.stored(other)) == ["finetune seed 0"]
    assert reproduction.findings([other])[0].verdict == "not run"
    reproduction.reproduce(other, tmp_path / "runs", lambda run, moment: None)
    assert "mlp:9" in reproduction.stored(other)["finetune seed 1"]["command"]
    assert list(reproduction.missing(small)) == ["finetune seed 1"]


def test_a_run_that_diverges_is_named_and_the_others_run(small: Table, tmp_path: Path) -> None:
    runs = {"wild": tiny(0), **small.runs}
    runs["wild"] = replace(runs["wild"], options=runs["wild"].options | {"fit.optimizer": "sgd", "fit.lr": 1e30})
    both = replace(small, claims=(Claim("wild", None, "", {"wild": runs["wild"]}), *small.claims))
    failed = reproduction.reproduce(both, tmp_path / "runs", lambda run, moment: None)
    assert list(failed) == ["wild"]
    assert "training diverged" in failed["wild"]
    assert set(reproduction.stored(both)) == set(small.runs)


def test_a_killed_run_goes_on(small: Table, tmp_path: Path) -> None:
    def killed(run: str, moment: object) -> None:
        if getattr(moment, "doing", "") == "learned":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduction.reproduce(small, tmp_path / "runs", killed, "seed 0")
    assert "finetune seed 0" in reproduction.missing(small)
    home = tmp_path / "runs" / "small" / "finetune-seed-0"
    assert recorded(home) == tiny(0)
    reproduction.reproduce(small, tmp_path / "runs", lambda run, moment: None, "seed 0")
    again = reproduction.execute(tiny(0))[0]
    assert reproduction.stored(small)["finetune seed 0"]["R"] == again.to_json()["R"]
    assert not home.exists()


def test_the_time_needed_is_that_of_what_is_missing(small: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "estimate", lambda method, stream, setting: 7.0)
    assert reproduction.needed(small) == 14.0
    assert reproduction.needed(small, "seed 1") == 7.0
    assert reproduction.needed(small, "nothing") == 0.0


@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_every_table_can_be_planned_from_its_command(name: str) -> None:
    of = table(name)
    assert of.name == name
    for run in of.runs.values():
        general = {"tasks": run.tasks, "scenario": run.scenario, "net": run.net, "seed": run.seeds[0]}
        setting = dict(asdict(run.setting).items() - asdict(Setting()).items())
        given = {key: value for key, value in (general | setting | run.options).items() if value is not None}
        again = plan(run.stream, run.method, given)
        assert {**again.options, **run.options} == again.options
        assert again.setting == run.setting


@pytest.mark.parametrize("name", TABLES)
def test_every_run_has_a_file_of_its_own(name: str) -> None:
    of = table(name)
    assert len({reproduction._file(of, run) for run in of.runs}) == len(of.runs)


@pytest.mark.parametrize("name", TABLES)
def test_every_stored_result_belongs_to_a_run(name: str) -> None:
    of = table(name)
    folder = reproduction.STORED / name
    files = {path.stem for path in folder.glob("*.json")} if folder.exists() else set()
    assert files <= {reproduction._slug(run) for run in of.runs}
    entries = reproduction.stored(of)
    assert len(entries) == len(files), "a stored result is of another run than the table's: run it again"
    for entry in entries.values():
        tasks = of.runs[entry["run"]].tasks or len(entry["R"][0])
        assert np.shape(entry["R"]) == (tasks + 1, tasks)
        assert _asked(entry["command"]) == _asked(command(of.runs[entry["run"]]))


def _asked(words: str) -> set[str]:
    """What a command asks for; how many threads carry it out is no part of it."""
    return {part for part in words.split(" --") if not part.startswith("threads")}


def test_the_page_is_what_is_stored() -> None:
    assert Path("docs/reproduction.md").read_text() == reproduction.page(), "run: make docs"
