"""Small tasks that are learned in a moment."""

from collections.abc import Callable

import numpy as np

from perdure.learner import Learner

QUICK = {"fit.steps": 60, "fit.batch": 32}
Data = tuple[np.ndarray, np.ndarray]
Make = Callable[..., Learner]


def blobs(task: int, n: int = 60, classes: int = 2, d: int = 12, seed: int = 0) -> Data:
    """Clouds of points far apart, other places for every task; the labels are words."""
    places = np.random.default_rng(100 + task).normal(size=(classes, d)) * 4
    rng = np.random.default_rng([seed, task])
    y = np.arange(n) % classes
    return (places[y] + rng.normal(size=(n, d))).astype(np.float32), np.array([f"t{task}c{c}" for c in y])
