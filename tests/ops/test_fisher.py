"""Facts about the diagonal Fisher: closed forms, the per-example loop, Kullback-Leibler divergence, sampling."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import NETS, C, Spare, apart, arrays, mlp, settled
from torch import Tensor, nn
from torch.func import functional_call

from perdure.contract import Fit, Refused, TaskId
from perdure.data import Arrays
from perdure.model import Model, evaluation, with_outputs
from perdure.ops.fisher import Kind, diagonal
from perdure.rng import integers, normal, uniform


def scores(net: nn.Module, model: Model, x: Tensor, y: int, rows: Tensor | None = None) -> dict[str, Tensor]:
    """The gradient of log p(y|x) for one example (1, ...), in float64."""
    params = {name: param.double().requires_grad_() for name, param in model.params.items()}
    stats = {name: b.double() if b.is_floating_point() else b for name, b in model.stats.items()}
    logits = functional_call(copy.deepcopy(net).double().eval(), {**params, **stats}, (x.double(),))
    logits = logits if rows is None else logits[:, rows]
    grads = torch.autograd.grad(
        logits.log_softmax(1)[0, y], list(params.values()), allow_unused=True, materialize_grads=True
    )
    return {**dict(zip(params, grads, strict=True)), "p": logits.softmax(1)[0, y].detach()}


def loop(net: nn.Module, model: Model, examples: Arrays, kind: Kind = "exact") -> dict[str, Tensor]:
    """The definition: an example and a class at a time."""
    total = {name: torch.zeros_like(param, dtype=torch.float64) for name, param in model.params.items()}
    for x, label in zip(examples.x, examples.labels.tolist(), strict=True):
        for y in range(C) if kind == "exact" else [label]:
            score = scores(net, model, x[None], y)
            for name in total:
                total[name] += score[name] ** 2 * (score["p"] if kind == "exact" else 1) / len(examples)
    return total


@pytest.mark.parametrize("name", [name for name in NETS if name != "coupled"])
@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_it_is_the_loop_over_examples_and_classes(name: str, kind: Kind) -> None:
    net, shape, _ = NETS[name]
    model, examples = settled(net), arrays(shape, n=10)
    assert apart(diagonal(net, model, examples, kind, 0, batch=4), loop(net, model, examples, kind)) < 1e-5


def test_a_layer_that_is_never_called_has_no_fisher() -> None:
    net, examples = Spare(), arrays((4,))
    found = diagonal(net, settled(net), examples, "exact", 0)
    assert not found["spare.weight"].any()
    assert found["inner.weight"].any()


def test_closed_form_of_a_linear_softmax() -> None:
    net, examples = nn.Linear(4, C), arrays((4,))
    model = settled(net)
    p = F.linear(examples.x, model.params["weight"], model.params["bias"]).softmax(1)
    found = diagonal(net, model, examples, "exact", 0)
    torch.testing.assert_close(found["weight"], (p * (1 - p)).T @ examples.x**2 / len(examples))
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0))


def test_a_dead_unit_has_no_fisher() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, C))
    model = settled(net)
    model.params["0.bias"][2] = -1e3
    found = diagonal(net, model, arrays((4,)), "exact", 0)
    assert not found["0.weight"][2].any()
    assert not found["0.bias"][2]
    assert not found["2.weight"][:, 2].any()
    assert (found["0.weight"].sum(1) > 0).tolist() == [True, True, False, True, True]


def test_it_is_the_curvature_of_the_divergence_to_third_order() -> None:
    """KL(theta, theta + d) = d F d / 2 + O(d^3), along every single parameter: half the step, an eighth of the rest."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, C)).double()
    model, examples = settled(net), Arrays(normal(3, 12).view(6, 2), integers(4, C, 6))
    found = diagonal(net, model, examples, "exact", 0)
    logits = functional_call(net, model.params, (examples.take(torch.arange(6)).x.double(),))

    def rest(step: float) -> list[float]:
        out = []
        for name, param in model.params.items():
            for place in range(param.numel()):
                moved = {**model.params, name: param.clone()}
                moved[name].view(-1)[place] += step
                other = functional_call(net, moved, (examples.take(torch.arange(6)).x.double(),))
                divergence = F.kl_div(
                    other.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True
                )
                out.append(float(divergence.detach() - found[name].view(-1)[place] * step**2 / 2))
        return out

    coarse, fine = (sum(map(abs, rest(step))) for step in (2e-2, 1e-2))
    assert coarse / fine == pytest.approx(8, rel=0.05)


def test_a_float64_model_has_a_float64_fisher() -> None:
    net, examples = mlp().double(), arrays((2, 2))
    found = diagonal(net, settled(net), examples, "exact", 0)
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    assert apart(found, loop(net, settled(net), examples)) < 1e-12


def test_sampling_converges_as_one_over_the_root_of_n() -> None:
    net, few = nn.Linear(4, C), arrays((4,), n=10)
    model = settled(net)
    exact = diagonal(net, model, few, "exact", 0)

    def error(repeats: int) -> float:
        many = Arrays(few.x.repeat(repeats, 1), few.labels.repeat(repeats))
        runs = [diagonal(net, model, many, "sampled", key)["weight"] - exact["weight"] for key in range(20)]
        return float(torch.stack(runs).square().mean().sqrt())

    assert error(10) / error(160) == pytest.approx(4, rel=0.2)


