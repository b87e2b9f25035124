"""`perdure reproduce`: published, ours, verdict; from stored results alone."""

import json

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
