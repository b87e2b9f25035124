"""The figure on magnitude pruning: exact counts, and what is drawn is what was measured."""

import numpy as np
import pytest
from torch import nn

from perdure.contract import Fit
from perdure.experiments import figures
from perdure.experiments.figures import pruning
from perdure.experiments.figures.lab import Lab, Numbers
from perdure.experiments.figures.pruning import budgets, masked
from perdure.methods import pruned
from perdure.methods.finetune import Finetune
from perdure.model import Model

NET = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
MODEL: Model = Finetune(NET, Fit(steps=20, batch=20)).init(4)


def test_the_papers_shares_keep_22_thousand_of_lenets_weights() -> None:
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    params = {name: w.detach() for name, w in net.named_parameters()}
    assert budgets(params, 1.0) == {"0.weight": 18_816, "2.weight": 2_700, "4.weight": 260}
    assert sum(budgets(params, 0.0).values()) == 266_200
    density = [sum(budgets(params, p).values()) / 266_200 for p in pruning.POWERS]
    assert 1 / density[pruning.POWERS.index(1.0)] == pytest.approx(12.2, abs=0.05)
    assert density == sorted(density, reverse=True)
    assert 1 / density[-1] == pytest.approx(33.1, abs=0.05)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.4])
def test_pruning_keeps_exactly_the_largest_of_each_layer_at_their_values(p: float) -> None:
    kept = budgets(MODEL.params, p)
    masks = masked(MODEL, kept)
    model = pruned.drop(MODEL, masks)
    for name, w in MODEL.params.items():
        values = w.flatten().tolist()
        if w.ndim > 1:
            order = sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))
            stay = set(order[: kept[name]])
            values = [value if place in stay else 0.0 for place, value in enumerate(values)]
            assert (
                int(masks[name].sum())
                == kept[name]
                == round(w.numel() * {20: 0.08, 12: 0.09, 8: 0.26}[w.shape[1]] ** p)
            )
        assert model.params[name].flatten().tolist() == values


def _made_up(cut: float, steps: float) -> Numbers:
    points = len(pruning.POWERS)
    seeds = {
        "cut": [[0.02] * 4 + [cut] * (points - 4), [0.03] * 4 + [cut] * (points - 4)],
        "once": [[0.025] * 4 + [0.03] * (points - 4)] * 2,
        "steps": [[0.025] * 4 + [steps] * (points - 4)] * 2,
    }
    density = [1, 0.54, 0.29, 0.16, 0.09, 0.05, 0.03]
    return {"net": "mlp:300-100", "fit": {}, "powers": list(pruning.POWERS), "density": density, **seeds}


def test_a_line_is_drawn_for_each_way_of_pruning() -> None:
    numbers = _made_up(0.3, 0.026)
    (axes,) = figures.drawn("pruning", numbers).axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    for line, name in zip(lines, ("cut", "once", "steps"), strict=True):
        np.testing.assert_allclose(
            line.get_xydata(), np.stack([numbers["density"], 100 * np.mean(numbers[name], 0)], 1)
        )
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # from dense to sparse


@pytest.mark.parametrize(
    ("cut", "steps", "holds"),
    [(0.3, 0.026, [True, True, True]), (0.3, 0.05, [True, False, True]), (0.04, 0.026, [True, True, False])],
)
def test_claims_are_seen_only_where_they_hold(cut: float, steps: float, holds: list[bool]) -> None:
    numbers = _made_up(cut, steps)
    assert [finding.holds for finding in figures.findings("pruning", numbers)] == holds
    assert ("does most of the work" in pruning.title(numbers)) == all(holds)


def test_a_smoke_test_measures_both_ends_and_retrains() -> None:
    numbers = pruning.measure(Lab(smoke=True))
    assert numbers["powers"] == [0, 1]
    assert numbers["density"] == [1, pytest.approx((1536 + 2700 + 260) / (19200 + 30000 + 1000), rel=1e-4)]
    for name in pruning.CURVES:
        assert np.shape(numbers[name]) == (1, 2)
    assert figures.drawn("pruning", numbers).axes
