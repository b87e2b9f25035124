"""Presets: every one says what it is for, and means an experiment."""

import pytest

from perdure.experiments import plan
from perdure.experiments.presets import about, file_of, layered, presets, read
from perdure.experiments.tables import table


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


@pytest.mark.parametrize(
    ("name", "net", "outputs"),
    [
        ("lenet-100", "mlp:300-100", 100),
        ("lenet-500", "mlp:300-100", 500),
        ("fc-200", "mlp:1024-1024", 200),
        ("fc-500", "mlp:1024-1024", 500),
    ],
)
def test_supsup_on_mnist_is_that_of_the_paper(name: str, net: str, outputs: int) -> None:
    experiment = plan("permuted-mnist", "supsup", {}, preset=name)
    halved = {"method.infer": "binary", "method.pool": 128} if name == "fc-200" else {}
    assert experiment.net == net
    assert experiment.options == halved | {
        "fit.optimizer": "rmsprop",
        "fit.lr": 1e-4,
        "fit.batch": 128,  # and 1,000 steps a task, as everywhere by default
        "stream.scale": "standard",
        "method.outputs": outputs,
    }


@pytest.mark.parametrize("method", ["supsup", "batch-ensemble", "heads", "independent", "finetune"])
def test_split_cifar100_is_the_protocol_of_its_table_but_for_the_epochs(method: str) -> None:
    mine = plan(
        "split-cifar100", method, {"fit.epochs": 20, "exam_rows": "last", "bf16": True}, preset="split-cifar100"
    )
    runs = [run for run in table("split-cifar100").runs.values() if run.method == method]
    assert mine in runs
    assert plan("split-cifar100", method, {}, preset="split-cifar100").options["fit.epochs"] == 250


def test_split_imagenet_is_the_protocol_of_the_paper() -> None:
    experiment = plan("split-imagenet", "supsup", {}, preset="split-imagenet")
    assert (experiment.tasks, experiment.scenario, experiment.net) == (100, "gg", "resnet50:64")
    assert experiment.options == {
        "fit.optimizer": "adam",
        "fit.lr": 1e-3,
        "fit.batch": 256,
        "fit.epochs": 100,
        "fit.schedule": "cosine",
        "fit.warmup": 255,  # five epochs of 13,000 images
        "stream.scale": "standard",
        "method.rule": "largest",
        "method.budget": "erdos-renyi",
        "method.density": 8.0,
        "method.outputs": 10,
    }
