"""CIFAR-100 with its fine labels, from an .npz file or from lossless WebP sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets import npz
from perdure.datasets.base import Base

SHEET = 2000  # images on a sheet: 40 rows of 50, in the order of the labels


def read(name: str, places: Sequence[Path]) -> Base:
    """uint8 (N, 3, 32, 32), 100 labels: ROOT/cifar100.npz, ROOT/npz/cifar100.npz, or sheets in ROOT/cifar100/.

    Raises:
        Refused: there is none, or it cannot be used.
    """
    if name in npz.files(places):
        return npz.read(name, places)
    for folder in [root / name for root in places]:
        if (folder / "train_y.npy").is_file():
            return Base(name, _part(folder, "train"), _part(folder, "test"), 100)
    looked = ", ".join(map(str, places))
    raise Refused(
        f"{name} is in none of {looked}. Save its arrays as {name}.npz (X_train, y_train, X_test, y_test) in one of "
        "these, or name the folder that holds it with --data-root or $PERDURE_DATA"
    )


def _part(folder: Path, part: str) -> Arrays:
    from PIL import Image

    try:
        labels = np.load(folder / f"{part}_y.npy", allow_pickle=False)
        x = torch.empty(len(labels), 3, 32, 32, dtype=torch.uint8)
        sheets = sorted(folder.glob(f"{part}_*.webp"))
        if len(sheets) * SHEET != len(labels):
            raise Refused(f"{folder} holds {len(sheets)} {part} sheets for {len(labels)} labels; get it anew")
        for path, images in zip(sheets, x.split(SHEET), strict=True):
            with Image.open(path) as image:
                sheet = torch.from_numpy(np.array(image.convert("RGB")))
            images.copy_(sheet.view(40, 32, 50, 32, 3).permute(0, 2, 4, 1, 3).reshape(SHEET, 3, 32, 32))
    except (OSError, RuntimeError) as error:
        raise Refused(f"the {part} part of {folder} cannot be read ({error}); get it anew") from error
    return Arrays(x, torch.from_numpy(labels).long())
