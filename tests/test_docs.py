"""The pages about code are executed: what a reader types works."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cli import main

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


def pieces(page: Path) -> Iterator[tuple[str, str]]:
    """Scripts and command lines in order; a block of Python without an import at its head goes on with the last."""
    script = ""
    for language, block in re.findall(r"```(python|console)\n(.*?)```", page.read_text(), re.DOTALL):
        if script and (language == "console" or block.startswith(("import", "from"))):
            yield "python", script
            script = ""
        if language == "console":
            yield from (("console", line) for line in re.split(r"^\$ perdure ", block, flags=re.MULTILINE)[1:])
        else:
            script += block
    if script:
        yield "python", script


@pytest.mark.parametrize("page", ["own-data.md", "choosing.md"])
def test_pages_say_what_is_said(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands behind a print, and below a command, is what they say; ... stands for anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for language, text in pieces(ROOT / "docs" / page):
        if language == "python":
            ran = run(["-c", text], tmp_path)
            assert ran.returncode == 0, ran.stderr
            said, shown = ran.stdout, re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)
        else:
            line, *shown = text.splitlines()
            line, asked, _ = line.partition("; echo $?")
            status = main(shlex.split(line))
            said = capsys.readouterr().out + f"{status}\n" * bool(asked)
            assert asked or status == 0, text
        words = re.escape("".join(f"{line}\n" for line in shown)).replace(r"\.\.\.", ".*")
        assert not shown or re.fullmatch(words, said, re.DOTALL), (text, said)


@pytest.mark.parametrize("block", blocks(ROOT / "README.md", "python"))
def test_readme(block: str, tmp_path: Path) -> None:
    assert len(block.splitlines()) <= 10
    ran = run(["-c", block], tmp_path)
    assert ran.returncode == 0, ran.stderr
