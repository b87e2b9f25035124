"""What the figures show, read back from their artists."""

import subprocess
import sys
from math import nan

import matplotlib
import numpy as np
import pytest
from by_hand import forgetful, make
from matplotlib.patches import StepPatch

from perdure.report import figures


def written(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_matrix_prints_every_measured_cell():
    R = [[nan, nan], [0.9, nan], [0.456, 1.0]]
    figure = figures.matrix(make(R))
    assert written(figure) == ["90.0", "45.6", "100.0"]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["before", "1", "2"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2"]


def test_matrix_is_the_mean_over_seeds():
    figure = figures.matrix(make([[0.1], [0.8]], seed=0), make([[0.3], [1.0]], seed=1))
    assert written(figure) == ["20.0", "90.0"]


def test_matrix_with_the_id_given():
    assert written(figures.matrix(make([[0.1], [0.8]], given=[[0.5], [0.9]]), given=True)) == ["50.0", "90.0"]


def test_a_result_plots_its_matrix():
    assert written(make([[0.1], [0.8]]).plot()) == ["10.0", "80.0"]


def test_a_long_matrix_has_a_scale_instead_of_numbers():
    figure = figures.matrix(make(forgetful(40, 0.02)))
    assert written(figure) == []
    assert len(figure.axes) == 2
    image = figure.axes[0].images[0]
    assert image.get_array().shape == (41, 40)
    assert image.get_clim() == (0, 1)


@pytest.mark.parametrize(("tasks", "panels"), [(1, 1), (11, 11), (12, 11), (40, 11), (1000, 11)])
def test_panels_are_few_and_hold_the_first_and_last_task(tasks, panels):
    chosen = figures.chosen(tasks)
    assert len(chosen) == panels
    assert chosen[0] == 0
    assert chosen[-1] == tasks - 1
    assert len(set(np.diff(chosen))) <= 2


def test_curves_draw_the_mean_of_the_tasks_seen_and_each_task():
    R = forgetful(3, 0.2)
    mean, *tasks = figures.curves(make(R)).axes
    np.testing.assert_allclose(mean.lines[0].get_xydata(), [(1, 0.95), (2, 0.85), (3, 0.75)])
    for j, axes in enumerate(tasks):
        before, after = axes.lines[:2]
        np.testing.assert_allclose(before.get_ydata(), R[: j + 2, j])
        np.testing.assert_allclose(after.get_xydata(), [(i, R[i, j]) for i in range(j + 1, 4)])


def test_curves_skip_what_was_not_measured():
    R = forgetful(4, 0.2)
    R[2] = nan
    axes = figures.curves(make(R)).axes[1]
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [1, 3, 4])


def test_the_band_spans_the_seeds():
    results = [make(forgetful(2, s), seed=seed) for seed, s in enumerate((0.1, 0.2, 0.6))]
    (band,) = figures.curves(*results).axes[0].collections
    ends = band.get_paths()[0].vertices
    at_end = ends[ends[:, 0] == 2, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx(((0.35 + 0.95) / 2, (0.85 + 0.95) / 2))


def test_the_id_given_is_drawn_only_where_it_changes_something():
    assert len(figures.curves(make()).axes[0].lines) == 1
    assert len(figures.curves(make(given=forgetful(3, 0.1))).axes[0].lines) == 2
    assert len(figures.curves(make(R_given=None)).axes[0].lines) == 1


def test_memory_stacks_the_components_up_to_the_live_state():
    result = make(parts={"model": 1000, "precision": 500}, growth=50)
    figure = figures.memory(result)
    *layers, stored = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    assert [layer.get_label() for layer in layers] == ["model", "precision", "memory"]
    np.testing.assert_array_equal(layers[-1].get_data().values, result.state_bytes_by_task)
    np.testing.assert_array_equal(stored.get_data().values, result.stored_bytes_by_task)


def test_the_trace_is_thinned_to_the_same_points_of_every_task():
    result = make(forgetful(40, 0.02), losses=[[1.0] * 200] * 40)
    (line,) = figures.trace(result).axes[0].lines
    assert len(line.get_xdata()) == 40 * 50
    assert line.get_xdata().min() == 0.5
    assert line.get_xdata().max() < 40.5


@pytest.mark.parametrize(("losses", "scale"), [([2.0, 0.5], "log"), ([2.0, -0.5], "linear"), ([], "linear")])
def test_the_trace_is_logarithmic_where_it_can_be(losses, scale):
    assert figures.trace(make(losses=[losses] * 3)).axes[0].get_yscale() == scale


def test_chunks_are_not_called_tasks():
    assert figures.trace(make()).axes[0].get_xlabel() == "task"
    assert figures.trace(make(losses=[[1.0]] * 7)).axes[0].get_xlabel() == "chunk"


def test_overview_has_a_line_for_every_experiment():
    figure = figures.overview({"ewc": [make(method="ewc")], "er": [make(method="er", seed=s) for s in range(3)]})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["ewc", "er"]
    assert len(right.lines) == 2


def test_the_callers_settings_stay():
    before = dict(matplotlib.rcParams)
    figures.matrix(make())
    figures.curves(make())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import perdure.report.figures", "matplotlib.pyplot"),
        ("import perdure.report.table", "matplotlib"),
        ("import perdure.report", "jinja2"),
    ],
)
def test_imports_are_late(code, absent):
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; sys.exit({absent!r} in sys.modules)"], check=False
    )
    assert run.returncode == 0
