"""Facts about NCM: a running mean is the mean, whatever comes when, and the nearest one answers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from replayed import learn_all
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid
from torch import nn

from perdure.contract import Fit, Refused, Scale, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.ncm import NCM
from perdure.nets import build
from perdure.rng import normal, permutation
from perdure.train import Diverged
from perdure.tree import equal

DIGITS = load_digits()
X, Y = torch.from_numpy(DIGITS.data).float() / 16, torch.from_numpy(DIGITS.target)
LEARNED, ASKED = slice(0, 1200), slice(1200, None)
LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def lesson(number: int, rows: torch.Tensor) -> Task:
    return Task(Arrays(X[rows], Y[rows]), TaskId(number, Y[rows].unique()))


def split(order: torch.Tensor, tasks: int) -> list[Task]:
    """Digits in so many tasks, in some order, whatever their classes."""
    return [lesson(number, rows) for number, rows in enumerate(order.tensor_split(tasks))]


@pytest.mark.parametrize(("batch", "tasks"), [(None, 1), (1, 2), (7, 5), (50, 12)])
def test_a_running_mean_is_the_mean_whatever_comes_when(batch, tasks):
    stream = split(permutation(tasks, 1200), tasks)
    state, traces = learn_all(NCM(LINEAR, Fit(batch=batch)), stream)
    assert sorted(state.labels.tolist()) == list(range(10))
    for label, mu, count in zip(*map(np.asarray, (state.labels, state.mu, state.counts)), strict=True):
        own = DIGITS.data[LEARNED][DIGITS.target[LEARNED] == label] / 16
        assert count == len(own)
        np.testing.assert_allclose(mu, own.mean(0), atol=1e-6)
    assert len(traces[0].loss) == -(-len(stream[0].examples) // (batch or 128))


def test_it_is_the_nearest_centroid_of_all_at_once_though_classes_come_one_by_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some pixels of digits are always white
        known = NearestCentroid().fit(DIGITS.data[LEARNED], DIGITS.target[LEARNED])
    stream = [lesson(number, (Y[LEARNED] == digit).nonzero()[:, 0]) for number, digit in enumerate(permutation(3, 10))]
    state, _ = learn_all(NCM(LINEAR), stream)
    answer = NCM(LINEAR).predict(state, X[ASKED])
    assert answer.labels[answer.logits.argmax(1)].tolist() == known.predict(DIGITS.data[ASKED]).tolist()
    away = X[ASKED][:, None].double() - state.mu.double()
    torch.testing.assert_close(answer.logits.double(), -0.5 * away.square().sum(2), rtol=1e-4, atol=1e-4)


def test_inputs_far_from_zero_are_answered_each_on_its_own():
    labels = torch.arange(400) % 2
    x = 3000 + 6 * labels[:, None] / 20**0.5 + normal(1, 8000).view(400, 20)
    method = NCM(nn.Linear(20, 2))
    state, _ = learn_all(method, [Task(Arrays(x.float(), labels), TaskId(0, torch.arange(2)))])
    ready, mu = method.ready(state), torch.stack([x.float()[labels == label].double().mean(0) for label in (0, 1)])
    whole = method.predict(ready, x.float()).logits
    assert torch.equal(whole, torch.cat([method.predict(ready, part).logits for part in x.float().split(20)]))
    far = -(x.float().double()[:, None] - mu).square().sum(2) / 2
    torch.testing.assert_close(whole.double()[:, 1] - whole[:, 0], far[:, 1] - far[:, 0], rtol=0, atol=0.1)


def test_it_forgets_nothing_where_finetune_forgets_all():
    fit, right = Fit(steps=100), {}
    stream = [lesson(number, (Y[LEARNED] // 2 == number).nonzero()[:, 0]) for number in range(5)]
    for method in (NCM(LINEAR, fit), Finetune(build("linear", (64,), 0), fit)):
        state, _ = learn_all(method, stream)
        answer = method.predict(state, X[ASKED])
        right[type(method)] = (answer.labels[answer.logits.argmax(1)] == Y[ASKED]).float().mean()
    assert right[NCM] > 0.85
    assert right[Finetune] < 0.5


@pytest.mark.parametrize("start", ["fresh", "net"])
def test_features_are_what_the_head_sees_and_nothing_is_trained(start):
    body = nn.Sequential(nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU())
    net = nn.Sequential(body, nn.Linear(7, 10))
    method = NCM(net, Fit(start=start, epochs=3))
    before = method.init(0)
    state, _ = method.learn(before, lesson(0, torch.arange(300)), 1)
    assert equal((state.params, state.stats), (before.params, before.stats))
    assert equal(state.params["0.0.weight"], body[0].weight.detach()) == (start == "net")
    body.load_state_dict({name.removeprefix("0."): w for name, w in state.params.items()})
    torch.testing.assert_close(method.features(state, X[:5]), body(X[:5]).detach())
    for label, mu in zip(state.labels, state.mu, strict=True):
        torch.testing.assert_close(mu, body(X[:300][Y[:300] == label]).detach().mean(0))


def test_stored_bytes_are_scaled_and_a_class_that_comes_again_goes_on_where_it_was():
    stored, labels = torch.tensor([[0], [40], [80], [200]], dtype=torch.uint8), torch.tensor([3, 3, 8, 3])
    method = NCM(nn.Linear(1, 10))
    tasks = [Task(Arrays(stored[rows], labels[rows], Scale(0.0, 0.1)), None) for rows in (slice(0, 3), slice(3, 4))]
    state, traces = learn_all(method, tasks)
    assert state.labels.tolist() == [3, 8]
    assert state.mu.flatten().tolist() == pytest.approx([8, 8])
    assert state.counts.tolist() == [3, 1]
    assert traces[1].loss.tolist() == pytest.approx([(20 - 2) ** 2 / 2])  # from the mean of 0 and 4, before its step


def test_what_it_never_saw_it_does_not_answer():
    method = NCM(LINEAR)  # whose head has ten rows from the start
    assert method.predict(method.init(0), X[:4]).logits.shape == (4, 0)
    state, _ = method.learn(method.init(0), lesson(0, (Y < 3).nonzero()[:, 0]), 0)
    assert method.predict(state, X[:4]).labels.tolist() == [0, 1, 2]
    assert method.predict(state, X[:4], TaskId(7, torch.tensor([1, 2, 9]))).labels.tolist() == [1, 2]


def test_bad_input_is_refused():
    method = NCM(LINEAR)
    with pytest.raises(Refused, match="holds no examples"):
        method.learn(method.init(0), lesson(0, torch.arange(0)), 0)
    with pytest.raises(Refused, match="no Linear layer to be its head"):
        NCM(nn.Flatten()).init(0)
    nothing = Task(Arrays(torch.full((3, 64), float("nan")), torch.zeros(3, dtype=torch.int64)), None)
    with pytest.raises(Diverged, match="Look at the inputs"):
        method.learn(method.init(0), nothing, 0)
