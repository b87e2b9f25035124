"""The learner: what it answers, what it keeps, and what it refuses."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import Make, blobs
from torch import nn

from perdure import tree
from perdure.contract import Refused
from perdure.learner import Learner, Policy
from perdure.learner.archive import Archive
from perdure.learner.learner import LOCK
from perdure.learner.ledger import HEAD
from perdure.learner.update import projected
from perdure.methods import METHODS
from perdure.methods.heads import Heads
from perdure.methods.independent import Independent
from perdure.options import method_class
from perdure.store import locked

X, Y = blobs(0)
LOOSE = Policy(max_drop=1.0, max_flips=1.0)
EVENTS = ("created", "learned", "learned")


def answers(learner: Learner, **given: Any) -> list[bytes]:
    """Everything that is said of two tasks' inputs, to the last bit."""
    return [part.tobytes() for task in (0, 1) for part in learner.explain(blobs(task, seed=9)[0], **given)]


@pytest.fixture
def two(make: Make) -> Learner:
    """A learner of two tasks."""
    learner = make(policy=LOOSE)
    learner.learn(blobs(0), "zero")
    learner.learn(blobs(1), "one")
    return learner


def test_it_learns_and_answers_for_all_tasks(two: Learner) -> None:
    assert two.tasks == {"zero": ["t0c0", "t0c1"], "one": ["t1c0", "t1c1"]}
    for task, name in enumerate(("zero", "one")):
        x, y = blobs(task, seed=9)
        assert (two.predict(x, task=name) == y).mean() > 0.95
        said = two.explain(x, task=name)
        assert set(said.tasks) == {name}
        assert ((said.confidence > 0.5) & (said.confidence <= 1)).all()
    assert [entry.event for entry in reversed(two.history())] == list(EVENTS)


@pytest.mark.parametrize("method", ["er", "supsup", "heads"])
def test_another_process_answers_with_the_same_bits(make: Make, tmp_path: Path, method: str) -> None:
    learner = make(method=method, policy=LOOSE)
    learner.learn(blobs(0), "zero")
    learner.learn(blobs(1), "one")
    np.save(tmp_path / "x.npy", blobs(1, seed=9)[0])
    script = (
        "import sys, numpy as np\nfrom perdure.learner import Learner\n"
        "said = Learner(sys.argv[1]).explain(np.load(sys.argv[2]))\n"
        "np.savez(sys.argv[3], *said)"
    )
    words = [sys.executable, "-c", script, str(learner.folder), str(tmp_path / "x.npy"), str(tmp_path / "said.npz")]
    subprocess.run(words, check=True)
    with np.load(tmp_path / "said.npz") as there:
        for part, other in zip(learner.explain(blobs(1, seed=9)[0]), there.values(), strict=True):
            assert part.tobytes() == other.tobytes()


def test_two_learners_that_learn_the_same_are_the_same(make: Make) -> None:
    one, other = make("one"), make("other")
    for learner in (one, other):
        learner.learn(blobs(0), "zero")
    assert one.history()[0].version == other.history()[0].version


def test_a_candidate_that_costs_too_much_changes_nothing_until_it_is_promoted(make: Make) -> None:
    learner = make(method="finetune")
    learner.learn(blobs(0), "zero")
    before, x = learner.predict(X), blobs(1, seed=9)[0]
    report = learner.learn(blobs(1), "one")
    assert report.verdict == "kept back"
    assert "zero fell from" in report.reasons[0]
    assert list(learner.tasks) == ["zero"]
    assert (learner.predict(X) == before).all()
    assert learner.promote(report).event == "promoted"
    assert list(learner.tasks) == ["zero", "one"]
    assert set(learner.predict(x)) <= {"t1c0", "t1c1"}
    with pytest.raises(Refused, match="entry 1 is no candidate"):
        learner.promote(1)
    with pytest.raises(Refused, match="candidate 2 was made from the version of entry 1, and another answers now"):
        learner.promote(2)


def test_a_candidate_may_wait(make: Make) -> None:
    learner = make()
    report = learner.learn(blobs(0), "zero", promote=False)
    assert (report.verdict, report.reasons) == ("kept back", ("it waits to be promoted",))
    assert learner.tasks == {}
    learner.promote(report.number)
    assert list(learner.tasks) == ["zero"]


