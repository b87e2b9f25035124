"""`perdure compare`: runs and sweeps as a table, CSV, JSON, page and figure, and what it refuses."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from perdure.cli.present import leaderboard
from perdure.experiments import gathered, ledger, run
from perdure.report.leaderboard import leaderboards
from perdure.result import Result


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of finetune and joint, two seeds each."""
    home, options = tmp_path_factory.mktemp("runs"), {"fit.steps": 10, "fit.batch": 32}
    for method in ("finetune", "joint"):
        run("permuted-digits", method, tasks=2, seeds=2, net="mlp:16", threads=1, out=home / method, options=options)
    return home


@pytest.fixture
def runs(perdure, kept: Path) -> str:
    """A copy of them in the working folder."""
    shutil.copytree(kept, Path(), dirs_exist_ok=True)
    return "finetune joint"


def by_accuracy(results: list[Result]) -> list[str]:
    mean = {method: sum(r.acc for r in results if r.method == method) for method in ("finetune", "joint")}
    return sorted(mean, key=mean.__getitem__, reverse=True)


def test_the_table_is_ranked_with_intervals_and_a_paired_test(perdure, runs: str) -> None:
    said = perdure(f"compare {runs}")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1] == "permuted-digits, 2 tasks, gns"
    ranked = by_accuracy(gathered(map(Path, runs.split())))
    assert [line.split()[:2] for line in lines if line.startswith(("finetune", "joint"))] == [[m, "2"] for m in ranked]
    for word in ("ACC", "BWT", "FWT", "Behind", "State", "Learning"):
        assert word in said.out
    assert "– Intransigence: joint is what the others are measured against (joint)" in lines
    assert f"– Behind, p: the best row, which the others are compared with ({ranked[0]})" in lines


def test_json_is_one_line_and_nothing_else(perdure, runs: str) -> None:
    said = perdure(f"compare --json {runs} --figure f.svg")
    assert said.err == "figure: f.svg\n"
    (board,) = json.loads(said.out)["leaderboards"]
    assert said.out.count("\n") == 1
    assert [row["label"] for row in board["rows"]] == by_accuracy(gathered(map(Path, runs.split())))
    assert [row["seeds"] for row in board["rows"]] == [[0, 1], [0, 1]]
    assert board["pairs"][0]["seeds"] == [0, 1]
    assert board["rows"][0]["state_bytes"]["mean"] > 1000


def test_csv_is_a_line_a_row(perdure, runs: str) -> None:
    said = perdure(f"compare {runs} --csv")
    assert said.err == ""
    lines = list(csv.DictReader(io.StringIO(said.out)))
    assert [line["seeds"] for line in lines] == ["2", "2"]
    intransigence = {line["method"]: line["intransigence"] for line in lines}
    assert intransigence["joint"] == ""
    assert -1 <= float(intransigence["finetune"]) <= 1


def test_the_page_and_the_figure(perdure, runs: str) -> None:
    said = perdure(f"compare {runs} --out page.html --figure f.png --stored")
    assert said.out.endswith("report: page.html\nfigure: f.png\n")
    assert "accuracy of all methods against bytes" in Path("page.html").read_text()
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_page")
def test_a_sweep_is_read_from_its_folder_or_its_file(perdure, runs: str) -> None:
    (first, second), joint = gathered([Path("finetune")]), gathered([Path("joint")])
    Path("sweep").mkdir()
    rows = [(first, "run", "done"), (second, "run", "done"), (joint[0], "tuning", "done"), (joint[1], "run", "pending")]
    with ledger.opened(Path("sweep")) as book:
        known = [
            {"name": str(n), "role": role, "status": status, "result": json.dumps(one.to_json())}
            for n, (one, role, status) in enumerate(rows)
        ]
        ledger.put(book, [dict.fromkeys(ledger.COLUMNS) | row for row in known])
    alone = perdure("compare finetune joint --csv").out
    assert perdure("compare sweep joint --csv").out == alone
    assert perdure("compare sweep/sweep.sqlite joint --csv").out == alone
    assert perdure("report sweep joint --out page.html").out.endswith("report: page.html\n")


