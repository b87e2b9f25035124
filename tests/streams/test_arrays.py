"""Streams from one's own arrays: order, labels, exams, and everything that is refused."""

import re

import numpy as np
import pytest
import torch

from perdure.contract import Refused, Scenario
from perdure.streams import build
from perdure.streams.arrays import arrays, from_arrays


def mine(**changes):
    """Three tasks of 10 examples, named c, a, b in this order; two labels of their own each."""
    task = np.repeat(np.array(["c", "a", "b"]), 10)
    y = np.repeat(np.arange(3) * 2, 10) + np.arange(30) % 2
    content = {"X": np.arange(60.0).reshape(30, 2), "y": y, "task": task}
    return {name: array for name, array in {**content, **changes}.items() if array is not None}


TEST = {
    "X_test": np.arange(6.0).reshape(3, 2) - 9,
    "y_test": np.array([4, 1, 2]),
    "task_test": np.array(["b", "c", "a"]),
}


def rows(examples):
    return examples.raw(torch.arange(len(examples)))[:, 0].div(2).long().tolist()


def test_tasks_come_as_they_first_appear_and_a_fifth_of_each_label_is_asked():
    stream = from_arrays(**mine())
    for t, (task, exam) in enumerate(zip(stream, stream.exams, strict=True)):
        learned, asked = rows(task.examples), rows(exam.examples)
        assert sorted(learned + asked) == list(range(10 * t, 10 * t + 10))
        assert exam.examples.labels.tolist() == sorted(
            exam.examples.labels.tolist(), key=lambda y: asked[0] % 2 != y % 2
        )
        assert exam.examples.labels.sort().values.tolist() == [2 * t, 2 * t + 1]
        assert task.examples.labels.tolist() == [2 * t + row % 2 for row in learned]
    assert rows(stream.exams[0].examples) == rows(from_arrays(**mine()).exams[0].examples)
    seeds = [rows(exam.examples) for seed in range(4) for exam in from_arrays(**mine(), seed=seed).exams]
    assert len({str(asked) for asked in seeds}) > 6


def test_integer_tasks_keep_the_order_of_appearance():
    stream = from_arrays(**mine(task=np.repeat([7, 3, 5], 10)))
    assert [task.id.classes.tolist() for task in stream] == [[0, 1], [2, 3], [4, 5]]


def test_test_arrays_are_the_exam():
    stream = from_arrays(**mine(), **TEST)
    assert [rows(task.examples) for task in stream] == [[*range(10)], [*range(10, 20)], [*range(20, 30)]]
    assert [exam.examples.labels.tolist() for exam in stream.exams] == [[1], [2], [4]]
    assert [float(exam.examples.raw(torch.tensor([0]))[0, 0]) for exam in stream.exams] == [-7, -5, -9]


def test_strings_are_numbered_in_sorted_order():
    names = np.array(["dog", "cat", "ant"])[np.arange(30) % 3]
    stream = from_arrays(**mine(y=names))
    assert stream.labels.tolist() == [0, 1, 2]
    assert stream[0].examples.labels.tolist() == [2 - row % 3 for row in rows(stream[0].examples)]


@pytest.mark.parametrize(
    ("y", "scenario"),
    [
        (np.arange(30) % 2, Scenario.GNS),
        (np.repeat(np.arange(3) * 2, 10) + np.arange(30) % 2, Scenario.GNU),
        (np.repeat(np.arange(3), 10) + np.arange(30) % 2, Scenario.GG),
    ],
)
def test_the_labels_suggest_the_scenario(y, scenario):
    assert from_arrays(**mine(y=y)).scenario is scenario
    assert from_arrays(**mine(y=y), scenario=Scenario.GNU).scenario is Scenario.GNU


def test_tensors_and_lists_will_do():
    content = mine(task=np.repeat([0, 1, 2], 10))
    stream = from_arrays(torch.tensor(content["X"]), content["y"].tolist(), torch.tensor(content["task"]))
    assert torch.equal(stream[1].examples.labels, from_arrays(**content)[1].examples.labels)


def test_tensors_of_a_graph_and_of_half_precision_will_do():
    content = mine(task=np.repeat([0, 1, 2], 10))
    plain = from_arrays(**content)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        stream = from_arrays(torch.tensor(content["X"], dtype=kind, requires_grad=True), content["y"], content["task"])
        x = stream[1].examples.raw(torch.arange(8))
        assert (x.dtype, x.requires_grad) == (torch.float32, False)
        assert torch.equal(x, plain[1].examples.raw(torch.arange(8)))


def test_negative_labels_are_numbered_in_sorted_order():
    stream = from_arrays(**mine(y=np.arange(30) % 2 * 2 - 1, task=np.repeat([0, -1, 1], 10)))
    assert stream.labels.tolist() == [0, 1]
    assert [task.examples.labels.tolist() for task in stream] == [[r % 2 for r in rows(t.examples)] for t in stream]
    asked = from_arrays(**mine(y=np.arange(30) % 2 * 2 - 1), **{**TEST, "y_test": np.array([-1, 1, 1])}).exams
    assert [exam.examples.labels.tolist() for exam in asked] == [[1], [1], [0]]


