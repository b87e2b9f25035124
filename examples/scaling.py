"""What scaling does to a learner's answers: `python examples/scaling.py [METHOD [STEPS [SEEDS]]]`.

Tables whose columns have different units, each alone; and five tasks with the same columns (the digits, with their
pixels in another order for each), of which a learner has to tell which one an input is of. The outcome is in
docs/own-data.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from perdure import Learner, Policy

TASKS = 5
Data = tuple[np.ndarray, np.ndarray]


def dealt(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Data, Data]:
    """What is learned, and the fifth that is asked."""
    rows = np.random.default_rng(seed).permutation(len(y))
    asked, learned = np.split(rows, [len(rows) // 5])
    return (x[learned], y[learned]), (x[asked], y[asked])


def streams(seed: int) -> dict[str, list[tuple[Data, Data]]]:
    """The tasks of each learner by what they are."""
    x, y = load_digits(return_X_y=True)
    orders = [np.random.default_rng(task).permutation(x.shape[1]) for task in range(TASKS)]
    return {
        "wine": [dealt(*load_wine(return_X_y=True), seed)],
        "breast cancer": [dealt(*load_breast_cancer(return_X_y=True), seed)],
        f"{TASKS} tasks": [dealt(x[:, order], 10 * task + y, seed) for task, order in enumerate(orders)],
    }


def main(method: str = "supsup", steps: str = "1000", seeds: str = "3") -> None:
    """Learns every stream with each scaling, and shows accuracies without the task and with it."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(int(seeds)):
        for name, lessons in streams(seed).items():
            for scaling in ("one", "columns"):
                with TemporaryDirectory() as home:
                    learner = Learner.create(
                        Path(home) / "learner",
                        method,
                        scaling=scaling,
                        seed=seed,
                        policy=Policy(1.0, 1.0),
                        options={"fit.steps": steps},
                    )
                    for task, (learned, _) in enumerate(lessons):
                        learner.learn(learned, str(task))
                    for task, (_, (x, y)) in enumerate(lessons):
                        right = [(learner.predict(x, task=given) == y).mean() for given in (None, str(task))]
                        found.setdefault((name, scaling), []).append(right)
    table = Table(title=f"{method}, accuracy in %", box=None)
    for title in ("", "scaling", "without the task", "with the task"):
        table.add_column(title, justify="right" if "task" in title else "left")
    for (name, scaling), rights in found.items():
        table.add_row(name, scaling, *(f"{100 * figure:.1f}" for figure in np.mean(rights, 0)))
    Console(width=80).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
