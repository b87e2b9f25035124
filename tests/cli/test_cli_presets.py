"""Presets: every one says what it is for, and means an experiment."""

import pytest

from perdure.experiments import plan
from perdure.experiments.presets import about, file_of, layered, presets, read


@pytest.mark.parametrize("name", presets())
def test_every_preset_means_an_experiment(name: str) -> None:
    assert len(about(file_of(name))) > 20
    experiment = plan("permuted-digits", "finetune", {}, preset=name)
    for option, value in read(file_of(name)).items():
        assert {**vars(experiment), **experiment.options}[option] == value


def test_hw14_is_the_protocol_of_the_course() -> None:
    experiment = plan("permuted-mnist", "ewc", {}, preset="hw14")
    assert (experiment.tasks, experiment.net) == (5, "mlp:1024-512-256")
    assert experiment.options == {
        "fit.optimizer": "adam",
        "fit.lr": 1e-4,
        "fit.batch": 128,
        "fit.epochs": 10,
        "stream.scale": "standard",
        "stream.identity_first": True,
    }


def test_an_earlier_layer_beats_a_later_one() -> None:
    assert layered({"a": 1}, {"a": 2, "b": 3}, {"b": 4, "c": 5}) == {"a": 1, "b": 3, "c": 5}


def test_a_rival_in_an_earlier_layer_voids_the_later_one() -> None:
    assert layered({"fit.steps": 1}, {"fit.epochs": 2, "seed": 3}, {"seeds": 4}) == {"fit.steps": 1, "seed": 3}
