"""Where data sets lie: the root that is named, those of $PERDURE_DATA, the user's cache, then the public address."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.request import urlopen

from perdure.contract import Refused

_verified: set[tuple[Path, int, int]] = set()  # files whose sum was found right, as they were then


class Damaged(Refused):
    """A file is there, but its content is not what it should be."""


class Missing(Refused):
    """A file is nowhere, or nowhere whole."""


def cache() -> Path:
    """The only root that is ever written to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure"


def places(data_root: str | Path | None = None) -> tuple[Path, ...]:
    """The roots, in the order in which they are searched.

    Raises:
        Refused: the named root is not a folder.
    """
    if data_root is not None and not Path(data_root).is_dir():
        raise Refused(f"--data-root {data_root} is not a folder; name one that exists")
    named = [] if data_root is None else [Path(data_root)]
    listed = [Path(root).expanduser() for root in os.environ.get("PERDURE_DATA", "").split(os.pathsep) if root]
    return (*named, *listed, cache())


def unpacked(path: Path, sha256: str | None) -> bytearray:
    """The content of a file, gzip undone, checked against a sum (once per process) if one is known.

    Raises:
        Damaged: the file cannot be unpacked, or its sum differs.
        OSError: it cannot be read.
    """
    content, digest = bytearray(), hashlib.sha256()
    try:
        stat = path.stat()
        known = (path, stat.st_mtime_ns, stat.st_size)
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            while block := file.read(1 << 20):
                content += block
                if known not in _verified:
                    digest.update(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Damaged(f"{path} is corrupt ({error})") from error
    if sha256 is not None and known not in _verified:
        if digest.hexdigest() != sha256:
            raise Damaged(f"{path} is corrupt: the SHA-256 of its content is {digest.hexdigest()}, not {sha256}")
        _verified.add(known)
    return content


def find(folder: str, file: str, sha256: str | None, address: str, places: Sequence[Path]) -> bytearray:
    """The content of ROOT/folder/file or file.gz, from the first root that has it whole, or from its public address.

    A corrupt file is not used: one in the cache is kept aside as FILE.corrupt, one in any other root is left alone.
    What has no known sum is not downloaded, for nothing could tell whether it arrived whole.

    Raises:
        Missing: no root has it whole, and it could not be downloaded. Says where it looked and what to do.
    """
    faults: list[str] = []
    for path in [root / folder / name for root in places for name in (file, f"{file}.gz")]:
        if path.is_file():
            try:
                content = unpacked(path, sha256)
            except OSError as fault:
                faults.append(str(fault))
            except Damaged as fault:
                faults.append(f"{fault}{_aside(path) if path.is_relative_to(cache()) else ''}")
            else:
                for report in faults:
                    warnings.warn(f"{report}; {path} is used instead", stacklevel=2)
                return content
    if sha256 is not None:
        try:
            return _download(f"{address}{file}.gz", cache() / folder / f"{file}.gz", sha256)
        except (OSError, HTTPException, Damaged) as error:
            faults.append(f"The download from {address} failed ({error})")
    looked = ", ".join(str(root / folder) for root in places)
    raise Missing(
        f"{folder}: no usable {file} (or {file}.gz). "
        + "".join(f"{fault}. " for fault in faults)
        + f"Looked in {looked}. Put the file into one of these, or name the folder "
        f"that holds {folder}/ with --data-root or $PERDURE_DATA"
    )


def _aside(path: Path) -> str:
    kept = path.with_name(f"{path.name}.corrupt")
    path.replace(kept)
    return f"; it is kept aside as {kept.name}"


def _download(url: str, path: Path, sha256: str) -> bytearray:
    """Fetches a file into the cache: written aside, checked, then renamed.

    Tested against local addresses only: no public address could be reached where this was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        urlopen(url, timeout=60) as response,
        NamedTemporaryFile(dir=path.parent, suffix=path.name, delete=False) as file,  # `unpacked` goes by the suffix
    ):
        aside = Path(file.name)
        try:
            shutil.copyfileobj(response, file)
            file.flush()
            content = unpacked(aside, sha256)
        except Damaged:
            aside.replace(path.with_name(f"{path.name}.corrupt"))
            raise
        except BaseException:
            aside.unlink()
            raise
        aside.replace(path)
    return content
