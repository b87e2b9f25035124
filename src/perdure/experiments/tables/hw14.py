"""HW14: five MNIST tasks of a university course, permuted in 2021 and rotated later (H.-Y. Lee, Machine Learning)."""

from __future__ import annotations

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table

STORED = "outputs stored in the course's notebook, one run"
FIT = {"fit.optimizer": "adam", "fit.lr": 1e-4, "fit.batch": 128, "fit.epochs": 10}
NET = "mlp:1024-512-256"
LAM = {"mas": 0.01, "rwalk": 1.0, "scp": 10.0}  # chosen on held-out examples of another stream: perdure sweep hw14-21


def run(method: str, stream: int = 0, seed: int = 0, scale: str = "standard", **options: float) -> Experiment:
    """One run of the course's protocol."""
    protocol = {"stream.identity_first": True, "stream.scale": scale, "stream.seed": stream}
    given = protocol | FIT | {f"method.{name}": value for name, value in options.items()}
    return Experiment("permuted-mnist", method, tasks=5, seeds=(seed,), net=NET, options=given)


def turn(method: str, seed: int, **options: float) -> Experiment:
    """One run of the protocol of 2022."""
    given = {"stream.angles": "0,20,40,60,80"} | FIT | {f"method.{name}": value for name, value in options.items()}
    return Experiment("rotated-mnist", method, tasks=5, seeds=(seed,), net=NET, options=given)


def hw14() -> Table:
    """The table."""
    return Table(
        "hw14-21",
        "Lifelong learning homework, permuted MNIST (HW14, 2021)",
        "5 tasks, the first unpermuted; MLP 784-1024-512-256-10; Adam 1e-4, fresh for each task; batch 128; 10 epochs; "
        "mean accuracy over the five tasks after the last.",
        (
            Claim(
                "finetune",
                0.837,
                f"{STORED}; 75.9 was seen with other permutations",
                {f"finetune stream {s}": run("finetune", stream=s) for s in range(3)},
                band=0.03,
            ),
            Claim(
                "finetune, other start values",
                None,
                "the spread over start values alone: one stream, three seeds of the learner",
                {
                    "finetune stream 0": run("finetune"),
                    "finetune stream 0 seed 1": run("finetune", seed=1),
                    "finetune stream 0 seed 2": run("finetune", seed=2),
                },
            ),
            Claim(
                "ewc, lam 100",
                0.911,
                f"{STORED}, without the factor 1/2 that our lam has and with a Fisher that squares the gradient of "
                "a batch's mean loss; the correct one was expected to reach 95",
                {f"ewc lam 100 stream {s}": run("ewc", stream=s, lam=100.0) for s in range(3)},
                at_least=0.95,
                note="Ours stays about a point short of 95, on every stream and at every strength tried (40 to 400); a "
                "Fisher on held-out examples changes nothing. What is lost is mostly the task before the last, and a "
                "larger lam does not bring it back. The inputs make the difference: standardised, the background is "
                "not 0, so every weight of the first layer acts in every task; from 0 to 1 EWC reaches 95 (below).",
            ),
            *(
                Claim(
                    f"ewc, lam {lam}",
                    None,
                    "sweep of the strength",
                    {f"ewc lam {lam} stream 0": run("ewc", lam=float(lam))},
                )
                for lam in (200, 400)
            ),
            Claim(
                "ewc, lam 200, inputs from 0 to 1",
                None,
                "the same protocol but for the scale of the inputs, which are standardised in the course: a black "
                "background is then 0 and moves no weight",
                {f"ewc unit lam 200 stream {s}": run("ewc", stream=s, scale="unit", lam=200.0) for s in range(3)},
                at_least=0.95,
            ),
            Claim(
                "si",
                0.9043,
                f"{STORED}, lam 1, eps 0.1, with the gradient of the whole loss and without a clamp",
                {f"si stream {s}": run("si", stream=s, c=1.0, xi=0.1) for s in range(3)},
                band=0.02,
            ),
            *(
                Claim(
                    method,
                    figure,
                    f"{STORED}, lam {theirs} of another estimator",
                    {f"{method} stream {s}": run(method, stream=s, lam=LAM[method]) for s in range(3)},
                    at_least=figure - 0.005,
                    note="Our lam was chosen on held-out training examples of another stream: perdure sweep hw14-21.",
                )
                for method, figure, theirs in (("mas", 0.9509, 0.1), ("rwalk", 0.9399, 100), ("scp", 0.9262, 100))
            ),
        ),
    )


def hw14_rotated() -> Table:
    """The table."""
    methods: dict[str, dict[str, float]] = {"finetune": {}, "ewc": {"lam": 100.0}, "si": {"c": 1.0, "xi": 0.1}}
    return Table(
        "hw14-22",
        "Lifelong learning homework, rotated MNIST (HW14, 2022 and 2023)",
        "5 tasks, turned by 0, 20, 40, 60 and 80 degrees; inputs from 0 to 1; MLP 784-1024-512-256-10; Adam 1e-4, "
        "fresh for each task; batch 128; 10 epochs; strengths as in hw14-21.",
        tuple(
            Claim(
                method,
                None,
                "no figures were published",
                {f"{method} seed {s}": turn(method, s, **own) for s in range(3)},
            )
            for method, own in (methods | {method: {"lam": lam} for method, lam in LAM.items()}).items()
        ),
    )
