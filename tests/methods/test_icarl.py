"""Facts about iCaRL: herding is what brute force picks, learning is its definition by hand, and the mean decides."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, on_permuted_digits, stream, task
from sklearn.datasets import load_digits

from perdure.contract import Fit, Refused, Scale, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.icarl import ICaRL, between, herd
from perdure.nets import build
from perdure.ops.infer import entropy
from perdure.rng import fold, normal
from perdure.train import Descent
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.05, batch=10, epochs=2)


def cloud(n: int, d: int, length: float | None = 1.0) -> torch.Tensor:
    """(n, d) float64, of one length or of many."""
    x = normal(fold(3, n, d), n * d).view(n, d) + 0.5
    return x if length is None else length * F.normalize(x, dim=1)


def brute_force(phi: torch.Tensor, mu: torch.Tensor, m: int) -> list[int]:
    """Algorithm 4 of the paper, a candidate at a time; none twice."""
    picks: list[int] = []
    for k in range(1, m + 1):
        far = {}
        for i in range(len(phi)):
            if i not in picks:
                mean = (phi[i] + sum((phi[j] for j in picks), torch.zeros_like(mu))) / k
                far[i] = float((mu - mean).norm())
        picks.append(min(far, key=far.__getitem__))
    return picks


@pytest.mark.parametrize("length", [1.0, None])
@pytest.mark.parametrize(("n", "d", "m"), [(30, 3, 30), (60, 8, 20), (1, 4, 1), (40, 100, 12)])
def test_herding_picks_what_brute_force_picks(n, d, m, length):
    """Also where features are of many lengths, as that of an input on which no unit fires, which is zero."""
    phi = cloud(n, d, length)
    phi[n // 2] = 0.0
    assert herd(phi, phi.mean(0), m).tolist() == brute_force(phi, phi.mean(0), m)
    elsewhere = phi[0] + 0.1
    assert herd(phi, elsewhere, m).tolist() == brute_force(phi, elsewhere, m)
    assert herd(phi.float(), phi.mean(0).float(), m).tolist() == brute_force(phi, phi.mean(0), m)


def test_herding_picks_none_twice_and_the_first_of_equals():
    phi, mu = torch.eye(4)[[2, 0, 0, 1, 2, 1, 3]], torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert herd(phi, mu, 7).tolist() == brute_force(phi, mu, 7) == [1, 0, 3, 2, 4, 5, 6]
    assert not len(herd(phi, phi[0], 0))


def test_fewer_picks_are_the_first_of_more():
    phi = cloud(80, 6)
    assert torch.equal(herd(phi, phi.mean(0), 50)[:20], herd(phi, phi.mean(0), 20))


def test_herding_is_nearer_to_the_mean_than_a_draw():
    phi = cloud(2000, 20)
    mu = phi.mean(0)
    herded = (phi[herd(phi, mu, 20)].mean(0) - mu).norm()
    drawn = torch.stack([(phi[20 * i : 20 * i + 20].mean(0) - mu).norm() for i in range(100)])
    assert herded < drawn.min() / 3


class ByHand:
    """iCaRL as its paper has it, an example and a class at a time; only draws and batches are ours."""

    def __init__(self, model, fit: Fit, slots: int) -> None:
        self.net, self.fit, self.slots = net(6), fit, slots
        with torch.no_grad():
            for name, param in self.net.named_parameters():
                param.zero_()[: len(model.params[name])] = model.params[name]
        self.sets: dict[int, list[torch.Tensor]] = {}  # P_y
        self.counts: dict[int, int] = {}

    def feature(self, raw, network=None):
        phi = (network or self.net)[:3](SCALE(raw)[None])[0].detach()
        return phi / phi.norm()

    def loss(self, raw, label, shown, old):
        outputs, before = self.net(SCALE(raw)[None])[0].sigmoid(), old(SCALE(raw)[None])[0].sigmoid().detach()
        total = torch.zeros(())
        for y in [*self.sets, *(c for c in shown if c not in self.sets)]:
            q = float(label == y) if y in shown else before[y]
            total = total - q * outputs[y].log() - (1 - q) * (1 - outputs[y]).log()
        return total

    def learn(self, some: Task, key: int) -> list[float]:
        old, shown = copy.deepcopy(self.net), sorted(set(some.examples.labels.tolist()))
        new = list(zip(some.examples.x, some.examples.labels.tolist(), strict=True))
        both = [(x, y) for y, exemplars in self.sets.items() for x in exemplars] + new
        order = between(len(both) - len(new), len(new), fold(key, "between")).tolist()
        both = [both[place] for place in order]
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.fit.lr)
        labels = torch.tensor([y for _, y in both])
        whole = Arrays(torch.stack([x for x, _ in both]), labels, SCALE)
        model, _ = learn_all(Finetune(net(6), self.fit), [])
        blank = Descent(net(6), model, self.fit, key)
        losses = []
        for batch in blank.batches(whole):
            blank.step(torch.zeros_like(blank.flat))
            loss = torch.stack([self.loss(*both[row], shown, old) for row in batch.rows.tolist()]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        m = self.slots // len({*self.sets, *shown})
        for y in self.sets:
            self.sets[y] = self.sets[y][:m] if y not in shown else self.sets[y]
        for y in shown:
            olds, news = self.sets.get(y, []), [x for x, label in new if label == y]
            count = self.counts.get(y, 0)
            total = sum(self.feature(x) for x in news)
            if olds:
                total = total + count * sum(self.feature(x) for x in olds) / len(olds)
            self.counts[y] = count + len(news)
            phi = torch.stack([self.feature(x) for x in olds + news])
            picks = brute_force(phi.double(), (total / self.counts[y]).double(), min(m, len(phi)))
            self.sets[y] = [(olds + news)[pick] for pick in picks]
        return losses

    def answer(self, x):
        """The label whose mean is nearest."""
        phi = self.net[:3](x[None])[0].detach()
        phi, far = phi / phi.norm(), {}
        for y, exemplars in self.sets.items():
            mu = sum(self.feature(raw) for raw in exemplars) / len(exemplars)
            far[y] = float((phi - mu / mu.norm()).norm())
        return min(far, key=far.__getitem__)


@pytest.mark.parametrize(
    "classes", [[[0, 1], [2, 3], [4]], [[0, 1], [1, 0], [0, 1]], [[0, 1], [1, 2], [3, 0]]], ids=["new", "again", "both"]
)
def test_it_is_its_definition_by_hand(classes):
    """Classes that are new, that come again, and both, in three tasks with partial batches."""
    tasks = [task(number, own, 25) for number, own in enumerate(classes)]
    method = ICaRL(net(), FIT, slots=13)
    state = method.init(0)
    hand = ByHand(state.model, FIT, 13)
    for number, some in enumerate(tasks):
        losses = hand.learn(some, number)
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
        held = [(x, y) for y, exemplars in hand.sets.items() for x in exemplars]
        assert state.memory.seen == len(held)
        assert equal(state.memory.x[: len(held)], torch.stack([x for x, _ in held]))
        assert state.memory.labels[: len(held)].tolist() == [y for _, y in held]
        assert dict(zip(state.classes.tolist(), state.counts.tolist(), strict=True)) == hand.counts
        x = SCALE(torch.cat([some.examples.x for some in tasks]))
        answer = method.predict(method.ready(state), x)
        assert answer.labels[answer.logits.argmax(1)].tolist() == [hand.answer(one) for one in x]
    for name, param in state.model.params.items():
        whole = dict(hand.net.named_parameters())[name].detach()
        torch.testing.assert_close(param, whole[: len(param)], rtol=1e-4, atol=1e-5)


def test_the_budget_is_shared_and_the_best_stay():
    """20 slots: 10 of each of two classes, then 5 of each of four, then 3 of each of six."""
    method = ICaRL(net(), FIT, slots=20)
    state, sets = method.init(0), {}
    for number, some in enumerate(stream(Scenario.GNU)):
        state, _ = method.learn(state, some, number)
        m = 20 // (2 * number + 2)
        assert state.memory.seen == m * (2 * number + 2)
        assert not state.memory.x[state.memory.seen :].any()
        now = {y: state.memory.x[state.memory.labels == y][:m] for y in state.classes.tolist()}
        assert all(len(x) == m for x in now.values())
        assert all(equal(now[y], x[:m]) for y, x in sets.items())
        sets = now


def test_a_class_of_few_examples_leaves_its_slots_free():
    some = task(0, [0, 1], 40)
    rows = torch.cat([(some.examples.labels == 0).nonzero()[:3, 0], (some.examples.labels == 1).nonzero()[:, 0]])
    few = some._replace(examples=Arrays(some.examples.x[rows], some.examples.labels[rows], SCALE))
    state, _ = learn_all(ICaRL(net(), FIT, slots=20), [few])
    assert state.memory.examples.labels.bincount().tolist() == [3, 10]
    assert sorted(map(str, state.memory.examples.x[:3])) == sorted(map(str, few.examples.x[:3]))


def test_exemplars_of_classes_that_come_again_are_those_of_all_their_examples():
    """While nothing was dropped: herding in two halves picks as herding at once does, with the same network."""
    some = task(0, [0, 1], 60)
    halves = [
        some._replace(examples=Arrays(some.examples.x[a:b], some.examples.labels[a:b], SCALE))
        for a, b in ((0, 37), (37, 60))
    ]
    still = replace(FIT, freeze="*")
    once, _ = learn_all(ICaRL(net(), still, slots=120), [some])
    twice, _ = learn_all(ICaRL(net(), still, slots=120), halves)
    assert equal(twice.memory, once.memory)
    assert twice.counts.tolist() == once.counts.tolist() == some.examples.labels.bincount().tolist()


def test_an_old_exemplar_counts_for_as_many_examples_as_it_stands_for():
    """1,000 examples of which 10 stay, then 10 more: what is chosen then lies about where the 1,000 did."""

    def at(angle: float, n: int, number: int) -> Task:
        degrees = torch.tensor(angle) + 0.05 * normal(fold(5, number), n)
        x = torch.stack([degrees.cos(), degrees.sin()], 1).float()
        return Task(Arrays(x, torch.zeros(n, dtype=torch.int64)), None)

    flat = torch.nn.Linear(2, 1)
    method = ICaRL(flat, FIT, slots=10)
    state, _ = learn_all(method, [at(0.0, 1000, 0), at(1.0, 10, 1)])
    mean = method.ready(state).mu[0]
    assert float(torch.atan2(mean[1], mean[0])) == pytest.approx(0.01, abs=0.02)  # 0.5 if all counted alike


def test_old_outputs_are_distilled_on_new_images():
    """A fit of many steps: on images of new classes old outputs answer as before, and finetune's are lost."""
    tasks = stream(Scenario.GNU, 2)
    method = ICaRL(net(), Fit(lr=0.01, batch=20, epochs=30), slots=10)
    first, _ = learn_all(method, tasks[:1])
    second, _ = method.learn(first, tasks[1], 1)
    x = tasks[1].examples.take(torch.arange(60)).x

    def old(model):
        network = net(len(model.labels))
        network.load_state_dict(model.params)
        return network(x)[:, :2].sigmoid().detach()

    lost, _ = learn_all(Finetune(net(), method.fit), tasks)
    assert (old(second.model) - old(first.model)).abs().mean() < 0.1
    assert (old(lost) - old(first.model)).abs().mean() > 0.3


