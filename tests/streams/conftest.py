import numpy as np
import pytest
import torch

from perdure.data import Arrays
from perdure.datasets import Base, load


@pytest.fixture(scope="session")
def digits() -> Base:
    return load("digits")


@pytest.fixture(scope="session")
def tiny() -> Base:
    """Six labels, 5 by 6 pixels, every pixel of every image another number."""
    x = torch.arange(90 * 30, dtype=torch.int64).view(90, 5, 6)
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(6), 15)))
    return Base("tiny", Arrays(x[:60], labels[:60]), Arrays(x[60:], labels[60:]), 6)
