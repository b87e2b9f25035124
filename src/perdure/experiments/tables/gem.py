"""Gradient episodic memory: rotated MNIST, a thousand examples a task in one pass, after Lopez-Paz and Ranzato."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table
from perdure.fold import Setting

PAPER = "D. Lopez-Paz, M. Ranzato, 2017, arXiv 1706.08840, one run"
TASKS = 20
START = (
    "At this rate a thousand examples teach little from torch's start values. From Xavier's, which are wider and those "
    "of the authors' code (a module of one's own, fit.start net), one run has ACC 53.9 and BWT -6.3."
)

SHUFFLED = "At which rate is not said: this is the one of the authors' GEM, independent and multimodal runs."


def runs(method: str, lr: float, label: str = "", **options: float) -> dict[str, Experiment]:
    """Three runs of the paper's protocol, each with angles and examples of its own."""
    given: dict[str, Any] = {"fit.optimizer": "sgd", "fit.lr": lr, "fit.batch": 10, "fit.epochs": 1}
    given |= {f"method.{name}": value for name, value in options.items()}
    return {
        f"{label or method} seed {seed}": Experiment(
            "rotated-mnist",
            method,
            tasks=TASKS,
            examples_per_task=1000,
            seeds=(seed,),
            net="mlp:100-100",
            options=given | {"stream.seed": seed},
            setting=Setting(exam_rows="last") if method == "joint" else Setting(),
        )
        for seed in range(3)
    }


def gem_rotated() -> Table:
    """The table."""

    def claims(
        name: str, acc: float, bwt: float, source: str, own: dict[str, Experiment], note: str = ""
    ) -> list[Claim]:
        whole = bwt * TASKS / (TASKS - 1)
        return [
            Claim(name, acc, source, own, band=0.03, note=note),
            Claim(
                f"{name}, BWT",
                whole,
                f"{source}; {bwt:+g} there, where the sum is divided by T",
                own,
                0.03,
                figure="bwt",
            ),
        ]

    gem = runs("gem", 0.1)
    return Table(
        "gem-rotated",
        "Rotated MNIST, a thousand examples a task in one pass (GEM)",
        "20 tasks, an angle drawn in each of 20 bins of 180 degrees; MLP 784-100-100-10; SGD at the rates of the "
        "authors' code, batch 10; one epoch.",
        (
            *claims("finetune", 0.53, -0.08, PAPER, runs("finetune", 0.003), START),
            *claims(
                "ewc",
                0.55,
                -0.19,
                f"{PAPER}; strength 1000 there, of a Fisher that squares the gradient of a mean",
                runs("ewc", 0.01, lam=10.0),
            ),
            *claims("gem", 0.86, 0.05, PAPER, gem),
            Claim(
                "gem without a margin",
                None,
                "an ablation: constraints alone",
                runs("gem", 0.1, "gem margin 0", margin=0.0),
            ),
            Claim("joint, shuffled", 0.83, PAPER, runs("joint", 0.1), band=0.03, note=SHUFFLED),
        ),
    )
