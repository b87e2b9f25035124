"""Facts about GEM: its dual is solved exactly, and its loop is the paper's, an example at a time."""

import copy
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, on_permuted_digits, stream, task
from torch import Tensor, nn

from perdure.contract import Fit, Refused, Scale, Scenario, Task
from perdure.data import Arrays
from perdure.methods import a_gem, gem
from perdure.methods.finetune import Finetune
from perdure.methods.gem import GEM, nearest, project
from perdure.model import start
from perdure.nets import build
from perdure.ops.memory import keep
from perdure.rng import fold, normal, permutation
from perdure.train import Descent, competing, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=1)


# --- the dual


def problem(number: int, k: int, p: int = 12) -> tuple[Tensor, Tensor]:
    """A gradient (p,) and those of k memories (k, p), which have a part in common and differ in length."""
    common, own = normal(fold(number, "common"), p), normal(fold(number, "own"), k * p).view(k, p)
    lengths = 10 ** normal(fold(number, "lengths"), k)
    return normal(fold(number, "g"), p) - 0.7 * common, (own + common) * lengths[:, None]


def enumerated(g: Tensor, G: Tensor, margin: float) -> Tensor:
    """The step by the best of all 2^k active sets: those hold as equations, the others have weight margin."""
    h, best = g + margin * G.sum(0), None
    for size in range(len(G) + 1):
        for active in map(list, combinations(range(len(G)), size)):
            u = torch.linalg.lstsq(G[active].T, -h[:, None]).solution[:, 0] if active else h.new_zeros(0)
            step = h + u @ G[active]
            allowed = (u >= 0).all() and (G @ step > -1e-9 * G.norm(dim=1) * h.norm()).all()
            if allowed and (best is None or (step - h).norm() < (best - h).norm()):
                best = step
    return best


@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_it_is_the_best_of_all_active_sets(k, margin):
    for number in range(12):
        g, G = problem(number, k)
        expected = enumerated(g, G, margin) if (G @ g < 0).any() else g
        torch.testing.assert_close(project(g, G, margin), expected, rtol=1e-8, atol=1e-9 * float(G.norm()))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(("k", "p"), [(3, 50), (20, 50), (20, 8), (60, 30)])
def test_it_keeps_the_conditions_of_karush_kuhn_and_tucker(k, p, margin):
    """v >= margin, G g~ >= 0, and one of the two holds with equality; also where gradients depend on each other."""
    tight = loose = 0
    for number in range(20):
        g, G = problem(number, k, p)
        g, lengths = 100 * g, G.norm(dim=1)
        h = g + margin * G.sum(0)
        u = torch.from_numpy(nearest((G @ G.T).numpy(), (G @ h).numpy(), float(h.norm())))
        step = h + u @ G
        slack = (G @ step) / lengths / h.norm()
        assert (u >= 0).all()
        assert (slack > -2e-7).all()
        assert abs((u * lengths / h.norm()) @ slack) < 1e-6
        tight, loose = tight + int((u > 0).sum()), loose + int((u == 0).sum())
        if (G @ g < 0).any():
            torch.testing.assert_close(project(g, G, margin), step, rtol=1e-6, atol=1e-6 * float(h.norm()))
    assert tight
    assert loose


def test_what_violates_nothing_keeps_its_bits_whatever_the_margin():
    for number in range(200):
        g, G = problem(number, 4)
        G = torch.where((G @ g)[:, None] < 0, -G, G).float()
        mine = g.float()
        assert equal(project(mine, G, 0.5), mine)
        assert equal(project(mine, G, 0.5, out=torch.zeros_like(mine)), mine)


def test_with_one_memory_and_no_margin_it_is_a_gem():
    for number in range(50):
        g, G = problem(number, 1)
        torch.testing.assert_close(project(g, G), a_gem.project(g, G[0]))