def test_exemplars_fall_between_the_examples_of_a_task():
    order = between(200, 1000, 7)
    assert torch.equal(order.sort().values, torch.arange(1200))
    assert torch.equal(order[order >= 200], torch.arange(200, 1200))
    assert not torch.equal(order[order < 200], torch.arange(200))
    share = (order < 200).float().view(4, 300).mean(1)
    assert share.tolist() == pytest.approx([1 / 6] * 4, abs=0.07)
    assert torch.equal(between(0, 5, 0), torch.arange(5))


def test_before_any_task_the_network_answers_and_then_only_classes_that_were_seen():
    method, some = ICaRL(net(6), FIT, slots=20), stream(Scenario.GNU)[1]
    state, x = method.init(0), some.examples.take(torch.arange(5)).x
    plain = Finetune(net(6), FIT)
    assert equal(method.predict(method.ready(state), x), plain.predict(plain.init(0), x))
    state, _ = method.learn(state, some, 0)
    assert method.predict(method.ready(state), x).labels.tolist() == [2, 3]
    narrowed = method.predict(method.ready(state), x, TaskId(0, torch.tensor([1, 3])))
    assert narrowed.labels.tolist() == [3]


def test_rows_of_classes_never_seen_stay_as_they_were():
    method, some = ICaRL(net(6), FIT, slots=20), stream(Scenario.GNU)[1]
    before = method.init(0)
    state, _ = method.learn(before, some, 0)
    others = [0, 1, 4, 5]
    assert equal(state.model.params["3.weight"][others], before.model.params["3.weight"][others])
    assert not equal(state.model.params["3.weight"][2:4], before.model.params["3.weight"][2:4])


