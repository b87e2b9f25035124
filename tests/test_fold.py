"""What a run does beside learning: threads, precision, the order of measurements."""

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from perdure.contract import Fit, Refused, Task, TaskId
from perdure.data import Arrays
from perdure.fold import Setting
from perdure.methods.supsup import SupSup
from perdure.nets import build

SHORT = {"fit.steps": 60}


def test_half_precision_learns_as_well():
    whole = perdure.run("permuted-digits", "finetune", tasks=2, net="mlp:100", options=SHORT)
    half = perdure.run("permuted-digits", "finetune", tasks=2, net="mlp:100", options=SHORT, bf16=True)
    assert half.R[1, 0] == pytest.approx(whole.R[1, 0], abs=0.03)
    assert not (half.R == whole.R).all()


def test_small_networks_run_on_one_thread_unless_told_otherwise():
    assert Setting().threads_for(nn.Linear(10, 10)) == 1
    assert Setting(threads=3).threads_for(nn.Linear(10, 10)) == 3
    assert Setting().threads_for(nn.Linear(1000, 1000)) == torch.get_num_threads()
    before = torch.get_num_threads()
    with Setting(threads=before + 1).applied(nn.Linear(1, 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_only_the_rows_asked_for_are_measured():
    options = {**SHORT, "fit.steps": 5}
    every = perdure.run("permuted-digits", "finetune", tasks=3, net="mlp:8", options=options, exam_rows="every:2")
    assert [bool(row.any() and row.all()) and not (row != row).any() for row in every.R] == [True, False, True, True]
    last = perdure.run("permuted-digits", "finetune", tasks=3, net="mlp:8", options=options, exam_rows="last")
    assert (last.R[3] == every.R[3]).all()
    assert last.reasons["bwt"] == "this row was not asked for (exam rows)"


def test_every_undefined_cell_has_its_reason():
    for scenario in ("gg", "gns", "gnu", "nns"):
        method = "finetune" if scenario == "nns" else "packnet"
        options = {"stream.chunk": 700} if scenario == "nns" else {"fit.steps": 5}
        ran = perdure.run("permuted-digits", method, tasks=2, net="mlp:8", scenario=scenario, options=options)
        lacking = set()
        for name, cells in (("R", ran.R), ("R_given", ran.R_given)):
            rows = [] if cells is None else np.argwhere(np.isnan(cells)).tolist()
            lacking |= {f"{name}[{i},{j + 1}]" for i, j in rows}
        assert {cell for cell in ran.reasons if cell.startswith("R")} == lacking
        assert bool(lacking) == (scenario != "nns")


def test_a_fresh_network_learns_the_first_task_exactly_as_fast():
    result = perdure.run("permuted-digits", "finetune", tasks=2, net="mlp:50", options={"fit.steps": 30}, fresh=True)
    assert result.learning_speed[0] == 0
    assert result.learning_speed[1] != 0


def test_settings_out_of_range_are_refused():
    for wrong, words in (
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"threads": 0}, "threads is 0"),
        ({"exam_rows": "every:0"}, "exam rows 'every:0' are unknown"),
        ({"exam_examples": 0}, "exam_examples is 0"),
    ):
        with pytest.raises(Refused, match=words):
            Setting(**wrong)


BEHIND = {
    ("icarl", "gnu"): ({"method.slots": 7}, "method.slots is 7, and there are 10 classes"),
    ("er", "gnu"): ({"method.slots": 7, "method.keep": "ring"}, "method.slots is 7, and there are 10 classes"),
    ("supsup", "gg"): ({"method.most": 2}, "all 2 masks are in use"),
    ("packnet", "gg"): (
        {"method.prune": 0.05},
        "the network is full: in 1.weight all 32 weights are owned by the 2 tas",
    ),
    ("supsup", "nns"): ({"method.outputs": 1, "stream.chunk": 20}, "labels, and the network 1 outputs"),
    ("dgr", "gnu"): ({}, r"made for inputs from 0 to 1, and those of this task lie in "),
}


@pytest.mark.parametrize(("method", "scenario"), BEHIND)
def test_what_a_later_task_would_be_refused_for_is_said_before_the_first_is_learned(method, scenario, tmp_path):
    options, words = BEHIND[method, scenario]
    x = torch.rand(100, 4) * torch.where(torch.arange(100) < 80, 1.0, 4.0)[:, None]
    x[0, 0], x[0, 1], x[99, 0] = 0.0, 1.0, 4.0
    np.savez(tmp_path / "mine.npz", X=x, y=torch.arange(100) // 10, task=torch.arange(100) // 20)
    given = {"net": "mlp:8", "scenario": scenario, "options": options, "out": tmp_path / "run"}
    with pytest.raises(Refused, match=words):
        perdure.run(str(tmp_path / "mine.npz"), method, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["heads", "hopsupsup", "psp"])
def test_a_task_of_one_class_is_refused_before_the_first_is_learned_where_it_teaches_nothing(method, tmp_path):
    np.savez(tmp_path / "mine.npz", X=torch.rand(90, 4), y=torch.arange(90) // 18, task=torch.arange(90) // 36)
    with pytest.raises(Refused, match=r"task 3: all examples of the task show one class"):
        perdure.run(str(tmp_path / "mine.npz"), method, net="bn-mlp:8", scenario="gnu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_example_is_refused_where_batches_are_normalised_unless_the_batch_may_be_smaller(tmp_path):
    own = {"X": torch.rand(258, 4), "y": torch.arange(258) % 4, "task": torch.arange(258) // 129}
    np.savez(tmp_path / "mine.npz", **own, **{f"{name}_test": value for name, value in own.items()})
    given = {"scenario": "gg", "out": tmp_path / "run"}
    short, batch = {"fit.epochs": 1}, {"fit.batch": 128}
    with pytest.raises(Refused, match="task 1: the net cannot be trained on a batch of one example"):
        perdure.run(str(tmp_path / "mine.npz"), "finetune", net="bn-mlp:8", options=short | batch, **given)
    assert not (tmp_path / "run").exists()
    perdure.run(str(tmp_path / "mine.npz"), "finetune", net="mlp:8", options=short | batch, **given)
    perdure.run(str(tmp_path / "mine.npz"), "finetune", net="bn-mlp:8", options=short, scenario="gg")


def test_a_known_task_takes_no_second_mask():
    method = SupSup(build("mlp:8", (4,), 2), Fit(), outputs=2, most=2)
    examples = Arrays(torch.rand(20, 4), torch.arange(20) % 2)
    method.vet([Task(examples, TaskId(index, torch.arange(2))) for index in (0, 1, 0)])
    with pytest.raises(Refused, match="all 2 masks"):
        method.vet([Task(examples, TaskId(index, torch.arange(2))) for index in (0, 1, 2)])
