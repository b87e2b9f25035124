"""`perdure reproduce`: published, ours, verdict; from stored results alone."""

import json
from pathlib import Path

import pytest

from perdure.experiments import reproduction
from perdure.experiments.tables import TABLES, table


def test_the_command_line_says_published_ours_and_verdict(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "execute", lambda *_, **__: pytest.fail("it ran something"))
    said = perdure("reproduce --all --json")
    assert said.status == 0
    findings = json.loads(said.out.splitlines()[-1])
    assert [(one["table"], one["claim"]) for one in findings] == [
        (name, claim.name) for name in TABLES for claim in table(name).claims
    ]
    assert "83.70" in said.err
    one = perdure("reproduce hw14-21 --json")
    assert json.loads(one.out.splitlines()[-1]) == [finding for finding in findings if finding["table"] == "hw14-21"]
    assert perdure("reproduce").status == 2
    assert "did you mean noisy-pair" in perdure("reproduce noisy-pear").err


def test_a_part_of_no_name_is_refused_before_any_run(perdure) -> None:
    said = perdure("reproduce hw14-22 --run --only stream")
    assert said.status == 2
    assert said.err.startswith("perdure: no run has 'stream' in its name; there are finetune seed 0, ")


@pytest.mark.parametrize("option", ["--only ewc", "--device cpu", "--threads 1", "--out runs"])
def test_what_is_about_runs_is_refused_without_any(perdure, option: str) -> None:
    said = perdure(f"reproduce hw14-22 {option}")
    name = option.split()[0]
    assert (said.status, said.out, said.err) == (
        2,
        "",
        f"perdure: {name} is about runs, and nothing runs without --run; give --run too, or leave it out. "
        "See: perdure reproduce --help\n",
    )


def test_the_page_is_asked_for_alone(perdure) -> None:
    said = perdure("reproduce hw14-22 --page page.md")
    assert (said.status, said.err) == (
        2,
        "perdure: --page is about all stored results; give nothing else. See: perdure reproduce --help\n",
    )
    assert not Path("page.md").exists()


def test_what_diverged_is_named_after_the_table(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cli.reproduce.needed", lambda *_: 0.0)
    monkeypatch.setattr("perdure.cli.reproduce.reproduce", lambda *_, **__: {"ewc seed 1": "training diverged"})
    said = perdure("reproduce hw14-22 --run")
    assert said.status == 1
    assert "finetune" in said.out
    assert said.err.endswith("perdure: hw14-22, ewc seed 1: training diverged\n")
