"""The pages about code are executed: what a reader types works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def run(words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=where, capture_output=True, text=True, check=False)


def test_adding_a_method(tmp_path: Path) -> None:
    page = ROOT / "docs" / "adding-a-method.md"
    method, check = blocks(page, "python")
    assert len(method.splitlines()) < 60
    for block in (method, check):
        name = block.split()[1]
        (tmp_path / name).write_text(block)
    checked = run(["check.py"], tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("kept: ")
    (command,) = blocks(page, "console")
    words = command.removeprefix("$ perdure ").split()
    ran = run(["-m", "perdure.cli", *words, "--out", "out", "--json"], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "result.json").exists()
    shown = run(["-m", "perdure.cli", "show", "my_method.py:Pull"], tmp_path)
    assert "stay near the weights" in shown.stdout


@pytest.mark.parametrize("block", blocks(ROOT / "README.md", "python"))
def test_readme(block: str, tmp_path: Path) -> None:
    assert len(block.splitlines()) <= 10
    ran = run(["-c", block], tmp_path)
    assert ran.returncode == 0, ran.stderr
