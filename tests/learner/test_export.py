"""What a learner writes for those who do not have Perdure answers as the learner does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from clouds import Make, blobs

from perdure.contract import Answer, Refused, Scale
from perdure.learner import Learner
from perdure.learner.pool import Pool
from perdure.learner.update import answered, shown
from perdure.program import export

FAMILIES = ("ewc", "icarl", "ncm", "packnet", "supsup", "psp", "batch-ensemble", "hat")


def _loaded(path: Path) -> tuple[Any, dict[str, Any]]:
    about = {"perdure.json": ""}
    program = torch.export.load(path, extra_files=about)
    return program.module(), json.loads(about["perdure.json"])


def _logits(learner: Learner, x: np.ndarray, task: str | None) -> torch.Tensor:
    """As `predict` has them before it takes the largest."""
    now = learner._load()
    (branch,), id = now.version.branches, None if task is None else now.version.tasks[task].id
    examples = shown(branch, Pool(torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64)))
    return answered(now.methods[0], now.ready(0), branch, examples.take(torch.arange(len(x))).x, id).logits


@pytest.mark.parametrize("method", FAMILIES)
def test_a_program_answers_as_the_learner_does(make: Make, tmp_path: Path, method: str) -> None:
    learner = make(method=method)
    for task in range(2):
        learner.learn(blobs(task), name=f"task{task}", promote=True)
    x, _ = blobs(0, n=33, seed=5)
    made = learner.export(tmp_path / "first.pt2", task="task0")
    program, about = _loaded(made.path)
    assert made.shape == (12,)
    assert about["task"] == "task0"
    assert tuple(about["labels"]) == made.labels
    for n in (33, 1):
        torch.testing.assert_close(
            program(torch.from_numpy(x[:n])), _logits(learner, x[:n], "task0"), rtol=0, atol=1e-6
        )
    said = program(torch.from_numpy(x)).argmax(1).numpy()
    assert np.array(about["labels"])[said].tolist() == learner.predict(x, task="task0").tolist()


def test_all_labels_compete_where_no_task_has_to_be_found(make: Make, tmp_path: Path) -> None:
    learner = make(method="er", scaling="columns")
    for task in range(2):
        learner.learn(blobs(task), name=f"task{task}")
    x = np.concatenate([blobs(task, n=20, seed=5)[0] for task in range(2)])
    program, about = _loaded(learner.export(tmp_path / "all.pt2").path)
    assert about["task"] is None
    assert sorted(about["labels"]) == ["t0c0", "t0c1", "t1c0", "t1c1"]
    torch.testing.assert_close(program(torch.from_numpy(x)), _logits(learner, x, None), rtol=0, atol=1e-6)


def test_images_are_taken_as_they_were_learned_from(make: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.integers(0, 100, size=(60, 3, 8, 8)) + 100 * y[:, None, None, None]).astype(np.uint8)
    learner = make(method="supsup", net="conv:4-8")
    learner.learn((x, y), name="light")
    program, about = _loaded(learner.export(tmp_path / "light.pt2", task="light").path)
    assert (about["shape"], about["kind"]) == ([3, 8, 8], "whole numbers")
    said = program(torch.from_numpy(x).float())
    torch.testing.assert_close(said, _logits(learner, x, "light"), rtol=0, atol=1e-5)
    assert [about["labels"][row] for row in said.argmax(1)] == learner.predict(x, task="light").tolist()


def test_a_program_runs_where_perdure_is_not_installed(make: Make, tmp_path: Path) -> None:
    learner = make(method="heads")
    learner.learn(blobs(0), name="task0")
    learner.export(tmp_path / "task0.pt2", task="task0")
    x, _ = blobs(0, n=6, seed=5)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['perdure'] = None\n"
        "import json, numpy, torch\n"
        "about = {'perdure.json': ''}\n"
        "program = torch.export.load('task0.pt2', extra_files=about).module()\n"
        "said = program(torch.from_numpy(numpy.load('x.npy'))).argmax(1)\n"
        "print([json.loads(about['perdure.json'])['labels'][row] for row in said])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(learner.predict(x, task="task0").tolist())


def test_onnx_says_the_same(make: Make, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    learner = make(method="supsup")
    learner.learn(blobs(0), name="task0")
    made = learner.export(tmp_path / "task0.onnx", task="task0")
    model = onnx.load(made.path)
    onnx.checker.check_model(model)
    x, _ = blobs(0, n=7, seed=5)
    (logits,) = reference.ReferenceEvaluator(model).run(["logits"], {"x": x})
    np.testing.assert_allclose(logits, _logits(learner, x, "task0").numpy(), rtol=1e-4, atol=1e-4)
    assert b".py" not in made.path.read_bytes()  # no file of this machine is named
    about = json.loads(next(prop.value for prop in model.metadata_props if prop.key == "perdure"))
    assert about["labels"] == list(made.labels)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    learner = make(method="supsup")
    with pytest.raises(Refused, match="has learned nothing yet, so there is nothing to export"):
        learner.export(tmp_path / "all.pt2")
    for task in range(2):
        learner.learn(blobs(task), name=f"task{task}")
    with pytest.raises(Refused, match="did you mean task0"):
        learner.export(tmp_path / "all.pt2", task="task")
    with pytest.raises(Refused, match=r"end it in \.pt2"):
        learner.export(tmp_path / "all.pth", task="task0")
    with pytest.raises(Refused, match="name the task, so that it need not be found"):
        learner.export(tmp_path / "all.pt2")
    monkeypatch.setattr("perdure.program.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"needs onnx and onnxscript; install them with: pip install 'perdure\[onnx\]'"):
        learner.export(tmp_path / "all.onnx", task="task0")
    learner.learn(blobs(2, d=5), name="others")
    with pytest.raises(Refused, match="2 kinds of inputs were learned, and a program takes one; name a task of: task0"):
        learner.export(tmp_path / "all.pt2")
    assert list(tmp_path.glob("all*")) == []


def test_answers_that_hang_on_other_inputs_are_refused(make: Make, tmp_path: Path) -> None:
    learner = make(method="hopsupsup", net="bn-mlp:64")
    learner.learn(blobs(0), name="task0")
    with pytest.raises(Refused, match="what HopSupSup answers cannot be written down as one program"):
        learner.export(tmp_path / "task0.pt2", task="task0")

    class Centred:
        def predict(self, ready: Any, x: torch.Tensor, id: Any = None) -> Answer:
            return Answer(x[:, :2] - x[:, :2].mean(0), torch.arange(2))

    path, scale = tmp_path / "task0.pt2", Scale()
    with pytest.raises(Refused, match="what Centred answers to an input depends on other inputs beside it"):
        export(path, Centred(), None, (4,), scale, None, str, {})  # type: ignore[arg-type]
    assert not (tmp_path / "task0.pt2").exists()


def test_what_onnx_has_no_word_for_is_refused(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    learner = make(method="ncm")
    learner.learn(blobs(0), name="task0")
    with pytest.raises(Refused, match=r"lacks an operation that the answer needs; write \.pt2"):
        learner.export(tmp_path / "task0.onnx")
    assert not (tmp_path / "task0.onnx").exists()


def test_nothing_is_said_on_the_way_and_no_file_of_this_machine_is_named(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    learner = make(method="independent")
    learner.learn(blobs(0), name="task0")
    learner.learn(blobs(1), name="task1")
    with pytest.raises(Refused, match="need not be found"):
        learner.export(tmp_path / "all.pt2")
    learner.export(tmp_path / "task0.pt2", task="task0")
    assert capfd.readouterr() == ("", "")
    with ZipFile(tmp_path / "task0.pt2") as parts:
        assert not [name for name in parts.namelist() if b".py" in parts.read(name)]
