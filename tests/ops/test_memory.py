"""Facts about memories: the reservoir equals its one-by-one definition, is fair, and keeps what was stored."""

from dataclasses import replace
from itertools import islice
from math import ceil

import pytest
import torch
from torch import nn

from perdure.contract import Batch, Examples, Fit, Refused, Scale
from perdure.data import Arrays, View
from perdure.model import start
from perdure.ops import memory as ops
from perdure.ops import rehearsal
from perdure.ops.memory import Memory, allocate, keep, reservoir
from perdure.ops.rehearsal import Replay
from perdure.rng import fold, integers, permutation
from perdure.train import Descent
from perdure.tree import equal, nbytes

SCALE = Scale(10.0, 1 / 255)
HEAD = torch.tensor([9, 6, 5, 3])  # the label of each row of the head
NET = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))


def examples(n: int, first: int = 0) -> Arrays:
    """Inputs that tell their own number, with labels 3, 5, 6, 9."""
    number = torch.arange(first, first + n)
    x = torch.stack([number % 256, number // 256, *[number * k % 251 for k in (3, 5, 7, 11)]], 1)
    return Arrays(x.to(torch.uint8).reshape(n, 2, 3), torch.tensor([3, 5, 6, 9])[number % 4], SCALE)


def replay(memory: Memory, task: Examples, key: int = 0, size: int = 10, order: str = "arrival") -> Replay:
    fit = Fit(batch=max(1, min(size, len(task))), order=order)
    model = start(NET, fit, 0)._replace(labels=HEAD)
    return Replay(memory, task, Descent(NET, model, fit, 0), key)


def after(at_work: Replay, steps: int | None = None) -> list[Batch]:
    """What is replayed in so many steps; in one pass over the task when not given."""
    return list(islice(at_work.batches(), ceil(at_work.n / at_work.size) if steps is None else steps))


def learned(memory: Memory, task: Examples, key: int = 0, size: int = 10) -> Memory:
    """The memory after one pass over a task."""
    after(at_work := replay(memory, task, key, size))
    return at_work.memory


def one_by_one(key: int, slots: int, n: int) -> list[int]:
    """Vitter's algorithm R, an example at a time: the number of the example in each slot."""
    held: list[int] = []
    for i in range(n):
        draw = int(integers(key, i + 1, 1, start=i))
        if i < slots:
            held.append(i)
        elif draw < slots:
            held[draw] = i
    return held


@pytest.mark.parametrize("order", ["arrival", "shuffled"])
@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize(("slots", "n"), [(1, 20), (5, 5), (5, 4), (8, 150), (60, 100)])
def test_the_reservoir_is_its_one_by_one_definition_at_every_step(slots, n, size, order):
    task, at_work = examples(n), replay(allocate(slots, examples(n)), examples(n), 4, size, order)
    arrived = at_work.arrived
    assert torch.equal(arrived.sort().values, torch.arange(n))
    for step, batch in enumerate(after(at_work)):
        held = arrived[one_by_one(fold(4, "reservoir"), slots, min(step * at_work.size, n))]  # before this step
        assert torch.isin(batch.rows - slots, held).all()
        assert equal(batch.x, SCALE(task.x[batch.rows - slots]))
        assert torch.equal(HEAD[batch.y], task.labels[batch.rows - slots])
        assert len(batch.y) == (min(at_work.size, n - step * at_work.size) if step else 0)
    kept = at_work.memory
    held = arrived[one_by_one(fold(4, "reservoir"), slots, n)]
    assert equal(kept.x[: len(held)], task.x[held])
    assert torch.equal(kept.labels[: len(held)], task.labels[held])
    assert kept.seen == n


def test_the_memory_is_the_same_however_examples_arrive_in_batches():
    task = examples(200)
    memories = [learned(allocate(30, task), task, 4, size) for size in (1, 7, 50, 200)]
    assert all(equal(memory, memories[0]) for memory in memories)


def test_a_pass_that_is_cut_short_offers_what_it_showed():
    task = examples(100)
    after(at_work := replay(allocate(30, task), task, 4, 10), steps=3)
    held = one_by_one(fold(4, "reservoir"), 30, 30)
    assert at_work.memory.seen == 30
    assert equal(at_work.memory.x, task.x[held])


def test_slots_are_counted_on_from_what_was_seen():
    whole = reservoir(3, 20, 0, 500)
    parts = [reservoir(3, 20, seen, n) for seen, n in ((0, 7), (7, 93), (100, 400))]
    assert torch.equal(torch.cat(parts), whole)


def test_every_example_is_equally_likely_to_stay():
    slots, n, runs = 20, 100, 1000
    counts = torch.zeros(n)
    for run in range(runs):
        place, held = reservoir(fold(1, run), slots, 0, n), torch.full((slots,), -1)
        for i, slot in enumerate(place.tolist()):
            if slot >= 0:
                held[slot] = i
        counts[held] += 1
    share = slots / n
    chi_square = ((counts - runs * share) ** 2).sum() / (runs * share * (1 - share))
    assert chi_square < 149  # 99 degrees of freedom, 1 in 1,000
    assert counts.sum() == runs * slots


def test_tasks_share_the_memory_by_their_sizes():
    memory = allocate(300, examples(1))
    for label, n in ((3, 400), (5, 800), (9, 1200)):
        memory = learned(memory, View(examples(n), labels=torch.full((n,), label)), key=label, size=50)
    share = [(memory.labels == label).float().mean().item() for label in (3, 5, 9)]
    assert share == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.09)  # three standard deviations


def test_what_is_kept_is_what_was_stored_of_two_tasks():
    base = examples(50)
    flipped = View(base, permutation(1, 50), lambda x, rows: 255 - x, labels=torch.full((50,), 6))
    first = learned(allocate(30, base), base, key=1)
    after(at_work := replay(first, flipped, key=2))
    second, origin = at_work.memory, at_work.rows
    new = origin >= 30
    assert new.any()
    assert not new.all()
    assert second.x.dtype == torch.uint8
    assert equal(second.x[new], flipped.raw(origin[new] - 30))
    assert equal(second.x[~new], first.x[~new])
    assert torch.equal(origin[~new], torch.arange(30)[~new])
    assert torch.equal(second.labels, torch.where(new, 6, first.labels))
    assert (second.scale, second.seen) == (SCALE, 100)


@pytest.mark.parametrize("block", [1, 40, 1000])
def test_exemplars_do_not_depend_on_how_many_are_gathered_at_once(block, monkeypatch):
    task = examples(45)
    expected = after(whole := replay(learned(allocate(20, task), task), task, 3), steps=12)
    monkeypatch.setattr(rehearsal, "BLOCK", block)
    monkeypatch.setattr(ops, "BLOCK", 7)
    assert equal(tuple(after(parts := replay(learned(allocate(20, task), task), task, 3), 12)), tuple(expected))
    assert equal(parts.memory, whole.memory)


@pytest.mark.parametrize("kind", ["uint8", "float32 that needs no scaling"])
def test_the_old_memory_is_never_changed(kind):
    task = examples(40)
    if kind != "uint8":
        task = Arrays(task.x.float(), task.labels)
    memory = learned(allocate(20, task), task)
    before = memory._replace(x=memory.x.clone(), labels=memory.labels.clone())
    for batch in after(at_work := replay(memory, task, key=2)):
        batch.x.zero_()
    assert not equal(at_work.memory.x, memory.x)
    assert equal(memory, before)


def test_only_the_first_pass_over_a_task_is_offered():
    task = examples(45)
    after(once := replay(allocate(16, task), task))
    after(twice := replay(allocate(16, task), task), steps=10)
    assert twice.memory.seen == 45
    assert equal(once.memory, twice.memory)


def test_there_are_as_many_exemplars_as_examples_and_none_from_an_empty_memory():
    task = examples(25)
    assert [len(batch.y) for batch in after(replay(allocate(5, task), task), 6)] == [0, 10, 5, 10, 10, 5]
    memory = learned(allocate(5, task), task)
    assert [len(batch.y) for batch in after(replay(memory, task), 4)] == [10, 10, 5, 10]
    assert after(replay(allocate(5, task), task), 1)[0].x.shape == (0, 2, 3)


def test_draws_are_uniform_over_the_slots_that_are_filled():
    task = examples(10)
    slots = torch.cat([batch.rows for batch in after(replay(allocate(16, task), task), 1000)[1:]]) - 16
    counts = slots.bincount(minlength=10).float()
    assert len(counts) == 10
    assert ((counts - 999) ** 2 / 999).sum() < 27.9  # 9 degrees of freedom, 1 in 1,000


def test_draws_repeat_with_the_key():
    task = examples(40)
    one, two, other = (
        torch.cat([batch.rows for batch in after(replay(allocate(16, task), task, k))]) for k in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_inputs_at_another_scale_and_empty_tasks_are_refused():
    memory = learned(allocate(5, examples(9)), examples(9))
    with pytest.raises(Refused, match="sets of different scales cannot be joined"):
        replay(memory, replace(examples(4), scale=Scale()))
    with pytest.raises(Refused, match="the task holds no examples"):
        replay(memory, View(examples(4), torch.arange(0)), size=1)


def test_bytes_are_those_of_the_stored_inputs_and_labels():
    assert nbytes(allocate(100, examples(1))) == 100 * (6 + 8)
    task = View(examples(50), torch.arange(30))
    kept = keep(task, torch.device("cpu"))
    assert nbytes(kept) == 30 * (6 + 8)
    assert equal(kept.examples.take(torch.arange(30)), task.take(torch.arange(30)))
    assert kept.seen == 30


def test_a_memory_is_a_set_of_the_examples_in_it():
    memory = learned(allocate(20, examples(1)), examples(8))
    assert len(memory.examples) == 8
    assert equal(memory.examples.take(torch.arange(8)), examples(8).take(torch.arange(8)))
