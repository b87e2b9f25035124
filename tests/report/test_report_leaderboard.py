"""Leaderboards: one for each stream, best first, tests against the best corrected for all pairs; as CSV and JSON."""

import csv
import io
import json
from math import isnan, nan

import pytest
from by_hand import forgetful, make

from perdure.contract import Refused
from perdure.report.leaderboard import PAIRED, as_csv, as_json, leaderboards
from perdure.report.paired import holm, paired
from perdure.report.table import COLUMNS, text


def ending(acc, **known):
    """A run of one task with an accuracy."""
    return make([[0.1], [acc]], **known)


EWC, ER, FINETUNE = (0.80, 0.84, 0.85), (0.90, 0.91, 0.95), (0.5, 0.4, 0.6)


def three():
    accs = {"finetune": FINETUNE, "er": ER, "ewc": EWC}
    return [ending(acc, method=name, seed=s) for name, values in accs.items() for s, acc in enumerate(values)]


def test_the_highest_accuracy_comes_first_and_undefined_last():
    (board,) = leaderboards([ending(nan, method="er"), ending(0.5), ending(0.9, method="ewc")])
    assert [row.label for row in board.rows] == ["ewc", "finetune", "er"]


def test_equals_stay_in_the_order_given():
    (board,) = leaderboards([ending(0.5, method=name) for name in ("ewc", "er", "joint")])
    assert [row.label for row in board.rows] == ["ewc", "er", "joint"]


@pytest.mark.parametrize(
    ("other", "title"),
    [
        ({"stream": "split-digits"}, "split-digits, 1 task, gns"),
        ({"scenario": "gg"}, "permuted-digits, 1 task, gg"),
        (
            {"options": {"stream.seed": 3, "stream.side": 4}},
            "permuted-digits, 1 task, gns, stream.side 4",
        ),
    ],
)
def test_each_stream_has_its_own(other, title):
    boards = leaderboards([ending(0.5), ending(0.9, **other), ending(0.7, method="ewc")])
    assert [board.title for board in boards] == ["permuted-digits, 1 task, gns", title]
    assert [[row.label for row in board.rows] for board in boards] == [["ewc", "finetune"], ["finetune"]]


def test_seeds_of_streams_are_pooled_and_paired():
    """Seeds of the learner and of the stream count alike; a pair is two runs with both in common."""
    lives = [(0, 0), (0, 1), (1, 0)]
    accs = {"ewc": (0.7, 0.8, 0.9), "finetune": (0.5, 0.6, 0.8)}
    runs = [
        ending(acc, method=name, seed=seed, options={"stream.seed": stream} if stream else {})
        for name, values in accs.items()
        for (stream, seed), acc in zip(lives, values, strict=True)
    ]
    (board,) = leaderboards(runs)
    (pair,) = board.pairs
    expected = paired(*(dict(zip(lives, accs[name], strict=True)) for name in ("ewc", "finetune")))
    assert pair.test == expected
    assert board.rows[0].cells["acc"].mean == pytest.approx(0.8)
    lonely = ending(0.6, method="er", seed=1, options={"stream.seed": 1})
    assert leaderboards([*runs, lonely])[0].rows[2].cells["behind"].reason == "needs a shared seed"


def test_so_have_lengths_and_samples_of_a_stream():
    short = ending(0.5)
    short.options["experiment"]["examples_per_task"] = 100
    boards = leaderboards([short, ending(0.5), make(forgetful(2))])
    assert [board.title for board in boards] == [
        "permuted-digits, 1 task, gns, examples_per_task 100",
        "permuted-digits, 1 task, gns",
        "permuted-digits, 2 tasks, gns",
    ]


