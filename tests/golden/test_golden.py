"""Golden matrices: a refactor keeps them; a change of behaviour replaces them and says why in the changelog.

Bit for bit on the processor, torch version and thread count they were written with; within half a point of ACC
elsewhere. `python tests/golden/test_golden.py` writes them anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import perdure
from perdure.methods import METHODS

HERE = Path(__file__).parent
RUNS = dict.fromkeys(METHODS, ("permuted-digits", "gns")) | {
    f"{name} {scenario}": ("split-digits", scenario)
    for name in ("finetune", "independent", "packnet", "er", "der", "ewc-er", "icarl", "gem", "a-gem", "lwf", "dgr")
    for scenario in ("gg", "gnu")
}
NETS = {"hopsupsup": "bn-mlp:512"}  # it masks normalised units, and needs many


def measure(name: str) -> list[list[float | None]]:
    stream, scenario = RUNS[name]
    options = {"fit.steps": 60, "fit.batch": 32}
    net = NETS.get(name, "mlp:32")
    result = perdure.run(stream, name.split()[0], tasks=3, scenario=scenario, net=net, options=options, threads=1)
    return result.to_json()["R"]


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model")}
    return {"processor": " ".join(sorted(models)), "torch": torch.__version__, "threads": "1"}


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    kept = json.loads((HERE / "golden.json").read_text())
    ours, golden = np.array(measure(name), dtype=float), np.array(kept["R"][name], dtype=float)
    if Path("/proc/cpuinfo").exists() and kept["machine"] == machine():
        assert np.array_equal(ours, golden, equal_nan=True)
    else:
        assert np.array_equal(np.isnan(ours), np.isnan(golden))
        assert ours[-1].mean() == pytest.approx(golden[-1].mean(), abs=0.005)


if __name__ == "__main__":
    content = {"machine": machine(), "R": {name: measure(name) for name in RUNS}}
    (HERE / "golden.json").write_text(json.dumps(content, indent=1) + "\n")
