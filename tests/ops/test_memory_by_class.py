"""Facts about memories that look at classes: each is its definition an example at a time, at every step."""

from collections import Counter, defaultdict
from itertools import islice
from math import ceil

import pytest
import torch
from torch import nn

from perdure.contract import Fit, Scale
from perdure.data import Arrays, View
from perdure.model import start
from perdure.ops.memory import Memory, allocate, balanced, ring
from perdure.ops.rehearsal import Replay
from perdure.rng import fold, integers, uniform
from perdure.train import Descent
from perdure.tree import equal

SCALE = Scale(10.0, 1 / 255)
HEAD = torch.tensor([9, 6, 5, 3])  # the label of each row of the head
NET = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
SHARES = {0: 0.7, 1: 0.2, 2: 0.07, 3: 0.03}  # of an imbalanced stream


def classes(n: int, kind: str) -> list[int]:
    """Rows of the head as they arrive: few of some, one class after the other, or each as often."""
    if kind == "imbalanced":
        ends = torch.tensor(list(SHARES.values()), dtype=torch.float64).cumsum(0)
        return torch.searchsorted(ends, uniform(5, n)).clamp(max=3).tolist()
    return integers(6, 4, n).tolist() if kind == "mixed" else [4 * i // n for i in range(n)]


def by_pseudo_code(key: int, slots: int, arriving: list[int]) -> list[list[int]]:
    """Class-balancing reservoir sampling, an example at a time: what each slot holds after every one of them."""
    held: list[tuple[int, int]] = []
    full: set[int] = set()
    shown: Counter[int] = Counter()
    history = []
    for i, y in enumerate(arriving):
        u = float(uniform(key, 1, start=i))
        shown[y] += 1
        if len(held) < slots:
            held.append((i, y))
        else:
            stored = Counter(label for _, label in held)
            largest = sorted(label for label in stored if stored[label] == max(stored.values()))
            full |= set(largest)
            if y not in full:
                every = [slot for label in largest for slot in range(slots) if held[slot][1] == label]
                held[every[int(u * len(every))]] = (i, y)
            elif u < stored[y] / shown[y]:
                own = [slot for slot in range(slots) if held[slot][1] == y]
                held[own[int(u * shown[y])]] = (i, y)
        history.append([number for number, _ in held])
    return history


def by_queues(slots: int, arriving: list[int]) -> list[dict[int, list[int]]]:
    """Rings, an example at a time: what each class holds after every one of them."""
    queues: dict[int, list[int]] = defaultdict(list)
    history = []
    for i, y in enumerate(arriving):
        queues[y].append(i)
        if sum(map(len, queues.values())) > slots:
            longest = max(len(queue) for queue in queues.values())
            first = min(label for label in queues if len(queues[label]) == longest)
            queues[first if longest > len(queues[y]) else y].pop(0)
        history.append({label: list(queue) for label, queue in queues.items()})
    return history


def slots_after(place: list[int], slots: int, n: int) -> list[int]:
    """The number of the example in each slot that is filled, after n."""
    held: dict[int, int] = {}
    for number, slot in enumerate(place[:n]):
        if slot >= 0:
            held[slot] = number
    assert sorted(held) == list(range(min(n, slots, len(held))))  # filled from the front
    return [held[slot] for slot in sorted(held)]


KINDS = ("imbalanced", "mixed", "one after the other")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slots", "n"), [(1, 30), (3, 60), (5, 4), (20, 200), (33, 300)])
def test_the_balanced_reservoir_is_its_pseudo_code_at_every_step(slots, n, kind):
    """Also that a class is full where it has most or lost one: the pseudo-code keeps a list of those that are."""
    arriving = classes(n, kind)
    place = balanced(7, slots, [], arriving, [0] * 4, 0)
    assert [slots_after(place, slots, i + 1) for i in range(n)] == by_pseudo_code(7, slots, arriving)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slots", "n"), [(1, 30), (3, 60), (5, 4), (20, 200), (33, 300)])
def test_rings_are_their_queues_at_every_step(slots, n, kind):
    arriving = classes(n, kind)
    place = ring(slots, [], arriving)
    for i, queues in enumerate(by_queues(slots, arriving)):
        held = slots_after(place, slots, i + 1)
        assert {y: sorted(j for j in held if arriving[j] == y) for y in queues} == queues


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [20, 33])
def test_a_ring_holds_the_newest_of_each_class_in_shares_as_even_as_can_be(slots, kind):
    """All that a class has shown, or at least its share; and no class that has more than its share, where one lacks."""
    arriving = classes(400, kind)
    held = slots_after(ring(slots, [], arriving), slots, 400)
    sizes = Counter(arriving[i] for i in held)
    assert sum(sizes.values()) == slots
    for y, count in Counter(arriving).items():
        assert sizes[y] >= min(count, slots // 4)
        if sizes[y] < count:
            assert sizes[y] >= max(sizes.values()) - 1
        assert sorted(i for i in held if arriving[i] == y) == [i for i in range(400) if arriving[i] == y][-sizes[y] :]


@pytest.mark.parametrize("slots", [20, 60])
def test_a_balanced_reservoir_keeps_all_of_rare_classes_and_evens_out_the_others(slots):
    arriving = classes(400, "imbalanced")
    counts = Counter(arriving)
    assert counts[3] < 20 < counts[2] < 40 < counts[1]  # around the shares
    held = slots_after(balanced(1, slots, [], arriving, [0] * 4, 0), slots, 400)
    sizes = Counter(arriving[i] for i in held)
    assert all(sizes[y] >= min(count, slots // 4) for y, count in counts.items())
    assert all(sizes[y] == count or sizes[y] >= max(sizes.values()) - 1 for y, count in counts.items())


def test_every_example_of_a_frequent_class_is_equally_likely_to_stay():
    arriving, runs = classes(150, "imbalanced"), 1500
    own = [i for i, y in enumerate(arriving) if y == 0]
    kept = torch.zeros(150)
    for run in range(runs):
        kept[slots_after(balanced(fold(2, run), 20, [], arriving, [0] * 4, 0), 20, 150)] += 1
    counts, share = kept[own], float(kept[own].mean() / runs)
    chi_square = ((counts - runs * share) ** 2).sum() / (runs * share * (1 - share))
    degrees = len(own) - 1
    assert chi_square < degrees + 3.1 * (2 * degrees) ** 0.5 + 5  # about 1 in 1,000


def examples(n: int, kind: str) -> Arrays:
    """Inputs that tell their own number."""
    number = torch.arange(n)
    x = torch.stack([number % 256, number // 256, *[number * k % 251 for k in (3, 5, 7, 11)]], 1)
    return Arrays(x.to(torch.uint8).reshape(n, 2, 3), HEAD[classes(n, kind)], SCALE)


def shown(task) -> tuple[int, ...]:
    return tuple(int((task.labels == label).sum()) for label in HEAD)


def taken(memory: Memory, task, keep: str, counts=(), size: int = 10, order: str = "arrival", steps=None) -> Replay:
    """What replays a task, after one pass over it, or so many steps."""
    fit = Fit(batch=min(size, len(task)), order=order)
    descent = Descent(NET, start(NET, fit, 0)._replace(labels=HEAD), fit, 0)
    at_work = Replay(memory, task, descent, 4, keep, counts)
    for _ in islice(at_work.batches(), ceil(len(task) / at_work.size) if steps is None else steps):
        pass
    return at_work


@pytest.mark.parametrize("keep", ["ring", "balanced"])
@pytest.mark.parametrize("order", ["arrival", "shuffled"])
def test_what_is_replayed_is_what_the_memory_holds_before_each_step(keep, order):
    task = examples(150, "imbalanced")
    fit = Fit(batch=7, order=order)
    descent = Descent(NET, start(NET, fit, 0)._replace(labels=HEAD), fit, 0)
    at_work = Replay(allocate(20, task), task, descent, 4, keep)
    arrived = at_work.arrived
    arriving = [HEAD.tolist().index(label) for label in task.labels[arrived].tolist()]
    place = ring(20, [], arriving) if keep == "ring" else balanced(fold(4, "reservoir"), 20, [], arriving, [0] * 4, 0)
    seen = set()
    for step, batch in enumerate(islice(at_work.batches(), 22)):
        held = arrived[slots_after(place, 20, min(7 * step, 150))]
        assert torch.isin(batch.rows - 20, held).all()
        assert equal(batch.x, SCALE(task.x[batch.rows - 20]))
        assert torch.equal(HEAD[batch.y], task.labels[batch.rows - 20])
        seen |= set(batch.rows.tolist())
    held = arrived[slots_after(place, 20, 150)]
    assert len(seen) > 40
    assert sorted((at_work.rows - 20).tolist()) == sorted(held.tolist())
    assert equal(at_work.memory.x, task.x[at_work.rows - 20])


@pytest.mark.parametrize("slots", [20, 250])
@pytest.mark.parametrize("keep", ["ring", "balanced"])
def test_the_memory_is_the_same_however_examples_arrive(keep, slots):
    """In batches of any size, in one task or in many: what was counted is all that is handed on."""
    task = examples(200, "imbalanced")
    whole = [taken(allocate(slots, task), task, keep, size=size) for size in (1, 7, 200)]
    assert all(equal(one.memory, whole[0].memory) for one in whole)
    assert all(one.counts == whole[0].counts for one in whole)
    memory, counts = allocate(slots, task), ()
    for rows in torch.arange(200).split(33):
        part = taken(memory, View(task, rows), keep, counts)
        memory, counts = part.memory, part.counts
    assert equal(memory, whole[0].memory)
    assert counts == whole[0].counts == (shown(task) if keep == "balanced" else ())


@pytest.mark.parametrize("keep", ["ring", "balanced"])
def test_a_pass_that_is_cut_short_offers_what_it_showed(keep):
    task = examples(150, "mixed")
    short = taken(allocate(20, task), task, keep, steps=6)
    part = View(task, torch.arange(60))
    assert equal(short.memory, taken(allocate(20, task), part, keep).memory)
    assert short.counts == (shown(part) if keep == "balanced" else ())


def test_rings_are_kept_in_order_of_arrival():
    task = examples(150, "imbalanced")
    for slots in (20, 200):
        memory = taken(allocate(slots, task), task, "ring").memory
        number = memory.examples.raw(torch.arange(len(memory.examples)))[:, 0, 0].tolist()
        assert number == sorted(number)
        assert len(number) == min(slots, 150)
        assert not memory.x[len(number) :].any()
