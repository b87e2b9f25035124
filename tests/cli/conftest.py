"""The command line, called in this process from an empty folder."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from perdure.cli import main


class Said(NamedTuple):
    """What a command line left behind."""

    status: int
    out: str
    err: str


Perdure = Callable[[str], Said]
TINY = "--net mlp:16 --fit.steps 20 --fit.batch 32 --threads 1"


@pytest.fixture
def perdure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Perdure:
    """Runs a command line in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PERDURE_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def obey(line: str) -> Said:
        status = main(shlex.split(line.replace("TINY", TINY)))
        return Said(status, *capsys.readouterr())

    return obey


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write no report: drawing takes longer than they do."""
    monkeypatch.setattr("perdure.report.write", lambda results, path: path)
