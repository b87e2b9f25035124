"""Facts about masks over a backbone: their gradient, their bytes, and that the backbone never changes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from perdure import tree
from perdure.contract import Fit, Refused, Scenario, Task, TaskId
from perdure.data import Arrays
from perdure.methods.finetune import Finetune
from perdure.methods.piggyback import Piggyback, Piggybacked, Ternary, bind, coded, unpacked
from perdure.model import Model, with_outputs
from perdure.ops.codec import decode, encode
from perdure.ops.infer import entropy
from perdure.ops.masks import Threshold, Through
from perdure.rng import bits, fold, normal, permutation
from perdure.train import Descent, Layout, for_scenario

FIT = Fit(steps=30, batch=20, lr=0.01)
WEIGHTS, HEAD = ["0.weight", "3.weight"], ("5.weight", "5.bias")


def _net(rows: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)]
        return with_outputs(nn.Sequential(*layers), FIT, rows)


def _task(number: int, classes: tuple[int, ...], n: int = 60) -> Task:
    labels = torch.tensor(classes)[permutation(fold(1, number), n) % len(classes)]
    centres = 2 * normal(fold(2, number), 6 * 2).view(2, 6)
    x = centres[(labels == classes[-1]).long()] + normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor(classes)))


def _tasks() -> list[Task]:
    return [_task(t, (2 * t, 2 * t + 1)) for t in range(3)]


def _learn(method: Piggyback, tasks: list[Task], background: Task | None = None) -> list[Piggybacked]:
    states = [method.init(7, None if background is None else background.examples)]
    for task in tasks:
        assert task.id is not None
        states.append(method.learn(states[-1], task, fold(7, task.id.index))[0])
    return states


def _masks(state: Piggybacked, place: int) -> dict[str, Tensor]:
    """The masks of a task, from what is stored."""
    params = state.trunk.model.params
    planes = [
        {name: decode(code, params[name].numel()) for name, code in plane.items()} for plane in state.own[place].planes
    ]
    return unpacked(tuple(planes), params)


# --- the masks


def _scores() -> Tensor:
    return torch.tensor([[0.6, 0.4999, 0.5], [-0.5, -0.4, 0.0]])


def test_a_ternary_mask_is_the_sign_of_what_reaches_the_cut() -> None:
    rule, out = Ternary(0.5), torch.full((2, 3), 7.0)
    rule.write({"w": _scores()}, {"w": out})
    assert out.tolist() == rule.masks({"w": _scores()})["w"].tolist() == [[1, 0, 1], [-1, 0, 0]]


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_masks_come_back_from_their_codes(values: str) -> None:
    for n in (1, 8, 37, 1000):
        draws = (bits(n, n) % 3).float() - 1 if values == "ternary" else (bits(n, n) % 2).abs().float()
        masks = {"w": draws.view(-1, 1)}
        codes = coded(masks, values)  # type: ignore[arg-type]
        assert len(codes) == {"binary": 1, "ternary": 2}[values]
        packed = tuple({"w": decode(plane["w"], n)} for plane in codes)
        assert torch.equal(unpacked(packed, masks)["w"], masks["w"])


def test_bind_multiplies_what_is_masked_and_leaves_the_rest() -> None:
    params = {"w": torch.tensor([[1.0, -2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0])}
    bound = bind(params, {"w": torch.tensor([[1.0, -1.0], [0.0, 1.0]])})
    assert bound["w"].tolist() == [[1, 2], [0, 4]]
    assert bound["bias"] is params["bias"]


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight(values: str) -> None:
    """Against autograd through m + s - s.detach(), and dL/dW_eff against finite differences, in double."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model = Finetune(net, FIT).init(3)
    layout, x, y = Layout(model.params), normal(1, 35).view(7, 5), torch.arange(7) % 3
    score = (normal(2, 20) * 0.01).view(4, 5)
    moved = layout.flat({**model.params, "0.weight": score})
    descent = Descent(net, model, FIT, 0, moved=moved)
    rule = Threshold(5e-3) if values == "binary" else Ternary(5e-3)
    through = Through(descent, descent.flat.clone(), ["0.weight"], rule, ["2.weight", "2.bias"])
    through.bind()
    got = layout.named(through.back(descent.grad(cross_entropy(descent(x), y))))

    mask, W = rule.masks({"w": score})["w"].double(), model.params["0.weight"]
    assert 0 < int((mask != 0).sum()) < 20
    leaf = score.clone().requires_grad_()
    params = {**model.params, "0.weight": W * (mask + leaf - leaf.detach())}
    (expected,) = torch.autograd.grad(cross_entropy(functional_call(net, params, (x,)), y), leaf)
    torch.testing.assert_close(got["0.weight"], expected)
    assert not got["0.bias"].any()  # the backbone's

    def loss(effective: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, {**model.params, "0.weight": effective}, (x,)), y)

    step = 1e-6
    for place in ((0, 0), (1, 3), (3, 4)):
        up, down = (W * mask).clone(), (W * mask).clone()
        up[place] += step
        down[place] -= step
        slope = (loss(up) - loss(down)).item() / (2 * step)
        assert got["0.weight"][place].item() == pytest.approx(slope * W[place].item(), rel=1e-5, abs=1e-9)


