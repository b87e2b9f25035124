"""Means, intervals, intransigence and how figures are printed, against values worked out by hand."""

from math import isnan, nan, sqrt

import numpy as np
import pytest
from by_hand import forgetful, make

from perdure.contract import Refused
from perdure.report.table import COLUMNS, Cell, columns, comparison, interval, options, size, text


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [
        ([1.0, 3.0], 2.0, 12.706204736 * sqrt(2) / sqrt(2)),  # Student's t of 1 degree of freedom at 97.5 %
        ([1.0, 2.0, 3.0], 2.0, 4.302652730 / sqrt(3)),
        ([0.0, 0.0, 0.0, 0.0, 5.0], 1.0, 2.776445105 * sqrt(5) / sqrt(5)),
        ([0.5, 0.5], 0.5, 0.0),
    ],
)
def test_interval_is_students_t(values, mean, half):
    assert interval(values) == pytest.approx((mean, half), rel=1e-9)


def test_interval_of_one_value_has_no_width():
    mean, half = interval([0.25])
    assert mean == 0.25
    assert isnan(half)


def test_seeds_of_one_experiment_share_a_row():
    results = [make(forgetful(3, s), seed=seed) for seed, s in enumerate((0.1, 0.2, 0.3))]
    (row,) = comparison(results)
    assert row.label == "finetune"
    assert [result.seed for result in row.results] == [0, 1, 2]
    accs = [(0.95 + 0.95 - s + 0.95 - 2 * s) / 3 for s in (0.1, 0.2, 0.3)]
    assert row.cells["acc"].mean == pytest.approx(np.mean(accs))
    assert row.cells["acc"].half == pytest.approx(4.302652730 * np.std(accs, ddof=1) / sqrt(3))
    assert row.cells["bwt"].mean == pytest.approx(-(0.1 + 0.2 + 0.2 + 0.4 + 0.3 + 0.6) / 6)


def test_rows_are_told_apart_by_what_differs():
    runs = [make(method="ewc", fit={"lr": 0.1}), make(method="ewc", fit={"lr": 0.2}), make()]
    assert [row.label for row in comparison(runs)] == ["ewc (fit.lr 0.1)", "ewc (fit.lr 0.2)", "finetune"]
    runs = [make(), make(options={"stream.side": 1})]
    assert [row.label for row in comparison(runs)] == ["finetune", "finetune (stream.side 1)"]
    runs = [make(scenario="gg"), make()]
    assert [row.label for row in comparison(runs)] == ["finetune (scenario gg)", "finetune (scenario gns)"]


def of_file(folder: str, method: str = "finetune", **known):
    """A run on the file my.npz in a folder."""
    result = make(stream="my.npz", method=method.rpartition("/")[2], **known)
    result.options["experiment"] |= {"stream": f"{folder}/my.npz", "method": method}
    return result


def test_files_of_one_name_are_told_apart_by_their_paths():
    rows = comparison([of_file("a"), of_file("b"), of_file("b", seed=1)])
    assert [row.label for row in rows] == ["finetune (stream a/my.npz)", "finetune (stream b/my.npz)"]
    rows = comparison([of_file("a", "c/m.py:M"), of_file("a", "d/m.py:M"), of_file("a", "c/m.py:M", seed=1)])
    assert [(row.label, row.method) for row in rows] == [
        ("m.py:M (method c/m.py:M)", "m.py:M"),
        ("m.py:M (method d/m.py:M)", "m.py:M"),
    ]
    (row,) = comparison([of_file("a", "c/m.py:M")])
    assert row.label == "m.py:M"


def test_circumstances_make_no_other_experiment():
    one, two = make(seed=0), make(seed=1)
    two.options["experiment"]["setting"]["threads"] = 8
    two.options["versions"]["perdure"] = "0.2.0"
    assert len(comparison([one, two])) == 1


def test_a_run_given_twice_is_refused():
    with pytest.raises(Refused) as refusal:
        comparison([make(method="ewc", seed=3), make(method="ewc", seed=3)])
    assert str(refusal.value) == (
        "ewc with seed 3 is there twice: a copy says nothing about the spread. Give each run once"
    )


def test_no_results_are_refused():
    with pytest.raises(Refused, match=r"^there are no results to report; give at least one finished run$"):
        comparison([])


def test_intransigence_is_joint_less_the_method_on_each_newest_task():
    joint = make([[0.1, 0.1], [0.9, 0.1], [0.9, 0.8]], "joint")
    other = make([[0.1, 0.1], [0.8, 0.1], [0.2, 0.5]], "ewc")
    rows = {row.method: row.cells["intransigence"] for row in comparison([joint, other])}
    assert rows["ewc"].mean == pytest.approx((0.1 + 0.3) / 2)
    assert rows["joint"].reason == "joint is what the others are measured against"


@pytest.mark.parametrize("other", [{"seed": 1}, {"scenario": "gg"}, {"options": {"stream.seed": 7}}])
def test_intransigence_needs_joint_on_the_same_stream_and_seed(other):
    rows = comparison([make(), make(method="joint", **other)])
    assert isnan(rows[0].cells["intransigence"].mean)
    assert rows[0].cells["intransigence"].reason == "no joint run of this stream and seed among the results"


