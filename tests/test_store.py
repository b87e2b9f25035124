"""The store: whole files or none, content that is what was stored, states that come back bit for bit."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from perdure import tree
from perdure.contract import Refused
from perdure.store import Blobs, load_state, locked, read_json, save_state, write, write_json


class Pair(NamedTuple):
    one: torch.Tensor
    other: dict[str, torch.Tensor]


def state(scale: float = 1.0) -> Pair:
    return Pair(torch.arange(6.0).view(2, 3), {"a": torch.tensor(scale), "b": torch.tensor([True, False])})


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = save_state(Blobs(tmp_path), state())
    assert tree.equal(load_state(Blobs(tmp_path), saved.name, (Pair,)), state())
    assert {path.name for path in tmp_path.iterdir()} == saved.parts
    assert set(saved.nbytes) == {"tree", "one", "other"}
    assert sum(saved.nbytes.values()) == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_second_state_costs_what_changed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    first, second = save_state(blobs, state()).parts, save_state(blobs, state(2.0)).parts
    assert len(second - first) == 2  # the tensor that changed, and the tree
    blobs.keep(second)
    assert {path.name for path in tmp_path.iterdir()} == second


def test_every_changed_file_is_noticed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name, parts, _ = save_state(blobs, state())
    for part in parts:
        path = tmp_path / part
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Refused, match="was changed or damaged"):
            load_state(blobs, name, (Pair,))
        path.unlink()
        with pytest.raises(Refused, match="cannot be read"):
            load_state(blobs, name, (Pair,))
        path.write_bytes(content)
    load_state(blobs, name, (Pair,))


def test_a_state_of_an_undeclared_kind_is_refused(tmp_path: Path) -> None:
    name = save_state(Blobs(tmp_path), state()).name
    with pytest.raises(Refused, match="holds a Pair, which this method does not declare"):
        load_state(Blobs(tmp_path), name, ())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(Refused, match=r"No space left on device.*what was saved before is intact"):
        write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_plain_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, None]})
    assert read_json(path) == {"x": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    path.write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        read_json(path)
    with pytest.raises(Refused, match="is missing"):
        read_json(tmp_path / "b.json")


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom perdure.store import locked\n"
        f"with locked(Path({str(path)!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    assert other.stdout is not None
    with other.stdout:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match="another process is working in"), locked(path):
            pass
        other.kill()
        other.wait()
    with locked(path):
        pass
