"""Thousands of damaged files: each is read as examples of consistent shapes, or refused; no other error, no warning."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from perdure.contract import Refused
from perdure.learner.intake import read

GENTLY = settings(deadline=None, derandomize=True, database=None)  # the same files each time
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 3)), np.array(["owl", "wren", "owl", "tit", "owl", "wren", "tit"])
TABLE = 'a,"b c",label\n1.5,2,owl\n-3,4e2,"wr\nen"\n0,7,"say ""hoo"""\n'


def saved(save, **options) -> bytes:
    content = io.BytesIO()
    save(content, **options)
    return content.getvalue()


def picture(form: str, mode: str = "RGB") -> bytes:
    image = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    return saved(image.save, format=form)


WHOLE = {
    "y.npy": [
        saved(lambda file, y=y: np.save(file, y)) for y in (Y, Y.astype("S"), np.arange(7), np.arange(7.0), Y > "r")
    ],
    "X.npy": [saved(lambda file, x=x: np.save(file, x)) for x in (X, X.astype(np.uint8), X.astype("U4"), X[None].T)],
    "mine.npz": [
        saved(lambda file, save=save, x=x, y=y: save(file, X=x, y=y))
        for save in (np.savez, np.savez_compressed)
        for x, y in [(X, Y), (X.astype(np.int16), np.arange(7.0)), (X.astype(np.longdouble), Y.astype("S"))]
    ],
    "mine.csv": [
        TABLE.encode(),
        TABLE.replace(",", ";").encode(),
        TABLE.encode("utf-16"),
        b"\xef\xbb\xbfa\ty\r\n1\t2\r\n",
    ],
    "1.png": [
        *(picture("PNG", mode) for mode in ("RGB", "P", "L", "RGBA", "1")),
        *(picture(form) for form in ("JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")),
    ],
}
HEADS = [b"(7, 3)", b"(-1,)", b"'<U0'", b"'|O'", b"True", b"9" * 30, b"'>f4'", b"[('a', '<f8')]"]
DICTIONARY = {
    "X.npy": HEADS,
    "y.npy": HEADS,
    "mine.npz": [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"X.npy", b"y.npy", b"(7,)", b"'|O'", b"\xff" * 4],
    "mine.csv": [b",", b";", b'"', b"\n", b"\r", b"\0", b"nan", b"1e999", b"\xff", b"label", b"y", b"1" * 200_000],
    "1.png": [
        b"IHDR",
        b"IDAT",
        b"IEND",
        b"tRNS",
        b"acTL",
        b"fdAT",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0" * 9,
    ],
}


@some.composite
def damaged(draw, name):
    """A file with some bytes turned, taken away, doubled, spliced from another or put in."""
    content = bytearray(draw(some.sampled_from(WHOLE[name])))
    for _ in range(draw(some.integers(1, 4))):
        at, to = sorted((draw(some.integers(0, len(content))), draw(some.integers(0, len(content)))))
        match draw(some.sampled_from(["turn", "set", "cut", "drop", "double", "splice", "insert", "replace"])):
            case "turn" if at < len(content):
                content[at] ^= 1 << draw(some.integers(0, 7))
            case "set" if at < len(content):
                content[at] = draw(some.integers(0, 255))
            case "cut":
                del content[to:]
            case "drop":
                del content[at:to]
            case "double":
                content[at:at] = content[at:to]
            case "splice":
                content[at:] = draw(some.sampled_from(WHOLE[name]))[at:]
            case "insert":
                content[at:at] = draw(some.sampled_from(DICTIONARY[name]))
            case "replace":
                word = draw(some.sampled_from(DICTIONARY[name]))
                content[at : at + len(word)] = word
    return bytes(content)


def examine(data, labelled: bool) -> bool:
    """Whether data is read; then its shapes agree and all of it can be taken."""
    try:
        given = read(data, labelled=labelled)
        x = torch.as_tensor(given.x[np.arange(given.x.shape[0])])
    except Refused:
        return False
    assert x.shape == given.x.shape == (len(x), *given.signature.shape)
    assert len(x) > 0
    assert not x.is_floating_point() or bool(x.isfinite().all())
    assert (given.y is None) is not labelled
    if labelled:
        assert given.y.shape == (len(x),)
        assert given.y.dtype == np.int64 or (given.y.dtype.kind == "U" and all(map(str.strip, given.y.tolist())))
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", ["X.npy", "mine.npz", "mine.csv", "1.png"])
def test_damaged_files_are_read_or_refused(place, name):
    fates = []

    @settings(GENTLY, max_examples=900)
    @given(content=damaged(name), labelled=some.booleans())
    def check(content, labelled):
        (place / name).write_bytes(content)
        fates.append(examine(place / name, labelled and name != "X.npy"))

    check()
    assert 0 < sum(fates) < len(fates)


def test_damaged_labels_are_read_or_refused(place):
    np.save(place / "fine.npy", X)
    fates = []

    @settings(GENTLY, max_examples=500)
    @given(content=damaged("y.npy"))
    def check(content):
        (place / "y.npy").write_bytes(content)
        fates.append(examine((place / "fine.npy", place / "y.npy"), True))

    check()
    assert 0 < sum(fates) < len(fates)


def test_damaged_arrays_in_a_whole_archive_are_read_or_refused(place):
    """A checksum of the archive would else stop most of them."""
    fates = []

    @settings(GENTLY, max_examples=500)
    @given(x=damaged("X.npy"), y=damaged("y.npy"))
    def check(x, y):
        with zipfile.ZipFile(place / "mine.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("X.npy", x)
            file.writestr("y.npy", y)
        examine(place / "mine.npz", True)
        fates.append(examine(place / "mine.npz", False))

    check()
    assert 0 < sum(fates) < len(fates)