@pytest.mark.parametrize("scenario", Scenario)
def test_it_remembers_where_finetune_forgets(scenario):
    """Permuted digits, three tasks: mean accuracy in the end."""
    mlp = build("mlp:64", (64,), 0 if scenario is Scenario.GNU else 10)
    fit = Fit(lr=0.005, batch=20, epochs=4)
    forgotten = on_permuted_digits(Finetune(mlp, fit), scenario)
    kept = on_permuted_digits(ICaRL(mlp, fit, slots=300), scenario)
    assert kept > forgotten + 0.15


def test_classes_learned_one_pair_at_a_time_are_told_apart_and_doubt_says_which_answers_are_wrong():
    """Split digits, five tasks of two classes, 597 digits never seen."""
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).byte(), torch.from_numpy(digits.target)
    tasks = []
    for number in range(5):
        classes = torch.tensor([2 * number, 2 * number + 1])
        rows = torch.isin(y[:1200], classes).nonzero()[:, 0]
        tasks.append(Task(Arrays(x[rows], y[rows], Scale(0.0, 1 / 16)), TaskId(number, classes)))
    right, sure = {}, {}
    for method in (
        kind(build("mlp:64", (64,), 0), Fit(lr=0.002, batch=20, epochs=5), **options)
        for kind, options in ((Finetune, {}), (ICaRL, {"slots": 200}))
    ):
        state, _ = learn_all(method, tasks)
        answer = method.predict(method.ready(state), x[1200:].float() / 16)
        name = type(method).__name__
        right[name] = float((answer.labels[answer.logits.argmax(1)] == y[1200:]).float().mean())
        sure[name] = float(answer.logits.softmax(1).amax(1).mean())
        if method.rehearses:
            wrong = answer.labels[answer.logits.argmax(1)] != y[1200:]
            assert entropy(answer.logits)[wrong].mean() > 1.3 * entropy(answer.logits)[~wrong].mean()
    assert right["Finetune"] < 0.25
    assert right["ICaRL"] > 0.7
    assert sure["ICaRL"] == pytest.approx(right["ICaRL"], abs=0.25)  # 0.13 without a scale