@pytest.mark.parametrize(("word", "scenario"), [("gg", Scenario.GG), ("class", Scenario.GNU)])
def test_a_scenario_may_be_named(word, scenario):
    stream = from_arrays(**mine(y=np.arange(30) % 2), scenario=word)
    assert stream.scenario is scenario
    assert torch.equal(stream[1].id.classes, from_arrays(**mine(y=np.arange(30) % 2), scenario=scenario)[1].id.classes)
    with pytest.raises(Refused, match="unknown scenario 'gns1'; did you mean gns"):
        from_arrays(**mine(), scenario="gns1")


def test_the_scale_never_sees_the_exam():
    X = np.zeros((30, 2), np.uint8)
    exam = {"X_test": np.full((3, 2), 200, np.uint8), "y_test": TEST["y_test"], "task_test": TEST["task_test"]}
    assert from_arrays(**mine(X=X + 5), **exam).scale == (0.0, 1 / 5)


def test_the_first_tasks_may_be_asked_for(tmp_path):
    np.savez(tmp_path / "my.npz", **mine())
    stream = arrays(tmp_path / "my.npz", 2)
    assert (len(stream), stream.name, stream.shape) == (2, "my.npz", (2,))
    with pytest.raises(Refused, match=r"my\.npz holds 3 tasks, not 4; ask for at most that"):
        arrays(tmp_path / "my.npz", 4)
    assert len(build(str(tmp_path / "my.npz"), options={"seed": 3})) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.full((30, 2), np.nan)}, "X holds NaN or infinite numbers, first in row 0; fill or drop such rows"),
        ({"X": np.r_[np.zeros((29, 2)), [[0, np.inf]]]}, "X holds NaN or infinite numbers, first in row 29"),
        ({"X": np.zeros((29, 2))}, "X has 29, y has 30, task has 30 examples; they must be as many"),
        ({"task": np.zeros(31, int)}, "X has 30, y has 30, task has 31 examples; they must be as many"),
        ({"X": [[1.0, 2.0]] * 29 + [[1.0]]}, "X is no array (setting an array element with a sequence."),
        ({"y": [[1], [1, 2]] * 15}, "y is no array (setting an array element with a sequence."),
        ({"y": np.arange(30) + 0.5}, "y holds labels that are not whole numbers; labels are integers or strings"),
        ({"y": np.full(30, np.nan)}, "y holds labels that are not whole numbers"),
        ({"y": np.zeros((30, 1))}, "y has shape (30, 1); it needs one label for each example, (N,)"),
        ({"y": np.array([None] * 30)}, "y holds object; labels are integers or strings"),
        ({"task": np.array([None] * 30)}, "task holds object; labels are integers or strings"),
        ({"task": np.arange(30), "y": np.zeros(30)}, "task 1 has no examples to ask; give it some"),
        ({"y": np.zeros(30)}, "a task has one label only, and where only its own labels compete (scenario gns)"),
        (
            {**TEST, "task_test": np.array(["b", "c", "x"])},
            "task_test holds 'x', which task does not; drop it, or give",
        ),
        ({**TEST, "task_test": np.array(["b", "c", "c"])}, "the exam of task 1 asks the label 2, which none of its"),
        (
            {**TEST, "task_test": np.array(["b", "c", "b"]), "y_test": np.array([4, 1, 4])},
            "task 2 has no examples to ask",
        ),
        ({**TEST, "y_test": np.array([4, 1, 9])}, "y_test holds 9, which y does not; drop it, or give examples of it"),
        ({**TEST, "y_test": np.array(["4", "1", "2"])}, "y_test holds '4', which y does not"),
        (
            {**TEST, "X_test": np.zeros((3, 5))},
            "an example to learn is float32 (2,), but one in X_test is float32 (5,)",
        ),
        ({"X_test": TEST["X_test"]}, "y_test, task_test missing; give all of X_test, y_test, task_test, or none"),
    ],
)
def test_arrays_that_make_no_stream_are_refused(changes, message):
    with pytest.raises(Refused, match=re.escape(message)):
        from_arrays(**mine(**changes))


def test_files_that_hold_no_stream_are_refused(tmp_path):
    with pytest.raises(Refused, match=rf"there is no file {tmp_path}/my\.npz; check the path"):
        arrays(tmp_path / "my.npz")
    np.savez(tmp_path / "my.npz", **mine(task=None))
    with pytest.raises(Refused) as refusal:
        arrays(tmp_path / "my.npz")
    assert str(refusal.value) == (
        f"{tmp_path}/my.npz has no task; it needs X, y, task (and may have X_test, y_test, task_test), and has X, y"
    )
    np.savez(tmp_path / "my.npz", **mine(y=np.array([object()] * 30)))
    with pytest.raises(Refused, match=r"my\.npz: y cannot be read \(it holds Python objects\)"):
        arrays(tmp_path / "my.npz")
