"""The figure on Hopfield memories: both rules store what was learned, what is recalled answers, claims can fail."""

import numpy as np
import pytest
import torch

from perdure import tree
from perdure.evaluate import examine
from perdure.experiments import figures
from perdure.experiments.execution import prepare
from perdure.experiments.figures import hopfield
from perdure.experiments.figures.lab import Lab, Numbers
from perdure.methods.hopsupsup import HopSupSup, Memories
from perdure.rng import fold
from perdure.streams.stream import Stream

OPTIONS = {"fit.steps": 20, "fit.batch": 64, "stream.scale": "standard"}


def life(**options: str) -> tuple[HopSupSup, Stream, list[Memories]]:
    """The method, its stream of two tasks, and the states before, between and after them."""
    given = OPTIONS | {f"method.{name}": value for name, value in options.items()}
    method, stream = prepare(Lab().experiment("permuted", "hopsupsup", given, tasks=2, net="bn-mlp:96-96"))
    assert isinstance(method, HopSupSup)
    states = [method.init(fold(0, "init"))]
    for call, task in enumerate(stream.tasks):
        states.append(method.learn(states[-1], task, fold(0, "learn", call))[0])
    return method, stream, states


@pytest.fixture(scope="module")
def lived() -> tuple[HopSupSup, Stream, list[Memories]]:
    return life()


def test_what_either_rule_would_have_stored_is_what_it_stores(lived: tuple[HopSupSup, Stream, list[Memories]]) -> None:
    *_, states = lived
    assert tree.equal(hopfield.stored(states, "storkey"), states[-1])
    assert tree.equal(hopfield.stored(states, "hebbian"), life(storage="hebbian")[2][-1])


def test_units_that_turn_over_are_counted_one_by_one(lived: tuple[HopSupSup, Stream, list[Memories]]) -> None:
    *_, states = lived
    z = {name: torch.where(torch.arange(len(total)) % 3 == 0, 1.0, -1.0) for name, total in states[-1].total.items()}
    wrong = [
        sum(float(M[i, j] * part[j]) for j in range(len(part))) * float(part[i]) < 0
        for name, M in states[-1].hopfield.items()
        for part in [z[name]]
        for i in range(len(part))
    ]
    assert hopfield.turned(states[-1], z) == pytest.approx(np.mean(wrong))
    assert 0 < np.mean(wrong) < 1
    assert hopfield.turned(states[1], hopfield.patterns(states)[0]) == 0  # alone in its memory


def test_what_is_recalled_is_what_the_method_answers(lived: tuple[HopSupSup, Stream, list[Memories]]) -> None:
    method, stream, states = lived
    found = hopfield.looked(method, stream, states)
    for rule in ("storkey", "hebbian"):
        ready = method.ready(hopfield.stored(states, rule))
        asked = [examine(method, ready, exam, stream.scenario).asked for exam in stream.exams]
        assert found[rule][0] == pytest.approx(np.mean(asked))
    alone = hopfield.looked(method, stream, states[:2])
    assert alone["masks"] == alone["storkey"] == alone["hebbian"]  # one mask is always recalled


def _numbers(**changes: list[float]) -> Numbers:
    """Two widths, looked at after 1, 2 and 5 tasks; a change is what a line shows at the wide one."""
    lines = {"masks": [0.9, 0.9, 0.9], "storkey": [0.9, 0.9, 0.4], "hebbian": [0.9, 0.9, 0.3]} | changes
    narrow = {"masks": [0.8, 0.8, 0.8], "storkey": [0.8, 0.5, 0.2], "hebbian": [0.8, 0.4, 0.2]}
    none = {line: [[0.0, 0.0, 0.0]] for line in hopfield.LINES}
    turned = {"turned": none | {"hebbian": [[0.0, 0.0, *lines.pop("turned", [0.0])]]}}
    costs = {"matrices": 100_000, "bits": int(lines.pop("bits", [50])[0])}
    widths = {
        "8": {"accuracy": {line: [row] for line, row in narrow.items()}, **turned, **costs},
        "64": {"accuracy": {line: [row] for line, row in lines.items()}, **turned, **costs},
    }
    return {"widths": [8, 64], "tasks": [1, 2, 5], "found": widths}


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True, True]),
        ({"storkey": [0.9, 0.9, 0.85]}, [True, False, True, True]),
        ({"storkey": [0.9, 0.8, 0.4]}, [False, True, True, True]),
        ({"hebbian": [0.9, 0.9, 0.45]}, [True, False, True, True]),
        ({"turned": [0.02]}, [True, True, False, True]),
        ({"bits": [200]}, [True, True, True, False]),
    ],
)
def test_claims_can_fail(changes: dict[str, list[float]], holds: list[bool]) -> None:
    numbers = _numbers(**changes)
    assert [finding.holds for finding in hopfield.findings(numbers)] == holds
    assert ("lost by the search" in hopfield.title(numbers)) == all(holds)


def test_a_panel_a_width_and_a_line_a_rule() -> None:
    numbers = _numbers()
    for axes, width in zip(figures.drawn("hopfield", numbers).axes, numbers["widths"], strict=True):
        for line, name in zip(axes.lines, hopfield.LINES, strict=True):
            np.testing.assert_array_equal(
                line.get_xydata(), np.stack([numbers["tasks"], numbers["found"][str(width)]["accuracy"][name][0]], 1)
            )
