"""Facts about memories: the reservoir equals its one-by-one definition, is fair, and keeps what was stored."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perdure.contract import Fit, Refused, Scale
from perdure.data import Arrays, View
from perdure.model import start
from perdure.ops import memory as ops
from perdure.ops.memory import Memory, Replay, allocate, enlist, keep, reservoir, rivals
from perdure.rng import fold, integers, permutation
from perdure.train import Descent
from perdure.tree import equal, nbytes

SCALE = Scale(10.0, 1 / 255)
NET = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))


def examples(n: int, first: int = 0) -> Arrays:
    """Inputs that tell their own number, with labels 3, 5, 6, 9."""
    number = torch.arange(first, first + n)
    x = torch.stack([number % 256, number // 256, *[number * k % 251 for k in (3, 5, 7, 11)]], 1)
    return Arrays(x.to(torch.uint8).reshape(n, 2, 3), torch.tensor([3, 5, 6, 9])[number % 4], SCALE)


def descent() -> Descent:
    fit = Fit()
    return Descent(NET, start(NET, fit, 0)._replace(labels=torch.tensor([9, 6, 5, 3])), fit, 0)


def offered(memory: Memory, task: Arrays, key: int, size: int, order: torch.Tensor | None = None) -> Replay:
    """A task offered in batches of a size."""
    at_work, ours = Replay(memory, task, (loop := descent()), key), torch.arange(len(task)) if order is None else order
    for rows in ours.split(size):
        batch = task.take(rows)
        at_work.write(batch._replace(y=loop.targets(batch.y)))
    return at_work


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


@pytest.mark.parametrize("size", [1, 3, 7, 64, 500])
@pytest.mark.parametrize(("slots", "n"), [(1, 40), (5, 5), (5, 4), (8, 300), (60, 200)])
def test_the_reservoir_is_its_one_by_one_definition_however_examples_arrive(slots, n, size):
    task = examples(n)
    after = offered(allocate(slots, task), task, key=4, size=size).memory
    held = one_by_one(fold(4, "reservoir"), slots, n)
    assert equal(after.x[: len(held)], task.x[held])
    assert torch.equal(after.labels[: len(held)], task.labels[held])
    assert after.seen == n


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
        memory = offered(memory, View(examples(n), labels=torch.full((n,), label)), key=label, size=50).memory
    share = [(memory.labels == label).float().mean().item() for label in (3, 5, 9)]
    assert share == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.09)  # three standard deviations


def test_what_is_kept_is_what_was_stored():
    base = examples(50)
    flipped = View(base, permutation(1, 50), lambda x, rows: 255 - x, labels=torch.full((50,), 6))
    at_work = offered(allocate(30, base), flipped, key=2, size=7)
    after = at_work.memory
    kept = at_work.rows
    assert after.x.dtype == torch.uint8
    assert (kept >= 0).all()
    assert equal(after.x, flipped.raw(kept))
    assert after.labels.tolist() == [6] * 30
    assert after.scale == SCALE
    assert equal(at_work.x, SCALE(after.x))
    assert at_work.y.tolist() == [1] * 30  # the place of label 6 in the head


def test_blocks_of_the_memory_are_read_one_at_a_time(monkeypatch):
    task = examples(100)
    whole = offered(allocate(60, task), task, 5, 9).memory
    monkeypatch.setattr(ops, "BLOCK", 7)
    assert equal(offered(allocate(60, task), task, 5, 9).memory, whole)


@pytest.mark.parametrize("kind", ["uint8", "float32 that needs no scaling"])
def test_the_old_memory_is_never_changed(kind):
    task = examples(40)
    if kind != "uint8":
        task = Arrays(task.x.float(), task.labels)
    memory = offered(allocate(20, task), task, 1, 8).memory
    before = memory._replace(x=memory.x.clone(), labels=memory.labels.clone())
    at_work = offered(memory, task, 2, 8)
    at_work.draw(5).x.zero_()
    assert not equal(at_work.memory.x, memory.x)
    assert equal(memory, before)


def test_only_the_first_pass_over_a_task_is_offered():
    task = examples(40)
    once, twice = (offered(allocate(16, task), task, 3, 9, torch.arange(40).repeat(n)) for n in (1, 2))
    assert twice.memory.seen == 40
    assert equal(once.memory, twice.memory)


def test_an_empty_memory_gives_nothing():
    task = examples(4)
    drawn = Replay(allocate(5, task), task, descent(), 0).draw(3)
    assert [len(part) for part in drawn] == [0, 0, 0]
    assert drawn.x.shape == (0, 2, 3)


def test_draws_are_uniform_over_the_slots_that_are_filled(monkeypatch):
    monkeypatch.setattr(ops, "DRAWS", 64)
    task = examples(10)
    at_work = offered(allocate(16, task), task, 0, 10)
    drawn = [at_work.draw(7) for _ in range(1000)]
    slots = torch.cat([batch.rows for batch in drawn])
    counts = slots.bincount(minlength=16).float()
    assert counts[10:].tolist() == [0.0] * 6
    assert ((counts[:10] - 700) ** 2 / 700).sum() < 27.9  # 9 degrees of freedom, 1 in 1,000
    assert equal(drawn[3].x, SCALE(task.x[drawn[3].rows]))
    assert torch.equal(descent().labels[drawn[3].y], task.labels[drawn[3].rows])
    assert at_work.draw(200).x.shape == (200, 2, 3)


def test_draws_repeat_with_the_key():
    task = examples(40)
    one, two, other = (offered(allocate(16, task), task, key, 8).draw(9).rows for key in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_inputs_stored_in_another_way_are_refused():
    memory = offered(allocate(5, examples(9)), examples(9), 0, 3).memory
    message = (
        r"the memory holds uint8 inputs of shape \(2, 3\) at Scale\(shift=10.0.*store the inputs of all tasks alike"
    )
    for x, scale in ((examples(4).x.float(), SCALE), (examples(4).x.flatten(1), SCALE), (examples(4).x, Scale())):
        with pytest.raises(Refused, match=message):
            Replay(memory, Arrays(x, examples(4).labels, scale), descent(), 0)


def test_bytes_are_those_of_the_stored_inputs_and_labels():
    assert nbytes(allocate(100, examples(1))) == 100 * (6 + 8)
    task = View(examples(50), torch.arange(30))
    kept = keep(task, torch.device("cpu"))
    assert nbytes(kept) == 30 * (6 + 8)
    assert equal(kept.examples.take(torch.arange(30)), task.take(torch.arange(30)))
    assert kept.seen == 30


def test_a_memory_is_a_set_of_the_examples_in_it():
    memory = offered(allocate(20, examples(1)), examples(8), 0, 8).memory
    assert len(memory.examples) == 8
    assert equal(memory.examples.take(torch.arange(8)), examples(8).take(torch.arange(8)))


def test_sets_of_labels_are_listed_once():
    sets, place = enlist((), torch.tensor([1, 2]))
    assert (sets, place) == (((1, 2),), 0)
    sets, place = enlist(sets, torch.tensor([2, 3]))
    assert (sets, place) == (((1, 2), (2, 3)), 1)
    assert enlist(sets, torch.tensor([1, 2])) == (sets, 0)
    assert enlist((), None) == ((), 0)


def test_rivals_compete_within_their_own_set():
    labels = torch.tensor([4, 1, 2, 3])
    assert rivals(labels, ()) == (None, None)
    classes, bias = rivals(labels, ((1, 2),))
    assert classes.tolist() == [1, 2]
    assert bias is None
    classes, bias = rivals(labels, ((1, 2), (2, 3, 4)))
    no = -torch.inf
    assert classes is None
    assert bias.tolist() == [[no, 0, 0, no], [0, no, 0, 0]]

    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets, which = torch.tensor([1, 2, 2, 0, 3, 2]), torch.tensor([0, 0, 1, 1, 1, 0])
    loss = F.cross_entropy(logits + bias[which], targets)
    columns = ([1, 2], [0, 2, 3])
    alone = [
        F.cross_entropy(row[columns[k]][None], torch.tensor([columns[k].index(y)]))
        for row, k, y in zip(logits, which.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    gradient = torch.autograd.grad(loss, logits)[0]
    assert torch.equal(gradient == 0, bias[which] == no)
