"""The matrix, the figures and the progress, as they are printed."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from perdure.cli.present import compare, matrix
from perdure.cli.progress import shown
from perdure.fold import Moment
from perdure.result import Result
from perdure.train import Progress


def result(R: list[list[float]], **known) -> Result:
    blank = Result.blank(len(R[0]), ids=True, stream="permuted-digits", method="ewc", scenario="gns", seed=0)
    kept = {
        "R": np.array(R),
        "R_given": np.array(R),
        "state_bytes_by_task": [1000] * len(R[0]),
        "stored_bytes_by_task": [1200] * len(R[0]),
    }
    return replace(blank, **{**kept, **known})


NAN = float("nan")
ONE = result([[NAN, 0.104], [0.95, 0.2], [0.7, 0.875]], reasons={"fwt": "it was not there"})


def printed(show, *what, width: int = 100) -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        show(console, *what)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_matrix_in_percent_with_what_was_before() -> None:
    assert printed(matrix, [ONE]) == [
        "",
        "ewc on permuted-digits, accuracy in %",
        "",
        "learned  task 1  task 2",
        "───────────────────────",
        "before        –    10.4",
        "task 1     95.0    20.0",
        "task 2     70.0    87.5",
    ]


def test_the_matrix_over_seeds_is_mean_and_interval() -> None:
    other = replace(ONE, R=ONE.R + 0.02, seed=1)
    lines = printed(matrix, [ONE, other])
    assert lines[1] == "ewc on permuted-digits, accuracy in %, mean of 2 seeds and its 95 % interval"
    assert lines[-1].split() == ["task", "2", "71.0", "±", "12.7", "88.5", "±", "12.7"]  # t(1) = 12.7, s / sqrt(2) = 1


@pytest.mark.parametrize(
    ("width", "tasks"),
    [(80, [1, 12, 23, 34, 45, 56, 67, 78, 89, 100]), (40, [1, 34, 67, 100])],
)
def test_a_matrix_that_does_not_fit_shows_evenly_spread_tasks(width: int, tasks: list[int]) -> None:
    lines = printed(matrix, [result(np.full((101, 100), 1.0).tolist())], width=width)
    count = f"{len(tasks)} of 100 tasks (report.html has all)"
    assert lines[1] == f"ewc on permuted-digits, accuracy in %, {count}"
    assert lines[3].split() == ["learned", *map(str, tasks)]
    assert [line.split()[:3] for line in lines[5:]] == [
        ["before", "100.0", "100.0"],
        *(["task", str(task), "100.0"] for task in tasks),
    ]


def test_the_figures_and_why_one_is_undefined() -> None:
    lines = printed(compare, [ONE])
    words = [line.split() for line in lines]
    assert ["ACC", "(%)", "78.8"] in words
    assert ["BWT", "(points)", "−25.0"] in words
    assert ["FWT", "(points)", "–"] in words
    assert ["State", "1.00", "kB"] in words
    assert ["On", "disk", "1.20", "kB"] in words
    assert "– FWT: it was not there" in lines


def test_several_experiments_stand_side_by_side() -> None:
    lines = printed(compare, [ONE, replace(ONE, method="finetune", reasons={})])
    assert lines[1].split() == ["ewc", "finetune"]
    assert "– FWT: it was not there (ewc)" in lines


MOMENTS = [
    Moment("begun", 0, 2, note="mind the gap"),
    Moment("examined", 0, 2),
    Moment("learning", 1, 2, Progress(5, 10, 2.0)),
    Moment("learning", 1, 2, Progress(10, 10, 0.5)),
    Moment("learned", 1, 2, seconds=1.0),
    Moment("examined", 1, 2, accuracy=0.875),
    Moment("learning", 2, 2, Progress(10, 10, 0.25)),
    Moment("learned", 2, 2, seconds=1.0),
    Moment("examined", 2, 2),
]


def seen(capsys: pytest.CaptureFixture[str], moments=MOMENTS, **words) -> str:
    with shown(**words) as watch:
        for moment in moments:
            watch(moment)
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr("perdure.cli.progress.time.monotonic", lambda: next(clock))
    assert seen(capsys) == (
        "perdure: mind the gap\n"
        "task 1 of 2: loss 0.500, accuracy 87.5 %, 4 s, about 4 s left\n"
        "task 2 of 2: loss 0.250, not examined, 10 s\n"
    )


def test_each_seed_is_named_and_a_note_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr("perdure.cli.progress.time.monotonic", lambda: next(clock))
    moments = [m._replace(seed=seed) for seed in (3, 7) for m in MOMENTS]
    assert seen(capsys, moments, seeds=(3, 7), noun="chunk", label="ewc").splitlines() == [
        "perdure: mind the gap",
        "ewc, seed 3, chunk 1 of 2: loss 0.500, accuracy 87.5 %, 1 s, about 3 s left",
        "ewc, seed 3, chunk 2 of 2: loss 0.250, not examined, 2 s, about 2 s left",
        "ewc, seed 7, chunk 1 of 2: loss 0.500, accuracy 87.5 %, 3 s, about 1 s left",
        "ewc, seed 7, chunk 2 of 2: loss 0.250, not examined, 4 s",
    ]


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    err = seen(capsys, MOMENTS[:4])
    assert "mind the gap" in err
    assert "task 1 of 2" in err
    assert "step 10, loss 0.500" in err
    err = seen(capsys, MOMENTS[:6])
    assert "accuracy 87.5 %" in err