def test_bytes_are_constant_from_the_first_task_on():
    method, tasks = ICaRL(net(6), FIT, slots=70), stream(Scenario.GNU)
    states = [method.init(0)]
    for number, some in enumerate(tasks):
        states.append(method.learn(states[-1], some, number)[0])
    assert [nbytes(state) - nbytes(state.model) - nbytes(state.counts) for state in states[1:]] == [70 * (8 + 8)] * 3
    assert nbytes(states[0].memory) == 0
    assert states[1].memory.x.dtype == torch.uint8


def test_old_states_stay_as_they_were():
    method, tasks = ICaRL(net(), FIT, slots=20), stream(Scenario.GNU)
    state, _ = learn_all(method, tasks[:2])
    before = copy.deepcopy(state)
    method.learn(state, tasks[2], 2)
    assert equal(state, before)


def test_a_memory_smaller_than_the_number_of_classes_is_refused():
    with pytest.raises(Refused, match=r"method.slots is 0; every class is known by its exemplars"):
        ICaRL(net(), slots=0)
    method, tasks = ICaRL(net(), FIT, slots=3), stream(Scenario.GNU)
    state, _ = learn_all(method, tasks[:1])
    with pytest.raises(Refused, match=r"method.slots is 3, and there are 4 classes.* raise it to at least 4"):
        method.learn(state, tasks[1], 1)
    learn_all(ICaRL(net(), FIT, slots=4), tasks[:2])


def test_an_empty_class_is_refused_unless_exemplars_of_it_are_kept():
    some = task(0, [0, 1], 30)
    wide = some._replace(id=TaskId(0, torch.tensor([0, 1, 5])))
    with pytest.raises(Refused, match=r"class 5 of the task has no examples.*give it at least one, or leave it out"):
        learn_all(ICaRL(net(), FIT), [wide])
    state, _ = learn_all(ICaRL(net(), FIT), [task(1, [5, 6]), wide])
    assert state.classes.tolist() == [5, 6, 0, 1]


@pytest.mark.parametrize("learned", [0, 1])
def test_an_empty_task_is_refused(learned):
    tasks = stream(Scenario.GNS, 2)
    none = Task(Arrays(tasks[1].examples.x[:0], tasks[1].examples.labels[:0], SCALE), None)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(ICaRL(net(), FIT), [*tasks[:learned], none])


def test_a_task_at_another_scale_is_refused():
    tasks = stream(Scenario.GNU)
    tasks[1] = tasks[1]._replace(examples=replace(tasks[1].examples, scale=Scale()))
    with pytest.raises(Refused, match="sets of different scales cannot be joined"):
        learn_all(ICaRL(net(), FIT), tasks)
