"""Imports run one way, and `perdure --help` needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import perdure

HOME = Path(perdure.__file__).parent
RANKS = [
    {"contract"},
    {"half", "rng"},
    {"tree", "data"},
    {"model", "optimiser"},
    {"train"},
    {"ops", "nets"},
    {"methods"},
    {"datasets"},
    {"evaluate", "store", "streams"},
    {"options"},
    {"program", "result"},
    {"fold"},
    {"learner", "report"},
    {"experiments"},
    {"cli"},
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
FREE = {"__init__", "testing"}  # the front door, and the laws, which look at every room


def imported(path: Path) -> set[str]:
    """The rooms that a file imports when it is imported (imports inside functions are late, and free)."""
    rooms = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perdure":
            named = {node.module.split(".")[1]} if "." in node.module else {name.name for name in node.names}
            rooms |= named - {"__version__"}
        if isinstance(node, ast.Import):
            rooms |= {name.name.split(".")[1] for name in node.names if name.name.startswith("perdure.")}
    return rooms


def room(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


FILES = sorted(path for path in HOME.rglob("*.py") if room(path) not in FREE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOME)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(path)
    for other in imported(path) - {own}:
        assert RANK[other] < RANK[own], f"{path.name} ({own}) may not import {other}"


@pytest.mark.parametrize("path", sorted((HOME / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_methods_never_import_each_other(path: Path) -> None:
    assert "methods" not in imported(path)


def test_every_room_has_a_rank() -> None:
    assert {room(path) for path in FILES} <= set(RANK)


def test_the_front_door_imports_no_torch() -> None:
    code = "import sys, perdure.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
