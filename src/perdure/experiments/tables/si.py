"""Synaptic intelligence: ten permuted MNIST tasks and a wide network, after Zenke et al."""

from __future__ import annotations

from typing import Any

from perdure.experiments.experiment import Experiment
from perdure.experiments.tables.table import Claim, Table

CODE = "the matrix stored with the authors' code, one run (F. Zenke, B. Poole, S. Ganguli, 2017, arXiv 1703.04200)"


def si_permuted() -> Table:
    """The table."""

    def runs(c: float) -> dict[str, Experiment]:
        options: dict[str, Any] = {
            "stream.seed": 0,
            "fit.optimizer": "adam",
            "fit.lr": 1e-3,
            "fit.batch": 256,
            "fit.epochs": 20,
            "fit.moments": "kept",
            "method.c": c,
            "method.xi": 0.1,
        }
        return {f"si c {c:g}": Experiment("permuted-mnist", "si", tasks=10, net="mlp:2000-2000", options=options)}

    return Table(
        "si-permuted",
        "Permuted MNIST with a wide network (SI)",
        "10 tasks; MLP 784-2000-2000-10; Adam 1e-3, its moments kept; batch 256; 20 epochs a task; c 0.1, xi 0.1.",
        (
            Claim("si, ACC", 0.9694, CODE, runs(0.1), band=0.005),
            Claim("si, BWT", -0.0114, CODE, runs(0.1), band=0.005, figure="bwt"),
        ),
    )
