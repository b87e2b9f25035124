"""HopSupSup: its memories against the formulas and against loops; its search; and what never moves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from perdure import tree
from perdure.contract import Fit, Refused, Task, TaskId
from perdure.data import Arrays
from perdure.methods.hopsupsup import HopSupSup, Memories, Storage, outputs, store, units
from perdure.model import extended, with_outputs
from perdure.nets.mlp import bn_mlp, mlp
from perdure.ops.infer import entropy
from perdure.ops.masks import constants
from perdure.rng import bits, fold, normal, permutation

FIT = Fit(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, steps=40, batch=50)


def _patterns(key: int, n: int, d: int, bias: float = 0.0) -> Tensor:
    """n patterns (n, d) of -1 and 1."""
    return torch.where(normal(key, n * d).view(n, d).float() >= bias, 1.0, -1.0)


def _memory(patterns: Tensor, rule: Storage = "storkey") -> Tensor:
    M = torch.zeros(patterns.shape[1], patterns.shape[1])
    for z in patterns:
        M = store(M, z, rule)
    return M


def _energy(M: Tensor, z: Tensor) -> Tensor:
    return -0.5 * z @ M @ z


def _task(number: int, n: int = 200) -> Task:
    """Two labels that no other task has, six normal features far from those of other tasks."""
    labels = 2 * number + permutation(fold(1, number), n) % 2
    centres = 3 * normal(fold(2, number), 12).view(2, 6)
    x = centres[labels % 2] + 0.5 * normal(fold(3, number), 6 * n).view(n, 6)
    return Task(Arrays(x.float(), labels), TaskId(number, torch.tensor([2 * number, 2 * number + 1])))


def _inputs(number: int) -> Tensor:
    return _task(number).examples.take(torch.arange(150)).x


def _learn(method: HopSupSup, tasks: int) -> list[Memories]:
    states = [method.init(7)]
    for number in range(tasks):
        states.append(method.learn(states[-1], _task(number), fold(7, number))[0])
    return states


def _masks(before: Memories, after: Memories) -> dict[str, Tensor]:
    """The masks of the task learned between two states, from what it added to the sum of patterns."""
    return {name: (after.total[name] - before.total[name] + 1) / 2 for name in after.total}


@pytest.fixture(scope="module")
def wide() -> tuple[HopSupSup, list[Memories]]:
    """A network of 512 units, and its states before and after each of two tasks."""
    method = HopSupSup(with_outputs(bn_mlp((6,), (512,)), FIT, 0), FIT)
    return method, _learn(method, 2)


# --- the memories


def test_storing_equals_the_formula_element_by_element() -> None:
    d = 7
    M, z = normal(1, d * d).view(d, d).float(), _patterns(2, 1, d)[0]
    h = [sum(float(M[i, k] * z[k]) for k in range(d)) for i in range(d)]
    storkey, hebbian = store(M, z, "storkey"), store(M, z, "hebbian")
    for i in range(d):
        for j in range(d):
            hebb = (float(z[i] * z[j]) - (i == j)) / d
            cross = (float(z[i]) * h[j] + h[i] * float(z[j])) / d
            assert float(hebbian[i, j] - M[i, j]) == pytest.approx(hebb, abs=1e-6)
            assert float(storkey[i, j] - M[i, j]) == pytest.approx(hebb - cross, abs=1e-5)


def test_a_memory_is_symmetric_and_only_hebbs_has_no_diagonal() -> None:
    first, second = _patterns(3, 2, 64)
    one = _memory(first[None])
    assert torch.equal(one, _memory(first[None], "hebbian"))  # the first pattern meets an empty memory
    assert (one.diag() == 0).all()
    two = _memory(torch.stack([first, second]))
    assert torch.equal(two, two.T)
    assert torch.allclose(two.diag(), -2 * second * (one @ second) / 64, atol=1e-6)
    assert (_memory(_patterns(3, 9, 64), "hebbian").diag() == 0).all()


def test_few_patterns_are_fixed_points_and_lie_lower_than_others() -> None:
    patterns = _patterns(4, 5, 256)
    M = _memory(patterns)
    for z in patterns:
        assert torch.equal(torch.sign(M @ z), z)
    lowest = min(_energy(M, z) for z in _patterns(5, 200, 256))
    assert max(_energy(M, z) for z in patterns) < 2 * lowest < 0


def test_storkeys_rule_holds_more_than_hebbs() -> None:
    stable = {}
    for rule in ("storkey", "hebbian"):
        wrong = 0.0
        for key in range(5):
            patterns = _patterns(fold(6, key), 38, 256)  # 0.15 d, past what Hebb's rule holds
            M = _memory(patterns, rule)
            wrong += float(sum((torch.sign(M @ z) != z).float().mean() for z in patterns)) / (38 * 5)
        stable[rule] = wrong
    assert stable["storkey"] < 0.2 * stable["hebbian"]
    assert stable["hebbian"] > 0.002


# --- the search


def test_a_search_equals_the_same_by_autograd(wide: tuple[HopSupSup, list[Memories]]) -> None:
    """The gradient of (1 - t/T) sqrt(d/2048) H + gamma (t/T) E(z), straight-through, and momentum by hand."""
    method, states = wide
    method = method.with_(steps=3)
    x, ready = _inputs(1), method.ready(states[-1])
    name, M = next(iter(ready.state.hopfield.items()))
    s, v = ready.state.total[name] / 2, torch.zeros(512)
    order = permutation(ready.state.seed, len(x))
    for t, rows in enumerate((order[:64], order[64:128], torch.cat([order[128:], order[:42]])), 1):
        s.requires_grad_()
        m = (s >= 0).float() + s - s.detach()
        H = entropy(outputs(ready, {name: m}, x[rows])).mean()
        loss = (1 - t / 3) * 0.5 * H + 1.5e-3 * (t / 3) * _energy(M, 2 * m - 1)  # sqrt(512 / 2048) = 0.5
        v = 0.9 * v + torch.autograd.grad(loss, s)[0] + 1e-4 * s.detach()
        s = s.detach() - 500 * v
    assert torch.equal(method.recall(ready, x)[name], (s >= 0).float())


def test_the_masks_of_both_tasks_are_recalled(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    ready = method.ready(states[-1])
    for number in range(2):
        learned, found = _masks(*states[number : number + 2]), method.recall(ready, _inputs(number))
        other = _masks(*states[1 - number : 3 - number])
        for name, m in found.items():
            assert float((m == learned[name]).float().mean()) > 0.95
            assert float((m == other[name]).float().mean()) < 0.8
        x, y, _ = _task(number).examples.take(torch.arange(150))
        answer = method.predict(ready, x)
        assert answer.task is None  # no mask is kept to compare with
        assert float((answer.labels[answer.logits.argmax(1)] == y).float().mean()) > 0.95


def test_without_energy_and_entropy_the_search_stays_at_the_mean(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    still = method.with_(rate=0.0)
    for name, m in still.recall(method.ready(states[-1]), _inputs(0)).items():
        assert torch.equal(m, (states[-1].total[name] >= 0).float())


def test_before_the_first_task_every_unit_is_kept(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    assert all((m == 1).all() for m in method.recall(method.ready(states[0]), _inputs(0)).values())
    assert method.predict(method.ready(states[0]), _inputs(0)).logits.shape == (150, 0)


# --- what is learned, and what is not


def test_scores_start_at_zero_and_so_with_every_unit() -> None:
    method = HopSupSup(with_outputs(bn_mlp((6,), (32,)), FIT, 0), replace(FIT, lr=0.0, steps=1))
    state = _learn(method, 1)[-1]
    (total,) = state.total.values()
    assert (total == 1).all()


def test_weights_come_from_the_key_and_never_move(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    assert {state.seed for state in states} == {states[0].seed}
    readies = [method.ready(state) for state in states]
    assert all(tree.equal(ready.weights, readies[0].weights) for ready in readies)
    assert readies[0].weights["1.weight"].abs().unique().tolist() == pytest.approx([(2 / 6) ** 0.5])
    assert not any(name in path for path, _ in tree.leaves(states[-1]) for name in ("1.weight", "4.weight"))


def test_rows_of_the_head_stay_what_they_were_as_it_grows() -> None:
    net = bn_mlp((6,), (16,))
    few, many = (constants(with_outputs(net, FIT, rows), 3)["4.weight"] for rows in (10, 14))
    assert torch.equal(few, many[:10])
    method = HopSupSup(with_outputs(net, FIT, 0), replace(FIT, steps=2), outputs=1)
    states = _learn(method, 3)
    assert [len(method.ready(state).weights["4.weight"]) for state in states] == [1, 2, 4, 6]
    answer = method.predict(method.ready(states[-1]), _inputs(0))
    assert sorted(answer.labels.tolist()) == [0, 1, 2, 3, 4, 5]


def test_new_labels_take_rows_in_the_order_in_which_they_are_shown() -> None:
    task = Task(Arrays(torch.zeros(5, 1), torch.tensor([9, 4, 4, 9, 2])), TaskId(0, torch.tensor([2, 4, 9])))
    assert extended(torch.tensor([5]), task).tolist() == [5, 9, 4, 2]
    assert extended(torch.tensor([4, 1]), task).tolist() == [4, 1, 9, 2]


def test_an_id_narrows_the_labels(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    ready, x = method.ready(states[-1]), _inputs(0)
    free, given = method.predict(ready, x), method.predict(ready, x, _task(1).id)
    columns = [free.labels.tolist().index(label) for label in given.labels.tolist()]
    assert sorted(given.labels.tolist()) == [2, 3]
    assert torch.equal(given.logits, free.logits[:, columns])


def test_an_input_alone_goes_by_the_mean_of_the_tasks_statistics(wide: tuple[HopSupSup, list[Memories]]) -> None:
    method, states = wide
    ready, name = method.ready(states[-1]), "2.weight"
    masks = {name: torch.where(bits(8, 512) % 2 == 0, 1.0, 0.0)}
    parts = [method.learn(states[0], _task(number), fold(7, number))[0].stats for number in range(2)]
    mean = {key: (parts[0][key] + parts[1][key]) / 2 for key in ("2.running_mean", "2.running_var")}
    x = _inputs(0)[:1]
    hidden = (x @ ready.weights["1.weight"].T - mean["2.running_mean"]) / (mean["2.running_var"] + 1e-5).sqrt()
    expected = nn.functional.silu(hidden * masks[name]) @ ready.weights["4.weight"].T
    assert torch.allclose(outputs(ready, masks, x), expected, atol=1e-4)
    pair = _inputs(0)[:2] @ ready.weights["1.weight"].T
    hidden = (pair - pair.mean(0)) / (pair.var(0, unbiased=False) + 1e-5).sqrt()
    expected = nn.functional.silu(hidden * masks[name]) @ ready.weights["4.weight"].T
    assert torch.allclose(outputs(ready, masks, _inputs(0)[:2]), expected, atol=1e-4)


def test_the_state_is_two_square_memories_whatever_the_number_of_tasks() -> None:
    method = HopSupSup(with_outputs(bn_mlp((6,), (24, 16)), FIT, 6), replace(FIT, steps=2))
    sizes = [tree.nbytes(state) for state in _learn(method, 3)]
    stats = 4 * (2 * 24 + 2 * 16) + 8 * 2  # means and variances; how many batches each layer saw
    assert sizes == [4 * (24**2 + 16**2) + 4 * (24 + 16) + stats + 8 * 6] * 4
    assert 4 * 2 * 2048**2 == 33_554_432 == 65_536 * 2 * 2048 // 8  # as many bytes as 65,536 masks of plain bits


# --- what is refused


def test_units_are_those_of_layers_that_normalise_and_scale() -> None:
    norms = (nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, affine=False))
    net = nn.Sequential(nn.Linear(2, 4), norms[0], nn.Sequential(nn.Linear(4, 4), norms[1]), norms[2], nn.Linear(4, 1))
    assert units(net) == {"1.weight": 4, "2.1.weight": 4}


def test_a_net_without_normalisation_is_refused() -> None:
    with pytest.raises(Refused, match="this net has no such layer; use net bn-mlp:2048-2048"):
        HopSupSup(mlp((6,), (8,)), FIT).init(0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"storage": "bits"}, "method.storage is 'bits'; use one of storkey, hebbian"),
        ({"outputs": 0}, "method.outputs is 0; it must be at least 1"),
        ({"steps": 0}, "method.steps is 0; it must be at least 1"),
        ({"gamma": -1.0}, "method.gamma is -1.0; it must be at least 0"),
        ({"rate": -1.0}, "method.rate is -1.0; it must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(Refused) as refused:
        HopSupSup(bn_mlp((6,), (8,)), FIT, **option)  # type: ignore[arg-type]
    assert str(refused.value) == message
