"""The figure on FearNet: features are those of the encoder, the base is its classes, and claims can fail each alone."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

from perdure.experiments.figures import fearnet
from perdure.experiments.figures.lab import Lab, Numbers
from perdure.report.figures import STYLE


def test_the_base_is_what_the_encoder_knows_and_the_rest_comes_one_by_one() -> None:
    stream, known = fearnet.encoded(Lab(smoke=True))
    assert [exam.id.classes.tolist() for exam in stream.exams] == [[0, 1, 2, 3, 4], [5], [6], [7], [8], [9]]
    assert stream.shape == (64,)  # of 8x8 pixels three blocks leave one, with 64 channels
    assert 0 <= known <= 1
    x = torch.cat([task.examples.take(torch.arange(len(task.examples))).x for task in stream])
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_a_smoke_test_measures_and_draws_everything() -> None:
    numbers = fearnet.measure(Lab(smoke=True))
    assert list(numbers["found"]) == list(fearnet.runs(10))
    for found in numbers["found"].values():
        assert [len(line) for line in found["line"]] == [numbers["tasks"]]
        assert len(found["bytes"]) == numbers["tasks"]
    joint = numbers["found"]["joint"]
    assert joint["line"][0][-1] == pytest.approx(numbers["offline"][0], abs=1e-4)
    assert joint["all"][0] == pytest.approx(np.mean(joint["line"][0][1:]) / numbers["offline"][0], abs=1e-3)
    with matplotlib.rc_context(STYLE):
        left, right = fearnet.draw(numbers).axes
    means = [line for line in left.lines if len(line.get_xdata()) > 1]
    for line, found in zip(means, reversed(numbers["found"].values()), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.mean(found["line"], axis=0))
    assert len([line for line in right.lines if len(line.get_xdata())]) == 3 * len(numbers["found"])


def drawn(**changes: list[float]) -> Numbers:
    every = {
        "fearnet": [0.9, 0.8, 0.9],
        "fearnet, variances only": [0.8, 0.8, 0.8],
        "ncm": [0.8, 0.7, 0.8],
        "icarl": [0.9, 0.8, 0.9],
        "finetune": [0.0, 1.0, 0.1],
        "joint": [1.0, 0.9, 1.0],
    }
    every |= changes
    states = {"bytes": [1000, 2000]}
    return {
        "found": {name: dict(zip(fearnet.PARTS, [[v] for v in o], strict=True)) | states for name, o in every.items()}
    }


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True]),
        ({"ncm": [0.8, 0.85, 0.8]}, [False, True, True]),
        ({"finetune": [0.3, 0.3, 0.5]}, [False, True, True]),
        ({"fearnet, variances only": [0.95, 0.1, 0.1]}, [True, False, True]),
        ({"icarl": [0.9, 0.8, 0.85]}, [True, True, False]),
    ],
)
def test_claims_can_fail_each_alone(changes: dict[str, list[float]], holds: list[bool]) -> None:
    assert [finding.holds for finding in fearnet.findings(drawn(**changes))] == holds
