"""Where files are looked for, and what happens to one that is not whole."""

import gzip
import os
import re

import pytest
import torch

from perdure.contract import Refused
from perdure.datasets import idx, load, roots

IMAGES = "train-images-idx3-ubyte"


def files(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_roots_are_searched_in_order(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PERDURE_DATA", os.pathsep.join(["/one", "", "/two"]))
    assert [str(root) for root in roots.places(tmp_path)] == [str(tmp_path), "/one", "/two", str(cache)]
    with pytest.raises(Refused, match=re.escape("--data-root /nowhere is not a folder; name one that exists")):
        roots.places("/nowhere")


def test_cache_is_in_the_home_without_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert roots.cache() == tmp_path / ".cache" / "perdure"


def test_idx_is_read_as_it_is_gzip_or_not(root):
    packed = load("mnist", root)
    for path in (root / "mnist").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load("mnist", root)
    for base in (packed, plain):
        assert torch.equal(base.train.x, torch.arange(80, dtype=torch.uint8).view(20, 2, 2))
        assert torch.equal(base.exam.x.flatten(), torch.arange(100, 140, dtype=torch.uint8))
        assert base.train.labels.tolist() == [*range(10), *range(10)]
        assert base.exam.labels.tolist() == list(range(10))
        assert (base.train.labels.dtype, base.classes, base.shape) == (torch.int64, 10, (2, 2))


def test_the_sum_is_taken_once_a_process(root, monkeypatch):
    load("mnist", root)
    taken = []
    monkeypatch.setattr(idx, "SOURCES", {"mnist": idx.SOURCES["mnist"]._replace(sums=("wrong",) * 4)})
    monkeypatch.setattr(roots.hashlib, "sha256", lambda: type("Sum", (), {"update": taken.append})())
    load("mnist", root)
    assert not taken


def test_nothing_is_written_to_a_root(root, cache):
    before = files(root)
    load("mnist", root)
    assert files(root) == before
    assert not cache.exists()


def damage(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))


def test_a_corrupt_file_in_a_root_is_reported_and_left_alone(root, tmp_path, tiny, monkeypatch):
    good = tmp_path / "good" / "mnist"
    good.mkdir(parents=True)
    for path in tiny.iterdir():
        (good / path.name).write_bytes(path.read_bytes())
    damage(root / "mnist" / f"{IMAGES}.gz")
    before = files(root)
    monkeypatch.setenv("PERDURE_DATA", str(good.parent))
    with pytest.warns(
        UserWarning, match=rf"{IMAGES}\.gz is corrupt: the SHA-256 .* {good}/{IMAGES}\.gz is used instead"
    ):
        base = load("mnist", root)
    assert torch.equal(base.train.x.flatten(), torch.arange(80, dtype=torch.uint8))
    assert files(root) == before


def test_a_corrupt_file_in_the_cache_is_kept_aside_and_not_used(root, cache):
    cache.parent.mkdir()
    root.rename(cache)
    path = cache / "mnist" / f"{IMAGES}.gz"
    damage(path)
    bad = path.read_bytes()
    with pytest.raises(Refused, match=rf"{IMAGES}\.gz is corrupt: .*; it is kept aside as {IMAGES}\.gz\.corrupt\."):
        load("mnist")
    assert not path.exists()
    assert path.with_name(f"{IMAGES}.gz.corrupt").read_bytes() == bad


@pytest.mark.parametrize(
    "broken", [b"not gzip at all", gzip.compress(b"cut short")[:-4], gzip.compress(bytes(99))[:20]]
)
def test_what_cannot_be_unpacked_is_corrupt(root, broken):
    (root / "mnist" / f"{IMAGES}.gz").write_bytes(broken)
    with pytest.raises(Refused, match=rf"{IMAGES}\.gz is corrupt \("):
        load("mnist", root)


def test_a_missing_file_is_named_with_where_it_was_looked_for(root, cache):
    (root / "mnist" / f"{IMAGES}.gz").unlink()
    with pytest.raises(Refused) as refusal:
        load("mnist", root)
    text = str(refusal.value)
    assert text.startswith(f"mnist: no usable {IMAGES} (or {IMAGES}.gz). The download from file://")
    assert text.endswith(
        f"Looked in {root}/mnist, {cache}/mnist. Put the file into one of these, or name the folder "
        "that holds mnist/ with --data-root or $PERDURE_DATA"
    )


def test_a_download_lands_in_the_cache_once(tiny, cache, monkeypatch):
    monkeypatch.setitem(idx.SOURCES, "mnist", idx.SOURCES["mnist"]._replace(address=f"{tiny.as_uri()}/"))
    base = load("mnist")
    assert torch.equal(base.train.x.flatten(), torch.arange(80, dtype=torch.uint8))
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(f"{name}.gz" for name in idx.FILES)
    for path in tiny.iterdir():
        path.unlink()
    assert torch.equal(load("mnist").train.x, base.train.x)


def test_a_corrupt_download_is_kept_aside_and_not_used(tiny, cache, monkeypatch):
    monkeypatch.setitem(idx.SOURCES, "mnist", idx.SOURCES["mnist"]._replace(address=f"{tiny.as_uri()}/"))
    damage(tiny / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(Refused, match=r"The download from .* failed \(.* is corrupt: the SHA-256"):
        load("mnist")
    assert [path.name for path in (cache / "mnist").iterdir()] == ["t10k-images-idx3-ubyte.gz.corrupt"]


def test_an_interrupted_download_leaves_nothing(tiny, cache, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(idx.SOURCES, "mnist", idx.SOURCES["mnist"]._replace(address=f"{tiny.as_uri()}/"))
    monkeypatch.setattr(roots.shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        load("mnist")
    assert not list((cache / "mnist").iterdir())
