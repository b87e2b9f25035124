"""`perdure run`: what it prints and keeps, and which option wins."""

import json
from pathlib import Path

import numpy as np
import pytest

import perdure as library
from perdure.experiments import plan
from perdure.experiments.experiment import command, recorded

pytestmark = pytest.mark.usefixtures("no_page")

RUN = "run permuted-digits finetune --tasks 2 TINY"
KEYS = {
    *("stream", "method", "scenario", "seed", "R", "acc", "bwt", "fwt", "forgetting", "learn_seconds", "exam_seconds"),
    *("state_bytes", "stored_bytes", "state_bytes_by_task", "R_given", "acc_given", "R_task", "recognised", "run_dir"),
}
OWN = """
from perdure.methods.finetune import Finetune

class Mine(Finetune):
    "One's own."
"""


def test_json_is_the_last_line_and_says_what_python_says(perdure) -> None:
    said = perdure(f"{RUN} --seed 3 --json")
    figures = json.loads(said.out)  # nothing else on stdout
    assert said.out.count("\n") == 1
    assert set(figures) == KEYS
    options = {"fit.steps": 20, "fit.batch": 32}
    same = library.run("permuted-digits", "finetune", tasks=2, seed=3, net="mlp:16", threads=1, options=options)
    assert figures["R"] == same.R.tolist()
    assert figures["R_given"] == same.R_given.tolist()
    assert [figures[name] for name in ("acc", "bwt", "forgetting", "fwt")] == [
        same.acc,
        same.bwt,
        same.forgetting,
        same.fwt,
    ]
    assert figures["seed"] == 3
    assert figures["scenario"] == "gns"
    assert figures["run_dir"] == "runs/permuted-digits-finetune"
    on_disk = sum(path.stat().st_size for path in Path("runs/permuted-digits-finetune/states").iterdir())
    assert figures["stored_bytes"] == on_disk
    assert figures["state_bytes"] == figures["state_bytes_by_task"][-1] == same.state_bytes


def test_undefined_is_null(perdure) -> None:
    figures = json.loads(perdure("run split-digits finetune --tasks 2 TINY --json").out)
    assert figures["fwt"] is None
    assert figures["R"][0] == [None, None]
    free = json.loads(perdure("run permuted-digits finetune --tasks 2 --net mlp:4 --scenario free --json").out)
    assert free["acc_given"] is None
    assert free["R_given"] is None
    assert free["recognised"] is None  # finetune tells nothing apart


def test_the_share_of_inputs_whose_task_is_found_is_said(perdure) -> None:
    said = perdure("run permuted-digits supsup --tasks 2 TINY --out found")
    figures = library.Result.from_json(json.loads(Path("found/result.json").read_text()))
    assert np.isnan(figures.R_task[0]).all()
    assert figures.R_task[1, 0] == 1  # there is one to choose from
    assert figures.recognised == figures.R_task[2].mean() < 1
    assert f"Task found (%) {100 * figures.recognised:.1f}" in " ".join(said.out.split())
    said = perdure("run permuted-digits supsup --tasks 2 --net mlp:16 --scenario nns --out flows")
    figures = library.Result.from_json(json.loads(Path("flows/result.json").read_text()))
    assert np.isnan(figures.R_task[0]).all()  # no mask yet
    assert figures.R_task[1].tolist() == [1, 0]  # a mask, and the task that it learned
    assert sorted(figures.R_task[2]) in ([0, 1], [1, 1])  # of two tasks each has a mask, or one has none
    assert f"Task found (%) {100 * figures.recognised:.1f}" in " ".join(said.out.split())


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_seeds_each_figure_is_a_list(perdure, seeds: int) -> None:
    figures = json.loads(perdure(f"{RUN} --seeds {seeds} --json").out)
    assert all(len(figures[name]) == seeds for name in KEYS)
    assert figures["seed"] == list(range(seeds))
    alone = json.loads(perdure(f"{RUN} --seed {seeds - 1} --json").out)
    assert figures["R"][-1] == alone["R"]