def test_so_have_files_of_one_name():
    runs = [ending(0.5, stream="my.npz", method=method) for method in ("finetune", "ewc", "er")]
    for run, folder in zip(runs, "aba", strict=True):
        run.options["experiment"]["stream"] = f"{folder}/my.npz"
    boards = leaderboards(runs)
    assert [board.title for board in boards] == ["a/my.npz, 1 task, gns", "b/my.npz, 1 task, gns"]
    assert [[row.label for row in board.rows] for board in boards] == [["finetune", "er"], ["ewc"]]
    assert [board.title for board in leaderboards(runs[::2])] == ["my.npz, 1 task, gns"]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"first": 1, "tasks": 5}, "first 1 of 5"),
        ({"first": 1, "tasks": None}, "first 1 of all"),
        ({"hold_out": 0.25}, "hold_out 0.25"),
        ({"setting": {"exam_examples": 10}}, "exam_examples 10"),
    ],
)
def test_so_have_parts_of_a_stream_and_of_its_exams(changes, title):
    part = ending(0.5)
    part.options["experiment"] |= changes
    boards = leaderboards([ending(0.5), part])
    assert [board.title for board in boards] == [f"permuted-digits, 1 task, gns{end}" for end in ("", f", {title}")]


def test_parts_of_different_streams_have_their_own():
    runs = [ending(0.5), ending(0.5)]
    for run, tasks in zip(runs, (5, 2), strict=True):
        run.options["experiment"] |= {"first": 1, "tasks": tasks}
    assert len(leaderboards(runs)) == 2


def test_rows_that_differ_in_more_than_the_stream_share_one():
    (board,) = leaderboards([ending(0.5, fit={"lr": 0.1}), ending(0.6, fit={"lr": 0.2})])
    assert [row.label for row in board.rows] == ["finetune (fit.lr 0.2)", "finetune (fit.lr 0.1)"]


def test_each_row_is_tested_against_the_best_and_corrected_for_all_pairs():
    (board,) = leaderboards(three())
    accs = [dict(enumerate(values)) for values in (ER, EWC, FINETUNE)]
    tests = [paired(accs[0], accs[1]), paired(accs[0], accs[2]), paired(accs[1], accs[2])]
    assert [(pair.better, pair.worse) for pair in board.pairs] == [
        ("er", "ewc"),
        ("er", "finetune"),
        ("ewc", "finetune"),
    ]
    assert [pair.test[1:] for pair in board.pairs] == [test[1:] for test in tests]
    assert [pair.holm for pair in board.pairs] == holm([test.p for test in tests])
    best, *others = board.rows
    for row, pair in zip(others, board.pairs, strict=False):
        assert row.cells["behind"][:2] == (pair.test.mean, pair.test.half)
        assert row.cells["p"].mean == pair.holm
    for key in ("behind", "p"):
        assert isnan(best.cells[key].mean)
        assert best.cells[key].reason == "the best row, which the others are compared with"
    assert board.tests == (
        "Behind: ACC of the best row less its own, at the seeds that both have; p: paired t test of it, corrected for "
        "all 3 pairs by Holm's method."
    )


def test_one_seed_says_how_far_behind_but_gives_no_p():
    (board,) = leaderboards([ending(0.5), ending(0.9, method="ewc"), ending(0.7, method="er", seed=1)])
    cells = {row.label: row.cells for row in board.rows}
    assert cells["finetune"]["behind"].mean == pytest.approx(0.4)
    assert cells["finetune"]["p"].reason == "needs 2 or more shared seeds"
    assert isnan(cells["er"]["behind"].mean)
    assert cells["er"]["behind"].reason == "needs a shared seed"
    assert board.tests == ""


def test_tests_stand_behind_retention_and_only_where_there_are_two_rows():
    (board,) = leaderboards([make(), make(method="ewc")])
    keys = [column.key for column in board.columns]
    assert keys[:7] == ["acc", "bwt", "forgetting", "intransigence", "behind", "p", "fwt"]
    assert [column.key for column in leaderboards([make()])[0].columns] == [
        key for key in keys if key not in ("behind", "p")
    ]