def test_another_policy_judges_from_then_on_also_for_one_who_had_opened_before(make: Make) -> None:
    learner = make(method="finetune")
    learner.learn(blobs(0), "zero")
    other, now = Learner(learner.folder), answers(learner)
    assert learner.learn(blobs(1), "one").verdict == "kept back"
    entry = learner.change_policy(Policy(1.0, 1.0, least=30))
    assert (entry.event, entry.number, answers(learner)) == ("policy changed", 3, now)
    with pytest.raises(Refused, match="12 examples to learn are fewer than the 30 of the policy"):
        other.learn(blobs(1, n=12), "one", validation=0)
    assert other.learn(blobs(1), "one").verdict == "promoted"
    assert Learner(learner.folder).policy == Policy(1.0, 1.0, least=30)
    learner.rollback()
    assert answers(learner) == now
    assert learner.history()[0].settings == entry.settings  # the policy is not a version's
    learner.prune()
    assert learner.check().problems == ()


def test_a_check_is_by_the_policy_that_another_process_has_given(two: Learner) -> None:
    other = Learner(two.folder)
    two.change_policy(Policy(0.5))
    other.check()
    assert other.policy == Policy(0.5)


def test_a_budget_that_is_spent_already_is_refused(two: Learner) -> None:
    used = two.archive.nbytes(two.ledger.newest().version)
    with pytest.raises(Refused, match=f"it takes {used:,} bytes; the budget is {used - 1:,}; forget a task"):
        two.change_policy(Policy(byte_budget=used - 1))
    assert two.history()[0].event == "learned"
    two.change_policy(Policy(byte_budget=used))
    with pytest.raises(Refused, match="and the budget is"):
        two.learn(blobs(2), "two")


def test_rolling_back_brings_every_bit_back(two: Learner) -> None:
    now = answers(two)
    two.rollback()
    assert list(two.tasks) == ["zero"]
    two.rollback(2)
    assert answers(two) == now
    two.learn(blobs(2), "two")
    two.rollback(2)
    assert answers(two) == now
    for wrong in (-1, 99):
        with pytest.raises(Refused, match=f"there is no entry {wrong}; the history has 0 to 6"):
            two.rollback(wrong)


def test_a_new_learner_has_nothing_to_go_back_to(make: Make) -> None:
    with pytest.raises(Refused, match="there is no older version"):
        make().rollback()


def test_a_forgotten_task_is_gone_and_the_others_answer_with_the_same_bits(two: Learner) -> None:
    two.learn(blobs(2), "two")
    x = blobs(2, seed=9)[0]
    kept = two.explain(x, task="two").confidence.tobytes()
    two.forget("zero")
    assert list(two.tasks) == ["one", "two"]
    assert two.explain(x, task="two").confidence.tobytes() == kept
    assert not set(two.predict(X)) & {"t0c0", "t0c1"}
    with pytest.raises(Refused, match="unknown task 'zero'"):
        two.predict(X, task="zero")
    two.learn(blobs(0), "zero")
    assert (two.predict(X, task="zero") == Y).mean() > 0.95
    two.forget("zero")
    two.forget("one")
    two.forget("two")
    assert two.tasks == {}


def test_purging_leaves_nothing_of_a_task_on_disk(two: Learner) -> None:
    mark = blobs(0)[0][:1].tobytes()[:16]  # bytes of its first input
    assert any(mark in path.read_bytes() for path in (two.folder / "blobs").iterdir())
    two.forget("zero", purge=True)
    assert not any(mark in path.read_bytes() for path in (two.folder / "blobs").iterdir())
    assert two.check().problems == ()
    with pytest.raises(Refused, match="the version of entry 2 was pruned; those that are left are of entry 4"):
        two.rollback(2)


def test_a_method_with_shared_weights_cannot_forget_one_task(make: Make) -> None:
    learner = make(method="ewc", policy=LOOSE)
    learner.learn(blobs(0), "zero")
    learner.learn(blobs(1), "one")
    with pytest.raises(Refused, match=r"EWC cannot forget one task: its weights .* Roll back"):
        learner.forget("zero")