# --- the backbone


def test_the_first_task_is_finetune_bit_for_bit_under_masks_of_ones() -> None:
    method, task = Piggyback(_net(), for_scenario(FIT, Scenario.GG)), _task(0, (0, 1))
    (state, trace), line = method.learn(method.init(7), task, 1), Finetune(method.net, method.fit)
    model, expected = line.learn(line.init(7), task, 1)
    x = task.examples.take(torch.arange(60)).x
    assert tree.equal(trace, expected)
    assert tree.equal(method.predict(method.ready(state), x, task.id), line.predict(model, x, task.id))
    masks = _masks(state, 0)
    assert list(masks) == WEIGHTS
    assert all((mask == 1).all() for mask in masks.values())


@pytest.mark.parametrize("values", ["binary", "ternary"])
@pytest.mark.parametrize("origin", ["first", "net", "background"])
@pytest.mark.parametrize(
    "fit",
    [
        replace(FIT, optimizer="adamw", weight_decay=0.3, moments="kept"),
        replace(FIT, optimizer="sgd", momentum=0.9, weight_decay=0.1, moments="kept"),
    ],
    ids=["adamw", "sgd"],
)
def test_the_backbone_and_old_answers_keep_their_bits(fit: Fit, origin: str, values: str) -> None:
    background = _task(9, (3, 8)) if origin == "background" else None
    trunk = "net" if origin == "net" else "first"
    method, tasks = Piggyback(_net(), fit, values=values, trunk=trunk), _tasks()  # type: ignore[arg-type]
    states = _learn(method, tasks, background)
    made = states[1 if origin == "first" else 0].trunk
    assert made.made
    for number, task in enumerate(tasks):
        assert tree.equal(states[number + 1].trunk, made)
        assert tree.equal(states[number + 1].own, states[3].own[: number + 1])
        x = task.examples.take(torch.arange(60)).x
        then, now = (method.predict(method.ready(states[at]), x, task.id) for at in (number + 1, 3))
        assert tree.equal(then, now)


def test_weight_decay_leaves_scores_and_heads_alone() -> None:
    plain, decayed = (
        _learn(Piggyback(_net(2), replace(FIT, optimizer="adamw", weight_decay=w), trunk="net"), _tasks())
        for w in (0.0, 0.5)
    )
    assert tree.equal(plain[-1], decayed[-1])


def test_masks_do_not_depend_on_the_order_of_tasks() -> None:
    method, (one, two, three) = Piggyback(_net(), FIT), _tasks()
    forth, back = (_learn(method, tasks)[-1] for tasks in ([one, two, three], [one, three, two]))
    assert tree.equal(forth.trunk, back.trunk)
    by_task = {own.part.id.index: own for own in back.own}
    for own in forth.own:
        assert tree.equal(own, by_task[own.part.id.index])
    assert not tree.equal(forth.own[1].planes, forth.own[2].planes)


def test_a_background_is_learned_first_and_the_first_task_gets_a_mask() -> None:
    method, background = Piggyback(_net(), replace(FIT, steps=100)), _task(9, (3, 8))
    before, after = _learn(method, [_task(0, (0, 1))], background)
    assert before.trunk.made
    assert torch.equal(before.trunk.model.params["5.weight"], method.init(7).trunk.model.params["5.weight"])
    masks = _masks(after, 0)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert 0 < kept < 6 * 16 + 16 * 8


def test_biases_scales_and_frozen_weights_are_the_backbones() -> None:
    method, tasks = Piggyback(_net(), replace(FIT, freeze="0.weight")), _tasks()
    state = _learn(method, tasks)[-1]
    assert list(_masks(state, 1)) == ["3.weight"]
    ready = method.ready(state)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.bias"):
        assert torch.equal(ready.tasks[1].params[name], state.trunk.model.params[name])
    assert not torch.equal(ready.tasks[1].params["3.weight"], state.trunk.model.params["3.weight"])


