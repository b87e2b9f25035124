"""Three scenarios: split and permuted MNIST, task-, domain- and class-incremental, after van de Ven and Tolias."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table
from perdure.fold import Setting

PREPRINT = "G. M. van de Ven, A. S. Tolias, 2018, arXiv 1809.10635, 20 seeds"
PAPER = "G. M. van de Ven, A. S. Tolias, 2019, arXiv 1904.07734, 20 seeds"
SCENARIOS = {"gg": "task", "gns": "domain", "gnu": "class"}
BANDS = {"gg": 0.005, "gns": 0.03, "gnu": 0.015}


def split_run(method: str, scenario: str, seed: int, **options: float) -> Experiment:
    """One run on split MNIST; the seed decides the order of the classes, too."""
    protocol: dict[str, Any] = {
        "stream.seed": seed,
        "fit.optimizer": "adam",
        "fit.lr": 1e-3,
        "fit.batch": 128,
        "fit.steps": 2000,
        "fit.moments": "kept",
    }
    given = protocol | {f"method.{name}": value for name, value in options.items()}
    setting = Setting(exam_rows="last") if method == "joint" else Setting()
    return Experiment(
        "split-mnist", method, tasks=5, scenario=scenario, seeds=(seed,), options=given, net="mlp:400-400",
        setting=setting,
    )  # fmt: skip


def split_mnist() -> Table:
    """The table of split MNIST."""

    def claims(
        method: str, source: str, published: dict[str, float], options: dict[str, dict[str, float]] | None = None
    ) -> tuple[Claim, ...]:
        return tuple(
            Claim(
                f"{method}, {SCENARIOS[scenario]}",
                figure,
                source,
                {
                    f"{method} {SCENARIOS[scenario]} seed {seed}": split_run(
                        method, scenario, seed, **(options or {}).get(scenario, {})
                    )
                    for seed in range(3)
                },
                band=BANDS[scenario],
            )
            for scenario, figure in published.items()
        )

    return Table(
        "vdv-split",
        "Split MNIST in three scenarios (van de Ven and Tolias)",
        "5 tasks of two digits, dealt by the seed; MLP 784-400-400; Adam 1e-3, its moments kept from task to task; "
        "batch 128; 2,000 steps a task (joint: 10,000 on all). Class-incremental: all labels seen compete.",
        (
            *claims("finetune", PREPRINT, {"gg": 0.8515, "gns": 0.5733, "gnu": 0.1990}),
            *claims(
                "si",
                f"{PREPRINT}; c of its code",
                {"gg": 0.9914, "gns": 0.6377, "gnu": 0.2004},
                {"gg": {"c": 50.0, "xi": 0.1}, "gns": {"c": 500.0, "xi": 0.1}, "gnu": {"c": 0.5, "xi": 0.1}},
            ),
            *claims(
                "ewc",
                f"{PAPER}; lam of its code",
                {"gg": 0.9864, "gns": 0.6395, "gnu": 0.2001},
                {"gg": {"lam": 1e5}, "gns": {"lam": 1e10}, "gnu": {"lam": 1e9}},
            ),
            *claims("joint", PREPRINT, {"gg": 0.9964, "gns": 0.9841, "gnu": 0.9793}),
        ),
    )


def permuted_mnist() -> Table:
    """The table of permuted MNIST, domain-incremental."""

    def runs(method: str, **options: float) -> dict[str, Experiment]:
        protocol: dict[str, Any] = {
            "fit.optimizer": "adam",
            "fit.lr": 1e-4,
            "fit.batch": 128,
            "fit.steps": 5000,
            "fit.moments": "kept",
        }
        given = protocol | {f"method.{name}": value for name, value in options.items()}
        return {
            f"{method} seed {seed}": Experiment(
                "permuted-mnist",
                method,
                tasks=10,
                seeds=(seed,),
                net="mlp:1000-1000",
                options=given | {"stream.seed": seed},
                setting=Setting(exam_rows="last") if method == "joint" else Setting(),
            )
            for seed in range(3)
        }

    source = f"{PREPRINT}; images padded to 32 x 32 there"
    return Table(
        "vdv-permuted",
        "Permuted MNIST, domain-incremental (van de Ven and Tolias)",
        "10 tasks, all permuted; MLP 784-1000-1000-10; Adam 1e-4, its moments kept; batch 128; 5,000 steps a task.",
        (
            Claim("finetune", 0.7851, source, runs("finetune"), band=0.02),
            Claim("ewc", 0.9431, source, runs("ewc", lam=500.0, fisher_examples=1000), band=0.01),
            Claim("si", 0.9533, source, runs("si", c=5.0, xi=0.1), band=0.01),
            Claim("joint", 0.9759, source, runs("joint"), band=0.01),
        ),
    )