REFUSED = {
    "compare": "name at least one run folder or sweep. See: perdure compare --help",
    "compare --csv": "name at least one run folder or sweep. See: perdure compare --help",
    "compare none": "there is no run folder none",
    "compare finetune joint finetune": (
        "finetune with seed 0 is there twice: a copy says nothing about the spread. Give each run once"
    ),
    "compare finetune --csv --json": "argument --json: not allowed with argument --csv. See: perdure compare --help",
    "compare finetune --figure f.txt": "no picture can be written to f.txt; its name must end in .svg, .png or .pdf",
    "compare finetune --figure no/f.svg": "no/f.svg: No such file or directory",
    "compare finetune --stored": (
        "--stored is about the figure; give --figure FILE too, or leave it out. See: perdure compare --help"
    ),
    "compare finetune --jsn": "unknown option '--jsn'; did you mean --json? See: perdure compare --help",
    "compare empty": "empty holds no run (no experiment.json)",
}


def test_what_is_refused(perdure, runs: str) -> None:
    Path("empty").mkdir()
    for line, message in REFUSED.items():
        said = perdure(line)
        assert (said.status, said.err) == (2, f"perdure: {message}\n")


def test_an_unfinished_run_is_named_with_the_command_that_ends_it(perdure, runs: str) -> None:
    path = Path("joint/seed-1/result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False}))
    said = perdure(f"compare {runs}")
    message = "the run in joint is not finished; finish it with: perdure run --resume joint"
    assert (said.status, said.err) == (2, f"perdure: {message}\n")


def printed(results: list[Result], width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        for board in leaderboards(results):
            leaderboard(console, board)
    return [line.rstrip() for line in capture.get().splitlines()]


def made(method: str, acc: float, seed: int = 0) -> Result:
    blank = Result.blank(1, ids=True, stream="my[1].npz", method=method, scenario="gg", seed=seed)
    for R in (blank.R, blank.R_given):
        R[:] = [[0.5], [acc]]
    for listed in (blank.state_bytes_by_task, blank.stored_bytes_by_task, blank.learn_seconds_by_call):
        listed.append(1000)
    return blank


def test_a_wide_screen_has_intervals_beside_the_means_and_a_narrow_one_below() -> None:
    results = [made(m, acc + seed / 50, seed) for m, acc in (("ewc", 0.5), ("finetune", 0.4)) for seed in (0, 1)]
    wide = printed(results, 160)
    assert wide[1] == "my[1].npz, 1 task, gg"
    assert next(line.split()[:5] for line in wide if line.startswith("ewc")) == ["ewc", "2", "51.0", "±", "12.7"]
    narrow = printed(results, 70)
    at = next(n for n, line in enumerate(narrow) if line.startswith("ewc"))
    assert narrow[at].split()[:3] == ["ewc", "2", "51.0"]
    assert narrow[at + 1].split() == ["±", "12.7"]
    assert max(len(line) for line in narrow[:12]) <= 70


def test_a_screen_too_narrow_says_what_it_leaves_out() -> None:
    lines = printed([made("ewc", 0.5), made("finetune", 0.4)], 60)
    assert "A wider screen shows On disk, FWT, Learning, Behind too; so do --csv, --json and --out." in lines
    assert not any("wider screen" in line for line in printed([made("ewc", 0.5), made("finetune", 0.4)], 100))


def test_a_reason_is_said_once_and_many_rows_are_counted() -> None:
    lines = printed([made(f"m{k}", k / 10) for k in range(7)], 120)
    assert "– Intransigence: no joint run of this stream and seed among the results" in lines
    assert "– Behind, p: the best row, which the others are compared with (m6)" in lines
    assert "– p: needs 2 or more shared seeds (6 of 7)" in lines