# --- what it costs


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_a_task_costs_its_coded_masks_its_head_and_its_statistics(values: str) -> None:
    method = Piggyback(_net(), FIT, values=values, trunk="random")  # type: ignore[arg-type]
    states = _learn(method, _tasks())
    part = 4 * (8 * 2 + 2) + 4 * (16 + 16) + 8 + 2 * 8  # head, statistics, names of labels
    for place, (before, after) in enumerate(pairwise(states)):
        masks = _masks(after, place)
        codes = sum(len(encode(mask > 0)) for mask in masks.values())
        if values == "ternary":
            codes += sum(len(encode(mask < 0)) for mask in masks.values())
        assert tree.nbytes(after) - tree.nbytes(before) == codes + part


def test_a_task_learned_again_gets_a_new_mask_over_the_same_backbone() -> None:
    method, (one, two, _) = Piggyback(_net(), FIT), _tasks()
    state = _learn(method, [one, two])[-1]
    again, _ = method.learn(state, one, 99)
    assert [own.part.id.index for own in again.own] == [1, 0]
    assert tree.equal((again.trunk, again.own[0]), (state.trunk, state.own[1]))
    assert any((mask != 1).any() for mask in _masks(again, 1).values())


# --- answers and refusals


def test_a_mask_teaches_an_untrained_backbone_to_answer() -> None:
    """On random weights, with the head held at its start: only the masks can have learned it."""
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    fit, task = Fit(steps=300, batch=20, lr=0.003, freeze="2.*"), _task(0, (0, 1))
    method = Piggyback(net, fit, trunk="random")
    state, _ = method.learn(method.init(7), task, 1)
    x, y, _ = task.examples.take(torch.arange(60))
    ready = method.ready(state)
    masked = (method.predict(ready, x, task.id).logits.argmax(1) == y).float().mean()
    bare = (method.predict(method.ready(method.init(7)), x, task.id).logits.argmax(1) == y).float().mean()
    assert torch.equal(state.own[0].part.head["2.weight"], state.trunk.model.params["2.weight"])
    assert masked > 0.9 > bare


def test_exams_see_the_parameters_that_the_last_step_left() -> None:
    """The head in the state is the one moved by the last step, not the one that the last forward pass ran on."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    one = replace(FIT, optimizer="sgd", steps=1, batch=60)
    method, task = Piggyback(net, one, trunk="net"), _task(0, (0, 1))
    state, trace = method.learn(method.init(7), task, 1)
    begun = Model(dict(net.state_dict()), {}, torch.arange(2), {})
    descent = Descent(net, begun, one, 1)
    x, y, _ = task.examples.take(permutation(fold(1, "order", 0), 60))
    loss = cross_entropy(descent(x), y)
    grad = descent.layout.views(descent.grad(loss))["2.bias"]
    assert trace.loss.tolist() == [loss.item()]  # masks start as ones
    torch.testing.assert_close(state.own[0].part.head["2.bias"], begun.params["2.bias"] - 0.01 * grad)


def test_a_withheld_id_is_that_of_the_surest_task_and_an_unknown_one_has_no_answer() -> None:
    method, tasks = Piggyback(_net(), replace(FIT, steps=200), values="ternary"), _tasks()
    ready = method.ready(_learn(method, tasks)[-1])
    x = torch.cat([task.examples.take(torch.arange(60)).x for task in tasks])
    answer, own = method.predict(ready, x), [method.predict(ready, x, task.id) for task in tasks]
    assert answer.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert answer.task is not None
    surest = torch.stack([entropy(each.logits) for each in own]).argmin(0)
    assert torch.equal(answer.task, surest)
    assert surest.unique().tolist() == [0, 1, 2]
    for number, each in enumerate(own):
        rows = surest == number
        assert torch.equal(answer.logits[rows][:, 2 * number : 2 * number + 2], each.logits[rows])
    assert method.predict(ready, x, TaskId(5, torch.tensor([0, 1]))).labels.tolist() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"values": "real"}, "method.values is 'real'; use one of binary, ternary"),
        ({"trunk": "last"}, "method.trunk is 'last'; use one of first, random, net"),
        ({"start": 1e-3}, "method.cut is 0.005 and method.start 0.001: a network whose weights all start below"),
        ({"cut": -1.0}, "give 0 <= cut <= start"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(Refused) as caught:
        Piggyback(_net(), **options)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_nets_without_weights_to_mask_are_refused() -> None:
    with pytest.raises(
        Refused, match="piggyback masks the weights below the head, and this net has none that may move"
    ):
        Piggyback(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)), FIT).init(0)
    with pytest.raises(Refused, match=r"0 \(Embedding\) has parameters that a mask does not cover: weight"):
        Piggyback(nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)), FIT).init(0)