def test_people_read_the_matrix_the_figures_and_where_they_lie(perdure) -> None:
    said = perdure("run split-digits finetune --tasks 2 --fit.steps 20 --fit.batch 32 --net mlp:16 --threads 1")
    kept = json.loads(Path("runs/split-digits-finetune/result.json").read_text())
    lines = said.out.splitlines()
    assert "finetune on split-digits, accuracy in %" in lines
    assert next(line for line in lines if line.startswith("before")).split() == ["before", "–", "–"]
    last = f"{100 * kept['R'][2][0]:.1f}".replace("-", "−"), f"{100 * kept['R'][2][1]:.1f}"
    assert next(line for line in lines if line.startswith("task 2")).split() == ["task", "2", *last]
    assert f"{100 * kept['acc']:.1f}" in next(line for line in lines if line.startswith("ACC"))
    assert "– FWT: the method had no row for its labels yet" in lines
    assert lines[-2:] == [
        "run folder: runs/split-digits-finetune",
        "report:     runs/split-digits-finetune/report.html",
    ]


def test_several_seeds_show_mean_and_interval(perdure) -> None:
    said = perdure(f"{RUN} --seeds 2")
    assert "finetune on permuted-digits, accuracy in %, mean of 2 seeds and its 95 % interval" in said.out
    acc = next(line for line in said.out.splitlines() if line.startswith("ACC"))
    assert acc.split()[3] == "±"


def test_the_default_folder_is_numbered_where_it_is_taken(perdure) -> None:
    for name in ("permuted-digits-finetune", "permuted-digits-finetune-2", "permuted-digits-finetune-3"):
        assert json.loads(perdure(f"{RUN} --json").out)["run_dir"] == f"runs/{name}"


def test_leftovers_of_a_run_that_never_began_are_used(perdure) -> None:
    Path("out/states").mkdir(parents=True)
    Path("out/states/abc").write_text("half a blob")
    Path("out/experiment.json").write_text("{}")
    Path("out/run.lock").touch()
    Path("out/result.json.aside").write_text("{")
    assert perdure(f"{RUN} --out out").status == 0
    assert not Path("out/states/abc").exists()
    assert recorded(Path("out")).tasks == 2


def test_arrays_from_a_file(perdure) -> None:
    x = np.random.default_rng(0).normal(size=(80, 4))
    np.savez("my.npz", X=x, y=(x[:, 0] > 0).astype(int), task=np.repeat([0, 1], 40))
    figures = json.loads(perdure("run my.npz ewc --fit.steps 50 --threads 1 --json").out)
    assert figures["run_dir"] == "runs/my-ewc"
    assert figures["acc"] > 0.7


def test_a_method_of_ones_own_is_named_again_to_resume(perdure) -> None:
    Path("my_file.py").write_text(OWN)
    first = perdure("run permuted-digits my_file.py:Mine --tasks 2 TINY --json")
    assert json.loads(first.out)["run_dir"] == "runs/permuted-digits-mine"
    said = perdure("run --resume runs/permuted-digits-mine")
    assert said.status == 2
    assert said.err.endswith(
        "name it again, so that its code may run: "
        "perdure run --resume runs/permuted-digits-mine STREAM my_file.py:Mine\n"
    )
    again = perdure("run --resume runs/permuted-digits-mine permuted-digits my_file.py:Mine --json")
    assert json.loads(again.out)["R"] == json.loads(first.out)["R"]


