import gzip
import hashlib
import struct

import pytest

from perdure.datasets import idx, roots


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no other root."""
    monkeypatch.delenv("PERDURE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(roots, "_verified", set())
    return tmp_path / "home" / "perdure"


def packed(*sizes: int, content: bytes) -> bytes:
    return b"\0\0\x08" + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + content


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data set in IDX files, 20 images of 2 by 2 to learn and 10 to ask, known by their sums as `mnist`."""
    parts = [
        packed(20, 2, 2, content=bytes(range(80))),
        packed(20, content=bytes([i % 10 for i in range(20)])),
        packed(10, 2, 2, content=bytes(range(100, 140))),
        packed(10, content=bytes(range(10))),
    ]
    public = tmp_path / "public"
    public.mkdir()
    for name, part in zip(idx.FILES, parts, strict=True):
        (public / f"{name}.gz").write_bytes(gzip.compress(part))
    sums = tuple(hashlib.sha256(part).hexdigest() for part in parts)
    monkeypatch.setitem(idx.SOURCES, "mnist", idx.Source(f"{(tmp_path / 'nowhere').as_uri()}/", sums))
    return public


@pytest.fixture
def root(tmp_path, tiny):
    """A root that holds the tiny data set."""
    folder = tmp_path / "root" / "mnist"
    folder.mkdir(parents=True)
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder.parent
