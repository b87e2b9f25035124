"""The digits of scikit-learn: 1,797 handwritten digits of 8 by 8 pixels that need no file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from perdure.data import Arrays
from perdure.datasets.base import Base, stratified


def read(name: str, places: Sequence[Path]) -> Base:
    """uint8 (N, 8, 8), values 0..16; rows shuffled by a fixed key, 80 % of every class to learn, 20 % for the exam."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, labels = torch.from_numpy(bunch.images).to(torch.uint8), torch.from_numpy(bunch.target).long()
    train, exam = (Arrays(x[rows], labels[rows]) for rows in stratified(labels, 0.2, 0))
    return Base(name, train, exam, 10)
