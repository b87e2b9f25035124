"""The walk-through: four tasks without anything in common in one learner; and what scaling does, in brief."""

import os
import re
import subprocess
import sys
from pathlib import Path

from perdure.learner import Learner

EXAMPLES = Path(__file__).parents[2] / "examples"
ENV = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def test_own_data(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "own_data.py"], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True
    )
    shares = re.findall(r"(\w+): ([\d.]+)% right, ([\d.]+)% taken for (\w+), ([\d.]+)% look like", ran.stdout)
    assert [name for name, *_ in shares] == ["digits", "wine", "cancer", "shapes"]
    for name, right, taken, home, fitting in shares:
        assert float(right) > 85, name
        assert (float(taken), home) == (100, name)
        assert float(fitting) > 80, name
    assert "checked: 0 problems, 4 exams answered as they were" in ran.stdout
    assert "rolled back to entry 1: knows digits\n" in ran.stdout
    assert "again: knows digits, wine, cancer, shapes; same bits: True" in ran.stdout
    assert "wine forgotten: knows digits, cancer, shapes; same bits: True" in ran.stdout

    learner = Learner(tmp_path / "runs" / "own-data" / "learner")
    assert list(learner.tasks) == ["digits", "cancer", "shapes"]
    assert learner.tasks["shapes"] == ["circle", "square", "triangle"]
    assert learner.check().problems == ()
    events = [entry.event for entry in reversed(learner.history())]
    assert events == ["created", *["learned"] * 4, "rolled back", "rolled back", "forgotten", "pruned"]
    said = learner.explain(tmp_path / "runs" / "own-data" / "more-shapes" / "circle")
    assert set(said.tasks) == {"shapes"}
    assert (said.labels == "circle").mean() > 0.7


def test_scaling(tmp_path: Path) -> None:
    words = [sys.executable, EXAMPLES / "scaling.py", "er", "2", "1"]
    ran = subprocess.run(words, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True)
    rows = [line.split()[-3:] for line in ran.stdout.splitlines()[2:]]
    assert [scaling for scaling, *_ in rows] == ["one", "columns"] * 3
    assert all(0 <= float(figure) <= 100 for _, *figures in rows for figure in figures)