@pytest.mark.parametrize("method", ["heads", "supsup", "er", "independent"])
def test_a_known_task_takes_a_new_class_and_keeps_the_old_ones(make: Make, method: str) -> None:
    learner = make(method=method, options={"fit.steps": 200, "fit.lr": 1e-2})
    x, y = blobs(0, n=90, classes=3)
    old, new = y != "t0c2", y == "t0c2"
    learner.learn((x[old], y[old]), "zero")
    report = learner.learn((x[new], y[new]), "zero")
    assert learner.tasks == {"zero": ["t0c0", "t0c1", "t0c2"]}
    assert report.verdict == "promoted"
    x, y = blobs(0, n=90, classes=3, seed=9)
    assert (learner.predict(x, task="zero") == y).mean() > 0.9


def test_without_kept_examples_an_isolating_method_asks_for_all_classes(make: Make) -> None:
    learner = make(keep=0)
    x, y = blobs(0, n=90, classes=3)
    old = y != "t0c2"
    learner.learn((x[old], y[old]), "zero")
    with pytest.raises(Refused, match=r"keeps no examples \(keep 0\).*there is none of 't0c0'"):
        learner.learn((x[~old], y[~old]), "zero")


def test_a_class_of_one_example_is_learned_and_a_task_too_small_is_not_examined(make: Make) -> None:
    learner = make(policy=LOOSE)
    y = Y.copy()
    y[0] = "rare"
    assert learner.learn((X, y), "zero").verdict == "promoted"
    assert "rare" in learner.tasks["zero"]
    report = learner.learn((X[:2], np.array(["a", "b"])), "tiny")
    assert (report.verdict, report.accuracy, report.asked, report.examples) == ("unexamined", None, 0, 2)
    report = learner.learn((X[2:4], np.array(["a", "a"])), "tiny")
    assert (report.verdict, report.asked, report.examples) == ("unexamined", 0, 2)
    with pytest.raises(Refused, match="1 examples to learn are fewer than the 2 of the policy"):
        learner.learn((X[:1], np.array(["a"])), "tiniest")


def test_the_exam_may_be_ones_own(make: Make) -> None:
    learner = make()
    report = learner.learn(blobs(0), "zero", validation=blobs(0, n=10, seed=5))
    assert (report.examples, report.asked) == (60, 10)
    report = learner.learn(blobs(0), "share", validation=np.float32(0.5))
    assert (report.examples, report.asked) == (30, 30)
    with pytest.raises(Refused, match="the exam asks the label 'c', which no example shows"):
        learner.learn(blobs(1), "one", validation=(X[:1], np.array(["c"])))


def test_the_column_of_labels_is_named_for_those_that_are_tables(make: Make, tmp_path: Path) -> None:
    columns = "".join(f"c{place}," for place in range(12))
    np.savetxt(tmp_path / "x.csv", np.column_stack([X.astype(str), Y]), "%s", ",", header=f"{columns}kind", comments="")
    learner, other = make(store_no_data=True), make("other", store_no_data=True)
    with pytest.raises(Refused, match="the exam is numbers of shape"):
        learner.learn(tmp_path / "x.csv", "zero", label="kind", validation=(X, Y))
    other.learn(blobs(0), "arrays")
    other.learn(tmp_path / "x.csv", "table", label="kind", exams={"arrays": (X, Y)})
    assert other.check({"arrays": (X, Y), "table": tmp_path / "x.csv"}, label="kind").problems == ()


def test_exams_are_capped_and_grow_with_a_task(make: Make) -> None:
    learner = make(exam=10)
    assert learner.learn(blobs(0, n=400), "zero").asked == 10
    learner.learn(blobs(0, n=400, seed=1), "zero")
    (task,) = learner.version.tasks.values()
    assert task.asked == 10


