"""Runs from Python: nets of one's own, arguments as Python has them, and what comes back from a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from perdure.contract import Fit, Refused
from perdure.experiments import continue_
from perdure.experiments.experiment import command, own_net, recorded
from perdure.methods.ewc import EWC
from perdure.methods.finetune import Finetune
from perdure.streams import build

STEPS = {"fit.steps": 30}


def _net(middle: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), middle or nn.ReLU(), nn.Linear(24, 10))


def _run(net: nn.Module | None, method: str = "finetune", **given):
    return perdure.run("permuted-digits", method, tasks=2, net=net, **{"options": STEPS, **given})


def test_a_net_that_was_changed_since_is_examined_as_it_is_now() -> None:
    net = _net()
    _run(net)
    net[2] = nn.Tanh()
    assert np.array_equal(_run(net).R, _run(_net(nn.Tanh())).R)


def test_a_net_that_takes_no_inputs_like_these_is_refused_also_where_it_did_before() -> None:
    net = _net()
    _run(net)
    with pytest.raises(Refused, match="the net cannot take inputs of shape"):
        _run(net.double())


def test_a_net_that_has_no_shapes_yet_is_refused() -> None:
    with pytest.raises(Refused, match=r"0\.weight has no shape yet; pass one batch through the net first"):
        _run(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 10)))


def test_a_net_goes_by_its_layers_and_shapes() -> None:
    assert own_net(_net()) == own_net(_net())  # whatever the weights
    assert len({own_net(_net()), own_net(_net(nn.Tanh())), own_net(nn.Sequential(*_net()[:3], nn.Linear(24, 11)))}) == 3
    assert own_net(_net()).startswith("Sequential@")


def _kill(folder: Path, net: nn.Module) -> None:
    """A run that is killed while it learns its second task."""
    learn = Finetune.learn

    def killed(self, state, task, key):
        if task.id.index == 1:
            raise KeyboardInterrupt
        return learn(self, state, task, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetune, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(net, out=folder)


def test_a_run_with_a_net_of_ones_own_goes_on_in_python(tmp_path: Path) -> None:
    folder, net = tmp_path / "own", _net()
    _kill(folder, net)
    call = command(recorded(folder))
    assert call == "perdure.run('permuted-digits', 'finetune', net=net, tasks=2, options={'fit.steps': 30})"
    with pytest.raises(Refused, match=rf"has a net of your own \({own_net(net)}\).*and resume=True"):
        continue_(folder)
    with pytest.raises(Refused, match="holds another run, which was begun by"):
        _run(_net(nn.Tanh()), out=folder, resume=True)
    assert np.array_equal(_run(net, out=folder, resume=True).R, _run(net).R)


def test_resume_begins_where_there_is_nothing_yet(tmp_path: Path) -> None:
    result = _run(None, out=tmp_path / "new", resume=True)
    assert result.finished
    again = _run(None, out=tmp_path / "new", resume=True)  # all is done
    assert np.array_equal(again.R, result.R)


def test_a_run_goes_on_only_with_the_data_it_began_with(tmp_path: Path) -> None:
    x, y = torch.randn(80, 5), torch.arange(80) % 2
    folder, file = tmp_path / "run", tmp_path / "my.npz"

    def save(shift: float) -> None:
        np.savez(file, X=(x + shift).numpy(), y=y.numpy(), task=(torch.arange(80) >= 40).long().numpy())

    save(0.0)
    live(folder, file, stop=True)
    save(1.0)
    with pytest.raises(Refused, match="holds a run with other data; resume it as it began"):
        live(folder, file)
    save(0.0)
    assert live(folder, file).finished


def live(folder: Path, file: Path, stop: bool = False, **options: float):
    """Lives through a file of arrays, or only through its first task."""
    method = EWC(nn.Linear(5, 2), Fit(steps=5), **options)

    def watch(moment) -> None:
        if stop and moment.doing == "learned":
            raise KeyboardInterrupt

    stream = build(str(file), scenario="gns")
    resume = (folder / "experiment.json").exists()
    try:
        return perdure.live(method, stream, folder=folder, resume=resume, watch=watch)
    except KeyboardInterrupt:
        return None


def test_a_life_goes_on_only_with_the_options_it_began_with(tmp_path: Path) -> None:
    x, y = torch.randn(80, 5), torch.arange(80) % 2
    np.savez(tmp_path / "my.npz", X=x.numpy(), y=y.numpy(), task=(torch.arange(80) >= 40).long().numpy())
    live(tmp_path / "run", tmp_path / "my.npz", stop=True)
    with pytest.raises(Refused, match="holds a run with other options of its method"):
        live(tmp_path / "run", tmp_path / "my.npz", lam=3.0)


def test_arguments_may_be_what_python_has() -> None:
    plain = perdure.run("permuted-digits", "ewc", tasks=2, scenario="gg", seed=3, net="mlp:8", options=STEPS)
    options = {"fit.steps": np.int64(30), "method.lam": np.float64(EWC.lam)}
    same = perdure.run(
        "permuted-digits", "ewc", tasks=np.int64(2), scenario=perdure.Scenario.GG, seed=np.int64(3), net="mlp:8",
        options=options,
    )  # fmt: skip
    assert np.array_equal(plain.R, same.R)


def test_a_file_may_be_a_path(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", X=np.random.rand(80, 5), y=np.arange(80) % 2, task=np.arange(80) // 40)
    assert perdure.run(tmp_path / "my.npz", "finetune", net="mlp:8", options=STEPS).tasks == 2


@pytest.mark.parametrize("given", [{"stream": 3, "method": "ewc"}, {"stream": "permuted-digits", "method": EWC}])
def test_what_is_no_name_is_refused(given: dict) -> None:
    with pytest.raises(Refused, match=r"give its name, as in perdure\.run\('permuted-digits', 'ewc'\)"):
        perdure.run(**given)


def test_large_label_numbers_take_no_large_head(tmp_path: Path) -> None:
    y = 3_000_000_000 + np.arange(80) % 2
    np.savez(tmp_path / "my.npz", X=np.random.rand(80, 5), y=y, task=np.arange(80) // 40)
    result = perdure.run(tmp_path / "my.npz", "finetune", scenario="gg", net="mlp:8", options=STEPS)
    assert result.state_bytes < 1000
    assert not np.isnan(result.R[2]).any()


@pytest.mark.parametrize("net", [nn.Linear, _net])
def test_a_class_is_no_net(net) -> None:
    with pytest.raises(Refused, match=r"net is a class; give a module: net=Linear\(\)|--net is <function"):
        _run(net)


def test_what_a_run_measured_comes_back_from_its_folder(tmp_path: Path) -> None:
    result = _run(None, out=tmp_path / "run")
    again = perdure.Result.load(tmp_path / "run")
    assert np.array_equal(again.R, result.R)
    assert repr(again) == (
        f"Result('permuted-digits', 'finetune', gns, seed=0, tasks=2, acc={result.acc:.4f}, bwt={result.bwt:+.4f})"
    )


def test_what_was_learned_on_a_net_of_ones_own_needs_that_net(tmp_path: Path) -> None:
    net = _net()
    _run(net, out=tmp_path / "run")
    with pytest.raises(
        Refused, match=r"has a net of your own \(Sequential@[0-9a-f]{8}\); give it: load\(.*, net=\.\.\.\)"
    ):
        perdure.load(tmp_path / "run")
    learned = perdure.load(tmp_path / "run", net=net)
    assert learned.predict(np.zeros((3, 8, 8))).shape == (3,)
    with pytest.raises(Refused, match=r"the inputs have shape \(3, 64\); give \(B, 8, 8\)"):
        learned.predict(np.zeros((3, 64)))


def test_the_front_door_says_what_there_is() -> None:
    assert {"run", "load", "live", "Learner", "Result", "from_arrays"} <= set(dir(perdure))
    assert all(hasattr(perdure, name) for name in dir(perdure))


def test_labels_that_are_words_are_answered_as_words(tmp_path: Path) -> None:
    x, task = torch.randn(120, 5), torch.arange(120) // 60
    kinds = np.array(["cat", "dog", "eel", "fox"])[2 * task + torch.arange(120) % 2]
    x[:, 0] += torch.from_numpy(10.0 * np.unique(kinds, return_inverse=True)[1]).float()
    np.savez(tmp_path / "my.npz", X=x.numpy(), y=kinds, task=task.numpy())
    perdure.run(tmp_path / "my.npz", "joint", net="mlp:16", out=tmp_path / "run", options={"fit.steps": 200})
    learned = perdure.load(tmp_path / "run")
    said = learned.predict(x)
    assert set(said) <= {"cat", "dog", "eel", "fox"}
    assert (said == kinds).mean() > 0.8
    for task_, words in ((None, ["cat", "dog", "eel", "fox"]), (2, ["eel", "fox"])):
        made = learned.export(tmp_path / "out.pt2", task_)
        assert sorted(made.labels) == words  # type: ignore[type-var]
        columns = torch.export.load(made.path).module()(x).argmax(1)
        assert [made.labels[column] for column in columns] == learned.predict(x, task_).tolist()
    with pytest.raises(Refused, match="there is no task 3; there are 2, counted from 1"):
        learned.export(tmp_path / "out.pt2", 3)
    perdure.run(tmp_path / "my.npz", "joint", scenario="gns", net="mlp:16", out=tmp_path / "shared", options=STEPS)
    assert set(perdure.load(tmp_path / "shared").predict(x).tolist()) <= {0, 1}  # each of them stands for two words


def test_negative_labels_are_answered_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", X=np.random.rand(80, 5), y=np.arange(80) % 2 * 2 - 1, task=np.arange(80) // 40)
    perdure.run(tmp_path / "my.npz", "finetune", net="mlp:8", out=tmp_path / "run", options=STEPS)
    assert set(perdure.load(tmp_path / "run").predict(np.random.rand(30, 5)).tolist()) <= {-1, 1}