@pytest.mark.parametrize(("p", "shown"), [(0.0004, "< 0.001"), (0.0006, "0.001"), (0.0432, "0.043"), (1.0, "1.000")])
def test_p_as_printed(p, shown):
    (board,) = leaderboards([ending(0.5), ending(0.9, method="ewc")])
    assert text(board.rows[1].cells["p"]._replace(mean=p), PAIRED[1].unit) == shown


def test_no_results_and_one_run_twice_are_refused():
    with pytest.raises(Refused, match=r"^there are no results to compare; give at least one finished run$"):
        leaderboards([])
    with pytest.raises(Refused, match=r"^ewc with seed 3 is there twice: a copy says nothing about the spread"):
        leaderboards([ending(0.5, method="ewc", seed=3), ending(0.5, method="ewc", seed=3)])


def test_how_options_were_tuned_is_named():
    assert leaderboards(three())[0].tuning == ""
    runs = [ending(acc, method=name) for name, acc in (("ewc", 0.9), ("er", 0.8), ("si", 0.7), ("finetune", 0.6))]
    for run, protocol in zip(runs, ("oracle", "first-3", "oracle"), strict=False):
        run.options["tuning"] = {"protocol": protocol, "score": 0.5, "chosen": {}}
    boards = leaderboards(runs)
    assert boards[0].tuning == "Options tuned by protocol oracle (ewc, si); first-3 (er)."
    assert [line["protocol"] for line in csv.DictReader(io.StringIO(as_csv(boards)))] == [
        "oracle",
        "first-3",
        "oracle",
        "",
    ]
    (said,) = as_json(boards)["leaderboards"]
    assert [row["tuning"] and row["tuning"]["protocol"] for row in said["rows"]] == [
        "oracle",
        "first-3",
        "oracle",
        None,
    ]


def test_json_is_plain_and_has_every_pair():
    said = json.loads(json.dumps(as_json(leaderboards(three())), allow_nan=False))
    (board,) = said["leaderboards"]
    assert (board["stream"], board["tasks"], board["scenario"]) == ("permuted-digits", 1, "gns")
    assert [row["label"] for row in board["rows"]] == ["er", "ewc", "finetune"]
    best, second, _ = board["rows"]
    assert best["acc_by_seed"] == list(ER)
    assert best["acc"]["mean"] == pytest.approx(0.92)
    assert best["p"] == {"mean": None, "half": None, "reason": "the best row, which the others are compared with"}
    assert second["intransigence"]["reason"] == "no joint run of this stream and seed among the results"
    assert len(board["pairs"]) == 3
    expected = paired(dict(enumerate(ER)), dict(enumerate(EWC)))
    assert board["pairs"][0] == {
        "better": "er",
        "worse": "ewc",
        "seeds": [0, 1, 2],
        "stream_seeds": [0, 0, 0],
        "difference": expected.mean,
        "half": expected.half,
        "p": expected.p,
        "p_holm": second["p"]["mean"],
    }


def test_csv_reads_back_and_leaves_the_undefined_empty():
    boards = leaderboards([*three(), ending(0.7, options={"stream.side": 3})])
    lines = list(csv.DictReader(io.StringIO(as_csv(boards))))
    assert [(line["label"], line["seeds"], line["stream.side"]) for line in lines] == [
        ("er", "3", ""),
        ("ewc", "3", ""),
        ("finetune", "3", ""),
        ("finetune", "1", "3"),
    ]
    assert {column.key for column in (*COLUMNS, *PAIRED)} <= set(lines[0])
    assert float(lines[1]["acc"]) == boards[0].rows[1].cells["acc"].mean
    assert float(lines[1]["behind_half"]) == boards[0].rows[1].cells["behind"].half
    assert float(lines[1]["p"]) == boards[0].rows[1].cells["p"].mean
    assert lines[0]["p"] == lines[0]["bwt"] == lines[3]["acc_half"] == ""