def test_two_shapes_that_take_much_in_passing_are_both_opened_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a convolution makes of an image is gone when the next one is asked; only what is kept adds up."""
    learner = make(method="supsup", net="conv:8", options={"fit.steps": 2, "method.outputs": 2}, policy=LOOSE)
    shapes = [(3, 70, 70 + wider) for wider in (0, 1)]
    most = learner.settings.numbers(shapes[1])
    monkeypatch.setattr("perdure.learner.settings.NUMBERS", most)
    monkeypatch.setattr("perdure.learner.loaded.NUMBERS", most)
    monkeypatch.setattr("perdure.learner.loaded.UNFOLDING", 0)
    for number, shape in enumerate(shapes):
        learner.learn((np.random.default_rng(number).random((8, *shape), np.float32), np.arange(8) % 2), f"{number}")
    assert list(Learner(learner.folder).tasks) == ["0", "1"]


def test_what_could_not_be_opened_again_is_never_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, head = make(), make("other").history()
    for name, less in (("loaded.NUMBERS", -(1 << 40)), ("version.NUMBERS", 11)):
        with monkeypatch.context() as patch:
            patch.setattr(f"perdure.learner.{name}", less)
            with pytest.raises(Refused, match=r"a smaller net asks for fewer|an input has more than 11 numbers"):
                learner.learn(blobs(0), "zero")
    assert [entry.event for entry in learner.history()] == [entry.event for entry in head] == ["created"]


def test_a_table_is_asked_by_the_columns_that_were_learned(make: Make, tmp_path: Path) -> None:
    """Also where one is called as labels are, and where others hold no numbers."""
    x = blobs(0, d=2)[0].astype(str)
    for name, columns in {"taught": [*x.T, Y], "asked": x.T, "more": [Y, *x.T]}.items():
        title = {"taught": "x,y,label", "asked": "x,y", "more": "note,x,y"}[name]
        np.savetxt(tmp_path / f"{name}.csv", np.column_stack(columns), "%s", ",", header=title, comments="")
    learner = make()
    learner.learn(tmp_path / "taught.csv", "zero")
    said = [learner.predict(tmp_path / f"{name}.csv").tolist() for name in ("taught", "asked", "more")]
    assert said[0] == said[1] == said[2]


def test_inputs_of_another_kind_have_a_state_of_their_own(two: Learner) -> None:
    before = answers(two)
    state = two.version.branches[0].state
    two.learn(blobs(5, d=7), "narrow")
    two.learn((blobs(6)[0].round().astype(np.int64), blobs(6)[1]), "whole")
    assert len(two.version.branches) == 3
    assert tree.equal(two.version.branches[0].state, state)
    assert answers(two) == before
    with pytest.raises(Refused, match="no task was learned from"):
        two.predict(np.zeros((1, 8), np.float32))
    with pytest.raises(Refused, match="zero was learned from"):
        two.predict(blobs(5, d=7)[0], task="zero")
    with pytest.raises(Refused, match="zero was learned from"):
        two.learn(blobs(5, d=7), "zero")


def test_labels_are_words_or_numbers_and_not_both(two: Learner) -> None:
    with pytest.raises(Refused, match="give all as words, or all as whole numbers"):
        two.learn((X, np.arange(60) % 2), "numbers")


@pytest.mark.parametrize("name", ["", " ", "a" * 201, "line\nbreak", "bell\a", 3])
def test_a_name_can_be_printed(make: Make, name: Any) -> None:
    with pytest.raises(Refused, match="is no name for a task"):
        make().learn(blobs(0), name)


def test_tasks_without_a_name_are_numbered(make: Make) -> None:
    learner = make(policy=LOOSE)
    assert [learner.learn(blobs(task)).task for task in (0, 1)] == ["task-1", "task-2"]


def test_one_scale_for_all_columns_is_fixed_by_the_first_task(make: Make) -> None:
    learner = make(policy=LOOSE)
    learner.learn(blobs(0), "zero", validation=0)
    (branch,) = learner.version.branches
    assert float(branch.shift) == pytest.approx(X.mean(), abs=1e-5)
    assert float(branch.factor) == pytest.approx(1 / X.std(), rel=1e-5)
    x, y = blobs(1)
    learner.learn((x * 50, y), "one")
    (branch,) = learner.version.branches
    assert float(branch.factor) == pytest.approx(1 / X.std(), rel=1e-5)


def test_each_column_may_have_a_scale(make: Make) -> None:
    learner, units = make(scaling="columns"), np.logspace(-3, 3, 12, dtype=np.float32)
    learner.learn((X * units, Y), "zero", validation=0)
    (branch,) = learner.version.branches
    assert torch.allclose(branch.shift, torch.from_numpy(X * units).mean(0), rtol=1e-4)
    assert (learner.predict(X * units) == Y).mean() > 0.95
    learner.learn((np.stack([X, X + 1], 1), Y), "no columns", validation=0)
    assert learner.version.branches[1].shift.shape == ()


@pytest.mark.parametrize("method", ["heads", "supsup", "er", "independent", "packnet", "ewc"])
def test_the_bytes_of_a_task_are_known_before_it_is_learned(make: Make, method: str) -> None:
    learner = make(method=method, policy=Policy(1.0, 1.0, byte_budget="1GB"), net="mlp:64-64")
    seen = []
    for task in range(3):
        before, trial = learner.archive.nbytes(learner.history()[0].version), []

        def watched(*given: Any, trial: list[int] = trial) -> int:
            trial.append(projected(*given))
            return trial[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("perdure.learner.learner.projected", watched)
            report = learner.learn(blobs(task), f"task {task}")
        assert report.nbytes == learner.archive.nbytes(learner.history()[0].version)
        seen.append((trial[0], report.nbytes - before))
    for guess, real in seen:
        assert guess == pytest.approx(real, abs=0.1 * abs(real) + 4000)


def test_a_budget_is_kept_before_any_work(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make(method="independent", net="mlp:64", byte_budget="1MB", policy=LOOSE)
    used = learner.learn(blobs(0), "zero").nbytes
    learner.change_policy(Policy(1.0, 1.0, byte_budget=used + 4000))
    steps = []
    learn = Independent.learn
    monkeypatch.setattr(
        Independent, "learn", lambda self, *given: (steps.append(self.fit.steps), learn(self, *given))[1]
    )
    head = learner.history()[0]
    with pytest.raises(Refused, match=r"one would take .* bytes more than the .* in use, and the budget is"):
        learner.learn(blobs(1), "one")
    assert steps == [2]  # a trial, no more
    assert learner.history()[0] == head


def damaged(path: Path, at: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(bytes(content))


def test_a_flipped_bit_in_any_file_is_found_and_named(two: Learner) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(two.folder.rglob("*")):
        if not path.is_file() or path.name == LOCK:
            continue
        content = path.read_bytes()
        damaged(path, int(rng.integers(len(content.strip()))), int(rng.integers(8)))
        try:
            problems = Learner(two.folder).check().problems
        except Refused as error:
            problems = (str(error),)
        where = str(two.folder) if path.name == HEAD else path.name
        assert any(where in problem for problem in problems), (path, problems)
        path.write_bytes(content)
    assert Learner(two.folder).check().problems == ()


@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_a_missing_or_cut_file_is_found_and_named(two: Learner, how: str) -> None:
    for path in sorted((two.folder / "blobs").iterdir()):
        content = path.read_bytes()
        path.unlink() if how == "missing" else path.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
        try:
            problems = Learner(two.folder).check().problems
        except Refused as error:
            problems = (str(error),)
        assert any(path.name in problem for problem in problems)
        path.write_bytes(content)


def test_a_version_that_is_damaged_can_be_left(two: Learner) -> None:
    report = two.learn(blobs(2), "two", promote=False)
    (name, *_) = sorted(two.archive.files(two.ledger.newest().version) - two.archive.files(two.history()[2].version))
    damaged(two.folder / "blobs" / name, 3, 0)
    learner = Learner(two.folder)
    assert [entry.event for entry in learner.history()] == ["kept back", "learned", "learned", "created"]
    assert any(name in problem for problem in learner.check().problems)
    for verb in (lambda: learner.predict(X), lambda: learner.learn(blobs(2), "two"), learner.prune):
        with pytest.raises(Refused, match=name):
            verb()
    with pytest.raises(Refused, match=r"Restore it from a copy, or go back to an older one: perdure learner rollback"):
        learner.predict(X)
    learner.rollback(1)
    assert (list(learner.tasks), len(learner.predict(X))) == (["zero"], 60)
    learner.prune()
    assert learner.check().problems == ()
    assert report.verdict == "kept back"


def test_a_check_looks_again_where_another_has_pruned_meanwhile(two: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    other, begun, check = Learner(two.folder), list[bool](), Archive.check

    def late(self: Archive, *given: Any) -> None:
        if not begun:
            begun.append(True)
            two.prune()
        check(self, *given)

    monkeypatch.setattr(Archive, "check", late)
    assert other.check().problems == ()
    assert begun


def test_a_clock_that_goes_back_is_noted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime

    class Clock:
        hours = iter((5, 3, 4))

        @classmethod
        def now(cls, zone: Any) -> datetime:
            return datetime(2026, 11, 21, next(cls.hours), tzinfo=UTC)

    monkeypatch.setattr("perdure.learner.ledger.datetime", Clock)
    learner = make(policy=LOOSE)
    learner.learn(blobs(0), "zero")
    learner.learn(blobs(1), "one")
    found = learner.check()
    assert found.problems == ()
    assert found.notes == ("the clock of the machine went back between entry 0 and entry 1",)


def test_a_full_disk_at_any_write_leaves_the_version_that_answered(
    two: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, head, replace, said = answers(two), two.history()[0], os.replace, list[str]()
    room = 0

    def full(*given: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*given)

    for writes in range(100):
        room, folder = writes, tmp_path / str(writes)
        shutil.copytree(two.folder, folder)
        learner = Learner(folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            try:
                learner.learn(blobs(2), "two")
                break
            except Refused as error:
                said.append(str(error))
        again = Learner(folder)
        assert again.history()[0] == head
        assert again.check().problems == ()
        assert answers(again) == now
    assert len(said) > 8
    assert all("No space left on device" in message for message in said)
    assert list(Learner(folder).tasks) == ["zero", "one", "two"]


def test_a_folder_that_cannot_be_written_still_answers(two: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    opened = builtins.open

    def locked_out(path: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *given, **more)

    monkeypatch.setattr(builtins, "open", locked_out)
    assert len(Learner(two.folder).predict(X)) == 60
    with pytest.raises(Refused, match="Read-only file system"):
        two.learn(blobs(2), "two")


def test_one_writes_at_a_time_and_readers_never_wait(two: Learner) -> None:
    with locked(two.folder / LOCK):
        assert len(Learner(two.folder).predict(X)) == 60
        verbs = [two.rollback, two.prune, lambda: two.forget("one"), lambda: two.change_policy(Policy())]
        for write in (lambda: two.learn(blobs(2), "two"), *verbs):
            with pytest.raises(Refused, match="another process is working in"):
                write()


def test_a_reader_sees_what_another_has_learned(two: Learner) -> None:
    other = Learner(two.folder)
    two.learn(blobs(2), "two")
    assert list(other.tasks) == ["zero", "one", "two"]
    assert answers(other) == answers(two)


def test_a_learner_says_which_one_it_is(two: Learner) -> None:
    assert repr(two) == f"Learner({str(two.folder)!r}, {two.settings.method} on {two.settings.net})"


def test_pruning_keeps_the_newest_versions(two: Learner) -> None:
    two.learn(blobs(2), "two")
    now, size = answers(two), two.nbytes
    freed = two.prune(2)
    assert freed > 0
    assert two.nbytes < size
    assert answers(two) == now
    assert two.check().problems == ()
    two.rollback(2)
    assert list(two.tasks) == ["zero", "one"]
    with pytest.raises(Refused, match=r"the version of entry 1 was pruned; those that are left are of entry 5, 4$"):
        two.rollback(1)
    with pytest.raises(Refused, match="the one that answers must stay"):
        two.prune(0)


def test_a_version_costs_what_changed(make: Make) -> None:
    learner, grown = make(method="supsup", net="mlp:64-64", policy=LOOSE, exam=4, keep=2), []
    for task in range(24):
        before = learner.nbytes
        learner.learn(blobs(task, n=30), f"task {task}")
        grown.append(learner.nbytes - before)
    assert np.mean(grown[16:]) < 1.5 * np.mean(grown[:16])


def test_a_folder_that_is_no_learner_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises(Refused, match="does not exist; make one with: perdure learner create"):
        Learner(tmp_path / "nothing")
    with pytest.raises(Refused, match="holds no learner"):
        Learner(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(Refused, match=r"holds other files \(file\)"):
        make("taken")
    (tmp_path / "other" / "blobs").mkdir(parents=True)
    (tmp_path / "other" / "blobs" / "thesis.tex").touch()
    with pytest.raises(Refused, match=r"holds other files \(blobs/thesis\.tex\)"):
        make("other")
    make("there")
    with pytest.raises(Refused, match="holds a learner; open it"):
        make("there")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "ewcc"}, "unknown method 'ewcc'; did you mean ewc"),
        ({"method": "my.py:Mine"}, "is a file, and a learner on disk runs none"),
        ({"net": "mpl:3"}, "net 'mpl:3' is unknown"),
        ({"net": "mlp:999999-999999"}, "at most 134,217,728"),
        ({"options": {"fit.lr": "fast"}}, "--fit.lr is 'fast'; it must be a number"),
        ({"options": {"fit.lrr": 1}}, "unknown option '--fit.lrr'"),
        ({"scaling": "two"}, "scaling is 'two'; it must be one or columns or none"),
        ({"keep": -1}, "keep is -1"),
        ({"keep": "20"}, "keep is '20'; it must be a whole number of at most 64 bits"),
        ({"exam": 1e3}, "exam is 1000.0; it must be a whole number"),
        ({"ids": 1}, "ids is 1; it must be True or False"),
        ({"method": None}, "method is None; it must be text"),
    ],
)
def test_a_learner_that_means_nothing_is_not_made(make: Make, tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        make(**wrong)
    assert not (tmp_path / "learner").exists()


def test_a_learner_made_with_numpys_numbers_is_opened_again(make: Make) -> None:
    learner = make(seed=np.int64(3), ids=np.bool_(True), options={"fit.lr": np.float32(0.5)})
    learner.change_policy(Policy(np.float32(0.5), least=np.int64(3)))
    again = Learner(learner.folder)
    assert (again.settings, again.policy) == (learner.settings, Policy(0.5, least=3))
    assert (again.settings.seed, again.settings.ids, again.settings.options["fit.lr"]) == (3, True, 0.5)


def test_every_answering_version_is_written_before_it_is_named(two: Learner) -> None:
    head = json.loads((two.folder / "blobs" / (two.folder / HEAD).read_text().strip()).read_text())
    assert head["event"] == "learned"
    assert two.archive.files(head["version"]) <= {path.name for path in (two.folder / "blobs").iterdir()}


KEEPS_NOTHING = [name for name in METHODS if not method_class(name)(nn.Linear(1, 1)).rehearses]


@pytest.mark.parametrize("method", KEEPS_NOTHING)
def test_with_store_no_data_no_example_is_on_disk(make: Make, method: str) -> None:
    net = "bn-mlp:32" if method == "hopsupsup" else "mlp:16"
    options = {"method.likelihood": "gaussian"} if method == "dgr" else {}  # columns know no bounds
    learner = make(method=method, net=net, store_no_data=True, policy=LOOSE, options=options)
    data, own = blobs(0), blobs(0, n=20, seed=5)
    report = learner.learn(data, "zero", validation=own)
    assert (report.verdict, report.asked) == ("promoted", 20)
    learner.learn(blobs(1), "one")
    content = b"".join(path.read_bytes() for path in (learner.folder / "blobs").iterdir())
    assert not any(row.tobytes() in content for x in (data[0], own[0], blobs(1)[0]) for row in x)
    assert learner.check().problems == ()


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(KEEPS_NOTHING)))
def test_a_method_that_keeps_examples_is_refused_where_none_may_be_stored(make: Make, method: str) -> None:
    with pytest.raises(Refused, match=f"{method} keeps examples in its state"):
        make(method=method, store_no_data=True)


def test_exams_of_ones_own_judge_what_is_not_stored(make: Make) -> None:
    learner = make(method="finetune", store_no_data=True)
    own = blobs(0, n=20, seed=5)
    learner.learn(blobs(0), "zero", validation=own)
    assert learner.learn(blobs(1), "blind").verdict == "promoted"  # nothing to see that zero is gone
    learner.rollback()
    report = learner.learn(blobs(1), "one", exams={"zero": own})
    assert report.verdict == "kept back"
    assert report.changes["zero"].before > 0.9 > report.changes["zero"].after
    assert learner.check({"zero": own}).problems == ()
    learner.promote(report)
    assert learner.check({"zero": own}).problems == ()  # as it was found when that version was made
    with pytest.raises(Refused, match="unknown task 'zerro'"):
        learner.check({"zerro": own})
    with pytest.raises(Refused, match="ask labels that were learned"):
        learner.check({"zero": blobs(7)})


def test_a_check_compares_with_what_was_found_when_the_version_that_answers_was_made(make: Make) -> None:
    learner, own = make(method="finetune", store_no_data=True), blobs(0, n=20, seed=5)
    wrong = (own[0], own[1][::-1])
    assert learner.learn(blobs(0), "zero", validation=wrong).row == {"zero": 0.0}
    assert learner.learn(blobs(0), "zero", validation=own).row == {"zero": 1.0}
    assert learner.check({"zero": wrong}).problems[0].startswith("zero fell from 100.0% to 0.0%")
    learner.rollback(1)
    found = learner.check({"zero": wrong})
    assert (found.problems, found.tasks["zero"].before) == ((), 0.0)
    learner.learn(blobs(3, d=5), "other")
    assert learner.check({"zero": wrong}).problems == ()  # what it comes from was asked


def test_an_exam_that_is_brought_for_the_task_that_is_learned_again_is_asked_before_and_after(make: Make) -> None:
    learner = make(method="finetune", store_no_data=True, options={"fit.lr": 1e-2})
    own = blobs(0, n=40, seed=5)
    learner.learn(blobs(0), "zero")
    wrong = (own[0], own[1][::-1])
    for exam, right in ((own, 1.0), (wrong, 0.0)):
        report = learner.learn(blobs(0, seed=1), "zero", exams={"zero": exam})
        assert (report.asked, report.verdict) == (52, "promoted")
        assert report.accuracy == pytest.approx((40 * right + 12) / 52)
    report = learner.learn((blobs(0)[0], blobs(0)[1][::-1]), "zero", validation=0, exams={"zero": own})
    assert report.reasons[0].startswith("zero fell from 100.0% to ")
    assert all(not task.exam for task in learner.version.tasks.values())


def test_a_stored_exam_is_not_replaced_by_one_that_is_brought(two: Learner) -> None:
    with pytest.raises(Refused, match="zero has an exam of its own"):
        two.learn(blobs(2), "two", exams={"zero": blobs(0)})


def test_the_history_tells_what_was_given_and_found(two: Learner) -> None:
    entry = two.history()[0]
    data = entry.report["data"]
    assert (data["examples"], data["kind"]) == (60, "numbers of shape (12,)")
    assert data["labels"] == {"t1c0": 30, "t1c1": 30}
    assert data["sha256"] == hashlib.sha256(blobs(1)[0].tobytes()).hexdigest()
    assert entry.report["row"].keys() == {"zero", "one"}
    (branch,) = two.version.branches
    for name, right in branch.rights.items():
        assert entry.report["row"][name] == pytest.approx(right.mean(), abs=1e-4)
    components = entry.report["components"]
    assert components["examples"] == sum(task.nbytes for task in branch.tasks)
    assert sum(components.values()) == tree.nbytes(branch.state) + components["examples"]
    assert entry.software["torch"] == torch.__version__


def test_forgetting_is_refused_where_it_would_change_another_answer(
    two: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = Heads.forget

    def careless(self: Heads, state: Any, index: int) -> Any:
        left = forget(self, state, index)
        heads = [{name: w * 1.001 for name, w in part.head.items()} for part in left.parts]
        return left._replace(
            parts=tuple(part._replace(head=head) for part, head in zip(left.parts, heads, strict=True))
        )

    head = two.history()[0]
    monkeypatch.setattr(Heads, "forget", careless)
    with pytest.raises(Refused, match="without it one would be answered otherwise; nothing was changed"):
        two.forget("zero")
    assert two.history()[0] == head


def test_where_a_task_cannot_be_forgotten_the_version_before_it_is_offered(make: Make) -> None:
    learner = make(method="ewc", policy=LOOSE)
    learner.learn(blobs(0), "zero")
    learner.learn(blobs(1), "one")
    with pytest.raises(Refused, match=r"Roll back to a state before it was learned: perdure learner rollback .* 1$"):
        learner.forget("one")


def test_a_batch_is_known_or_new(two: Learner) -> None:
    learner = two
    assert learner.relation(blobs(0, seed=9)[0]).verdict == "known"
    other = learner.relation(np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) * 0.01)
    assert other.share < 1
    report = learner.learn(blobs(0, seed=3), "zero")
    assert (report.looked, report.like) == ("known", "zero")


def test_small_data_on_disk_is_read_once(make: Make) -> None:
    class Disk:
        def __init__(self) -> None:
            self.read = 0

        def __len__(self) -> int:
            return 60

        def __getitem__(self, row: int) -> tuple[np.ndarray, str]:
            self.read += 1
            return X[row], str(Y[row])

    disk = Disk()
    make(exam=0, keep=0).learn(disk, "zero")
    assert disk.read <= 5 * 60  # its labels, its scale, its fingerprint and itself; not 60 steps of 32
