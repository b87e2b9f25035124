"""The store: whole files or none, content that is what was stored, states that come back bit for bit."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from perdure import tree
from perdure.contract import Refused
from perdure.store import Blobs, load_state, locked, parts_of, read_json, save_state, write, write_json


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


class Grown(NamedTuple):
    name: str
    mask: torch.Tensor


def test_an_item_more_in_a_long_tuple_costs_the_item_and_a_few_short_lists(tmp_path: Path) -> None:
    blobs, items = Blobs(tmp_path), tuple(Grown(f"task {i}", torch.tensor([i])) for i in range(273))
    before = save_state(blobs, {"tasks": items[:272]})
    after = save_state(blobs, {"tasks": items})
    assert tree.equal(load_state(blobs, before.name, (Grown,)), {"tasks": items[:272]})
    assert tree.equal(load_state(blobs, after.name, (Grown,)), {"tasks": items})
    assert parts_of(blobs, after.name) == after.parts
    new = [(tmp_path / name).stat().st_size for name in after.parts - before.parts]
    assert len(new) == 1 + 3  # the tensor; the last of 18 files of items, the last of 2 lists of these, and the top
    assert sum(new) < 4000


def test_a_small_file_cannot_unfold_into_a_large_state(tmp_path: Path) -> None:
    for leaf in ({"items": [{"value": 0}]}, {"items": []}):
        blobs = Blobs(tmp_path)
        name = blobs.put(json.dumps(leaf).encode())
        for _ in range(12):
            name = blobs.put(json.dumps({"parts": [name] * 16}).encode())
        name = blobs.put(json.dumps({"tuple": "tuple", "parts": [name]}).encode())
        with pytest.raises(Refused, match="has more than 1048576 items"):
            load_state(blobs, name, ())


def test_what_is_no_plain_file_of_ours_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    outside = tmp_path / "secret"
    outside.write_bytes(b"{}")
    for name in ("../secret", str(outside), "", "A" * 64):
        with pytest.raises(Refused, match="names no file"):
            blobs.get(name)
    name = blobs.put(b"{}")
    (tmp_path / "blobs" / name).unlink()
    (tmp_path / "blobs" / name).symlink_to(outside)
    with pytest.raises(Refused, match="it is a link"):
        blobs.get(name)
    (tmp_path / "blobs" / name).unlink()
    os.mkfifo(tmp_path / "blobs" / name)
    with pytest.raises(Refused, match="is no plain file"):
        blobs.get(name)


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(Refused, match="recursion"):
        load_state(blobs, blobs.put(b"[" * 100_000), ())


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
        with pytest.raises(Refused, match="is missing"):
            load_state(blobs, name, (Pair,))
        path.write_bytes(content)
    load_state(blobs, name, (Pair,))


def test_a_state_of_an_undeclared_kind_is_refused(tmp_path: Path) -> None:
    name = save_state(Blobs(tmp_path), state()).name
    with pytest.raises(Refused, match="holds a 'Pair', which this method does not declare"):
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


def test_who_waits_for_a_lock_gets_it(tmp_path: Path) -> None:
    path, held, done = tmp_path / "lock", threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path):
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with pytest.raises(Refused, match="another process"), locked(path, wait=0.1):
        pass
    threading.Timer(0.2, done.set).start()
    with locked(path, wait=60):
        assert done.is_set()
    other.join()
