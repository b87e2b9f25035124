"""BatchEnsemble: rank-one scales against loops and autograd, what is stored, what never moves."""

from dataclasses import replace
from itertools import pairwise
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from shared_weights import FIT, lesson, lived, network
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Fit, Refused, Scale, Task, TaskId
from perdure.data import Arrays
from perdure.methods.batch_ensemble import BatchEnsemble, Ensemble, Member, published_bytes
from perdure.model import evaluation, first_come, with_outputs
from perdure.nets.resnet import resnet50
from perdure.ops import rank_one
from perdure.ops.channels import matrices
from perdure.ops.infer import entropy
from perdure.ops.rank_one import bind, gradients, piled, superposed
from perdure.rng import fold, normal, permutation

SGD = Fit(optimizer="sgd", steps=1, batch=60, lr=0.01)


def _conv() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.Tanh()]
        return nn.Sequential(*layers, nn.Conv2d(3, 2, (3, 2), stride=2), nn.Flatten(), nn.Linear(4, 3))


NETS = pytest.mark.parametrize("net", [network(3), _conv()], ids=["mlp", "conv"])


def _x(task: Task) -> Tensor:
    return task.examples.take(torch.arange(60)).x


def _scales(net: nn.Module, key: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = {name: net.get_parameter(name).shape for name in matrices(net)}
    return tuple({n: normal(fold(key, place, n), w[place]).float() for n, w in shapes.items()} for place in (0, 1))  # type: ignore[return-value]


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: net.get_parameter(name).detach() for name in matrices(net)}


# --- the rank-one scales


@NETS
def test_bound_weights_scale_the_inputs_and_the_outputs_of_every_layer(net: nn.Module) -> None:
    """W * (s t^T) is s * (W (t * x)), bias beside."""
    net, (s, t) = evaluation(net), _scales(net, 1)
    x = normal(2, 30).view(5, 6).float()
    bound = functional_call(net, bind(_weights(net), s, t), (x,))
    for place, layer in enumerate(net.children()):
        if (name := f"{place}.weight") not in s:
            x = layer(x)
            continue
        bias = layer.bias.view(-1, *[1] * (x.ndim - 2))  # type: ignore[union-attr,operator]
        ones = [1] * (x.ndim - 2)
        x = s[name].view(-1, *ones) * (layer(t[name].view(-1, *ones) * x) - bias) + bias
    assert torch.allclose(bound, x, atol=1e-5)


@NETS
def test_a_step_moves_s_and_t_along_the_gradient_at_the_bound_weights(net: nn.Module) -> None:
    """ds = (G * W) t and dt = (G * W)^T s, G = dL/dW_i; W, when it learns, along G * s t^T."""
    method, task = BatchEnsemble(net, SGD, fast_lr=0.02), lesson(0, (0, 1, 2))
    before = method.init(7)
    still = BatchEnsemble(net, replace(SGD, lr=0.0)).learn(before, task, 3)[0].parts[0]  # where s and t start
    after = method.learn(before, task, 3)[0]

    private = with_outputs(net, Fit(), 3).train()
    weights = {name: before.model.params[name] for name in matrices(net)}
    bound = {name: w.requires_grad_() for name, w in bind(weights, still.s, still.t).items()}
    places = {label: row for row, label in enumerate(first_come(task).tolist())}
    y = torch.tensor([places[label] for label in task.examples.labels.tolist()])
    stats = {name: buffer.clone() for name, buffer in before.model.stats.items()}
    loss = F.cross_entropy(functional_call(private, {**before.model.params, **bound, **stats}, (_x(task),)), y)
    for name, G in zip(weights, torch.autograd.grad(loss, list(bound.values())), strict=True):
        W, s, t = weights[name], still.s[name], still.t[name]
        assert set(s.tolist()) | set(t.tolist()) <= {-1.0, 1.0}
        kernel = (G * W).flatten(2).sum(2) if W.ndim > 2 else G * W
        assert torch.allclose(after.parts[0].s[name], s - 0.01 * kernel @ t, atol=1e-6)
        assert torch.allclose(after.parts[0].t[name], t - 0.01 * kernel.T @ s, atol=1e-6)
        ones = [1] * (W.ndim - 2)
        expected = W - 0.01 * G * s.view(-1, 1, *ones) * t.view(1, -1, *ones)
        assert torch.allclose(after.model.params[name], expected, atol=1e-6)


def test_frozen_parameters_are_no_part_of_a_descent() -> None:
    net = network(2)
    params, (s, t) = dict(net.named_parameters()), _scales(net, 1)
    stats = dict(net.named_buffers())
    moving = {name for name, _ in Member(net, params, stats, s, t, [*matrices(net), "0.bias"]).named_parameters()}
    scales = {f"{one}.{place}" for one in "st" for place in range(3)}
    assert moving == scales | {"net.1.weight", "net.1.bias", "net.3.bias", "net.5.bias"}


