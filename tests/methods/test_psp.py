"""PSP: what contexts do to weights, exactly and on average, and that training through them is the paper's."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from shared_weights import FIT, lesson, lived, network
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scale, Task, TaskId
from perdure.data import Arrays
from perdure.methods import psp
from perdure.methods.psp import PSP, bind, release, rotation
from perdure.model import forward
from perdure.ops.channels import matrices, signs
from perdure.rng import fold, normal, permutation
from perdure.train import minimise


def _conv() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3)
        )


def _contexts(net: nn.Module, keys: str, key: int) -> dict[str, Tensor]:
    draw = signs if keys == "binary" else rotation
    return {name: draw(fold(key, name), net.get_parameter(name).shape[1]).float() for name in matrices(net)}


def _params(net: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach() for name, param in net.named_parameters()}


# --- contexts


@pytest.mark.parametrize("keys", ["binary", "rotation"])
@pytest.mark.parametrize("net", [network(2).eval(), _conv()], ids=["mlp", "conv"])
def test_bound_weights_are_the_weights_on_keyed_inputs(net: nn.Module, keys: str) -> None:
    """y = W (C x) in every layer: the net as it is, with C before each of its Linear and convolution layers."""
    context = _contexts(net, keys, 1)
    x = normal(2, 5 * 6 if isinstance(net[0], nn.Linear) else 5 * 3 * 16).float()  # type: ignore[index]
    x = x.view(5, 6) if isinstance(net[0], nn.Linear) else x.view(5, 3, 4, 4)  # type: ignore[index]
    bound = functional_call(net, bind(_params(net), context), (x,))
    for place, layer in enumerate(net.children()):
        if (c := context.get(f"{place}.weight")) is not None:
            flat = x.movedim(1, -1)
            x = (flat * c if c.ndim == 1 else flat @ c.T).movedim(-1, 1)
        x = layer(x)
    assert torch.allclose(bound, x, atol=1e-5)


@pytest.mark.parametrize("net", [network(2), _conv()], ids=["mlp", "conv"])
def test_release_undoes_bind(net: nn.Module) -> None:
    params = _params(net)
    for keys in ("binary", "rotation"):
        context = _contexts(net, keys, 1)
        bound = bind(params, context)
        assert not any(torch.allclose(bound[name], params[name]) for name in context)
        back = release(bound, context)
        if keys == "binary":
            assert tree.equal(back, params)
        for name, w in params.items():
            assert torch.allclose(back[name], w, atol=1e-6)


def test_a_rotation_is_orthogonal_and_all_are_equally_likely() -> None:
    c = rotation(3, 50)
    assert torch.allclose(c @ c.T, torch.eye(50, dtype=torch.float64), atol=1e-12)
    drawn = torch.stack([rotation(key, 3) for key in range(3000)])
    traces = drawn.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(traces.mean())) < 4 * 3000**-0.5  # mean 0, variance 1; without the signs of r the mean is not 0
    assert float(traces.square().mean()) == pytest.approx(1, abs=0.1)
    assert float((torch.linalg.det(drawn) > 0).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_contexts_of_different_tasks_are_nearly_orthogonal() -> None:
    n = 400
    drawn = torch.stack([signs(key, n) for key in range(50)])
    overlap = (drawn @ drawn.T / n)[~torch.eye(50, dtype=torch.bool)]
    assert float(overlap.abs().max()) < 5 * n**-0.5
    assert float(overlap.square().mean()) == pytest.approx(1 / n, rel=0.1)


def test_noise_from_another_task_has_the_size_that_theory_gives_it() -> None:
    """E (w C x)^2 = sum_i w_i^2 x_i^2 for signs, |w|^2 |x|^2 / n for rotations; E w C x = 0."""
    n, many = 8, 4000
    w, x = normal(1, n), normal(2, n)
    sign = torch.stack([signs(key, n) for key in range(many)]).double() * w @ x
    turn = torch.stack([w @ rotation(key, n) @ x for key in range(many)])
    for noise, square in ((sign, (w * x).square().sum()), (turn, w.square().sum() * x.square().sum() / n)):
        assert float(noise.square().mean()) == pytest.approx(float(square), rel=0.1)
        assert abs(float(noise.mean())) < 4 * float(square / many) ** 0.5


def test_every_task_and_every_layer_has_a_context_of_its_own_drawn_from_the_key() -> None:
    method = PSP(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    state = method.init(7)
    one, two = (method._context(state, index) for index in (0, 1))
    assert not torch.equal(one["0.weight"], two["0.weight"])
    assert not torch.equal(one["0.weight"], one["2.weight"])
    assert tree.equal(one, method._context(method.init(7), 0))
    assert not tree.equal(one, method._context(method.init(8), 0))


# --- training


@pytest.mark.parametrize(
    ("keys", "optimizer"), [("binary", "sgd"), ("rotation", "sgd"), ("binary", "adam"), ("binary", "rmsprop")]
)
def test_training_bound_weights_is_training_the_shared_ones_through_their_context(keys: str, optimizer: str) -> None:
    """dL/dW = dL/dW' C^T: the shared weights move as autograd through `bind` and a stock optimiser move them."""
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    fit = Fit(optimizer=optimizer, steps=5, batch=60, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    method, task = PSP(net, fit, keys=keys), lesson(0, (0, 1, 2))  # type: ignore[arg-type]
    before = method.init(7)
    after, trace = method.learn(before, task, 1)

    weights = {name: w.clone().requires_grad_() for name, w in before.model.params.items()}
    stock = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[optimizer]
    optimiser = stock(list(weights.values()), lr=0.01, weight_decay=0.1)  # type: ignore[operator]
    x, y, _ = task.examples.take(torch.arange(60))
    for step in range(5):
        loss = F.cross_entropy(functional_call(net, bind(weights, method._context(before, 0)), (x,)), y)
        assert float(trace.loss[step]) == pytest.approx(float(loss.detach()), abs=1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, w in weights.items():
        assert torch.allclose(after.model.params[name], w, atol=2e-5)
        assert not torch.allclose(before.model.params[name], w, atol=1e-3)


@pytest.mark.parametrize("keys", ["binary", "rotation"])
def test_just_after_a_task_its_exam_is_the_network_that_was_trained(keys: str) -> None:
    method, task = PSP(network(2), FIT, keys=keys), lesson(0, (0, 1))  # type: ignore[arg-type]
    before = method.init(7)
    begun = before.model._replace(params=bind(before.model.params, method._context(before, 0)))
    trained, _ = minimise(method.net, begun, FIT, task, 5)
    x = task.examples.take(torch.arange(60)).x
    asked = method.predict(method.ready(method.learn(before, task, 5)[0]), x, task.id).logits
    assert torch.allclose(asked, forward(method.net, trained, x), atol=1e-5)
    if keys == "binary":
        assert torch.equal(asked, forward(method.net, trained, x))


def test_what_fit_freezes_keeps_its_bits() -> None:
    method = PSP(network(), replace(FIT, freeze="0.*"), keys="rotation")
    states = lived(method, *(lesson(t, (0, 1)) for t in range(3)))
    for name in ("0.weight", "3.weight"):
        assert torch.equal(states[0].model.params[name], states[3].model.params[name]) == (name == "0.weight")


# --- heads, memory, answers


def test_rows_of_the_head_grow_and_a_smaller_task_moves_only_its_own() -> None:
    method = PSP(network(), FIT)
    states = lived(method, lesson(0, (4, 5, 7)), lesson(1, (0, 1)), lesson(2, (0, 1, 2, 3)))
    heads = [state.model.params["5.weight"] for state in states]
    assert [len(head) for head in heads] == [0, 3, 3, 4]
    assert torch.equal(heads[1][2], heads[2][2])
    assert not torch.equal(heads[1][:2], heads[2][:2])
    ready, x = method.ready(states[-1]), torch.ones(2, 6)
    shown = [method.predict(ready, x, part.id).labels.tolist() for part in states[-1].parts]
    assert shown == [[4, 5, 7], [0, 1], [0, 1, 2, 3]]
    assert method.predict(ready, x).labels.tolist() == [0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("keys", ["binary", "rotation"])
def test_a_task_costs_its_vectors_and_statistics_and_no_context(keys: str) -> None:
    states = lived(PSP(network(2), FIT, keys=keys), *(lesson(t, (0, 1)) for t in range(3)))  # type: ignore[arg-type]
    vectors, statistics, labels = 4 * (16 + 2 * 16 + 8 + 2), 4 * (16 + 16) + 8, 2 * 8
    sizes = [tree.nbytes(state) for state in states]
    assert [after - before for before, after in pairwise(sizes)] == [vectors + statistics + labels] * 3


def test_a_task_learned_again_has_its_old_context_and_one_part() -> None:
    method, task = PSP(network(), FIT), lesson(0, (0, 1))
    states = lived(method, task, lesson(1, (2, 3)), task)
    assert [part.id.index for part in states[-1].parts] == [1, 0]
    assert tree.equal(method._context(states[1], 0), method._context(states[3], 0))


def test_before_any_task_the_start_model_answers_and_an_unknown_id_has_no_answer() -> None:
    x, method = torch.ones(3, 6), PSP(network(2), FIT)
    state = method.init(7)
    assert torch.equal(method.predict(method.ready(state), x).logits, forward(method.net, state.model, x))
    ready = method.ready(lived(method, lesson(0, (0, 1)))[1])
    assert method.predict(ready, x, TaskId(3, torch.tensor([0, 1]))).logits.shape == (3, 0)


def test_other_keys_are_refused() -> None:
    with pytest.raises(Refused, match=r"method.keys is 'complex'; use one of binary, rotation"):
        PSP(network(), keys="complex")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="use normalisations, and Linear and convolution layers"):
        PSP(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(2, 2))).init(0)


# --- the main point, on real data


def test_contexts_keep_what_the_same_weights_without_them_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(column) for column in load_digits(return_X_y=True))
    order = permutation(1, len(x))
    train, exam = order[:1400], order[1400:]
    method = PSP(nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10)), Fit(steps=150, batch=50))
    ids = [TaskId(task, torch.arange(10)) for task in range(4)]

    def view(task: int, rows: Tensor) -> Arrays:
        return Arrays(x[rows][:, permutation(fold(5, task), 64)].float(), y[rows].long(), Scale(0.0, 1 / 16))

    def accuracy() -> list[float]:
        state = lived(method, *(Task(view(task, train), ids[task]) for task in range(4)))[-1]
        ready, out = method.ready(state), []
        for id in ids:
            x, y, _ = view(id.index, exam).take(torch.arange(len(exam)))
            out.append(float((method.predict(ready, x, id).logits.argmax(1) == y).float().mean()))
        return out

    kept = accuracy()
    monkeypatch.setattr(psp, "signs", lambda key, n: torch.ones(n))
    lost = accuracy()
    assert min(kept) > 0.85
    assert min(lost) < min(kept) - 0.2
