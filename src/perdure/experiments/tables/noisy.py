"""The noisy pair: a task drowned in noise and the same task clean, in both orders and jointly (a lecture's picture)."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table

LECTURE = (
    "H.-Y. Lee, lecture on life-long learning, National Taiwan University, 2019 (a slide; noise law, optimiser and \
number of epochs are not given)"
)


def runs(method: str, order: str) -> dict[str, Experiment]:
    """Three seeds, of the noise and of the learner."""
    options: dict[str, Any] = {"stream.order": order, "stream.noise": 0.5, "fit.steps": 1500}
    return {
        f"{method} {order} seed {seed}": Experiment(
            "noisy-mnist", method, seeds=(seed,), net="mlp:50-50-50", options=options | {"stream.seed": seed}
        )
        for seed in range(3)
    }


def noisy_pair() -> Table:
    """The table."""

    def claim(name: str, method: str, order: str, figure: str, published: float) -> Claim:
        return Claim(name, published, LECTURE, runs(method, order), band=0.03, figure=figure)

    return Table(
        "noisy-pair",
        "Two tasks, one noisy and one clean, and what their order does",
        "MNIST with Gaussian noise on every pixel (deviation 0.5, not clipped) and MNIST; MLP 784-50-50-50-10; "
        "1,500 steps of Adam 1e-3 a task, batch 128. The noise was chosen by what a network that learns the noisy task "
        "alone reaches on it.",
        (
            claim("noisy alone, on noisy", "finetune", "noisy-clean", "R[1,1]", 0.90),
            claim("noisy alone, on clean", "finetune", "noisy-clean", "R[1,2]", 0.96),
            claim("noisy, then clean, on noisy", "finetune", "noisy-clean", "R[2,1]", 0.80),
            claim("noisy, then clean, on clean", "finetune", "noisy-clean", "R[2,2]", 0.97),
            claim("clean alone, on noisy", "finetune", "clean-noisy", "R[1,2]", 0.62),
            claim("clean alone, on clean", "finetune", "clean-noisy", "R[1,1]", 0.97),
            claim("clean, then noisy, on noisy", "finetune", "clean-noisy", "R[2,2]", 0.90),
            claim("clean, then noisy, on clean", "finetune", "clean-noisy", "R[2,1]", 0.97),
            claim("jointly, on noisy", "joint", "noisy-clean", "R[2,1]", 0.89),
            claim("jointly, on clean", "joint", "noisy-clean", "R[2,2]", 0.98),
        ),
    )