# --- what moves when


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_trained_weights_move_in_the_first_task_alone(optimizer: str) -> None:
    fit = replace(FIT, optimizer=optimizer, weight_decay=0.1, moments="kept")  # type: ignore[arg-type]
    states = lived(BatchEnsemble(network(2), fit), *(lesson(t, (0, 1)) for t in range(3)))
    for name in matrices(network(2)):
        assert not torch.equal(states[0].model.params[name], states[1].model.params[name])
        assert torch.equal(states[1].model.params[name], states[3].model.params[name])
    for name in ("0.bias", "1.weight", "5.bias"):  # every task starts its vectors from the same values
        assert torch.equal(states[0].model.params[name], states[3].model.params[name])
        assert not torch.equal(states[3].parts[0].vectors[name], states[3].parts[1].vectors[name])


def test_the_first_task_learns_at_the_rate_of_fit_and_the_others_at_their_own() -> None:
    method = BatchEnsemble(network(2), FIT, fast_lr=0.0)
    first, second = lived(method, lesson(0, (0, 1)), lesson(1, (0, 1)))[2].parts
    assert all(set(s.abs().tolist()) == {1.0} for s in (*second.s.values(), *second.t.values()))
    assert all(set(s.abs().tolist()) != {1.0} for s in (*first.s.values(), *first.t.values()))
    rated = method.with_(fast_lr=0.01, weights="random")
    assert all(s.abs().ne(1).any() for part in lived(rated, lesson(0, (0, 1)))[1].parts for s in part.s.values())
    assert all(
        s.abs().eq(1).all()
        for part in lived(rated.with_(fast_lr=0.0), lesson(0, (0, 1)))[1].parts
        for s in part.s.values()
    )


def test_weights_that_fit_freezes_are_not_trained() -> None:
    states = lived(BatchEnsemble(network(2), replace(FIT, freeze="0.*")), lesson(0, (0, 1)))
    for name in ("0.weight", "3.weight"):
        assert torch.equal(states[0].model.params[name], states[1].model.params[name]) == (name == "0.weight")
    assert torch.equal(states[0].model.params["0.bias"], states[1].parts[0].vectors["0.bias"])


@pytest.mark.parametrize("weights", ["trained", "random"])
@pytest.mark.parametrize("net", [network(), with_outputs(_conv(), Fit(), 0)], ids=["mlp", "conv"])
def test_old_logits_keep_their_bits_also_when_the_head_grows(net: nn.Module, weights: str) -> None:
    method = BatchEnsemble(net, replace(FIT, optimizer="adamw", weight_decay=0.1), weights=weights)  # type: ignore[arg-type]
    tasks = [lesson(0, (0, 1)), lesson(1, (2, 3, 4)), lesson(2, (5, 6, 7, 8, 9))]
    states = lived(method, *tasks)
    for number, task in enumerate(tasks):
        then, now = (method.predict(method.ready(states[at]), _x(task), task.id) for at in (number + 1, 3))
        assert tree.equal(then, now)
        assert now.labels.tolist() == task.id.classes.tolist()  # type: ignore[union-attr]


# --- what is stored


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_a_task_costs_two_vectors_a_layer_its_vectors_and_statistics(weights: str) -> None:
    states = lived(BatchEnsemble(network(2), FIT, weights=weights), *(lesson(t, (0, 1)) for t in range(3)))  # type: ignore[arg-type]
    fast, vectors = 4 * (16 + 6 + 8 + 16 + 2 + 8), 4 * (16 + 2 * 16 + 8 + 2)
    statistics, labels = 4 * (16 + 16) + 8, 2 * 8
    sizes = [tree.nbytes(state) for state in states]
    assert [after - before for before, after in pairwise(sizes)] == [fast + vectors + statistics + labels] * 3
    whole = 4 * (16 * 6 + 8 * 16 + 2 * 8) + vectors if weights == "trained" else 0
    assert sizes[0] == whole + statistics + labels


def test_random_weights_are_signed_constants_whatever_tasks_there_will_be() -> None:
    method = BatchEnsemble(network(), FIT, weights="random")
    states = lived(method, lesson(0, (0, 1)), lesson(1, (2, 3, 4, 5)))
    few, many = (method._shared(state, rows) for state, rows in ((states[0], 2), (states[2], 4)))
    for name, fan in (("0.weight", 6), ("3.weight", 16), ("5.weight", 8)):
        assert few[name].abs().allclose(torch.tensor(sqrt(2 / fan)))
        assert torch.equal(few[name], many[name][: len(few[name])])
    assert (len(few["5.weight"]), len(many["5.weight"])) == (2, 4)


