"""The figures for lectures: what is stored shows what they claim, and what is drawn is what is stored."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from torch import nn

from perdure import Fit, Refused
from perdure.experiments import figures
from perdure.experiments.figures import novelty, plane
from perdure.experiments.figures.lab import Lab, labelled
from perdure.experiments.provenance import commit, today
from perdure.methods.finetune import Finetune
from perdure.rng import fold
from perdure.streams import build

ROOT = Path(__file__).parents[2]


def numbers(name: str) -> dict:
    entry = figures.stored(name)
    assert entry is not None
    return entry["numbers"]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_what_is_stored_shows_what_it_claims_and_says_where_it_is_from(name: str) -> None:
    entry = figures.stored(name)
    assert entry is not None
    assert (entry["figure"], entry["base"]) == (name, figures.base_of(name))
    assert entry["command"] == f"perdure figure {name} --rerun"
    assert entry["commit"]
    assert entry["cpu_seconds"] <= 120 or figures.how_long(name, entry["base"]) != "a minute or two of one core"
    found = figures.findings(name, entry["numbers"])
    assert len(found) >= 2
    assert [finding.claim for finding in found if not finding.holds] == []


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_page_and_its_pictures_are_what_is_stored(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "figures.md").read_text()
    assert page == figures.page()
    assert f"](figures/{name}.svg)" in page
    figures.save(figures.drawn(name, numbers(name)), tmp_path / "again.svg")
    figures.save(figures.drawn(name, numbers(name)), tmp_path / "twice.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "twice.svg").read_bytes()
    assert (ROOT / "docs" / "figures" / f"{name}.svg").read_text().startswith("<?xml")


def marked(axes) -> list:
    """The lines with a mark at every point: means of what was measured."""
    return [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]


def test_plane_draws_every_path_from_theta_1_and_dashes_what_ends_outside() -> None:
    kept = numbers("plane")
    panels = figures.drawn("plane", kept).axes
    assert len(panels) == len(kept["planes"]) == 2
    for axes, (through, part) in zip(panels, kept["planes"].items(), strict=True):
        paths = [line for line in axes.lines if len(line.get_xdata()) > 1]
        assert len(paths) == 3
        for line, (name, path) in zip(paths, part["paths"].items(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), path)
            assert path[0] == [0, 0]
            assert (line.get_linestyle() == "--") == (name not in ("ewc", through))
        assert part["beside"]["ewc"] == pytest.approx(0, abs=0.01)
        assert part["beside"][through] == pytest.approx(0, abs=0.01)
    first = [kept["accuracies"][name][0] for name in plane.PATHS]
    assert first[0] == first[1] == first[2]  # all begin at theta_1


def test_a_shorter_walk_is_the_beginning_of_a_longer_one() -> None:
    stream = build("permuted-digits", tasks=2)
    method = Finetune(net=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), fit=Fit(steps=8))
    _, *three = plane._path("finetune", method, stream, (3,))
    _, first, second = plane._path("finetune", method, stream, (3, 6))
    assert three[0].params["1.weight"].equal(first.params["1.weight"])
    assert not first.params["1.weight"].equal(second.params["1.weight"])
    start, _ = method.learn(method.init(fold(plane.KEY, "init")), stream[0], fold(plane.KEY, "learn", 0))
    six = method.with_(fit=Fit(steps=6)).learn(start, stream[1], fold(plane.KEY, "learn", 1))[1]
    eight = method.learn(start, stream[1], fold(plane.KEY, "learn", 1))[1]
    assert six.loss.equal(eight.loss[:6])


def test_strength_draws_both_measures_on_a_logarithmic_axis() -> None:
    kept = numbers("strength")
    for axes, method in zip(figures.drawn("strength", kept).axes, ("ewc", "l2"), strict=True):
        assert axes.get_xscale() == "log"
        forgetting, intransigence = marked(axes)
        for line, what in ((forgetting, "forgetting"), (intransigence, "intransigence")):
            np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(kept[method][what], axis=0))
            np.testing.assert_array_equal(line.get_xdata(), kept[method]["lam"])


def test_capacity_draws_a_line_a_width() -> None:
    kept = numbers("capacity")
    for axes, method in zip(figures.drawn("capacity", kept).axes, ("ewc", "si"), strict=True):
        for line, width in zip(marked(axes), kept["widths"], strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.mean(kept[method][str(width)], axis=0))
            assert len(line.get_xdata()) == kept["tasks"]


def test_drift_draws_both_orders_over_the_angle() -> None:
    kept = numbers("drift")
    (axes,) = figures.drawn("drift", kept).axes
    for line, name in zip(marked(axes), ("drifting", "iid"), strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([kept["angle"], np.mean(kept[name], axis=0)], 1))
    assert kept["angle"][0] == 5
    assert kept["angle"][-1] == 175


def test_order_draws_both_tasks_in_both_orders_and_jointly() -> None:
    kept = numbers("order")
    first, second, joint = figures.drawn("order", kept).axes
    for axes, which in ((first, "noisy-clean"), (second, "clean-noisy")):
        for column, line in enumerate(marked(axes)):
            np.testing.assert_allclose(line.get_ydata(), np.mean(kept[which], axis=0)[:, column])
    assert [len(line.get_ydata()) for line in joint.lines] == [1, 1]


def test_novelty_draws_a_bar_a_verdict_and_scores_by_definition() -> None:
    kept = numbers("novelty")
    for axes, (stream, found) in zip(figures.drawn("novelty", kept).axes, kept["found"].items(), strict=True):
        bars = iter(axes.patches)
        assert [text.get_text().split(",")[0] for text in axes.texts] == list(found)
        for life in found.values():
            for group, kind in (("known", None), ("drifted", None), ("new", "never learned"), ("new", "photograph")):
                kinds = [life[group][kind]] if kind else list(life[group].values())
                for verdict in ("known", "drifted", "new"):
                    mean = np.mean([said[verdict] for said in kinds])
                    assert next(bars).get_width() == pytest.approx(mean), (stream, group, verdict)
        assert next(bars, None) is None

    def called(known: float, drifted: float, new: float) -> tuple[float, float, float]:
        return novelty.scores(
            {g: {"one": {"new": s}} for g, s in zip(novelty.KINDS, (known, drifted, new), strict=True)}
        )

    assert called(1, 1, 1) == pytest.approx((1 / 3, 1, 1 / 2))  # whoever calls everything new
    assert called(0, 0, 0) == pytest.approx((np.nan, 0, 0), nan_ok=True)
    assert called(0.1, 0.3, 0.6) == pytest.approx((0.6, 0.6, 0.6))


def test_claims_that_do_not_hold_are_said_not_to() -> None:
    kept = numbers("drift")
    backwards = kept | {"drifting": kept["iid"]}
    assert not figures.findings("drift", backwards)[0].holds
    assert figures.module("drift").title(backwards) != figures.module("drift").title(kept)


@pytest.mark.parametrize("ending", [".svg", ".png", ".pdf"])
def test_pictures_are_written_by_their_ending(ending: str, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figures.save(figures.drawn("order", numbers("order")), path := tmp_path / f"a{ending}")
    assert path.read_bytes()[:4] in (b"<?xm", b"\x89PNG", b"%PDF")
    assert dict(matplotlib.rcParams) == before


def test_numbers_are_stored_a_line_each_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "STORED", tmp_path)
    entry = {"figure": "drift", "base": "mnist", "date": today(), "commit": commit(), "numbers": {"a": [1, 2], "b": {}}}
    path = figures.keep(entry)
    assert path.name == "drift-mnist.json"
    assert figures.stored("drift", "mnist") == entry
    assert figures.stored("drift") is None
    assert '"a": [1, 2]' in path.read_text()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_smoke_test_measures_and_draws_everything(name: str) -> None:
    entry = figures.measured(name, Lab(smoke=True))
    assert entry["numbers"].keys() == numbers(name).keys()
    assert figures.drawn(name, entry["numbers"]).axes


def test_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(Refused, match=r"unknown figure 'plain'; did you mean plane\?"):
        figures.module("plain")


@pytest.mark.parametrize("name", ["learner", "novelty"])
def test_the_tutorial_has_the_tables_that_are_stored(name: str) -> None:
    entry = figures.stored(name)
    assert entry is not None
    assert figures.module(name).table(entry["numbers"]) in (ROOT / "docs" / "own-data.md").read_text()


def test_names_beside_lines_are_apart_and_inside_the_axes() -> None:
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    labelled(axes, {"top": (1, 0.99, "k"), "near": (1, 0.98, "k"), "third": (1, 0.97, "k"), "low": (1, 0.2, "k")}, 0.1)
    places = {text.get_text(): text.xy[1] for text in axes.texts}
    assert places == pytest.approx({"low": 0.2, "third": 0.8, "near": 0.9, "top": 1.0})
