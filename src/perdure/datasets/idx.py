"""MNIST and its relatives: images and labels in IDX files, gzip or not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from perdure.contract import Refused
from perdure.data import Arrays
from perdure.datasets.base import Base, stratified
from perdure.datasets.roots import Missing, find

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Source(NamedTuple):
    """A public address, and the SHA-256 of the unpacked content of each file."""

    address: str
    sums: tuple[str | None, str | None, str, str]


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": Source(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            None,
            None,
            "76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e",
            "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6",
        ),
    ),
}


def parse(name: str, content: bytearray) -> Tensor:
    """An IDX file of bytes as a tensor: two zeros, the type (8), the number of sizes, big-endian sizes, the bytes.

    Raises:
        Refused: it is not one, or its length is not what its header says.
    """
    start = 4 + 4 * content[3] if len(content) >= 4 else 0
    if len(content) < 8 or content[:3] != b"\0\0\x08" or len(content) < start:
        raise Refused(f"{name} is not an IDX file of bytes; get it anew")
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != prod(sizes) or not prod(sizes):
        raise Refused(
            f"{name} is corrupt: its header says {sizes}, but {len(content) - start} bytes follow; get it anew"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(sizes)


def read(name: str, places: Sequence[Path]) -> Base:
    """mnist, fashion-mnist or kmnist: uint8 (N, 28, 28), ten labels.

    Where no root holds the training part of kmnist (no sum of it is known, so it is not downloaded), its test part is
    split instead, 80 % of every class to learn and 20 % for the exam, and a warning says so.

    Raises:
        Refused: a file is missing, corrupt, or does not fit the others.
    """
    source = SOURCES[name]

    def part(first: int) -> Arrays:
        images, labels = (
            parse(file, find(name, file, sha256, source.address, places))
            for file, sha256 in zip(FILES[first : first + 2], source.sums[first : first + 2], strict=True)
        )
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or int(labels.max()) > 9:
            raise Refused(f"{name}: {FILES[first]} and {FILES[first + 1]} do not fit together; get them anew")
        return Arrays(images, labels.long())

    exam = part(2)
    try:
        train = part(0)
    except Missing:
        if source.sums[0] is not None:
            raise
        learned, asked = stratified(exam.labels, 0.2, 0)
        warnings.warn(f"{name}: no root holds its training part, so its test part is split 80/20", stacklevel=2)
        train, exam = (Arrays(exam.x[rows], exam.labels[rows]) for rows in (learned, asked))
    return Base(name, train, exam, 10)
