"""Five tasks, learned in four ways: a network forgets, and then it does not. `make demo` runs this."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from perdure import report
from perdure.cli.present import compare, matrix
from perdure.cli.progress import shown
from perdure.experiments import execute, plan

OUT = Path("runs/demo")
METHODS = ("finetune", "ewc", "packnet", "joint")


def main() -> None:
    """Runs each method on the same stream with the same network and fit, and compares them."""
    console, results = Console(highlight=False), []
    for method in METHODS:
        shutil.rmtree(OUT / method, ignore_errors=True)  # of an earlier demo
        experiment = plan("permuted-digits", method, {}, preset="digits")
        with shown(label=method) as watch:
            results += execute(experiment, OUT / method, watch=watch)
        matrix(console, results[-1:])
    compare(console, results)
    page = report.write(results, OUT / "report.html")
    console.print(f"\nreport: {page}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
