"""Folders of images: a sub-folder for each class, perhaps under train/ and val/ (the layout of ImageNet)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perdure.contract import Refused, Scale
from perdure.data import Mapped
from perdure.datasets.base import Base, stratified
from perdure.datasets.npz import Array, quiet

if TYPE_CHECKING:
    from PIL import Image

SIZE = 224  # pixels a side, where the name of the base does not say
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")  # by content; others of pillow's start other programs
SHORT = ("PNG", "PPM")  # formats that have no more than 16 bits, though pillow may use 32
PIXELS = 64_000_000  # of an image, as it says before it is decoded, and again as it is resized


class Pictures:
    """Image files as one array (N, 3, size, size) uint8, decoded when it is indexed, in as many threads as torch has.

    An image becomes RGB with 8 bits a colour, is resized (bilinear) so that its shorter side has size * 256 / 224
    pixels, and cut to the square in its centre. Of 16 bits the upper 8 are taken, and what is transparent shows the
    colour it has.
    """

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths, self.size = paths, size

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.paths), 3, self.size, self.size

    def __getitem__(self, rows: Array) -> Tensor:
        out = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        with quiet(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for place, image in zip(out, pool.map(self._decoded, rows.tolist()), strict=True):
                place.copy_(image)
        return out

    def _decoded(self, row: int) -> Tensor:
        """(3, size, size).

        Raises:
            Refused: the file cannot be read as an image, or is one of too many pixels.
        """
        from PIL import Image

        size, edge = self.size, round(self.size * 256 / 224)
        try:
            with Image.open(self.paths[row], formats=FORMATS) as file:
                short = min(file.size)
                width, height = (edge * side // short for side in file.size)
                if max(file.width * file.height, width * height) > PIXELS:
                    of = f"{file.width} x {file.height} pixels, and {width} x {height} when it is resized"
                    raise ValueError(f"it has {of}; at most {PIXELS:,} are decoded")
                image = _rgb(file).resize((width, height), Image.Resampling.BILINEAR)
        except Exception as error:  # decoders fail on a damaged file in any way they like
            raise Refused(f"{self.paths[row]} cannot be read ({error}); get it anew, or remove it") from error
        left, top = round((width - size) / 2), round((height - size) / 2)
        return torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).movedim(-1, 0)


def _rgb(image: Image.Image) -> Image.Image:
    """An image in RGB; pillow makes one colour of all greys that need more than 8 bits."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SHORT):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and 8 or 16 are read: save it with so many")
    return image.convert("RGB")


class Listing(NamedTuple):
    """The files of one part, class by class."""

    names: list[str]  # of the classes, sorted: label 0 is the first
    paths: list[str]
    labels: Tensor  # (N,) int64

    def examples(self, size: int, rows: Tensor | None = None) -> Mapped:
        """The images, or some of them, to be decoded when they are taken."""
        rows = torch.arange(len(self.paths)) if rows is None else rows
        paths = [self.paths[row] for row in rows.tolist()]
        return Mapped(Pictures(paths, size), self.labels[rows], Scale(factor=1 / 255))


def listing(part: Path) -> Listing:
    """The images in the sub-folders of a folder, however deep, without opening any; hidden files are no images.

    Raises:
        Refused: there is no sub-folder, or no image in one.
    """
    names = sorted(path.name for path in part.glob("*/") if not path.name.startswith("."))
    if not names:
        raise Refused(f"{part} holds no folders; give every class one of its own: {part}/CLASS/IMAGE.jpg")
    paths: list[str] = []
    counts: list[int] = []
    for name in names:
        if not (files := images(part / name)):
            raise Refused(f"{part / name} holds no image ({', '.join(SUFFIXES)}); put some into it, or remove it")
        paths += files
        counts.append(len(files))
    return Listing(names, paths, torch.arange(len(names)).repeat_interleave(torch.tensor(counts)))


def images(part: Path) -> list[str]:
    """The images in a folder, however deep, sorted, without opening any; hidden files are no images."""
    return sorted(os.path.join(at, file) for at, _, inside in os.walk(part) for file in inside if _image(file))


def _image(file: str) -> bool:
    return not file.startswith(".") and file.lower().endswith(SUFFIXES)


def folders(places: Sequence[Path]) -> dict[str, Path]:
    """Every ROOT/NAME/ with folders in it, by name; the first root that has a name wins."""
    found: dict[str, Path] = {}
    for path in [path.parent for root in places for path in sorted(root.glob("*/*/"))]:
        if not path.name.startswith("."):
            found.setdefault(path.name, path)
    return found


def home(name: str, places: Sequence[Path]) -> Path | None:
    """The folder of a base NAME or NAME@SIZE, in the first root that has it."""
    folder = name.partition("@")[0]
    return next((root / folder for root in places if folder and (root / folder).is_dir()), None)


def read(name: str, places: Sequence[Path]) -> Base:
    """NAME or NAME@SIZE: uint8 (N, 3, SIZE, SIZE) from ROOT/NAME/, decoded when taken; classes in sorted order.

    ROOT/NAME/train/CLASS/ is learned and ROOT/NAME/val/CLASS/ asked. Where there is no val/, 80 % of every class are
    learned and 20 % asked, dealt by a fixed key; where there is no train/ either, classes are the folders of ROOT/NAME.

    Raises:
        Refused: a folder holds no image, the two parts have other classes, or the size is none.
    """
    folder = home(name, places)
    assert folder is not None
    plain, at, digits = name.partition("@")
    if at and not (digits.isdecimal() and int(digits)):
        raise Refused(
            f"base {name!r} cannot be read: after @ comes the side of the images in pixels, as in {plain}@{SIZE}"
        )
    size = int(digits or SIZE)
    train, val = folder / "train", folder / "val"
    learned = listing(train if train.is_dir() else folder)
    if not (train.is_dir() and val.is_dir()):
        rest, share = stratified(learned.labels, 0.2, 0)
        return Base(name, learned.examples(size, rest), learned.examples(size, share), len(learned.names))
    asked = listing(val)
    if strange := sorted({*learned.names} ^ {*asked.names}):
        raise Refused(f"only one of {train} and {val} has the class {strange[0]}; give both the same folders")
    return Base(name, learned.examples(size), asked.examples(size), len(learned.names))