def test_a_margin_is_a_rehearsal_that_is_projected():
    """The weights of a step with a margin are those of a step without one from h = g + margin sum_k g_k."""
    for number in range(50):
        g, G = problem(number, 6)
        if (G @ g < 0).any():
            torch.testing.assert_close(project(g, G, 0.5), project(g + 0.5 * G.sum(0), G), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_memories_that_say_the_same_are_solved_as_one(margin):
    """Equal, scaled and all but equal rows, a row of zeros, and opposite rows, which leave no way but across."""
    for number in range(50):
        g, G = problem(number, 3)
        g = torch.where(G[0] @ g < 0, g, -g)
        if margin == 0:
            twice = torch.cat([G, 2 * G, G + 1e-12, torch.zeros(1, 12)])
            torch.testing.assert_close(project(g, twice), project(g, G), rtol=1e-5, atol=1e-5)
        across = project(g, torch.stack([G[0], -G[0]]), margin)
        torch.testing.assert_close(across, g - G[0] * (G[0] @ g) / (G[0] @ G[0]), rtol=1e-6, atol=1e-6)


def test_in_single_precision_no_constraint_is_violated_by_more_than_its_rounding():
    for number in range(20):
        g, G = (part.float() for part in problem(number, 15, 3000))
        step = project(g, G)
        assert ((G @ step) / G.norm(dim=1) / step.norm() > -2e-6).all()
        mine = g.clone()
        with torch.autocast("cpu", torch.bfloat16):
            assert project(mine, G, out=mine) is mine
        assert equal(mine, step)


def test_it_stays_finite_where_all_is_zero():
    g = normal(1, 12).float()
    assert equal(project(g, torch.zeros(3, 12)), g)
    assert equal(project(torch.zeros(12), torch.ones(3, 12), 0.5), torch.zeros(12))
    assert np.array_equal(nearest(np.zeros((2, 2)), np.zeros(2), 0.0), np.zeros(2))


# --- the gradients of the memories


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("freeze", ["", "0.weight"])
@pytest.mark.parametrize("body", ["plain", "normalised"])
def test_one_pass_gives_the_gradient_of_each_memory(body, freeze, block, monkeypatch):
    """Against a backward pass a memory: of different sizes, with statistics and without, and parts that are frozen."""
    monkeypatch.setattr(gem, "BLOCK", block)
    middle = [nn.BatchNorm1d(6), nn.Dropout(0.5)] if body == "normalised" else []
    module = nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Linear(6, 3))
    fit = replace(FIT, freeze=freeze)
    memories = []
    for number, n in enumerate((7, 3, 5)):
        x, labels = normal(fold(number, "x"), 4 * n).view(n, 4).float(), torch.arange(n) % 3
        memories.append(keep(Arrays(x, labels), torch.device("cpu")))
    descent = Descent(module, start(module, fit, 0), fit, 0)
    descent(normal(1, 40).view(10, 4).float())  # moves the running statistics
    rival = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]])
    memories[2] = memories[2]._replace(labels=memories[2].labels % 2)
    G = GEM(module, fit)._slopes(descent, tuple(memories), rival)()
    twin = copy.deepcopy(descent.net).eval()
    for row, memory, own in zip(G, memories, rival, strict=True):
        moving = [param for param in twin.parameters() if param.requires_grad]
        loss = F.cross_entropy(twin(memory.x) + own, memory.labels)
        slopes = dict(zip(map(id, moving), torch.autograd.grad(loss, moving), strict=True))
        expected = [slopes.get(id(param), torch.zeros_like(param)).flatten() for param in twin.parameters()]
        torch.testing.assert_close(row, torch.cat(expected), rtol=1e-5, atol=1e-6)


