"""Facts about joint training: one task is finetune, several are one task made of all of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replayed import SCALE, learn_all, net, task

from perdure.contract import Fit, Refused, Scale, Scenario, Task
from perdure.data import Arrays
from perdure.methods import joint
from perdure.methods.finetune import Finetune
from perdure.methods.joint import Joint
from perdure.model import start
from perdure.train import Descent, for_scenario, minimise
from perdure.tree import equal, nbytes, transform

FIT = Fit(optimizer="adam", lr=0.01, batch=10, epochs=2)


def union(tasks: list[Task]) -> Arrays:
    return Arrays(*(torch.cat([getattr(t.examples, part) for t in tasks]) for part in ("x", "labels")), SCALE)


SHARED = [task(0, [0, 1], 45), task(1, [0, 1], 45), task(2, [0, 1], 20)]
UNSHARED = [task(0, [4, 5], 45), task(1, [0, 1], 45), task(2, [2, 3], 20)]


@pytest.mark.parametrize("rows", [0, 6])
@pytest.mark.parametrize("scenario", [Scenario.GG, Scenario.GNS, Scenario.GNU])
def test_one_task_is_finetune_bit_for_bit(scenario, rows):
    fit = for_scenario(FIT, scenario)
    state, traces = learn_all(Joint(net(rows), fit), UNSHARED[:1])
    model, expected = learn_all(Finetune(net(rows), fit), UNSHARED[:1])
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))


def test_several_tasks_are_one_task_made_of_all_of_them():
    method = Joint(net(2), FIT)
    state, (*_, trace) = learn_all(method, SHARED)
    model, expected = minimise(method.net, start(method.net, FIT, 0), FIT, Task(union(SHARED), None), 2)
    assert equal(state.model, model)
    assert equal(trace, expected)


def test_it_makes_as_many_updates_as_learning_one_after_the_other(monkeypatch):
    monkeypatch.setattr(joint, "STEPS", 4)  # when neither epochs nor steps are given
    for fit, steps in (
        (FIT, [10, 18, 22]),  # two passes over 45, 90, 110 examples
        (replace(FIT, epochs=None, steps=7), [7, 14, 21]),
        (replace(FIT, epochs=None), [4, 8, 12]),
    ):
        for t, count in enumerate(steps, 1):
            assert len(learn_all(Joint(net(2), fit), SHARED[:t])[1][-1].loss) == count


def test_it_starts_afresh_whatever_was_learned_before():
    method = Joint(net(2), replace(FIT, moments="kept"))
    state, _ = learn_all(method, SHARED[:2])
    other = state._replace(model=transform(state.model, torch.zeros_like))
    assert equal(method.learn(state, SHARED[2], 5), method.learn(other, SHARED[2], 5))
    assert state.model.moments == {}


def test_where_only_the_tasks_logits_compete_each_example_competes_within_its_task():
    """Plain torch on the same batches, each row narrowed to the labels of its task."""
    method = Joint(net(), for_scenario(replace(FIT, optimizer="sgd", lr=0.1), Scenario.GG))
    state, (*_, trace) = learn_all(method, UNSHARED)
    assert state.model.labels.tolist() == [4, 5, 0, 1, 2, 3]
    plain, losses = net(6), []
    with torch.no_grad():
        for name, param in plain.named_parameters():
            param.copy_(state.first.params[name])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    examples = union(UNSHARED)
    own = torch.arange(6).view(3, 2)[torch.tensor([0] * 45 + [1] * 45 + [2] * 20)]  # the two rows of each example
    order = Descent(net(), state.first, method.fit, 2)
    for batch in order.batches(examples):
        order.step(torch.zeros_like(order.flat))
        loss = F.cross_entropy(plain(batch.x).gather(1, own[batch.rows]), batch.y % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for name, param in plain.named_parameters():
        torch.testing.assert_close(state.model.params[name], param.detach(), rtol=1e-4, atol=1e-5)


def test_the_state_holds_all_data_as_stored_and_shares_it_with_the_state_before():
    method = Joint(net(2), FIT)
    before, _ = learn_all(method, SHARED[:2])
    after, _ = method.learn(before, SHARED[2], 2)
    assert nbytes(after.data) == 110 * (8 + 8)
    for memory, some in zip(after.data, SHARED, strict=True):
        assert equal(memory.x, some.examples.x)
        assert memory.x.data_ptr() != some.examples.x.data_ptr()
    assert [memory.x.data_ptr() for memory in after.data[:2]] == [memory.x.data_ptr() for memory in before.data]


def test_tasks_at_different_scales_are_refused():
    odd = SHARED[1]._replace(examples=replace(SHARED[1].examples, scale=Scale()))
    with pytest.raises(Refused, match="different scales cannot be joined"):
        learn_all(Joint(net(2), FIT), [SHARED[0], odd])


def test_examples_that_flow_by_once_cannot_be_learned_together():
    assert Scenario.NNS not in Joint.scenarios
