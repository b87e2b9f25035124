"""`perdure doctor`: what a newcomer is told, and when it says that something is broken."""

import gzip
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from perdure.cli import doctor as verb
from perdure.datasets import BASES, idx
from perdure.experiments import doctor


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what a test puts there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_all_is_well(perdure) -> None:
    said = perdure("doctor --no-speed")
    assert (said.status, said.err) == (0, "")
    for part in ("versions", "machine", "data", "disk"):
        assert f"\n{part}\n" in f"\n{said.out}"
    assert f"torch         {torch.__version__}" in said.out
    for name in BASES:
        assert f"  {name:<14} " in said.out
    assert said.out.endswith("Everything works. A start: perdure run permuted-digits ewc\n")


def test_json_is_one_object(perdure) -> None:
    found = json.loads(perdure("doctor --no-speed --json").out)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["speed"] is None
    assert found["versions"]["numpy"] == metadata.version("numpy")
    assert found["threads"]["run_of_a_small_net"] == 1
    assert found["devices"][-1] == "cpu"
    assert found["data"]["bases"]["digits"]["found"] == "in scikit-learn"
    assert found["data"]["bases"]["mnist"]["found"] is None
    assert found["disk"]["free"] > 0


def test_the_speed_check_takes_both_loops_in_turn(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "STEPS", 2)
    state = torch.get_rng_state()
    speed = doctor.speed(seconds=0.0)
    assert speed["ratio"] == pytest.approx(speed["perdure_us"] / speed["raw_us"], rel=0.05)
    assert torch.get_rng_state().equal(state)


def idx_file(path: Path, *sizes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    path.write_bytes(gzip.compress(header + bytes(torch.tensor(sizes).prod().item())))


def test_data_is_found_where_it_lies_and_damage_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PERDURE_DATA", str(root := tmp_path / "data"))
    for file in idx.FILES:
        idx_file(root / "mnist" / f"{file}.gz", 1)
    found = doctor.data()
    assert found["roots"][0] == {"path": str(root), "there": True}
    assert found["bases"]["mnist"]["found"] is None
    assert "is corrupt: the SHA-256" in found["bases"]["mnist"]["fault"]
    monkeypatch.setitem(idx.SOURCES, "mnist", idx.SOURCES["mnist"]._replace(sums=(None,) * 4))
    assert doctor.data()["bases"]["mnist"] == {"found": str(root / "mnist"), "fault": ""}
    (root / "mnist" / f"{idx.FILES[0]}.gz").unlink()
    (root / "mnist" / f"{idx.FILES[1]}.gz").unlink()
    assert "split 80/20" in doctor.data()["bases"]["mnist"]["fault"]
    (root / "npz").mkdir()
    (root / "npz" / "usps.npz").touch()
    assert doctor.data()["others"] == {"usps": str(root / "npz" / "usps.npz")}


def test_a_missing_package_is_said_without_importing_anything(perdure, monkeypatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["nosuchthing>=2.0", 'x>=1; extra == "dev"', "numpy>=999"])
    said = perdure("doctor")
    assert said.status == 1
    assert "nosuchthing  MISSING" in said.out
    assert "BROKEN: nosuchthing is missing\n  what to do: run: pip install 'nosuchthing>=2.0'" in said.out
    assert f"BROKEN: numpy {metadata.version('numpy')} is too old" in said.out
    found = json.loads(perdure("doctor --json").out)
    assert found["ok"] is False
    assert found["versions"]["nosuchthing"] is None


def test_a_package_that_cannot_be_imported_is_said(perdure, monkeypatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libfoo.so: cannot open")

    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1"])
    monkeypatch.setattr(verb, "import_module", broken)
    said = perdure("doctor")
    assert said.status == 1
    assert "cannot be imported (libfoo.so: cannot open)" in said.out


def test_a_run_that_fails_is_said(perdure, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "works", lambda: "RuntimeError: boom")
    said = perdure("doctor --no-speed")
    assert said.status == 1
    assert "BROKEN: a tiny run failed: RuntimeError: boom" in said.out


def test_works_learns_and_says_what_went_wrong(monkeypatch) -> None:
    assert doctor.works() == ""
    monkeypatch.setattr("perdure.experiments.execution.execute", lambda *a, **k: 1 / 0)
    assert doctor.works() == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(("version", "least", "old"), [("2.13.0+cpu", "2.6", False), ("1.9", "1.10", True)])
def test_versions_are_compared_as_numbers(version: str, least: str, old: bool) -> None:
    assert (verb._numbers(version) < verb._numbers(least)) == old


def test_the_verb_itself_imports_nothing_that_may_be_broken() -> None:
    code = "import sys, perdure.cli.doctor; sys.exit(bool({'torch', 'numpy', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
