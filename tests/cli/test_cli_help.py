"""Help, `list`, `show` and `report`: said by the things themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import __version__
from perdure.cli import VERBS
from perdure.cli.docstrings import docstring, first_sentence
from perdure.datasets import BASES
from perdure.experiments.presets import presets
from perdure.experiments.tables import TABLES
from perdure.methods import METHODS
from perdure.options import described, flag, method_class, of_method, of_stream
from perdure.streams import STREAMS


def test_help_imports_neither_torch_nor_a_verb() -> None:
    code = "import sys; from perdure.cli import main; main(['--help']); print([*sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ran.stdout.splitlines()[-1]
    for heavy in ("torch", "numpy", "rich", "jsonargparse", "matplotlib", "perdure.cli.run"):
        assert f"'{heavy}'" not in modules


@pytest.mark.parametrize("line", ["", "--help", "-h"])
def test_help_names_every_verb(line: str, perdure) -> None:
    said = perdure(line)
    assert (said.status, said.err) == (0, "")
    for verb, module in VERBS.items():
        assert f"  {verb:<10} {first_sentence(module)}\n" in said.out


def test_version(perdure) -> None:
    assert perdure("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, perdure) -> None:
    said = perdure(f"{verb} --help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"usage: perdure {verb}")
    assert list(Path().iterdir()) == []


def test_help_of_a_run_has_the_options_of_its_stream_and_method(perdure) -> None:
    general, special = perdure("run --help").out, perdure("run rotated-digits ewc --help").out
    assert "--exam-rows" in general
    assert "--fit.lr X" in general
    assert "--method." not in general.replace("--method.X", "")
    for part in (of_method(method_class("ewc")), of_stream("rotated-digits")):
        for option in described(part):
            assert flag(option.name) in special
            assert option.help.split()[0] in special
    assert "--method.lam X        strength of the penalty" in special
    assert perdure("run rotated-digits ewcc --help").status == 2


def test_list_names_everything(perdure) -> None:
    said = perdure("list")
    for name in [*METHODS, *BASES, *TABLES, *presets(), *(f"{kind}-BASE" for kind in STREAMS if kind != "arrays")]:
        assert f" {name}" in said.out
    assert perdure("list methods").out.split()[:2] == ["methods", next(iter(METHODS))]
    assert "permuted" not in perdure("list methods").out


@pytest.mark.parametrize("name", METHODS)
def test_show_says_all_of_a_method(name: str, perdure) -> None:
    out = perdure(f"show {name}").out
    for part in ("Reference:", "Deviations:", "Memory:", "Scenarios: "):
        assert part in out
    assert out.startswith(docstring(METHODS[name].partition(":")[0]))
    cls = method_class(name)
    for option in described(of_method(cls)):
        assert f"  {flag(option.name)} " in out
        assert f"({option.kind}" in " ".join(out.split())


def test_show_gives_types_and_defaults(perdure) -> None:
    words = " ".join(perdure("show ewc").out.split())
    assert "Scenarios: gg, gns, gnu. Its state does not grow." in words
    assert "(a number, default 100.0)" in words
    assert "(auto or exact or sampled or empirical, default auto)" in words


@pytest.mark.parametrize("name", [*(kind for kind in STREAMS), "split-digits"])
def test_show_says_all_of_a_stream(name: str, perdure) -> None:
    out = perdure(f"show {name}").out
    assert "  --stream.seed " in out
    assert "  --stream.scale " in out
    assert "Raises" not in out


def test_show_prints_a_preset_as_it_is_and_the_runs_of_an_experiment(perdure) -> None:
    assert "net: mlp:1024-512-256" in perdure("show hw14").out
    assert "perdure run permuted-mnist ewc --tasks 5 --net mlp:1024-512-256" in perdure("show hw14-21").out


def test_show_takes_a_method_of_ones_own(perdure) -> None:
    Path("my.py").write_text('''"""Mine: it does as it likes."""
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from perdure import Scenario
from perdure.contract import Method

@dataclass(frozen=True, eq=False)
class Mine(Method):
    """A class of my own.

    Args:
        beta: how much of it.
    """
    beta: float = 2.0
    scenarios: ClassVar = frozenset({Scenario.GG})
    memory: ClassVar = "class"
''')
    out = perdure("show my.py:Mine").out
    assert out.startswith("Mine: it does as it likes.\n\nA class of my own.\n")
    assert "Scenarios: gg. Its state grows with the classes." in out
    assert "--method.beta  how much of it. (a number, default 2.0)" in out


def test_report_compares_runs_on_one_page(perdure) -> None:
    for method in ("finetune", "joint"):
        assert perdure(f"run permuted-digits {method} --tasks 2 TINY").status == 0
    page = Path("runs/permuted-digits-joint/report.html")
    assert "<html" in page.read_text()
    page.unlink()
    said = perdure("report runs/permuted-digits-finetune runs/permuted-digits-joint")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[1].split() == ["finetune", "joint"]
    assert said.out.endswith("report: report.html\n")
    text = Path("report.html").read_text()
    assert "finetune" in text
    assert "joint" in text
    assert perdure("report runs/permuted-digits-joint").out.endswith(f"report: {page}\n")
    assert page.exists()
    said = perdure("report runs/permuted-digits-joint --out some.html")
    assert Path("some.html").exists()
    said = perdure("report runs/permuted-digits-joint --out no/some.html")
    assert (said.status, said.err) == (2, "perdure: no/some.html: No such file or directory\n")


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_options_may_stand_between_folders(verb: str, perdure) -> None:
    assert perdure(f"{verb} none --out some.html other").err == "perdure: there is no run folder none\n"


def test_a_reader_may_leave_early() -> None:
    read, written = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "perdure.cli", "--help"]
    ran = subprocess.run(words, stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_python_m_is_the_same_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "perdure.cli", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{__version__}\n"


def test_presets_are_inside_the_package() -> None:
    assert {"digits", "hw14"} <= set(presets())
    assert json.dumps(presets())


def test_show_says_all_that_goes_by_a_name(perdure) -> None:
    figure = perdure("show plane").out
    assert figure.startswith("Why EWC works")
    assert figure.endswith("  perdure figure plane\n")
    both = perdure("show permuted-digits").out
    assert both.startswith("# ")  # the sweep
    assert "There is a stream of this name too:" in both
    assert "--stream.centre" in both


def test_a_report_of_two_streams_has_a_table_for_each(perdure) -> None:
    for stream in ("permuted-digits", "rotated-digits"):
        assert perdure(f"run {stream} finetune --tasks 2 TINY --out {stream}").status == 0
    said = perdure("report permuted-digits rotated-digits").out
    assert said.count("ACC (%)") == 2
    assert said.index("permuted-digits, 2 tasks") < said.index("ACC (%)") < said.index("rotated-digits, 2 tasks")