def test_joint_may_be_fitted_otherwise():
    rows = comparison([make(fit={"lr": 1.0}), make(method="joint", fit={"lr": 0.1})])
    assert rows[0].cells["intransigence"].mean == pytest.approx(0)


def test_of_several_joints_the_best_is_the_reference():
    weak, strong = (make(forgetful(3, slope), "joint", fit={"lr": slope}) for slope in (0.2, 0.0))
    strong.R[1, 0] = 0.75  # 0.2 below the others right after learning, once in three tasks
    unknown = make(np.full((4, 3), nan), "joint", fit={"lr": 1.0})
    for joints in ([weak, strong, unknown], [unknown, strong, weak]):
        assert comparison([make(), *joints])[0].cells["intransigence"].mean == pytest.approx(-0.2 / 3)


def test_undefined_is_a_dash_with_the_runs_own_reason():
    R = [[nan, nan], [0.9, nan], [0.5, 0.9]]
    (row,) = comparison([make(R, reasons={"fwt": "its labels were never seen"})])
    assert row.cells["fwt"].reason == "its labels were never seen"
    assert text(row.cells["fwt"], "points") == "–"
    assert row.cells["speed"].reason == "not asked for (--fresh)"


def test_one_undefined_seed_leaves_the_mean_undefined():
    results = [make(seed=0), make(seed=1, reasons={"fwt": "a chunk straddles the border"})]
    (row,) = comparison(results)
    assert isnan(row.cells["fwt"].mean)
    assert row.cells["fwt"].reason == "a chunk straddles the border"


def test_one_task_has_neither_growth_nor_transfer():
    (row,) = comparison([make([[0.1], [0.9]], learning_speed=[0.0])])
    undefined = {key for key, cell in row.cells.items() if isnan(cell.mean)}
    assert undefined == {"recognised", "bwt", "fwt", "forgetting", "growth", "intransigence", "speed"}
    assert all(row.cells[key].reason for key in undefined)


def test_speed_counts_from_the_second_task_and_growth_too():
    (row,) = comparison([make(learning_speed=[0.0, 0.2, 0.4], growth=30)])
    assert row.cells["speed"].mean == pytest.approx(0.3)
    assert row.cells["growth"].mean == 30
    assert row.cells["state_bytes"].mean == 1060
    assert row.cells["stored_bytes"].mean == 1160


def test_acc_with_the_id_has_a_column_only_where_it_differs():
    shown = [column.key for column in columns(comparison([make()]))]
    assert shown == [column.key for column in COLUMNS if column.key not in ("acc_given", "recognised")]
    rows = comparison([make(given=np.ones((4, 3)), R_task=np.full((4, 3), 0.5))])
    assert columns(rows) == list(COLUMNS)
    assert rows[0].cells["acc_given"].mean == 1
    assert "acc_given" not in [column.key for column in columns(comparison([make(R_given=None)]))]


def test_tasks_found_have_a_column_only_where_any_were_sought():
    some = make(R_task=np.array([[nan, nan, nan], [1.0, nan, nan], [1.0, 0.5, nan], [1.0, 0.4, 0.1]]))
    found, without, told = comparison([some, make(method="er"), make(method="l2", scenario="gg")])
    assert "recognised" in [column.key for column in columns([found, without, told])]
    assert found.cells["recognised"].mean == pytest.approx(0.5)
    assert without.cells["recognised"].reason == "no task is inferred"
    assert told.cells["recognised"].reason == "the id is given"
    assert "recognised" not in [column.key for column in columns([without, told])]


@pytest.mark.parametrize(
    ("cell", "unit", "shown"),
    [
        (Cell(0.61349), "%", "61.3"),
        (Cell(0.613, 0.0204), "%", "61.3 ± 2.0"),
        (Cell(-0.124), "points", "−12.4"),
        (Cell(-0.0001), "points", "0.0"),
        (Cell(nan, nan, "why"), "points", "–"),
        (Cell(1_069_000), "bytes", "1.07 MB"),
        (Cell(1_069_000, 0.0), "bytes", "1.07 MB"),
        (Cell(1_069_000, 2_500), "bytes", "1.07 MB ± 2.50 kB"),
        (Cell(1.234), "s", "1.23"),
        (Cell(12.34, 0.5), "s", "12.3 ± 0.5"),
        (Cell(1234.5), "s", "1234"),
    ],
)
def test_cells_as_printed(cell, unit, shown):
    assert text(cell, unit) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_960, "1.00 MB"), (5e12, "5000 GB")],
)
def test_sizes(count, shown):
    assert size(count) == shown


def test_options_have_the_names_of_the_command_line():
    found = options(make(fit={"lr": 0.5}, options={"fit.lr": "0.5", "stream.seed": 1}))
    assert found["fit.lr"] == 0.5
    assert found["stream.seed"] == 1
    assert found["exam_rows"] == "all"
