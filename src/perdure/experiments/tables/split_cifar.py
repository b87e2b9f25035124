"""Twenty tasks of five classes of CIFAR-100 with a small ResNet-18: accuracy against bytes, after Wortsman et al."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table
from perdure.fold import Setting

PAPER = "M. Wortsman et al., 2020, arXiv 2006.14769"
EPOCHS = 20
UPPER = "upper bound: a network a task, from the previous"


def split_cifar100() -> Table:
    """The table."""

    def run(method: str, **options: Any) -> Experiment:
        protocol = {
            "stream.scale": "standard",
            "fit.optimizer": "adam",
            "fit.lr": 1e-3,
            "fit.weight_decay": 1e-4,
            "fit.batch": 128,
            "fit.epochs": EPOCHS,
            "fit.schedule": "cosine",
        }
        named = {name.replace("_", ".", 1): value for name, value in options.items()}
        setting = Setting(exam_rows="last", bf16=True)
        return Experiment(
            "split-cifar100",
            method,
            tasks=20,
            scenario="gg",
            net="resnet18:20",
            options=protocol | named,
            setting=setting,
        )

    def supsup(e: float) -> Experiment:
        return run(
            "supsup",
            method_rule="largest",
            method_budget="erdos-renyi",
            method_density=e,
            method_outputs=5,
        )

    only = f"{PAPER} has a figure only, after 250 epochs and with crops and flips"
    lines = {
        **{f"supsup, e {e}": supsup(float(e)) for e in (4, 8, 16)},
        "batch-ensemble, random weights": run("batch-ensemble", method_weights="random", method_fast_lr=0.1),
        "heads on the first task's trunk": run("heads", method_head_lr=0.01),
        UPPER: run("independent", method_begin="previous"),
    }
    notes = {UPPER: "Labels are each task's own here, so that its head is new; the paper's goes on from the previous."}
    return Table(
        "split-cifar100",
        "Split CIFAR-100, twenty tasks of five classes (SupSup and its baselines)",
        f"Ids given; ResNet-18 of 20 to 160 channels; Adam 1e-3, decay 1e-4, cosine over {EPOCHS} epochs a task (the "
        "paper: 250), later heads alone at 1e-2, fast weights at .1; batch 128; forward passes in bfloat16; no "
        "augmentation; one seed. About 50 minutes of one core a line, where the processor has bfloat16.",
        (
            Claim(
                "lower bound: one network, a head a task",
                0.245,
                f"{PAPER}, after 250 epochs and with crops and flips",
                {"finetune": run("finetune")},
                band=0.05,
            ),
            *(
                Claim(name, None, only, {name.partition(":")[0]: line}, note=notes.get(name, ""))
                for name, line in lines.items()
            ),
        ),
    )
