"""Facts about deep generative replay: it equals its definition, it makes up what it learned, and it remembers."""

import copy
from dataclasses import replace
from math import cos, pi

import pytest
import torch
from replayed import SCALE, learn_all, net, stream, task
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import distributions

from perdure.contract import Fit, Refused, Scale, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.dgr import DGR
from perdure.methods.finetune import Finetune
from perdure.nets import build
from perdure.nets.vae import VAE
from perdure.rng import fold, generator
from perdure.train import Descent, competing, for_scenario
from perdure.tree import equal, nbytes

FIT = Fit(optimizer="sgd", lr=0.1, batch=10, epochs=2, schedule="cosine")
SMALL = {"hidden": "9-7", "z": 3}
BYTES = (-4.0, 127 / 32)  # what 0 and 255 are at this scale


def perceptron(params, part, x):
    for layer in (0, 2, 4):
        x = params[f"{part}.{layer}.weight"] @ x + params[f"{part}.{layer}.bias"]
        x = x.relu() if layer < 4 else x
    return x


class ByHand:
    """Deep generative replay as its paper has it, an example at a time; only the draws and the batches are ours."""

    def __init__(self, model, method: DGR) -> None:
        self.method, self.solver, self.t = method, net(6), 0
        with torch.no_grad():
            for name, param in self.solver.named_parameters():
                param.zero_()[: len(model.params[name])] = model.params[name]
        self.made, self.known = {}, []  # the generator's weights; the sets of labels so far

    def begin(self, params):
        self.made = {name: param.clone().requires_grad_() for name, param in params.items()}

    def unit(self, x):
        return ((x - BYTES[0]) / (BYTES[1] - BYTES[0])).flatten()

    def surprise(self, x, eps):
        u = self.unit(x)
        mu, log_variance = perceptron(self.made, "encoder", u).chunk(2)
        q = distributions.Normal(mu, (log_variance / 2).exp())
        out = perceptron(self.made, "decoder", mu + q.stddev * eps)
        seen = u * out.sigmoid().log() + (1 - u) * (1 - out.sigmoid()).log()
        return (distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum() - seen.sum()) / len(u)

    def entropy(self, x, label, own):
        return -self.solver(x[None])[0, own].log_softmax(0)[own.index(label)]

    def echo(self, x, then, own, competing):
        """l within one set of old labels `own`, for a generated input that the solver before answered with `then`."""
        if self.method.labels == "hard":
            return self.entropy(x, own[int(then[own].argmax())], competing)
        tau = self.method.tau
        q, log_p = (then[own] / tau).softmax(0), (self.solver(x[None])[0, competing] / tau).log_softmax(0)
        return -(tau**2) * sum(q[i] * log_p[competing.index(label)] for i, label in enumerate(own))

    def learn(self, some: Task, key: int, everything: list[int]) -> list[float]:
        self.t += 1
        fit, classes = self.method.fit, competing(self.method.fit, some)
        own = everything if classes is None else classes.tolist()
        before, past = copy.deepcopy(self.solver), [*self.known]
        made = {name: param.detach().clone() for name, param in self.made.items()}
        blank = Descent(net(6), learn_all(Finetune(net(6), fit), [])[0], fit, key)
        steps, size = 2 * 3, 10
        z = torch.randn(steps * size, 3, generator=generator(fold(key, "replay")))
        noise, losses = generator(fold(key, "noise")), []
        r = self.method.r or 1 / self.t
        for step, batch in enumerate(blank.batches(some.examples)):
            blank.step(torch.zeros_like(blank.flat))
            rows, old = batch.rows.tolist(), []
            with torch.no_grad():
                for dream in z[step * size : (step + 1) * size] if self.t > 1 else []:
                    u = perceptron(made, "decoder", dream).sigmoid()
                    x = (u * (BYTES[1] - BYTES[0]) + BYTES[0]).view(2, 4)
                    old.append((x, before(x[None])[0]))
            new = [(SCALE(some.examples.x[row]), int(some.examples.labels[row])) for row in rows]
            eps = torch.randn(len(new) + len(old), 3, generator=noise)
            loss = torch.stack([self.entropy(x, label, own) for x, label in new]).mean()
            cost = torch.stack([self.surprise(x, e) for (x, _), e in zip(new, eps, strict=False)]).mean()
            if old:
                echoes = [
                    torch.stack(
                        [self.echo(x, then, labels, everything if classes is None else labels) for labels in past]
                    )
                    for x, then in old
                ]
                loss = r * loss + (1 - r) * torch.stack(echoes).mean()
                again = [self.surprise(x, e) for (x, _), e in zip(old, eps[len(new) :], strict=True)]
                cost = r * cost + (1 - r) * torch.stack(again).mean()
            losses.append(loss.item())
            self.descend(loss, [*self.solver.parameters()], fit.lr, step / steps)
            rate = fit.lr if self.method.generator_lr is None else self.method.generator_lr
            self.descend(cost, [*self.made.values()], rate, step / steps)
        if classes is None:
            self.known = [own]
        elif own not in self.known:
            self.known.append(own)
        return losses

    def descend(self, loss, params, rate, share):
        with torch.no_grad():
            for param, slope in zip(params, torch.autograd.grad(loss, params), strict=True):
                param -= rate * (1 + cos(pi * share)) / 2 * slope


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        (Scenario.GG, {}),
        (Scenario.GG, {"labels": "distilled"}),
        (Scenario.GNS, {"r": 0.3}),
        (Scenario.GNU, {"generator_lr": 0.5}),
        (Scenario.GNU, {"labels": "distilled", "tau": 3.0}),
    ],
)
def test_it_is_its_definition_an_example_at_a_time(scenario, options):
    """Two passes over three tasks with a partial batch. In GG a generated input has a label in each of the sets

    learned before, which differ in size and come again; in GNU the head grows, and old answers lack the new labels."""
    labels = [[0, 1, 2], [3, 4], [0, 1, 2]] if scenario is Scenario.GG else [[0, 1], [2, 3], [4, 5]]
    tasks = [task(number, classes, 25) for number, classes in enumerate(labels)]
    rows = 0 if scenario is Scenario.GNU else 6
    method = DGR(net(rows), for_scenario(FIT, scenario), **SMALL, **options)
    state = method.init(0)
    hand = ByHand(state.model, method)
    for number, some in enumerate(tasks):
        before, (state, trace) = state, method.learn(state, some, number)
        if not number:
            still = method.with_(generator_lr=0.0)
            hand.begin(still.learn(before, some, number)[0].generator.model.params)
        losses = hand.learn(some, number, list(range(rows or 2 * (number + 1))))
        torch.testing.assert_close(trace.loss, torch.tensor(losses), rtol=1e-4, atol=1e-5)
        for name, param in state.model.params.items():
            wanted = dict(hand.solver.named_parameters())[name].detach()[: len(param)]
            torch.testing.assert_close(param, wanted, rtol=1e-4, atol=1e-5)
        for name, param in state.generator.model.params.items():
            torch.testing.assert_close(param, hand.made[name].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", [scenario for scenario in Scenario if scenario in DGR.scenarios])
def test_its_first_task_is_finetune_bit_for_bit(scenario):
    fit = for_scenario(replace(FIT, optimizer="adam", moments="kept"), scenario)
    state, traces = learn_all(DGR(net(6), fit, **SMALL), stream(scenario)[:2])
    first, _ = learn_all(DGR(net(6), fit, **SMALL), stream(scenario)[:1])
    model, (expected, other) = learn_all(Finetune(net(6), fit), stream(scenario)[:2])
    assert equal(first.model, learn_all(Finetune(net(6), fit), stream(scenario)[:1])[0])
    assert equal(traces[0], expected)
    assert not equal(traces[1], other)
    assert not equal(state.model.params, model.params)


@pytest.mark.parametrize("scenario", [scenario for scenario in Scenario if scenario in DGR.scenarios])
def test_where_the_new_task_is_all_that_counts_it_is_finetune_bit_for_bit(scenario):
    fit = for_scenario(replace(FIT, optimizer="adam", moments="kept"), scenario)
    state, traces = learn_all(DGR(net(6), fit, r=1.0), stream(scenario))
    model, expected = learn_all(Finetune(net(6), fit), stream(scenario))
    assert equal(state.model, model)
    assert equal(tuple(traces), tuple(expected))
    assert state.generator is None


DIGITS = load_digits()
LARGE = torch.from_numpy(DIGITS.images).byte().repeat_interleave(2, 1).repeat_interleave(2, 2)  # or one coin is a pixel
LABELS = torch.from_numpy(DIGITS.target)


def split_digits() -> list[Task]:
    """Five tasks of two digits, 16 x 16."""
    places = [LABELS.div(2, rounding_mode="floor").eq(number).nonzero()[:, 0] for number in range(5)]
    return [
        Task(Arrays(LARGE[p], LABELS[p], Scale(0.0, 1 / 16)), TaskId(t, LABELS[p].unique()))
        for t, p in enumerate(places)
    ]


def accuracy(method, state) -> float:
    """Of all digits, without the id."""
    answer = method.predict(state, LARGE.float() / 16)
    return float((answer.labels[answer.logits.argmax(1)] == LABELS).float().mean())


@pytest.fixture(scope="module")
def grown():
    """A method, and its state after the digits two by two, class-incrementally."""
    fit = for_scenario(Fit(lr=0.004, batch=32, steps=200), Scenario.GNU)
    method = DGR(build("mlp:64", (16, 16), 0), fit, hidden="100", z=10)
    return method, learn_all(method, split_digits())[0]


def test_it_remembers_classes_where_finetune_forgets(grown):
    method, state = grown
    forgetful = Finetune(method.net, method.fit)
    assert accuracy(forgetful, learn_all(forgetful, split_digits())[0]) < 0.25
    assert accuracy(method, state) > 0.85


@pytest.mark.parametrize("options", [{"labels": "distilled"}, {"likelihood": "gaussian"}])
def test_so_it_does_with_other_labels_and_another_likelihood(grown, options):
    method = grown[0].with_(**options)
    assert accuracy(method, learn_all(method, split_digits())[0]) > 0.85


def test_what_it_makes_up_are_digits_of_all_classes(grown):
    """Two judges who learned real digits agree on most, and on some of every class.

    With every pixel dealt from another of them, which is as bright everywhere, they are no digits any more."""
    vae, real = VAE(256, (100,), 10, "bernoulli"), LARGE.flatten(1) / 16
    vae.load_state_dict(grown[1].generator.model.params)
    with torch.no_grad():
        x = vae.mean(torch.randn(2000, 10, generator=generator(1)))
    dealt = x.gather(0, torch.rand(x.shape, generator=generator(2)).argsort(0))
    judge = LogisticRegression(max_iter=300).fit(real.numpy(), DIGITS.target)
    nearest = torch.cdist(x, real).min(1)
    said, sure = torch.from_numpy(judge.predict(x.numpy())), judge.predict_proba(x.numpy()).max(1)
    agreed = said[said == LABELS[nearest.indices]].bincount(minlength=10) / len(x)
    assert float(sure.mean()) > 0.5
    assert float(agreed.sum()) > 0.6
    assert float(agreed.min()) > 0.01
    assert float(nearest.values.mean()) < 0.75 * float(torch.cdist(dealt, real).amin(1).mean())


def test_bytes_are_constant_from_the_first_task_on():
    method, tasks = DGR(net(2), FIT, hidden="9", z=3), stream(Scenario.GNS)
    states = [method.init(0)]
    for number, some in enumerate(tasks):
        states.append(method.learn(states[-1], some, number)[0])
    parameters = (8 * 9 + 9) + (9 * 6 + 6) + (3 * 9 + 9) + (9 * 8 + 8)
    assert [nbytes(state) - nbytes(state.model) for state in states] == [0, *[4 * parameters] * 3]


def test_what_names_layers_of_the_solver_leaves_the_generator_alone():
    """Frozen layers, a named head and start values from the net."""
    fit = replace(FIT, freeze="1.*", head="3", start="net", moments="kept", optimizer="adam", lr=0.01)
    start, state = DGR(net(2), fit, **SMALL).init(0), learn_all(DGR(net(2), fit, **SMALL), stream(Scenario.GNS))[0]
    assert equal(state.model.params["1.weight"], start.model.params["1.weight"])
    assert set(state.generator.model.moments) == {"exp_avg", "exp_avg_sq", "step"}
    assert all(bool(moment.any()) for moment in state.generator.model.moments["exp_avg"].values())


def inputs(x: torch.Tensor, scale: Scale = Scale()) -> Task:
    return Task(Arrays(x, torch.arange(len(x)) % 2, scale), TaskId(0, torch.arange(2)))


BYTE = torch.arange(0, 250, 5, dtype=torch.uint8).view(25, 2)
REAL = torch.linspace(0.1, 0.9, 50).view(25, 2)


@pytest.mark.parametrize(
    ("some", "low", "high"),
    [
        (inputs(REAL), 0, 1),
        (inputs(BYTE, Scale(0.0, 1 / 255)), 0, 1),
        (inputs(BYTE // 16, Scale(0.0, 1 / 16)), 0, 1),
        (inputs(REAL * 2 - 1), -1, 1),
        (inputs(BYTE, Scale(128.0, 1 / 32)), *BYTES),
        (inputs(BYTE, Scale(100.0, -0.1)), -15.5, 10),
    ],
)
def test_the_range_of_its_inputs_is_read_off_the_first_task(some, low, high):
    flat = build("mlp:4", (2,), 2)
    state, _ = learn_all(DGR(flat, FIT, **SMALL), [some])
    torch.testing.assert_close(state.generator.unit(torch.tensor([low, high])), torch.tensor([0.0, 1.0]))
    state, _ = learn_all(DGR(flat, FIT, likelihood="gaussian", **SMALL), [some])
    x = state.generator.unit(some.examples.take(torch.arange(25)).x)
    torch.testing.assert_close(torch.stack([x.mean(), x.std(correction=0)]), torch.tensor([0.0, 1.0]))


def test_inputs_that_are_all_alike_have_no_variance_to_divide_by():
    state, _ = learn_all(DGR(build("mlp:4", (2,), 2), FIT, likelihood="gaussian", **SMALL), [inputs(REAL * 0 + 5)])
    assert state.generator.unit == Scale(5.0, 1.0)


@pytest.mark.parametrize(
    ("x", "scale", "message"),
    [
        (
            REAL * 3,
            Scale(),
            r"those of this task lie in \[0.3, 2.7\]; scale them to \[0, 1\] .* or use method.likelihood gaussian",
        ),
        (REAL - 5, Scale(), r"lie in \[-4.9, -4.1\]"),
        (BYTE.long(), Scale(), r"lie in \[0, 245\]"),
        (BYTE // 16, Scale(5.0, 1.0), r"bounded range, and those of this task lie in \[-5, 10\]"),  # of bytes, a corner
        (REAL.where(REAL < 0.5, torch.nan), Scale(), "inputs must be finite for a generator to learn them"),
        (REAL.where(REAL < 0.5, torch.inf), Scale(), "inputs must be finite"),
    ],
)
def test_inputs_that_the_generator_cannot_take_are_refused(x, scale, message):
    flat = build("mlp:4", (2,), 2)
    with pytest.raises(Refused, match=message):
        learn_all(DGR(flat, FIT, **SMALL), [inputs(x, scale)])
    if "finite" in message:
        with pytest.raises(Refused, match=message):
            learn_all(DGR(flat, FIT, likelihood="gaussian", **SMALL), [inputs(x, scale)])
    learn_all(DGR(flat, FIT, r=1.0), [inputs(REAL, scale)])  # where it makes none up, it does not mind


def test_a_later_task_must_fit_the_generator():
    flat, first = build("mlp:4", (2,), 2), inputs(REAL)
    with pytest.raises(Refused, match=r"made for inputs from 0 to 1, and those of this task lie in \[-0.8, 0.8\]"):
        learn_all(DGR(flat, FIT, **SMALL), [first, inputs(REAL * 2 - 1)])
    learn_all(DGR(flat, FIT, likelihood="gaussian", **SMALL), [first, inputs(REAL * 2 - 1)])
    with pytest.raises(Refused, match=r"inputs have shape \(1, 2\), and the generator was made for \(2,\); keep to"):
        learn_all(DGR(flat, FIT, **SMALL), [first, inputs(REAL.unsqueeze(1))])


def test_an_empty_task_is_refused():
    with pytest.raises(Refused, match="the task holds no examples"):
        learn_all(DGR(build("mlp:4", (2,), 2), FIT), [inputs(REAL[:0])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "soft"}, "method.labels is 'soft'; use one of hard, distilled"),
        ({"likelihood": "normal"}, "method.likelihood is 'normal'; use one of bernoulli, gaussian"),
        ({"tau": 0.0}, "method.tau is 0.0; a temperature is positive and finite"),
        ({"r": 0.0}, r"method.r is 0.0; it must be above 0 and at most 1 \(1 replays nothing\)"),
        ({"r": 1.5}, "method.r is 1.5"),
        ({"hidden": "400,400"}, "method.hidden is '400,400'; write positive numbers joined by dashes, such as 400-400"),
        ({"hidden": "0"}, "method.hidden is '0'"),
        ({"hidden": ""}, "method.hidden is ''"),
        ({"z": 0}, "method.z is 0; it must be at least 1"),
        ({"generator_lr": -1.0}, "method.generator_lr is -1.0; it must be finite and not negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(Refused, match=message):
        DGR(net(2), **options)
