"""The page of names has every name that the code takes."""

from pathlib import Path

import pytest

from perdure import Scenario
from perdure.streams.stream import NAMES

PAGE = (Path(__file__).parents[1] / "docs" / "names.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("scenario", Scenario, ids=lambda scenario: scenario.value)
def test_every_scenario_has_a_row_with_all_its_names(scenario: Scenario) -> None:
    (row, *_) = [row for row in ROWS if row.startswith(f"| `{scenario.value}` ")]
    for name, meant in NAMES.items():
        assert (f"`{name}`" in row) == (meant is scenario)


def test_the_scenario_that_is_refused_is_explained() -> None:
    assert "`nnu` is refused" in PAGE


@pytest.mark.parametrize("library", ["Avalanche", "Mammoth", "FACIL", "Continuum", "van de Ven", "SupSup"])
def test_libraries_are_named(library: str) -> None:
    assert library in PAGE
