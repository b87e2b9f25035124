"""`perdure figure`: from stored numbers, or from tiny runs that are not stored."""

from pathlib import Path

import pytest

from perdure.experiments import figures
from perdure.experiments.figures.lab import Lab


def test_a_figure_is_drawn_from_what_is_stored(perdure, monkeypatch) -> None:
    monkeypatch.setattr(figures, "measured", None)  # nothing runs
    said = perdure("figure drift")
    assert (said.status, said.err) == (0, "")
    assert said.out.count("  seen: ") == 2
    assert said.out.endswith("figure: drift.svg\n")
    assert Path("drift.svg").read_text().startswith("<?xml")


def test_a_smoke_test_stores_nothing(perdure, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(figures, "STORED", tmp_path / "stored")
    said = perdure("figure order --smoke --out a.png")
    assert said.status == 0
    assert "measuring order on digits: seconds" in said.err
    assert "seen" not in said.out
    assert "means nothing" in said.out
    assert not (tmp_path / "stored").exists()
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_stored_and_not_measured_again(perdure, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(figures, "STORED", tmp_path / "stored")
    entry = {
        "figure": "order",
        "base": "digits",
        "numbers": figures.measured("order", Lab(smoke=True))["numbers"],
    }
    monkeypatch.setattr(figures, "measured", lambda name, lab: entry)
    assert "numbers: " in perdure("figure order").out
    monkeypatch.setattr(figures, "measured", None)
    assert "numbers: " not in perdure("figure order").out


def test_the_page_comes_with_its_pictures(perdure) -> None:
    assert perdure("figure --page figures.md").status == 0
    assert Path("figures.md").read_text() == figures.page()
    assert {path.stem for path in Path("figures").iterdir()} >= set(figures.FIGURES)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("figure", "name a figure: plane, strength, permutations, overlap"),
        ("figure plain", "unknown figure 'plain'; did you mean plane?"),
        ("figure plane --out a.gif", "no picture can be written to a.gif; its name must end in .svg, .png or .pdf"),
        ("figure plane --base mnits", "unknown base 'mnits'; did you mean mnist?"),
        ("figure plane --smokey", "unknown option '--smokey'; did you mean --smoke?"),
    ],
)
def test_bad_input(line: str, says: str, perdure) -> None:
    said = perdure(line)
    assert said.status == 2
    assert says in said.err
    assert list(Path().iterdir()) == []
