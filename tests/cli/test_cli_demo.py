"""`make demo`: finetune forgets, and the others do not."""

import json
import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def test_the_demo(tmp_path: Path) -> None:
    others = tmp_path / "runs" / "demo" / "my-own"
    others.mkdir(parents=True)
    for stale in ("finetune", "joint"):
        (others.parent / stale).mkdir()
        (others.parent / stale / "result.json").write_text("of an earlier demo")
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    ran = subprocess.run([sys.executable, DEMO], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    figures = {
        name: json.loads((tmp_path / "runs" / "demo" / name / "result.json").read_text())
        for name in ("finetune", "ewc", "packnet", "joint")
    }
    fits = [figure["options"]["fit"] for figure in figures.values()]
    assert all(fit == fits[0] for fit in fits)
    assert figures["finetune"]["bwt"] < -0.3
    assert figures["ewc"]["bwt"] > -0.1
    assert figures["packnet"]["bwt"] == 0
    assert all(figures[name]["acc"] > 0.9 for name in ("ewc", "packnet", "joint"))
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("accuracy in %")] == [*figures]
    assert ["finetune", "ewc", "packnet", "joint"] in [line.split() for line in lines]
    assert lines[-1] == "report: runs/demo/report.html"
    assert "packnet, task 5 of 5: loss " in ran.stderr
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 10_000
    assert others.exists()