def test_the_recorded_command_runs_the_same_experiment(perdure) -> None:
    line = (
        "run permuted-digits ewc --tasks 2 --exam-rows every:2 --fit.freeze 'no*' --method.lam 3 --stream.centre 4 TINY"
    )
    experiment = plan(
        "permuted-digits",
        "ewc",
        {"tasks": 2, "exam_rows": "every:2", "fit.freeze": "0*", "method.lam": 3, "stream.centre": None, "bf16": True},
    )
    assert command(experiment) == (
        "perdure run permuted-digits ewc --tasks 2 --bf16 --exam-rows every:2 "
        "--fit.freeze '0*' --method.lam 3.0 --stream.centre null"
    )
    assert perdure(line).status == 2  # no parameter is called no*
    assert perdure(line.replace("'no*'", "'1*'")).status == 0
    again = json.loads(Path("runs/permuted-digits-ewc/experiment.json").read_text())["command"]
    assert perdure(again.removeprefix("perdure ")).status == 0
    assert recorded(Path("runs/permuted-digits-ewc-2")) == recorded(Path("runs/permuted-digits-ewc"))


def test_exam_rows_not_asked_for_are_undefined(perdure) -> None:
    said = perdure(f"{RUN} --exam-rows last --json")
    assert json.loads(said.out)["R"][:2] == [[None, None]] * 2
    assert "task 2 of 2: loss " in said.err
    assert "task 1 of 2: loss" in said.err
    assert "not examined" in said.err


