"""Facts about A-GEM: the projection is the nearest gradient that is allowed, and the loop is its definition."""

from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, on_permuted_digits, stream, task
from scipy.optimize import minimize
from torch import Tensor

from perdure.contract import Fit, Refused, Scale, Scenario, Task
from perdure.data import Arrays
from perdure.methods import a_gem
from perdure.methods.a_gem import AGEM, exemplars, project, references
from perdure.methods.finetune import Finetune
from perdure.nets import build
from perdure.rng import fold, normal, permutation
from perdure.train import competing, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=1)


# --- the projection


def pairs(kind: str, p: int, n: int = 20):
    """Gradients (p,) of which the second is against the first, or with it."""
    for number in range(n):
        g, g_ref = normal(fold(number, "g"), p), normal(fold(number, "ref"), p)
        against = bool(torch.dot(g, g_ref) < 0)
        yield g, g_ref if against == (kind == "against") else -g_ref


def test_it_is_the_nearest_gradient_that_is_allowed():
    """min 1/2 |z - g|^2 such that z.g_ref >= 0, by a general solver."""
    for g, g_ref in [*pairs("against", 5), *pairs("with", 5)]:
        solved = minimize(
            lambda z, g=g: 0.5 * ((z - g.numpy()) ** 2).sum(),
            np.zeros(5),
            jac=lambda z, g=g: z - g.numpy(),
            constraints={"type": "ineq", "fun": lambda z, r=g_ref: z @ r.numpy(), "jac": lambda z, r=g_ref: r.numpy()},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        torch.testing.assert_close(project(g, g_ref), torch.from_numpy(solved.x), rtol=1e-5, atol=1e-6)


def test_what_violates_is_made_orthogonal():
    for g, g_ref in pairs("against", 1000):
        exact = project(g, g_ref)
        assert abs(torch.dot(exact, g_ref)) < 1e-12 * g.norm() * g_ref.norm()
        rounded = project(g.float(), g_ref.float())
        assert abs(torch.dot(rounded, g_ref.float())) < 1e-6 * g.norm() * g_ref.norm()


def test_what_does_not_violate_keeps_its_bits():
    for g, g_ref in pairs("with", 1000):
        assert equal(project(g.float(), g_ref.float()), g.float())


@pytest.mark.parametrize("size", [0.0, 1e-25, 1e-30])
def test_a_reference_gradient_of_zero_takes_nothing_away(size):
    """Also one whose squared norm is zero in float: that much is within a rounding error."""
    g = normal(1, 50).float()
    assert equal(project(g, -size * g), g)


def test_it_is_flat_where_a_projection_layer_by_layer_is_not():
    g, g_ref = torch.tensor([2.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, -1.0, 2.0])  # two layers of two
    layers = torch.cat([project(*layer) for layer in zip(g.split(2), g_ref.split(2), strict=True)])
    assert layers.tolist() == pytest.approx([2.0, 1.0, 0.8, 0.4])  # the second violates alone: -1
    assert equal(project(g, g_ref), g)  # both together do not: 3 - 1
    assert project(g, -g_ref).tolist() == pytest.approx((g - 2 / 7 * g_ref).tolist())


def test_nothing_in_it_looks_at_a_value():
    """Else it would wait for the device, and could not be mapped over rows."""
    rows = [*pairs("against", 6), *pairs("with", 6)]
    g, g_ref = (torch.stack(part) for part in zip(*rows, strict=True))
    expected = torch.stack([project(*row) for row in rows])
    torch.testing.assert_close(torch.vmap(project)(g, g_ref), expected)


def test_it_may_overwrite_the_gradient_and_stays_exact_under_autocast():
    for g, g_ref in pairs("against", 100, n=3):
        g, g_ref = g.float(), g_ref.float()
        expected, mine = project(g, g_ref), g.clone()
        with torch.autocast("cpu", torch.bfloat16):
            assert equal(project(g, g_ref), expected)
        assert project(mine, g_ref, out=mine) is mine
        assert equal(mine, expected)


# --- the memory


@pytest.mark.parametrize("per_class", [1, 3, 5])
def test_a_memory_takes_so_many_of_each_class_or_all_there_are(per_class):
    labels = torch.tensor([7, 1, 1, 7, 4, 1, 7, 7, 1, 7])
    rows = exemplars(labels, per_class, 5)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert Counter(labels[rows].tolist()) == {c: min(per_class, n) for c, n in ((7, 5), (1, 4), (4, 1))}
    assert torch.equal(exemplars(20 - labels, per_class, 5), rows)  # a label is a name
    assert exemplars(labels[:0], per_class, 5).tolist() == []


def test_every_example_of_a_class_is_remembered_alike():
    """3 of 10 and 3 of 5 over 2,000 keys: every count within 4.5 standard deviations."""
    labels = torch.tensor([0] * 10 + [1] * 5)[permutation(3, 15)]
    hits = torch.zeros(15)
    for key in range(2000):
        hits[exemplars(labels, 3, key)] += 1
    share = torch.where(labels == 0, 0.3, 0.6)
    assert ((hits - 2000 * share).abs() < 4.5 * (2000 * share * (1 - share)).sqrt()).all()


def test_it_holds_exemplars_of_every_task_as_they_were_stored():
    """3 of each class of each task; task 2 has but 2 of its second class."""
    tasks = stream(Scenario.GNS)
    labels = tasks[2].examples.labels
    few = torch.cat([(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:2, 0]])
    tasks[2] = tasks[2]._replace(examples=Arrays(tasks[2].examples.x[few], labels[few], SCALE))
    state, _ = learn_all(AGEM(net(2), FIT, per_class=3), tasks)
    assert [Counter(memory.labels.tolist()) for memory in state.memory] == [{0: 3, 1: 3}, {0: 3, 1: 3}, {0: 3, 1: 2}]
    for memory, origin in zip(state.memory, tasks, strict=True):
        assert (memory.x.dtype, memory.scale) == (torch.uint8, SCALE)
        same = (memory.x[:, None] == origin.examples.x).flatten(2).all(2) & (
            memory.labels[:, None] == origin.examples.labels
        )
        assert same.any(1).all()


def test_a_task_learned_again_leaves_new_exemplars_in_place_of_its_old_ones():
    method, tasks = AGEM(net(2), FIT, per_class=3), stream(Scenario.GNS)
    before, _ = learn_all(method, tasks)
    after, _ = method.learn(before, tasks[1], 8)
    assert (before.tasks, after.tasks) == ((0, 1, 2), (0, 2, 1))
    assert equal(after.memory[:2], (before.memory[0], before.memory[2]))
    rows = exemplars(tasks[1].examples.labels, 3, fold(8, "memory"))
    assert torch.equal(after.memory[2].x, tasks[1].examples.x[rows])
    assert nbytes(after.memory) == nbytes(before.memory)


def test_a_task_costs_its_exemplars():
    method, states = AGEM(net(2), FIT, per_class=4), []
    state = method.init(0)
    for number, some in enumerate(stream(Scenario.GNS)):
        states.append(state := method.learn(state, some, number)[0])
    sizes = [nbytes(method.init(0)), *map(nbytes, states)]
    assert [after - before for before, after in pairwise(sizes)] == [2 * 4 * (8 + 8)] * 3  # an input and its label


# --- the reference batches


def pool(n: int) -> Arrays:
    return Arrays(torch.arange(n * 3.0).view(n, 3), torch.arange(n) % 2)


def drawn(n: int, slots: int, size: int, batches: int, key: int = 3) -> list[list[int]]:
    some = list(islice(references(pool(n), slots, size, key), batches))
    for x, y, rows in some:
        assert torch.equal(x, pool(n).x[rows])
        assert torch.equal(y, rows % 2)
    return [batch.rows.tolist() for batch in some]


def test_a_deal_brings_every_exemplar_exactly_once():
    batches = drawn(15, slots=12, size=3, batches=8)
    for deal in (batches[:4], batches[4:]):
        assert sorted(row for batch in deal for row in batch) == list(range(12))  # never the last three
    assert batches[:4] != batches[4:]


def test_every_exemplar_is_as_likely_and_none_is_drawn_twice():
    """Batches of 4 from 10 leave two out of every deal: over 2,000 batches, alone and in pairs, within bounds."""
    batches = drawn(10, slots=10, size=4, batches=2000)
    assert all(len(set(batch)) == 4 for batch in batches)
    alone = Counter(row for batch in batches for row in batch)
    both = Counter((a, b) for batch in batches for a in batch for b in batch if a < b)
    assert len(both) == 45
    for counts, share in ((alone, 4 / 10), (both, 4 * 3 / (10 * 9))):
        bound = 4.5 * (2000 * share * (1 - share)) ** 0.5
        assert all(abs(count - 2000 * share) < bound for count in counts.values())


@pytest.mark.parametrize("size", [7, 256])
def test_a_memory_that_is_no_larger_is_used_whole(size):
    assert [sorted(batch) for batch in drawn(9, slots=7, size=size, batches=5)] == [list(range(7))] * 5


def test_gathering_many_batches_at_once_changes_nothing(monkeypatch):
    at_once = drawn(30, slots=30, size=4, batches=20)
    monkeypatch.setattr(a_gem, "BLOCK", 1)
    assert drawn(30, slots=30, size=4, batches=20) == at_once
    assert drawn(30, slots=30, size=4, batches=20, key=4) != at_once


# --- the method


class ByHand:
    """A-GEM as its paper has it, an example at a time; only the draws are ours."""

    def __init__(self, state, method: AGEM, rows: int) -> None:
        self.net, self.method, self.rows = net(rows), method, list(range(rows))
        with torch.no_grad():
            for name, param in self.net.named_parameters():
                param.copy_(state.model.params[name])
                param.requires_grad_(not name.startswith(method.fit.freeze[:1] or "none"))
        self.moving = [param for param in self.net.parameters() if param.requires_grad]
        self.past: list[tuple[Tensor, int, list[int]]] = []  # stored input, label, the labels it competes with
        self.violated: list[bool] = []

    def gradient(self, examples) -> tuple[Tensor, tuple[Tensor, ...]]:
        losses = []
        for raw, label, own in examples:
            logits = self.net(SCALE(raw)[None])[:, own]
            losses.append(F.cross_entropy(logits, torch.tensor([own.index(label)])))
        loss = torch.stack(losses).mean()
        return loss.detach(), torch.autograd.grad(loss, self.moving)

    def learn(self, some: Task, key: int) -> list[float]:
        classes = competing(self.method.fit, some)
        own = self.rows if classes is None else classes.tolist()
        examples = [(x, int(y), own) for x, y in zip(some.examples.x, some.examples.labels, strict=True)]
        size = min(self.method.reference, len(self.past))
        reference: list[int] = []
        losses, deal = [], 0
        for rows in permutation(fold(key, "order", 0), len(examples)).split(self.method.fit.batch):
            loss, g = self.gradient([examples[row] for row in rows.tolist()])
            losses.append(float(loss))
            if self.past:
                if len(reference) < size:
                    reference = permutation(fold(key, "reference", deal), len(self.past)).tolist()
                    deal += 1
                batch, reference = reference[:size], reference[size:]
                _, ref = self.gradient([self.past[row] for row in batch])
                inner = float(sum((a * b).sum() for a, b in zip(g, ref, strict=True)))
                self.violated.append(inner < 0)
                if inner < 0:
                    g = tuple(
                        a - inner / sum(float((c * c).sum()) for c in ref) * b for a, b in zip(g, ref, strict=True)
                    )
            with torch.no_grad():
                for param, grad in zip(self.moving, g, strict=True):
                    param -= self.method.fit.lr * grad
        kept = exemplars(some.examples.labels, self.method.per_class, fold(key, "memory"))
        self.past += [examples[row] for row in kept.tolist()]
        return losses


@pytest.mark.parametrize("freeze", ["", "1.*"])
@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS])
def test_it_is_its_definition_an_example_at_a_time(scenario, freeze):
    """Three tasks, a partial batch each; in GG exemplars compete within their task; what is frozen takes no part."""
    tasks = [task(0, [0, 1], 35), task(1, [2, 3], 35), task(2, [1, 2], 35)]
    fit = replace(for_scenario(FIT, scenario), freeze=freeze)
    method = AGEM(net(4), fit, per_class=4, reference=5)
    state = method.init(0)
    hand = ByHand(state, method, 4)
    for number, some in enumerate(tasks):
        losses = hand.learn(some, number)
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for name, param in hand.net.named_parameters():
        torch.testing.assert_close(state.model.params[name], param.detach(), rtol=1e-4, atol=1e-5)
    assert {True, False} == set(hand.violated)


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_without_exemplars_and_on_the_first_task_it_is_finetune_bit_for_bit(scenario):
    fit, rows = (
        for_scenario(replace(FIT, optimizer="adam", moments="kept"), scenario),
        2 if scenario is Scenario.GNS else 0,
    )
    tasks = stream(scenario)
    state, traces = learn_all(AGEM(net(rows), fit, per_class=0), tasks)
    model, expected = learn_all(Finetune(net(rows), fit), tasks)
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))
    assert state.memory == ()
    first, _ = learn_all(AGEM(net(rows), fit), tasks[:1])
    assert equal(first.model, learn_all(Finetune(net(rows), fit), tasks[:1])[0])


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS])
def test_it_remembers_where_finetune_forgets(scenario):
    """Permuted digits, three tasks: mean accuracy in the end."""
    mlp, fit = build("mlp:64", (64,), 10), for_scenario(Fit(optimizer="sgd", lr=0.1, batch=10, epochs=5), scenario)
    forgotten, kept = (on_permuted_digits(method, scenario) for method in (Finetune(mlp, fit), AGEM(mlp, fit)))
    assert kept > forgotten + 0.05
    assert kept > 0.85


# --- refusals


def test_a_task_at_another_scale_is_refused():
    tasks = stream(Scenario.GNS)
    tasks[1] = tasks[1]._replace(examples=replace(tasks[1].examples, scale=Scale()))
    with pytest.raises(Refused, match="sets of different scales cannot be joined"):
        learn_all(AGEM(net(2), FIT), tasks[:2])


@pytest.mark.parametrize("learned", [0, 1])
def test_an_empty_task_is_refused(learned):
    some = stream(Scenario.GNS)[0]
    none = Task(Arrays(some.examples.x[:0], some.examples.labels[:0], SCALE), some.id)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(AGEM(net(2), FIT), [*[some] * learned, none])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": -1}, r"method.per_class is -1; it must not be negative \(0 remembers nothing\)"),
        ({"reference": 0}, "method.reference is 0; it must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(Refused, match=message):
        AGEM(net(2), **options)
