"""The figure of accuracy against bytes, read back from its artists."""

from itertools import combinations
from math import nan

import numpy as np
import pytest
from by_hand import forgetful, make
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from perdure import report
from perdure.report.leaderboard import leaderboards
from perdure.report.tradeoff import tradeoff


def runs(seeds=2, **known):
    slopes = {"finetune": (0.2, 1000), "ewc": (0.1, 3000), "er": (0.05, 1500), "joint": (0.0, 9000)}
    return [
        make(forgetful(3, slope * (1 + 0.1 * seed)), method, seed=seed, parts={"model": size}, **known)
        for method, (slope, size) in slopes.items()
        for seed in range(seeds)
    ]


def drawn(results, **how):
    """The axes of the figure of some results, and their leaderboards."""
    boards = leaderboards(results)
    return tradeoff(boards, **how).axes, boards


def test_every_row_is_a_point_at_its_bytes_and_accuracy_with_its_interval():
    (axes,), (board,) = drawn(runs())
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "bytes of the state in memory"
    for bars, row in zip(axes.containers, board.rows, strict=True):
        point, _, bar = bars
        acc = row.cells["acc"]
        assert point.get_xydata().tolist() == [[row.cells["state_bytes"].mean, acc.mean]]
        assert len(bar) == (row.label != "joint")  # whose seeds are equal
        for line in bar:
            assert line.get_segments()[0][:, 1] == pytest.approx([acc.mean - acc.half, acc.mean + acc.half])


def test_one_seed_has_no_bars():
    (axes,), _ = drawn(runs(seeds=1))
    assert [bars.lines[2] for bars in axes.containers] == [()] * 4


def test_stored_bytes_when_asked_for():
    (axes,), (board,) = drawn(runs(), stored=True)
    assert axes.get_xlabel() == "bytes of the state on disk"
    assert [bars[0].get_xdata()[0] for bars in axes.containers] == [
        row.cells["stored_bytes"].mean for row in board.rows
    ]


def test_joint_and_finetune_are_lines():
    (axes,), (board,) = drawn(runs())
    accs = {row.method: row.cells["acc"].mean for row in board.rows}
    lines = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert lines == [accs["joint"], accs["finetune"]]


def test_labels_name_every_row_inside_the_axes_and_over_nothing():
    results = runs() + [
        make(forgetful(3, 0.1 + 0.005 * k), "ewc", fit={"lr": k}, parts={"model": 3000}) for k in range(1, 8)
    ]
    boards = leaderboards(results)
    figure = tradeoff(boards)
    (axes,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert [label.get_text() for label in axes.texts] == [row.label for row in boards[0].rows]
    boxes = [Text.get_window_extent(label) for label in axes.texts]  # of the text, without the line to its point
    frame = axes.get_window_extent()
    points = [axes.transData.transform((r.cells["state_bytes"].mean, r.cells["acc"].mean)) for r in boards[0].rows]
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert not any(box.contains(*point) for point in points)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_of_many_rows_the_best_of_each_method_is_named():
    many = [make(forgetful(3, 0.01 * k), "ewc", fit={"lr": k}) for k in range(1, 13)]
    (axes,), (board,) = drawn([*many, make(method="er")])
    assert [label.get_text() for label in axes.texts] == ["ewc (fit.lr 1)", "er"]
    assert len(axes.containers) == len(board.rows) == 13
    assert len({bars[0].get_color() for bars in axes.containers}) == 2


def test_each_stream_has_a_panel_with_its_name():
    axes, _ = drawn([*runs(), *runs(options={"stream.side": 3})])
    titles = [one.get_title(loc="left") for one in axes]
    assert sorted(titles) == [
        "ACC, %: permuted-digits, 3 tasks, gns",
        "ACC, %: permuted-digits, 3 tasks, gns, stream.side 3",
    ]
    first, second = (one.get_position() for one in axes)
    assert first.y0 > second.y1 or second.y0 > first.y1


def test_a_row_without_accuracy_or_bytes_is_left_out():
    blind = make(np.full((4, 3), nan), "er")
    (axes,), _ = drawn([make(), blind, make(method="ewc", parts={"model": 0})])
    assert [label.get_text() for label in axes.texts] == ["finetune"]
    (axes,), _ = drawn([blind])
    assert not axes.containers


@pytest.mark.parametrize(("name", "begins"), [("f.svg", b"<?xml"), ("f.png", b"\x89PNG"), ("f.pdf", b"%PDF")])
def test_the_files_ending_says_what_it_is_and_equal_results_give_equal_pictures(name, begins, tmp_path):
    boards = leaderboards(runs())
    content = report.draw(boards, tmp_path / name).read_bytes()
    assert content.startswith(begins)
    if name != "f.pdf":
        assert report.draw(boards, tmp_path / name).read_bytes() == content
