"""Sweep files: the product they mean, names, and one message for each mistake."""

from pathlib import Path

import pytest

from perdure.contract import Refused
from perdure.experiments import grid
from perdure.experiments.grid import Sweep, Tuning

FILE = """
stream: permuted-digits
tasks: 2
net: linear
methods:
  finetune:
  ewc: {lam: [1, 10], fit.epochs: 2}
seeds: [3, 5]
orders: 2
fit:
  steps: 30
  lr: [1e-3, 0.01]
"""


def read(text: str, tmp_path: Path) -> Sweep:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return grid.read(path)


def test_methods_times_options_times_seeds_times_orders(tmp_path: Path) -> None:
    sweep = read(FILE, tmp_path)
    assert len(sweep.runs) == (1 * 2 + 2 * 2) * 2 * 2
    assert (sweep.trials, sweep.tuning) == ((), None)
    assert [run.name for run in sweep.runs[:4]] == [
        "finetune,fit.lr=0.001,seed=3,order=0",
        "finetune,fit.lr=0.001,seed=3,order=1",
        "finetune,fit.lr=0.001,seed=5,order=0",
        "finetune,fit.lr=0.001,seed=5,order=1",
    ]
    last = sweep.runs[-1]
    assert last.name == "ewc,lam=10,fit.lr=0.01,seed=5,order=1"
    assert (last.combination, last.role) == ("ewc,lam=10,fit.lr=0.01", "run")
    assert last.listed == {"method.lam": 10.0, "fit.lr": 0.01}
    assert (last.experiment.seeds, last.experiment.tasks, last.experiment.setting.threads) == ((5,), 2, 1)
    # its own fit.epochs voids the common fit.steps
    assert last.experiment.options == {"fit.lr": 0.01, "method.lam": 10.0, "fit.epochs": 2, "stream.seed": 1}
    assert sweep.runs[0].experiment.options == {"fit.lr": 0.001, "fit.steps": 30, "stream.seed": 0}


def test_methods_may_be_a_list_and_a_list_of_one_is_named(tmp_path: Path) -> None:
    sweep = read("stream: permuted-digits\nmethods: [finetune, joint]\nnet: ['mlp:8-8']\nseeds: 1", tmp_path)
    assert [run.name for run in sweep.runs] == ["finetune,net=mlp_8-8,seed=0", "joint,net=mlp_8-8,seed=0"]


def test_methods_of_one_class_name_are_told_apart_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "m.py").write_text("from perdure.methods.finetune import Finetune as M")
    sweep = read("stream: permuted-digits\nmethods: [a/m.py:M, b/m.py:M]", tmp_path)
    assert [run.name for run in sweep.runs] == ["a_m.py_M,seed=0", "b_m.py_M,seed=0"]
    assert [run.name for run in read("stream: permuted-digits\nmethods: [a/m.py:M]", tmp_path).runs] == ["M,seed=0"]


def test_a_preset_lies_under_a_sweep(tmp_path: Path) -> None:
    (run,) = read("stream: permuted-digits\nmethods: [ewc]\npreset: digits\nfit.steps: 5", tmp_path).runs
    assert (run.experiment.net, run.experiment.options["fit.steps"]) == ("mlp:2000", 5)


def test_oracle_tries_whole_streams_of_other_seeds_on_held_out_examples(tmp_path: Path) -> None:
    sweep = read(f"{FILE}tuning: {{protocol: oracle, seeds: [8, 9], share: 0.25}}", tmp_path)
    assert sweep.tuning == Tuning("oracle", (8, 9), 0.25)
    assert len(sweep.trials) == 6 * 2
    seen = {(run.experiment.seeds[0], run.experiment.options["stream.seed"]) for run in sweep.trials}
    assert seen == {(8, 8), (9, 9)}
    assert {(run.experiment.first, run.experiment.hold_out, run.role) for run in sweep.trials} == {
        (None, 0.25, "tuning")
    }
    assert {run.experiment.hold_out for run in sweep.runs} == {None}
    assert sweep.trials[0].name == "tuning,finetune,fit.lr=0.001,seed=8,order=8"


def test_first_k_tries_the_first_tasks_of_the_reported_streams(tmp_path: Path) -> None:
    sweep = read(f"{FILE}tuning: {{protocol: first-1}}", tmp_path)
    assert sweep.tuning == Tuning("first-1", (3,), 0.1)
    seen = {(run.experiment.seeds[0], run.experiment.options["stream.seed"]) for run in sweep.trials}
    assert seen == {(3, 0), (3, 1)}
    assert {(run.experiment.first, run.experiment.hold_out) for run in sweep.trials} == {(1, 0.1)}
    assert {run.experiment.first for run in sweep.runs} == {None}  # a fresh start, on all tasks


def test_one_combination_needs_no_tuning(tmp_path: Path) -> None:
    text = "stream: permuted-digits\nmethods: {finetune: , ewc: {lam: [1, 2]}}\ntuning: {protocol: first-2}"
    assert {run.experiment.method for run in read(text, tmp_path).trials} == {"ewc"}