class Recurrent(nn.Module):
    """What was read last says the label."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


def test_recurrent_networks_learn_under_constraints_too():
    net, fit, tasks = Recurrent(), for_scenario(FIT, Scenario.GNS), stream(Scenario.GNS)
    method = GEM(net, fit, slots=8)
    state, _ = learn_all(method, tasks[:1])
    descent = Descent(net, state.model, fit, 0)
    (G,) = method._slopes(descent, state.memory, torch.zeros(1, 2))()
    memory, twin = state.memory[0].examples.take(torch.arange(8)), copy.deepcopy(descent.net)
    slopes = torch.autograd.grad(F.cross_entropy(twin(memory.x), memory.y), list(twin.parameters()))
    torch.testing.assert_close(G, torch.cat([slope.flatten() for slope in slopes]), rtol=1e-5, atol=1e-6)
    method.learn(state, tasks[1], 1)


# --- the method


class ByHand:
    """GEM as its paper has it, an example and a memory at a time, by enumeration; only the draws are ours."""

    def __init__(self, state, method: GEM, rows: int) -> None:
        self.net, self.method, self.rows = net(rows), method, list(range(rows))
        with torch.no_grad():
            for name, param in self.net.named_parameters():
                param.copy_(state.model.params[name])
        self.past: list[list[tuple[Tensor, int, list[int]]]] = []  # stored input, label, the labels it competes with
        self.violated: list[int] = []

    def gradient(self, examples) -> tuple[float, Tensor]:
        losses = []
        for raw, label, own in examples:
            logits = self.net(SCALE(raw)[None])[:, own]
            losses.append(F.cross_entropy(logits, torch.tensor([own.index(label)])))
        loss = torch.stack(losses).mean()
        return float(loss.detach()), torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, self.net.parameters())]
        )

    def learn(self, some: Task, key: int) -> list[float]:
        classes = competing(self.method.fit, some)
        own = self.rows if classes is None else classes.tolist()
        examples = [(x, int(y), own) for x, y in zip(some.examples.x, some.examples.labels, strict=True)]
        losses = []
        for rows in permutation(fold(key, "order", 0), len(examples)).split(self.method.fit.batch):
            loss, g = self.gradient([examples[row] for row in rows.tolist()])
            losses.append(loss)
            if self.past:
                G = torch.stack([self.gradient(memory)[1] for memory in self.past])
                self.violated.append(int((G @ g < 0).sum()))
                if (G @ g < 0).any():
                    g = enumerated(g.double(), G.double(), self.method.margin).float()
            with torch.no_grad():
                for param, part in zip(
                    self.net.parameters(), g.split([p.numel() for p in self.net.parameters()]), strict=True
                ):
                    param -= self.method.fit.lr * part.view(param.shape)
        kept = permutation(fold(key, "memory"), len(examples))[: self.method.slots]
        self.past.append([examples[row] for row in kept.tolist()])
        return losses


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS])
def test_it_is_its_definition_an_example_at_a_time(scenario, margin):
    """Four tasks, a partial batch each, one smaller than its memory; in GG exemplars compete within their task."""
    tasks = [task(0, [0, 1], 35), task(1, [2, 3], 11), task(2, [1, 2], 35), task(3, [0, 3], 35)]
    method = GEM(net(4), for_scenario(FIT, scenario), slots=15, margin=margin)
    state = method.init(0)
    hand = ByHand(state, method, 4)
    for number, some in enumerate(tasks):
        losses = hand.learn(some, number)
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-3, atol=1e-4)
    for name, param in hand.net.named_parameters():
        torch.testing.assert_close(state.model.params[name], param.detach(), rtol=1e-3, atol=1e-4)
    assert len(set(hand.violated)) > 1
    assert max(hand.violated) > 1


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_without_exemplars_and_on_the_first_task_it_is_finetune_bit_for_bit(scenario):
    fit = for_scenario(replace(FIT, optimizer="adam", moments="kept"), scenario)
    rows, tasks = 2 if scenario is Scenario.GNS else 0, stream(scenario)
    state, traces = learn_all(GEM(net(rows), fit, slots=0), tasks)
    model, expected = learn_all(Finetune(net(rows), fit), tasks)
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))
    assert state.memory == ()
    first, _ = learn_all(GEM(net(rows), fit), tasks[:1])
    assert equal(first.model, learn_all(Finetune(net(rows), fit), tasks[:1])[0])


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_it_remembers_where_finetune_forgets(scenario, margin):
    """Permuted digits, three tasks: mean accuracy in the end."""
    mlp = build("mlp:64", (64,), 0 if scenario is Scenario.GNU else 10)
    fit = for_scenario(Fit(optimizer="sgd", lr=0.1, batch=20, epochs=3), scenario)
    forgotten = on_permuted_digits(Finetune(mlp, fit), scenario)
    kept = on_permuted_digits(GEM(mlp, fit, slots=100, margin=margin), scenario)
    assert kept > forgotten + 0.15


def test_with_one_past_task_and_no_margin_it_learns_as_a_gem_does():
    tasks, fit = stream(Scenario.GNS, 2), replace(FIT, epochs=3)
    tasks[1] = tasks[1]._replace(examples=replace(tasks[0].examples, labels=1 - tasks[0].examples.labels))  # against it
    state, (_, trace) = learn_all(GEM(net(2), fit, slots=60, margin=0.0), tasks)
    other, (_, expected) = learn_all(a_gem.AGEM(net(2), fit, per_class=60), tasks)
    torch.testing.assert_close(trace.loss, expected.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.model.params, other.model.params, rtol=1e-4, atol=1e-5)
    _, (_, plain) = learn_all(Finetune(net(2), fit), tasks)
    assert (plain.loss - trace.loss).abs().max() > 0.1


def test_small_steps_raise_no_loss_on_a_memory():
    """Without a margin, full batches and a small rate: the loss on every memory never grows by more than rounding."""
    tasks, fit = stream(Scenario.GNS, 4), Fit(optimizer="sgd", lr=1e-3, batch=60, steps=1)
    method, plain = GEM(net(2), fit, margin=0.0), Finetune(net(2), fit)
    state, _ = learn_all(GEM(net(2), FIT), tasks[:3])

    def losses(model) -> Tensor:
        answers = [plain.predict(model, SCALE(memory.x)).logits for memory in state.memory]
        return torch.stack(
            [F.cross_entropy(logits, m.labels) for logits, m in zip(answers, state.memory, strict=True)]
        ).double()

    before = losses(state.model)
    kept, forgot = method.learn(state, tasks[3], 3)[0].model, plain.learn(state.model, tasks[3], 3)[0]
    assert (losses(kept) - before).max() < 1e-5
    assert (losses(forgot) - before).max() > 1e-4


def test_a_memory_is_a_uniform_draw_of_its_task_as_it_was_stored():
    tasks = stream(Scenario.GNS)
    state, _ = learn_all(GEM(net(2), FIT, slots=20), tasks)
    for number, (memory, origin) in enumerate(zip(state.memory, tasks, strict=True)):
        rows = permutation(fold(number, "memory"), 60)[:20].sort().values
        assert (memory.x.dtype, memory.scale) == (torch.uint8, SCALE)
        assert equal(memory.x, origin.examples.x[rows])
        assert equal(memory.labels, origin.examples.labels[rows])


def test_a_task_costs_its_exemplars():
    method, states = GEM(net(2), FIT, slots=12), []
    state = method.init(0)
    for number, some in enumerate(stream(Scenario.GNS)):
        states.append(state := method.learn(state, some, number)[0])
    sizes = [nbytes(method.init(0)), *map(nbytes, states)]
    assert [after - before for before, after in pairwise(sizes)] == [12 * (8 + 8)] * 3  # an input and its label


def test_a_task_learned_again_is_no_constraint_on_itself_and_leaves_new_exemplars():
    method, tasks = GEM(net(2), FIT, slots=9), stream(Scenario.GNS)
    before, _ = learn_all(method, tasks)
    after, _ = method.learn(before, tasks[1], 8)
    assert (before.tasks, after.tasks) == ((0, 1, 2), (0, 2, 1))
    assert equal(after.memory[:2], (before.memory[0], before.memory[2]))
    rows = permutation(fold(8, "memory"), 60)[:9].sort().values
    assert equal(after.memory[2].x, tasks[1].examples.x[rows])
    assert nbytes(after.memory) == nbytes(before.memory)
    alone, _ = learn_all(method, tasks[:1])
    again, _ = method.learn(alone, tasks[0], 8)
    assert equal(again.model, Finetune(net(2), FIT).learn(alone.model, tasks[0], 8)[0])


def test_tasks_of_different_scales_go_together():
    """Each memory is scaled as its own task was: bytes and numbers between 0 and 1 are the same examples."""
    tasks = stream(Scenario.GNS)
    numbers = tasks[0].examples
    same = tasks[0]._replace(examples=Arrays(SCALE(numbers.x), numbers.labels, Scale()))
    (bytes_, _), (floats, _) = (learn_all(GEM(net(2), FIT), [first, *tasks[1:]]) for first in (tasks[0], same))
    torch.testing.assert_close(bytes_.model.params, floats.model.params)


# --- refusals


@pytest.mark.parametrize("slots", [0, 10])
@pytest.mark.parametrize("learned", [0, 1])
def test_an_empty_task_is_refused(learned, slots):
    some = stream(Scenario.GNS)[0]
    none = Task(Arrays(some.examples.x[:0], some.examples.labels[:0], SCALE), some.id)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(GEM(net(2), FIT, slots=slots), [*[some] * learned, none])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": -1}, r"method.slots is -1; it must not be negative \(0 remembers nothing\)"),
        ({"margin": -0.5}, "method.margin is -0.5; it must be finite and not negative"),
        ({"margin": float("nan")}, "method.margin is nan; it must be finite and not negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(Refused, match=message):
        GEM(net(2), **options)
