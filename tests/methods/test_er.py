"""Facts about experience replay: it equals its definition written an example at a time, and it remembers."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, fitted, learn_all, net, on_permuted_digits, stream, task

from perdure.contract import Fit, Refused, Scale, Scenario, Task
from perdure.data import Arrays
from perdure.methods.er import ER
from perdure.methods.finetune import Finetune
from perdure.model import start
from perdure.nets import build
from perdure.rng import fold, integers, uniform
from perdure.testing import check_method
from perdure.train import Descent, competing, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=2)


class ByHand:
    """Experience replay as its paper has it, an example at a time; only the draws and the batches are ours."""

    def __init__(self, model, fit: Fit, slots: int) -> None:
        self.net, self.fit, self.slots = net(len(model.labels)), fit, slots
        with torch.no_grad():
            for name, param in self.net.named_parameters():
                param.copy_(model.params[name])
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=fit.lr)
        self.held: list[tuple[torch.Tensor, int, list[int]]] = []  # stored input, label, the labels it competes with
        self.seen = 0

    def loss(self, raw, label, own):
        logits = self.net(SCALE(raw)[None])[:, own]
        return F.cross_entropy(logits, torch.tensor([own.index(label)]))

    def learn(self, some: Task, key: int, everything: list[int]) -> list[float]:
        classes = competing(self.fit, some)
        own = everything if classes is None else classes.tolist()
        reservoir, replay = fold(key, "reservoir"), fold(key, "replay")
        losses, drawn, first = [], 0, len(some.examples)
        blank = Descent(net(), start(net(2), self.fit, 0)._replace(labels=some.examples.labels.unique()), self.fit, key)
        for batch in blank.batches(some.examples):
            blank.step(torch.zeros_like(blank.flat))
            rows, old = batch.rows, []
            fill = min(self.seen, self.slots)
            for draw in uniform(replay, len(rows), start=drawn).tolist():
                old += [self.held[int(draw * fill)]] if fill else []
            drawn += len(rows)
            new = [(some.examples.x[i], int(some.examples.labels[i]), own) for i in rows.tolist()]
            loss = torch.stack([self.loss(*example) for example in new + old]).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            for example in new if first > 0 else []:
                place = int(integers(reservoir, self.seen + 1, 1, start=self.seen))
                if self.seen < self.slots:
                    self.held.append(example)
                elif place < self.slots:
                    self.held[place] = example
                self.seen += 1
            first -= len(rows)
        return losses


@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS])
def test_it_is_its_definition_an_example_at_a_time(scenario):
    """Two passes over three tasks with a partial batch; in GG every exemplar competes within its own task."""
    tasks = [task(0, [0, 1], 25), task(1, [2, 3], 25), task(2, [1, 2], 25)]
    method = ER(net(4), for_scenario(FIT, scenario), slots=15)
    state = method.init(0)
    hand = ByHand(state.model, method.fit, 15)
    for number, some in enumerate(tasks):
        losses = hand.learn(some, number, [0, 1, 2, 3])
        state, trace = method.learn(state, some, number)
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
        assert equal(state.exemplars.memory.x, torch.stack([x for x, _, _ in hand.held]))
        assert state.exemplars.memory.labels.tolist() == [label for _, label, _ in hand.held]
        if scenario is Scenario.GG:
            assert [list(state.exemplars.sets[place]) for place in state.exemplars.which] == [
                own for _, _, own in hand.held
            ]
    for name, param in hand.net.named_parameters():
        torch.testing.assert_close(state.model.params[name], param.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", Scenario)
def test_it_remembers_where_finetune_forgets(scenario):
    """Permuted digits, three tasks: mean accuracy in the end."""
    mlp = build("mlp:64", (64,), 0 if scenario is Scenario.GNU else 10)
    fit = fitted(Fit(lr=0.005, batch=20, epochs=2), scenario)
    forgotten = on_permuted_digits(Finetune(mlp, fit), scenario)
    kept = on_permuted_digits(ER(mlp, fit, slots=200), scenario)
    assert kept > 0.75
    assert kept > forgotten + 0.15


@pytest.mark.parametrize("scenario", Scenario)
def test_without_slots_it_is_finetune_bit_for_bit(scenario):
    fit, rows = fitted(replace(FIT, optimizer="adam", moments="kept"), scenario), 6
    state, traces = learn_all(ER(net(rows), fit, slots=0), stream(scenario))
    model, expected = learn_all(Finetune(net(rows), fit), stream(scenario))
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))
    assert state.exemplars.memory is None


def test_an_empty_memory_replays_nothing():
    """The first step ever is finetune's; the second is not."""
    some = stream(Scenario.GNS)[0]
    _, (ours,) = learn_all(ER(net(2), FIT), [some])
    _, (plain,) = learn_all(Finetune(net(2), FIT), [some])
    assert equal(ours.loss[0], plain.loss[0])
    assert not equal(ours.loss[2], plain.loss[2])