HEAD = "stream: permuted-digits\nmethods: [ewc]\n"
MESSAGES = {
    "methods: [ewc]": "FILE has no stream; give them, as in stream: permuted-digits",
    "stream: permuted-digits": "FILE has no methods; give them, as in methods: [finetune, ewc]",
    "stream: permuted-digits\nmethods: []": "FILE names no methods; give some, as in methods: [finetune, ewc]",
    "stream: permuted-digits\nmethods: [ewcc]": "unknown method 'ewcc'; did you mean ewc? There are: ",
    "stream: permuted-digits\nmethods: {ewc: 3}": (
        "FILE: methods.ewc must hold options by name, such as lam: 10, not int"
    ),
    "stream: permuted-digits\nmethods: {ewc: {lamb: 3}}": (
        "unknown option of ewc 'method.lamb'; did you mean method.lam? There are: "
    ),
    "stream: permuted-digits\nmethods: {ewc: , finetune: }\nmethod.lam: 3": (
        "method.lam is for one method; say it under that method, as in methods: {ewc: {lam: 10}}"
    ),
    f"{HEAD}metods: 3": "unknown key 'metods'; did you mean methods? There are: stream, methods, seeds, orders, ",
    f"{HEAD}fit.lrr: 3": "FILE, ewc: unknown option '--fit.lrr'; did you mean --fit.lr? ",
    f"{HEAD}fit.lr: [1, fast]": "FILE, ewc: --fit.lr is 'fast'; it must be a number",
    f"{HEAD}fit.lr: [1, 1.0]": "FILE has two runs ewc,fit.lr=1,seed=0; list every value once",
    f"{HEAD}seeds: [a]": "seeds is ['a']; give a list of whole numbers, or how many",
    f"{HEAD}seeds: 0": "seeds is 0; there must be at least one",
    f"{HEAD}seed: 3": "unknown key 'seed'; did you mean seeds? There are: ",
    f"{HEAD}stream.seed: [1, 2]": (
        "several seeds of the stream are its orders, which repeat a run; give orders: alone, as in [0, 1]"
    ),
    "stream: permuted-digits\nmethods: {ewc: {stream.seed: 3}}\norders: 2": (
        "several seeds of the stream are its orders, which repeat a run; give orders: alone, as in [0, 1]"
    ),
    "stream: permuted-digits\nmethods: {ewc: {stream.seed: [1, 2]}}": (
        "several seeds of the stream are its orders, which repeat a run; give orders: alone, as in [0, 1]"
    ),
    "stream: permuted-digits\nmethods: {finetune: , ewc: {lam: []}}": (
        "FILE, ewc: method.lam is a list of no values; give it one, or leave it out"
    ),
    f"{HEAD}fit.lr: []": "FILE, ewc: fit.lr is a list of no values; give it one, or leave it out",
    f"{HEAD}tuning: {{protocl: oracle}}": "unknown key of tuning 'protocl'; did you mean protocol? There are: ",
    f"{HEAD}tuning: {{protocol: first}}": ("tuning.protocol is 'first'; it must be oracle or first-K, such as first-3"),
    f"{HEAD}seeds: [7]\ntuning: {{seeds: [7]}}": (
        "tuning.seeds has 7, which is reported on; oracle needs other seeds, such as 1000"
    ),
    f"{HEAD}orders: [7]\ntuning: {{seeds: [7]}}": (
        "tuning.seeds has 7, which is reported on; oracle needs other seeds, such as 1000"
    ),
    f"{HEAD}stream.seed: 7\ntuning: {{seeds: [7]}}": (
        "tuning.seeds has 7, which is reported on; oracle needs other seeds, such as 1000"
    ),
    f"{HEAD}stream.seed: 1000\ntuning: {{}}": (
        "tuning.seeds has 1000, which is reported on; oracle needs other seeds, such as 1001"
    ),
    "stream: permuted-digits\nmethods: {finetune: , ewc: {stream.seed: 8}}\ntuning: {seeds: [8]}": (
        "tuning.seeds has 8, which is reported on; oracle needs other seeds, such as 1000"
    ),
    f"{HEAD}tuning: {{share: 1}}": "tuning.share is 1; it must be between 0 and 1",
    f"{HEAD}tuning: {{}}\ntasks: [2, 3]": (
        "tasks is a list, but tuning chooses among options of fit and method; give one value"
    ),
    "stream: my.npz\nmethods: [ewc]\ntuning: {protocol: oracle}": (
        "another seed of my.npz has the same tasks and only asks other examples, so tuning would look at exams; "
        "use tuning.protocol first-K and one order"
    ),
    "- 3": "FILE must hold options by name, such as net: mlp:400, not list",
}


@pytest.mark.parametrize("text", MESSAGES)
def test_the_message(text: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read(text, tmp_path)
    said, expected = str(refused.value).replace(str(tmp_path / "my.yaml"), "FILE"), MESSAGES[text]
    assert said.startswith(expected) if expected.endswith((" ", "digits")) else said == expected


def test_a_sweep_that_is_not_there() -> None:
    with pytest.raises(Refused, match="unknown sweep 'permuted-digit'; did you mean permuted-digits"):
        grid.file_of("permuted-digit")


@pytest.mark.parametrize("name", grid.shipped())
def test_every_shipped_sweep_can_be_read(name: str) -> None:
    assert grid.read(grid.file_of(name)).tuning is not None