def test_rows_that_the_first_task_had_no_label_for_stay() -> None:
    states = lived(BatchEnsemble(network(4), FIT), lesson(0, (0, 1)))
    before, after = (state.model.params["5.weight"] for state in states)
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[:2], after[:2])


def test_rows_that_no_earlier_task_needed_are_random_and_not_zero() -> None:
    """On frozen rows of 0 no scale could learn."""
    states = lived(BatchEnsemble(network(), FIT), lesson(0, (0, 1)), lesson(1, (2, 3, 4)))
    head = states[2].model.params["5.weight"]
    assert torch.equal(head[:2], states[1].model.params["5.weight"])
    assert head[2].abs().allclose(torch.tensor(sqrt(2 / 8)))


def test_bytes_as_published() -> None:
    mlp = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    assert published_bytes(mlp, 1) == 4 * (266_200 + (784 + 300 + 300 + 100 + 100 + 10) + (300 + 100 + 10))
    conv = nn.Sequential(nn.Conv2d(3, 8, 5, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    assert published_bytes(conv, 3) == 4 * (8 * 3 * 25 + 16 + 3 * (11 + 10 + 10))
    with torch.device("meta"):
        net = with_outputs(resnet50((3, 224, 224), (64,)), Fit(), 10)
    assert published_bytes(net, 0) == 4 * 23_475_392
    assert published_bytes(net, 1) - published_bytes(net, 0) == 4 * (51_149 + 26_570)
    assert round(published_bytes(net, 100) / 1e6, 2) == 124.99


# --- one-shot


def _lived(net: nn.Module, steps: int = 30) -> tuple[BatchEnsemble, Ensemble, list[Task]]:
    method = BatchEnsemble(with_outputs(net, Fit(), 0), replace(FIT, steps=steps), infer="one-shot")
    tasks = [lesson(0, (0, 1)), lesson(1, (2, 3, 4)), lesson(2, (5, 6))]
    return method, lived(method, *tasks)[-1], tasks


@NETS
def test_one_gradient_equals_autograd_on_alpha(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    method, state, tasks = _lived(net)
    stack = method.ready(state).stack
    assert stack is not None
    x = torch.cat([_x(task)[:7] for task in tasks])
    alpha = torch.full((3,), 1 / 3, dtype=torch.float64, requires_grad=True)
    weights = {name: state.model.params[name].double() for name in matrices(net)}
    mean = {name: value.double() if value.is_floating_point() else value for name, value in stack.mean.items()}
    s, t = (piled([part[place] for part in state.parts]) for place in (2, 3))
    module = with_outputs(method.net, Fit(), 3).double().eval()
    for row, g in zip(x.double(), gradients(method.net, stack, x), strict=True):
        each = [bind(weights, *({n: v[i].double() for n, v in one.items()} for one in (s, t))) for i in range(3)]
        params = {name: sum(alpha[i] * each[i][name] for i in range(3)) for name in weights}
        H = entropy(functional_call(module, {**params, **mean}, (row[None],))).sum()
        (expected,) = torch.autograd.grad(H, alpha)
        assert torch.allclose(g.double(), expected, atol=1e-6)
    whole = gradients(method.net, stack, x)
    monkeypatch.setattr(rank_one, "CHUNK", 5 * sum(w.numel() for w in superposed(stack).values()))
    assert torch.allclose(gradients(method.net, stack, x), whole, atol=1e-6)


def test_superposed_weights_are_the_mean_of_the_tasks_weights() -> None:
    method, state, _ = _lived(_conv())
    weights = {name: state.model.params[name] for name in matrices(method.net)}
    stack = method.ready(state).stack
    assert stack is not None
    each = [bind(weights, part.s, part.t) for part in state.parts]
    for name, w in superposed(stack).items():
        padded = [torch.cat([one[name], torch.zeros(len(w) - len(one[name]), *w.shape[1:])]) for one in each]
        assert torch.allclose(w, torch.stack(padded).mean(0), atol=1e-6)
    head = [part.vectors["6.bias"] for part in state.parts]
    assert torch.allclose(stack.mean["6.bias"][2], head[1][2] / 3)
    means = torch.stack([part.stats["2.running_mean"] for part in state.parts])
    assert torch.allclose(stack.mean["2.running_mean"], means.mean(0))


def test_the_task_of_the_lowest_gradient_answers() -> None:
    method, state, tasks = _lived(network())
    ready, x = method.ready(state), torch.cat([_x(task) for task in tasks])
    assert ready.stack is not None
    answer, places = method.predict(ready, x), gradients(method.net, ready.stack, x).argmin(1)
    assert answer.task is not None
    assert torch.equal(answer.task, places)
    assert answer.labels.tolist() == list(range(7))
    for task in tasks:
        assert task.id is not None
        rows = answer.task == task.id.index
        own = method.predict(ready, x, task.id)
        columns = torch.searchsorted(answer.labels, own.labels)
        assert torch.allclose(answer.logits[rows][:, columns], own.logits[rows], atol=1e-5)
        assert int(answer.logits[rows].isfinite().sum()) == int(rows.sum()) * len(own.labels)


def test_by_entropy_the_surest_task_answers() -> None:
    method, state, tasks = _lived(network())
    method = method.with_(infer="entropy")
    ready, x = method.ready(state), torch.cat([_x(task) for task in tasks])
    each = torch.stack([entropy(method.predict(ready, x, task.id).logits) for task in tasks])
    chosen = method.predict(ready, x).task
    assert chosen is not None
    assert torch.equal(chosen, each.argmin(0))


# --- labels and edges


def test_other_names_for_labels_change_no_logit() -> None:
    method, task = BatchEnsemble(network(), FIT), lesson(0, (0, 1, 2))
    assert isinstance(task.examples, Arrays)
    renamed = Task(Arrays(task.examples.x, 9 - task.examples.labels), TaskId(0, torch.tensor([7, 8, 9])))
    one, two = (method.predict(method.ready(lived(method, each)[1]), _x(task), each.id) for each in (task, renamed))
    assert torch.equal(9 - one.labels, two.labels.flip(0))
    assert torch.equal(one.logits, two.logits.flip(1))


def test_labels_come_in_the_order_of_examples_and_those_without_any_last() -> None:
    labels = torch.tensor([4, 9, 4, 2, 9])
    assert first_come(Task(Arrays(torch.zeros(5, 1), labels), None)).tolist() == [4, 9, 2]
    id = TaskId(0, torch.tensor([1, 2, 3, 4, 9]))
    assert first_come(Task(Arrays(torch.zeros(5, 1), labels), id)).tolist() == [4, 9, 2, 1, 3]


def test_a_task_learned_again_replaces_its_part_and_leaves_the_weights() -> None:
    task = lesson(0, (0, 1))
    states = lived(BatchEnsemble(network(), FIT), task, task)
    assert len(states[2].parts) == 1
    assert not tree.equal(states[1].parts, states[2].parts)
    assert tree.equal(states[1].model, states[2].model)


def test_before_any_task_the_start_values_answer_if_they_have_labels() -> None:
    x = torch.ones(3, 6)
    for weights in ("trained", "random"):
        for rows in (2, 0):
            method = BatchEnsemble(network(rows), FIT, weights=weights, infer="one-shot")  # type: ignore[arg-type]
            answer = method.predict(method.ready(method.init(7)), x)
            assert (answer.logits.shape, answer.labels.tolist()) == ((3, rows), list(range(rows)))


def test_bad_options_are_refused() -> None:
    with pytest.raises(Refused, match=r"method.weights is 'frozen'; use one of trained, random"):
        BatchEnsemble(network(), weights="frozen")  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"method.infer is 'binary'; use one of entropy, one-shot"):
        BatchEnsemble(network(), infer="binary")  # type: ignore[arg-type]
    for rate in (-1.0, float("nan")):
        with pytest.raises(Refused, match=f"method.fast_lr is {rate}; it must be finite and not negative"):
            BatchEnsemble(network(), fast_lr=rate)
    with pytest.raises(Refused, match=r"0 \(Conv2d\) has a weight that is no map of its own from all input channels"):
        BatchEnsemble(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(2, 2))).init(0)


# --- the main point, on real data


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_permuted_digits_are_kept(weights: str) -> None:
    from sklearn.datasets import load_digits

    x, y = (torch.as_tensor(column) for column in load_digits(return_X_y=True))
    order = permutation(1, len(x))
    train, exam = order[:1400], order[1400:]
    net = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    method = BatchEnsemble(net, Fit(steps=300, batch=50), weights=weights)  # type: ignore[arg-type]

    def view(task: int, rows: Tensor) -> Arrays:
        return Arrays(x[rows][:, permutation(fold(5, task), 64)].float(), y[rows].long(), Scale(0.0, 1 / 16))

    tasks = [Task(view(task, train), TaskId(task, torch.arange(10))) for task in range(3)]
    ready = method.ready(lived(method, *tasks)[-1])
    for task in tasks:
        assert task.id is not None
        batch = view(task.id.index, exam).take(torch.arange(len(exam)))
        answer = method.predict(ready, batch.x, task.id)
        assert (answer.labels[answer.logits.argmax(1)] == batch.y).float().mean() > 0.8