class TestWhichOptionWins:
    """An explicit option beats the config file, which beats the preset, which beats the method's own defaults."""

    def fit(self, words: str, perdure) -> dict:
        assert perdure(f"run permuted-digits finetune --tasks 2 --net mlp:16 --threads 1 --out out {words}").status == 0
        return json.loads(Path("out/experiment.json").read_text())["fit"]

    @pytest.fixture(autouse=True)
    def files(self, perdure, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("presets").mkdir()
        Path("presets/mine.yaml").write_text("fit: {lr: 0.2, batch: 40, epochs: 1}")
        Path("my.yaml").write_text("fit.batch: 30\nfit: {optimizer: rmsprop, momentum: 0.5}\nfit.steps: 7")
        monkeypatch.setattr("perdure.experiments.presets.FOLDER", Path("presets"))

    def test_the_methods_own(self, perdure) -> None:
        fit = self.fit("--fit.steps 3", perdure)
        assert (fit["lr"], fit["batch"], fit["momentum"]) == (0.001, None, 0.0)

    def test_the_preset_beats_the_methods_own(self, perdure) -> None:
        fit = self.fit("--preset mine", perdure)
        assert (fit["lr"], fit["batch"], fit["epochs"], fit["steps"]) == (0.2, 40, 1, None)

    def test_the_config_file_beats_the_preset(self, perdure) -> None:
        fit = self.fit("--preset mine --config my.yaml", perdure)
        assert (fit["lr"], fit["batch"], fit["momentum"]) == (0.2, 30, 0.5)
        assert (fit["epochs"], fit["steps"]) == (None, 7)  # steps displace the preset's epochs

    @pytest.mark.parametrize(
        "words", ["--config my.yaml --fit.batch 20 --fit.epochs 2", "--fit.epochs=2 --fit.batch 20 --config my.yaml"]
    )
    def test_an_explicit_option_beats_the_config_file(self, words: str, perdure) -> None:
        fit = self.fit(f"--preset mine {words}", perdure)
        assert (fit["lr"], fit["batch"], fit["momentum"]) == (0.2, 20, 0.5)
        assert (fit["epochs"], fit["steps"]) == (2, None)

    def test_an_explicit_option_that_says_the_default_still_beats(self, perdure) -> None:
        assert self.fit("--preset mine --fit.lr 0.001", perdure)["lr"] == 0.001

    def test_python_says_the_same(self, perdure) -> None:
        options = {"fit.batch": 20, "net": "mlp:16"}
        result = library.run("permuted-digits", "finetune", tasks=2, preset="mine", config="my.yaml", options=options)
        fit = result.options["fit"]
        assert (fit["lr"], fit["batch"], fit["momentum"], fit["steps"]) == (0.2, 20, 0.5, 7)
        assert result.options["net"]["name"] == "mlp:16"


def test_names_are_alike_dotted_or_nested_with_dashes_or_underscores(perdure) -> None:
    Path("one.yaml").write_text("fit: {weight-decay: 0.1}\nexam-rows: last\nnet: mlp:4")
    Path("two.yaml").write_text("fit.weight_decay: 1e-1\nexam_rows: last\nnet: mlp:4")
    one, two = (plan("permuted-digits", "ewc", {}, config=f"{name}.yaml") for name in ("one", "two"))
    words = plan("permuted-digits", "ewc", {"fit.weight_decay": "0.1", "exam_rows": "last", "net": "mlp:4"})
    assert one == two == words
    assert (
        perdure("run permuted-digits ewc --exam_rows none").err
        == perdure("run permuted-digits ewc --exam-rows none").err
    )


def test_a_default_batch_that_was_cut_is_said_once(perdure) -> None:
    said = perdure("run permuted-digits finetune --tasks 2 --examples-per-task 50 --fit.steps 3 --net mlp:4 --seeds 2")
    note = "perdure: the smallest task has 50 examples: the default batch of 128 is cut to fit where it must"
    assert said.err.splitlines().count(note) == 1


def test_warnings_are_one_line(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn(words: list[str]) -> int:
        warnings.simplefilter("always")
        warnings.warn("this file is odd", stacklevel=1)
        return 0

    monkeypatch.setattr("perdure.cli.list_.main", warn)
    assert perdure("list").err == "perdure: this file is odd\n"


@pytest.mark.parametrize(
    "line",
    [
        "run permuted-digits ewc --stream.centre 9 TINY",  # before its folder is claimed
        "run permuted-digits supsup --fit.start net TINY",  # and after
    ],
)
def test_a_run_that_is_refused_leaves_nothing(perdure, line: str) -> None:
    assert perdure(line).status == 2
    assert perdure(f"{line} --out nest/a/b").status == 2
    assert list(Path().iterdir()) == []
    Path("mine").mkdir()
    assert perdure(f"{line} --out mine").status == 2
    assert list(Path("mine").iterdir()) == []


def test_a_run_takes_its_folder_before_it_begins(perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one that begins meanwhile takes the next."""
    begun = []

    def meanwhile(*args, **kwargs):
        if not begun:
            begun.append(kwargs)
            assert perdure("run permuted-digits finetune --tasks 2 TINY").status == 0
        return original(*args, **kwargs)

    from perdure.cli import run

    original = run.execute
    monkeypatch.setattr(run, "execute", meanwhile)
    assert perdure("run permuted-digits finetune --tasks 2 --seed 1 TINY").status == 0
    seeds = [json.loads(path.read_text())["seed"] for path in sorted(Path("runs").glob("*/result.json"))]
    assert seeds == [1, 0]


BROKEN = """
from perdure.methods.finetune import Finetune

class Broken(Finetune):
    "Fails at once."
    def learn(self, state, task, key):
        raise RuntimeError("a slip")
"""


def test_a_method_that_fails_before_it_learned_anything_can_be_run_again(perdure) -> None:
    Path("own.py").write_text(BROKEN)
    with pytest.raises(RuntimeError, match="a slip"):
        perdure("run permuted-digits own.py:Broken --tasks 2 TINY --out out")
    assert not Path("out").exists()
    Path("own.py").write_text(OWN)
    assert perdure("run permuted-digits own.py:Mine --tasks 2 TINY --out out").status == 0


def test_a_method_that_lacks_a_verb_is_refused(perdure) -> None:
    Path("own.py").write_text("from perdure import Method\n\nclass Half(Method):\n    'Half a method.'\n")
    said = perdure("run permuted-digits own.py:Half --tasks 2 TINY")
    assert said.status == 2
    assert "Half is no whole method: it lacks init, learn, predict" in said.err