def test_sampled_labels_belong_to_the_key() -> None:
    net, examples = mlp(), arrays((2, 2))
    model = settled(net)
    one = diagonal(net, model, examples, "sampled", 7, batch=5)
    same, other = (diagonal(net, model, examples, "sampled", key) for key in (7, 8))
    assert apart(one, same) < 1e-6
    assert apart(one, other) > 1e-2


def test_data_twice_is_the_same_fisher() -> None:
    net, one = mlp(), arrays((2, 2))
    model, two = settled(net), Arrays(one.x.repeat(2, 1, 1), one.labels.repeat(2))
    assert apart(diagonal(net, model, two, "exact", 0), diagonal(net, model, one, "exact", 0)) < 1e-6


def test_the_square_of_a_batch_mean_is_b_times_too_small() -> None:
    """The common mistake: with labels drawn from the model, E (mean gradient)^2 = F / B."""
    net, size, draws = nn.Linear(4, C), 32, 400
    examples, model = arrays((4,), n=size), settled(net)
    p = F.linear(examples.x, model.params["weight"], model.params["bias"]).softmax(1).double()
    places = (p.cumsum(1) < uniform(5, draws * size).view(draws, size, 1)).sum(2)
    means = (F.one_hot(places, C) - p).mT @ examples.x.double() / size  # (draws, C, 4)
    wrong = float(means.square().mean(0).sum())
    right = float(diagonal(net, model, examples, "exact", 0)["weight"].sum())
    assert wrong / right == pytest.approx(1 / size, rel=0.1)


def test_only_the_logits_that_compete_count() -> None:
    net, examples = nn.Linear(4, C), arrays((4,))
    model = settled(net)
    some = TaskId(0, torch.tensor([0, 2]))
    small = Model({name: param[some.classes] for name, param in model.params.items()}, {}, some.classes, {})
    found = diagonal(net, model, examples, "exact", 0, classes=some.classes)
    assert not found["weight"][1].any()
    torch.testing.assert_close(
        found["weight"][[0, 2]], diagonal(nn.Linear(4, 2), small, examples, "exact", 0)["weight"]
    )


@pytest.mark.parametrize("body", [nn.Linear(4, 6), nn.Conv1d(1, 2, 2)])
def test_a_head_may_have_grown(body: nn.Module) -> None:
    full = nn.Sequential(body, nn.Tanh(), nn.Flatten(), nn.Linear(6, C))
    empty = with_outputs(full, Fit(), 0)
    model, examples = settled(full), arrays((4,) if isinstance(body, nn.Linear) else (1, 4))
    assert apart(diagonal(empty, model, examples, "exact", 0), diagonal(full, model, examples, "exact", 0)) == 0


def test_labels_name_the_rows_of_the_head() -> None:
    net, examples = nn.Linear(4, C), arrays((4,))
    model = settled(net)
    turned = Arrays(examples.x, torch.tensor([30, 10, 20])[examples.labels])
    renamed = model._replace(labels=torch.tensor([30, 10, 20]))
    assert apart(diagonal(net, renamed, turned, "empirical", 0), diagonal(net, model, examples, "empirical", 0)) == 0


def test_a_limit_takes_that_many_examples_by_key() -> None:
    net, examples = nn.Linear(4, C), arrays((4,), n=6)
    model = settled(net)
    each = [diagonal(net, model, Arrays(examples.x[[i]], examples.labels[[i]]), "exact", 0) for i in range(6)]
    for key in range(4):
        one = diagonal(net, model, examples, "exact", key, limit=1)
        assert min(apart(one, other) for other in each) < 1e-6
    whole = diagonal(net, model, examples, "exact", 0)
    assert apart(diagonal(net, model, examples, "exact", 3, limit=100), whole) < 1e-6
    assert apart(diagonal(net, model, examples, "exact", 3, limit=1), whole) > 1e-2


@pytest.mark.parametrize(("name", "kind", "limit"), [("mlp", "exact", None), ("conv", "sampled", 5000)])
def test_auto_is_exact_where_it_factors_and_sampled_elsewhere(name: str, kind: Kind, limit: int | None) -> None:
    net, shape, _ = NETS[name]
    model, examples = settled(net), arrays(shape)
    auto = diagonal(net, model, examples, "auto", 2)
    assert apart(auto, diagonal(net, model, examples, kind, 2, limit=limit)) == 0


def test_the_empirical_fisher_refuses_labels_that_do_not_compete() -> None:
    net = nn.Linear(4, C)
    with pytest.raises(Refused, match=r"met a label that does not compete \(those are 0, 1\); use exact or sampled"):
        diagonal(net, settled(net), arrays((4,)), "empirical", 0, classes=torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["dropout", "norm", "conv"])
def test_the_users_module_is_left_alone(name: str) -> None:
    net, shape, _ = NETS[name]
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        diagonal(net, settled(net), arrays(shape), "exact", 0)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.training
    assert all(param.grad is None and param.requires_grad for param in net.parameters())
    assert not any(layer._forward_hooks for part in (net, evaluation(net)) for layer in part.modules())


def test_an_error_leaves_no_hook_behind() -> None:
    net = mlp()
    with pytest.raises(RuntimeError):
        diagonal(net, settled(net), arrays((3,)), "exact", 0)
    assert not any(layer._forward_hooks for layer in evaluation(net).modules())


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_autocast_does_not_reach_it(name: str) -> None:
    net, shape, _ = NETS[name]
    model, examples = settled(net), arrays(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = diagonal(net, model, examples, "exact", 0)
    assert apart(inside, diagonal(net, model, examples, "exact", 0)) == 0