def test_bytes_are_constant_from_the_first_task_on():
    method, tasks = ER(net(2), FIT, slots=70), stream(Scenario.GNS)
    states = [method.init(0)]
    for number, some in enumerate(tasks):
        states.append(method.learn(states[-1], some, number)[0])
    sizes = {nbytes(state) - nbytes(state.model) for state in states[1:]}
    assert sizes == {70 * (8 + 8 + 4)}  # a stored input, its label, its set
    assert nbytes(states[0].exemplars.memory) == 0
    assert [state.exemplars.memory.seen for state in states[1:]] == [60, 120, 180]


def test_the_memory_holds_stored_inputs_of_the_tasks_it_saw():
    tasks = stream(Scenario.GNU)
    state, _ = learn_all(ER(net(), FIT, slots=30), tasks)
    assert state.exemplars.memory.x.dtype == torch.uint8
    for x, label in zip(state.exemplars.memory.x, state.exemplars.memory.labels.tolist(), strict=True):
        origin = tasks[label // 2].examples
        assert ((origin.x == x).flatten(1).all(1) & (origin.labels == label)).any()


def test_a_task_at_another_scale_is_refused():
    tasks = stream(Scenario.GNS)
    tasks[1] = tasks[1]._replace(examples=replace(tasks[1].examples, scale=Scale()))
    with pytest.raises(Refused, match="sets of different scales cannot be joined"):
        learn_all(ER(net(2), FIT), tasks)


def test_a_negative_number_of_slots_is_refused():
    with pytest.raises(Refused, match=r"method.slots is -1; it must not be negative"):
        ER(net(2), slots=-1)


@pytest.mark.parametrize("slots", [0, 10])
def test_an_empty_task_is_refused(slots):
    some = stream(Scenario.GNS)[0]
    none = Task(Arrays(some.examples.x[:0], some.examples.labels[:0], SCALE), some.id)
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(ER(net(2), FIT, slots=slots), [none])


def test_old_states_stay_as_they_were():
    method, tasks = ER(net(2), FIT, slots=20), stream(Scenario.GNS)
    state, _ = learn_all(method, tasks[:2])
    before = copy.deepcopy(state)
    method.learn(state, tasks[2], 2)
    assert equal(state, before)


@pytest.mark.parametrize("keep", ["ring", "balanced"])
def test_every_way_to_keep_exemplars_keeps_the_laws(keep):
    laws, scenarios = ["repeatable", "resumable", "hidden", "memory"], [Scenario.GNU, Scenario.NNS]
    assert check_method(ER(net(), keep=keep, slots=30), laws=laws, scenarios=scenarios) == laws


@pytest.mark.parametrize("keep", ["ring", "balanced"])
def test_exemplars_keep_their_sets_in_every_order(keep):
    """In GG every exemplar competes within the task that it came from, wherever it is moved to."""
    tasks = stream(Scenario.GG)
    state, _ = learn_all(ER(net(), for_scenario(FIT, Scenario.GG), slots=20, keep=keep), tasks)
    sizes = state.exemplars.memory.labels.bincount().tolist()
    assert max(sizes) - min(sizes) <= 1
    for label, place in zip(state.exemplars.memory.labels.tolist(), state.exemplars.which.tolist(), strict=True):
        assert label in state.exemplars.sets[place]


def test_what_is_counted_of_each_class_is_part_of_the_state():
    tasks = [task(0, [5, 2], 40), task(1, [2, 7], 50)]
    shown = torch.cat([some.examples.labels for some in tasks]).bincount()
    state, _ = learn_all(ER(net(), FIT, slots=20, keep="balanced"), tasks)
    assert dict(zip(state.model.labels.tolist(), state.exemplars.counts, strict=True)) == {
        y: int(shown[y]) for y in (2, 5, 7)
    }
    for keep in ("reservoir", "ring"):
        assert learn_all(ER(net(), FIT, slots=20, keep=keep), tasks)[0].exemplars.counts == ()


@pytest.mark.parametrize("keep", ["ring", "balanced"])
def test_a_rare_class_is_remembered_where_a_reservoir_forgets_it(keep):
    """Two tasks: 4 examples of one class beside 296 of another, then 900 of two others; 20 slots."""
    first, second = task(0, [0, 1], 900), task(1, [2, 3], 900)
    rows = torch.cat([(first.examples.labels == y).nonzero()[:n, 0] for y, n in ((0, 4), (1, 296))])
    few = first._replace(examples=Arrays(first.examples.x[rows], first.examples.labels[rows], SCALE))
    rare = first.examples.labels == 0
    x = first.examples.take(torch.arange(900)).x[rare]
    right = {}
    for way in ("reservoir", keep):
        method = ER(net(), for_scenario(Fit(lr=0.01, batch=10, epochs=2), Scenario.GNU), slots=20, keep=way)
        state, _ = learn_all(method, [few, second])
        answer = method.predict(state, x)
        right[way] = float((answer.labels[answer.logits.argmax(1)] == 0).float().mean())
        assert int((state.exemplars.memory.labels == 0).sum()) == (0 if way == "reservoir" else 4)
    assert right[keep] > 0.9
    assert right["reservoir"] < 0.2


def test_a_way_to_keep_exemplars_that_is_not_known_is_refused():
    with pytest.raises(Refused, match=r"unknown method.keep 'rings'; did you mean ring\? There are: reservoir, ring"):
        ER(net(2), keep="rings")
