"""Facts about dark experience replay: it equals its definition, and finetune or replay where its strengths say so."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, fitted, learn_all, net, on_permuted_digits, stream, task

from perdure.contract import Fit, Refused, Scale, Scenario, Task
from perdure.data import Arrays
from perdure.methods.der import DER, DERState
from perdure.methods.er import ER
from perdure.methods.finetune import Finetune
from perdure.nets import build
from perdure.rng import fold, integers, uniform
from perdure.train import Descent, competing, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=2)


class ByHand:
    """Dark experience replay an example at a time; only the draws and the batches are ours."""

    def __init__(self, model, method: DER) -> None:
        self.method, self.net = method, net(6)
        with torch.no_grad():
            for name, param in self.net.named_parameters():
                param.zero_()[: len(model.params[name])] = model.params[name]
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=method.fit.lr)
        self.held: list[dict] = []
        self.seen = 0

    def logits(self, one):
        return self.net(SCALE(one["x"])[None])[0, one["own"]]

    def entropy(self, one):
        return F.cross_entropy(self.logits(one), torch.tensor(one["own"].index(one["label"])))

    def distance(self, one):
        return (self.logits(one) - one["z"][one["own"]]).square().mean()

    def learn(self, some: Task, key: int, everything: list[int]) -> list[float]:
        classes = competing(self.method.fit, some)
        own = everything if classes is None else classes.tolist()
        if classes is None:
            for one in self.held:
                one["own"] = own  # all that have a row by now
        new = [
            {"x": x, "label": int(y), "own": own} for x, y in zip(some.examples.x, some.examples.labels, strict=True)
        ]
        model = learn_all(Finetune(net(6), self.method.fit), [])[0]
        blank = Descent(net(6), model, self.method.fit, key)
        losses, drawn, first = [], 0, len(new)
        for batch in blank.batches(some.examples):
            blank.step(torch.zeros_like(blank.flat))
            rows, fill = batch.rows.tolist(), min(self.seen, self.method.slots)
            loss = torch.stack([self.entropy(new[row]) for row in rows]).mean()
            for draw, strength, term in (
                ("logits", self.method.alpha, self.distance),
                ("replay", self.method.beta, self.entropy),
            ):
                places = (uniform(fold(key, draw), len(rows), start=drawn) * fill).long().tolist()
                if fill:
                    loss = loss + strength * torch.stack([term(self.held[place]) for place in places]).mean()
            drawn += len(rows)
            losses.append(loss.item())
            with torch.no_grad():
                for row in rows:
                    new[row]["z"] = torch.zeros(6)
                    new[row]["z"][own] = self.logits(new[row])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            for row in rows if first > 0 else []:
                place = int(integers(fold(key, "reservoir"), self.seen + 1, 1, start=self.seen))
                if self.seen < self.method.slots:
                    self.held.append(new[row])
                elif place < self.method.slots:
                    self.held[place] = new[row]
                self.seen += 1
            first -= len(rows)
        return losses


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.0), (0.3, 0.8), (0.0, 0.5)])
@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_it_is_its_definition_an_example_at_a_time(scenario, alpha, beta):
    """Two passes over three tasks with a partial batch. In GG a task competes with itself, and sets differ in size;

    in GNU the head grows, and an exemplar is compared with 0 where it was seen before a label."""
    labels = [[0, 1, 2], [3, 4], [2, 3]] if scenario is Scenario.GG else [[0, 1], [2, 3], [4, 5]]
    tasks = [task(number, classes, 25) for number, classes in enumerate(labels)]
    rows = 0 if scenario is Scenario.GNU else 6
    method = DER(net(rows), for_scenario(FIT, scenario), alpha=alpha, beta=beta, slots=15)
    state = method.init(0)
    hand = ByHand(state.model, method)
    for number, some in enumerate(tasks):
        everything = list(range(rows or 2 * (number + 1)))
        losses = hand.learn(some, number, everything)
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
        assert equal(state.exemplars.memory.x, torch.stack([one["x"] for one in hand.held]))
        assert state.exemplars.memory.labels.tolist() == [one["label"] for one in hand.held]
        for z, one in zip(state.z, hand.held, strict=True):
            own = one["own"]
            torch.testing.assert_close(z[own], one["z"][own], rtol=1e-4, atol=1e-5)
    for name, param in state.model.params.items():
        torch.testing.assert_close(param, dict(hand.net.named_parameters())[name].detach(), rtol=1e-4, atol=1e-5)


def test_labels_alone_are_experience_replay_with_separate_means():
    """The same draw: a mean over both batches at twice the rate is the sum of the two means."""
    tasks = stream(Scenario.GNS)
    before, _ = learn_all(ER(net(2), FIT, slots=30), tasks[:1])
    dark = DERState(before.model, before.exemplars, torch.zeros(30, 2))
    expected, er = ER(net(2), replace(FIT, lr=0.2), slots=30).learn(before, tasks[1], 1)
    state, trace = DER(net(2), FIT, alpha=0.0, beta=1.0, slots=30).learn(dark, tasks[1], 1)
    torch.testing.assert_close(state.model.params, expected.model.params, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trace.loss, 2 * er.loss, rtol=1e-5, atol=1e-6)
    assert equal(state.exemplars.memory, expected.exemplars.memory)
    assert not equal(expected.exemplars.memory, before.exemplars.memory)


@pytest.mark.parametrize("off", [{"alpha": 0.0}, {"slots": 0}])
@pytest.mark.parametrize("scenario", Scenario)
def test_without_strength_or_slots_it_is_finetune_bit_for_bit(scenario, off):
    fit = fitted(replace(FIT, optimizer="adam", moments="kept"), scenario)
    state, traces = learn_all(DER(net(6), fit, **off), stream(scenario))
    model, expected = learn_all(Finetune(net(6), fit), stream(scenario))
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))
    assert state.exemplars.memory is None


def test_the_two_draws_are_independent_and_one_does_not_move_the_other():
    """With the first of them off, the second brings what it brings beside it: a tiny alpha changes nothing by much."""
    tasks = stream(Scenario.GNS)
    alone, _ = learn_all(DER(net(2), FIT, alpha=0.0, beta=1.0, slots=20), tasks)
    beside, _ = learn_all(DER(net(2), FIT, alpha=1e-9, beta=1.0, slots=20), tasks)
    torch.testing.assert_close(beside.model.params, alone.model.params, rtol=1e-5, atol=1e-6)
    assert equal(beside.exemplars.memory, alone.exemplars.memory)


def test_the_logits_are_those_of_the_step_that_showed_the_example():
    """One pass in one batch: those of the network before it learned."""
    some = stream(Scenario.GNS)[0]
    method = DER(net(2), replace(FIT, batch=60, epochs=1), slots=60)
    state, _ = method.learn(before := method.init(0), some, 1)
    then = method.predict(before, SCALE(state.exemplars.memory.x)).logits
    torch.testing.assert_close(state.z, then)
    assert not torch.allclose(state.z, method.predict(state, SCALE(state.exemplars.memory.x)).logits, atol=1e-2)


def test_logits_of_past_tasks_keep_their_bits_and_get_columns_of_zeros():
    tasks = stream(Scenario.GNU, 2)
    method = DER(net(), for_scenario(FIT, Scenario.GNU), slots=30)
    first, _ = method.learn(method.init(0), tasks[0], 0)
    second, _ = method.learn(first, tasks[1], 1)
    stayed = (second.exemplars.memory.labels < 2).nonzero()[:, 0]  # an exemplar keeps its slot
    assert 0 < len(stayed) < 30
    assert (first.z.shape, second.z.shape) == ((30, 2), (30, 4))
    assert equal(second.z[stayed, :2], first.z[stayed])
    assert not second.z[stayed, 2:].any()


def test_bytes_are_constant_from_the_first_task_on():
    method, tasks = DER(net(2), FIT, slots=70), stream(Scenario.GNS)
    states = [method.init(0)]
    for number, some in enumerate(tasks):
        states.append(method.learn(states[-1], some, number)[0])
    sizes = {nbytes(state) - nbytes(state.model) for state in states[1:]}
    assert sizes == {70 * (8 + 8 + 4 + 2 * 4)}  # a stored input, its label, its set, two logits


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("scenario", Scenario)
def test_it_remembers_where_finetune_forgets(scenario, beta):
    """Permuted digits, three tasks: mean accuracy in the end."""
    mlp = build("mlp:64", (64,), 0 if scenario is Scenario.GNU else 10)
    fit = fitted(Fit(lr=0.005, batch=20, epochs=2), scenario)
    forgotten = on_permuted_digits(Finetune(mlp, fit), scenario)
    kept = on_permuted_digits(DER(mlp, fit, beta=beta, slots=200), scenario)
    assert kept > 0.65
    assert kept > forgotten + 0.05


def test_old_states_stay_as_they_were():
    method, tasks = DER(net(), for_scenario(FIT, Scenario.GNU), beta=0.5, slots=20), stream(Scenario.GNU)
    state, _ = learn_all(method, tasks[:2])
    before = copy.deepcopy(state)
    method.learn(state, tasks[2], 2)
    assert equal(state, before)


def test_a_task_at_another_scale_is_refused():
    tasks = stream(Scenario.GNS)
    tasks[1] = tasks[1]._replace(examples=replace(tasks[1].examples, scale=Scale()))
    with pytest.raises(Refused, match="sets of different scales cannot be joined"):
        learn_all(DER(net(2), FIT), tasks)


@pytest.mark.parametrize("slots", [0, 10])
def test_an_empty_task_is_refused(slots):
    some = stream(Scenario.GNS)[0]
    none = Task(Arrays(some.examples.x[:0], some.examples.labels[:0], SCALE), some.id)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(DER(net(2), FIT, slots=slots), [none])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "method.alpha is -0.1; it must be finite and not negative"),
        ({"beta": float("nan")}, "method.beta is nan; it must be finite and not negative"),
        ({"slots": -1}, r"method.slots is -1; it must not be negative \(0 replays nothing\)"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(Refused, match=message):
        DER(net(2), **options)
