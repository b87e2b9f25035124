"""Dark experience replay: rotated MNIST in one pass with 500 exemplars, after Buzzega et al."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table
from perdure.fold import Setting

PAPER = "P. Buzzega et al., 2020, arXiv 2004.07211, 10 runs"
SLOTS = 500


def runs(method: str, lr: float = 0.2, label: str = "", **options: float) -> dict[str, Experiment]:
    """Three runs of the paper's protocol, each with angles of its own."""
    given: dict[str, Any] = {"stream.angles": "uniform", "fit.optimizer": "sgd", "fit.lr": lr, "fit.batch": 128}
    given |= {"fit.epochs": 1} | {f"method.{name}": value for name, value in options.items()}
    return {
        f"{label or method} seed {seed}": Experiment(
            "rotated-mnist",
            method,
            tasks=20,
            seeds=(seed,),
            net="mlp:100-100",
            options=given | {"stream.seed": seed},
            setting=Setting(exam_rows="last"),
        )
        for seed in range(3)
    }


def der_rotated() -> Table:
    """The table."""
    return Table(
        "der-rotated",
        "Rotated MNIST in one pass, 500 exemplars (DER)",
        "20 tasks of 60,000 examples, an angle each from [0, 180); MLP 784-100-100-10; SGD at the rates of the "
        "authors' code, batch 128 and as many exemplars; one epoch.",
        (
            Claim("finetune", 0.6766, f"{PAPER}; recalled, not read again", runs("finetune"), band=0.04),
            Claim("er", 0.8891, PAPER, runs("er", slots=SLOTS), band=0.015),
            Claim("der", 0.9224, PAPER, runs("der", slots=SLOTS, alpha=0.5), band=0.015),
            Claim(
                "der++",
                0.9277,
                PAPER,
                runs("der", label="der with labels", slots=SLOTS, alpha=0.5, beta=1.0),
                band=0.015,
            ),
            Claim("joint", 0.9576, f"{PAPER}; recalled, not read again", runs("joint"), band=0.015),
        ),
    )
