"""`perdure sweep`: killed or interrupted, the same command goes on; and `--smoke`."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import perdure as library
from perdure.experiments import ledger

FILE = """
stream: permuted-digits
tasks: 3
net: mlp:64
methods: [finetune]
fit: {steps: STEPS, batch: 32}
seeds: 3
"""


def begun(words: str, rows: int) -> subprocess.Popen[str]:
    """A process of its own, stopped in no way yet, that has so many runs done."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "perdure.cli", *words.split()],
        env=env,
        preexec_fn=heard,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and sum(row["status"] == "done" for row in known()) < rows:
        time.sleep(0.02)
    return process


def known() -> list[dict]:
    try:
        return ledger.rows(Path("out"))
    except library.Refused:
        return []


def test_interrupted_then_killed_then_done(perdure) -> None:
    Path("my.yaml").write_text(FILE.replace("STEPS", "600"))
    words = "sweep my.yaml --out out"
    with begun(words, 1) as process:
        held = perdure(words)
        assert (held.status, held.err) == (
            2,
            "perdure: another process is working in out; wait for it or choose another folder\n",
        )
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "perdure: stopped. Continue with: perdure sweep my.yaml --out out"
    assert "Traceback" not in err
    with begun(f"{words} --workers 2", 2) as process:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)  # the workers hold its pipes: they have ended too
    assert perdure(words).status == 0
    for seed, result in enumerate(ledger.results(Path("out"))):
        options = {"fit.steps": 600, "fit.batch": 32}
        alone = library.run("permuted-digits", "finetune", tasks=3, net="mlp:64", seed=seed, threads=1, options=options)
        np.testing.assert_array_equal(result.R, alone.R)
    assert [row["status"] for row in known()] == ["done"] * 3


def test_smoke_of_a_run(perdure, no_page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = perdure("run permuted-digits ewc --net linear --smoke --json")
    assert said.status == 0
    assert "smoke: 2 tasks of 64 examples, 5 steps each" in said.err
    figures = json.loads(said.out)
    assert Path(figures["run_dir"]).name.startswith("perdure-smoke-")
    assert json.loads(Path(figures["run_dir"], "experiment.json").read_text())["experiment"]["smoke"] is True
    assert figures["stream"] == "permuted-digits (smoke)"
    assert not Path("runs").exists()


def test_smoke_of_a_sweep_that_fails_and_is_tuned(perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = FILE.replace("STEPS", "600").replace("seeds: 3", "seeds: 1\nfit.optimizer: sgd\nfit.lr: [1e30, 0.1]")
    Path("my.yaml").write_text(f"{text}tuning: {{protocol: first-2}}\n")
    said = perdure("sweep my.yaml --smoke --json --preset-out tuned.yaml")
    assert said.status == 1  # a trial diverged
    assert "finetune,fit.lr=0.1: chosen by protocol first-2, score " in said.err
    outcome = json.loads(said.out)
    assert Path(outcome["folder"]).name.startswith("perdure-smoke-")
    assert outcome["chosen"]["finetune"]["listed"] == {"fit.lr": 0.1}
    assert outcome["scores"]["finetune,fit.lr=1e+30"] is None
    assert [(run["role"], run["status"]) for run in outcome["runs"]] == [
        ("tuning", "failed"),
        ("tuning", "done"),
        ("run", "done"),
    ]
    assert perdure("run permuted-digits finetune --config tuned.yaml --smoke --out o").status == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep", "name a sweep file. See: perdure sweep --help"),
        ("sweep none.yaml", "there is no configuration file none.yaml"),
        ("sweep my.yaml --workers two", "--workers is 'two'; it must be a whole number. See: perdure sweep --help"),
        ("sweep my.yaml --workers 0", "workers is 0; it must be at least 1"),
        (
            "sweep my.yaml --preset-out p.yaml",
            "--preset-out needs tuning, which my.yaml does not ask for; give it a tuning: section",
        ),
        ("sweep my.yaml --output x", "unknown option '--output'; did you mean --out? See: perdure sweep --help"),
    ],
)
def test_bad_input(line: str, message: str, perdure) -> None:
    Path("my.yaml").write_text(FILE.replace("STEPS", "1"))
    said = perdure(line)
    assert (said.status, said.err, said.out) == (2, f"perdure: {message}\n", "")
    assert [*Path().iterdir()] == [Path("my.yaml")]
