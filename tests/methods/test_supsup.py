"""SupSup: what a mask costs and keeps, what is never moved, and what happens at its edges."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure import tree
from perdure.contract import Answer, Fit, Refused, Task, TaskId
from perdure.data import Arrays
from perdure.methods.supsup import Supermasks, SupSup
from perdure.nets import build
from perdure.ops.codec import decode, unpack
from perdure.ops.masks import Largest, constants, maskable, start_scores
from perdure.ops.select import largest
from perdure.rng import fold, normal, permutation
from perdure.store import Blobs, save_state
from perdure.tree import equal

FIT = Fit(optimizer="rmsprop", lr=0.01, steps=40, batch=20)
STILL = replace(FIT, lr=0.0)  # scores stay where they start
SHAPE = (2, 6, 6)


def _net(kind: str) -> nn.Module:
    if kind == "mlp":
        return build("mlp:24-16", SHAPE, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2),
            nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip


def _task(index: int, classes: tuple[int, ...] = (0, 1), n: int = 60, shift: float = 0.0) -> Task:
    labels = torch.tensor(classes)[permutation(fold(1, index), n) % len(classes)]
    centres = normal(fold(2, index), len(classes) * 72).view(len(classes), *SHAPE)
    x = centres[torch.searchsorted(torch.tensor(classes), labels)] + normal(fold(3, index), n * 72).view(n, *SHAPE) / 2
    return Task(Arrays((x + shift).float(), labels), TaskId(index, torch.tensor(classes)))


def _learn(method: SupSup, *tasks: Task, state: Supermasks | None = None) -> list[Supermasks]:
    states = [method.init(7) if state is None else state]
    for task in tasks:
        states.append(method.learn(states[-1], task, fold(7, len(states)))[0])
    return states


def _ask(method: SupSup, state: Supermasks, x: Tensor, id: TaskId | None = None) -> Answer:
    return method.predict(method.ready(state), x, id)


def _masks(method: SupSup, state: Supermasks, place: int) -> dict[str, Tensor]:
    """The masks of a task, bool."""
    weights, codes = constants(method.wide, state.seed), {**state.masks[place], **state.heads[place]}
    assert set(codes) == set(maskable(method.wide))
    sizes = {name: weights[name].numel() for name in codes}
    return {name: unpack(decode(code, sizes[name]), sizes[name]).view_as(weights[name]) for name, code in codes.items()}


RULES: dict[str, dict[str, Any]] = {
    "threshold": {},
    "largest": {"rule": "largest", "density": 0.3},
    "erdos-renyi": {"rule": "largest", "budget": "erdos-renyi", "density": 2.0},
}


def _method(kind: str = "mlp", rule: str = "threshold", **options: Any) -> SupSup:
    return SupSup(_net(kind), **{"fit": FIT, "outputs": 8, "told": "entropy", **RULES[rule], **options})


# --- what is learned, and told apart


@pytest.mark.parametrize(("kind", "rule"), [*(("mlp", rule) for rule in RULES), ("conv", "threshold")])
def test_tasks_are_learned_and_each_search_tells_them_apart(kind: str, rule: str) -> None:
    method, tasks = _method(kind, rule), [_task(index) for index in (4, 0, 9)]
    state = _learn(method, *tasks)[-1]
    for told, infer in product(("entropy", "surplus"), ("one-shot", "binary", "sweep")):
        asked = method.with_(told=told, infer=infer, pool=20)
        for task in tasks:
            x, labels, _ = task.examples.take(torch.arange(60))
            got = _ask(asked, state, x)
            assert got.task is not None
            assert got.task.tolist() == [task.id.index] * 60, (told, infer)
            assert (got.labels[got.logits.argmax(1)] == labels).float().mean() > 0.95


def test_inputs_that_are_judged_together_get_one_task() -> None:
    alone, together = (_method(pool=pool, fit=replace(FIT, steps=3)) for pool in (1, 25))
    state, x = _learn(alone, *map(_task, range(4)))[-1], normal(5, 60 * 72).view(60, *SHAPE).float()
    each, pooled = (_ask(method, state, x).task for method in (alone, together))
    assert each is not None
    assert pooled is not None
    assert all(len(run.unique()) > 1 for run in each.split(25))
    assert all(len(run.unique()) == 1 for run in pooled.split(25))


def test_a_task_and_a_label_are_named_together_where_labels_are_unshared() -> None:
    method, tasks = _method(), [_task(3, (4, 9)), _task(0, (0, 2, 7)), _task(1, (1, 5))]
    state = _learn(method, *tasks)[-1]
    x = torch.cat([task.examples.x for task in tasks])
    got = _ask(method, state, x)
    assert got.labels.tolist() == [0, 1, 2, 4, 5, 7, 9]
    assert got.task is not None
    for row, task in enumerate(got.task.tolist()):
        own = next(each.id.classes for each in tasks if each.id.index == task)
        finite = got.labels[got.logits[row].isfinite()]
        assert finite.tolist() == own.tolist()
    right = got.labels[got.logits.argmax(1)] == torch.cat([task.examples.labels for task in tasks])
    assert right.float().mean() > 0.95
    with_id = _ask(method, state, tasks[1].examples.x, tasks[1].id)
    assert sorted(with_id.labels.tolist()) == [0, 2, 7]
    assert with_id.task is None


@pytest.mark.parametrize("infer", ["one-shot", "binary", "sweep"])
def test_only_learned_tasks_are_ever_found(infer: str) -> None:
    method = _method(infer=infer, most=50)
    state = _learn(method, _task(11), _task(5), _task(2))[-1]
    for scale in (0.0, 1e-3, 1.0, 100.0):
        got = _ask(method, state, scale * normal(5, 12 * 72).view(12, *SHAPE).float())
        assert got.task is not None
        assert set(got.task.tolist()) <= {11, 5, 2}


@pytest.mark.parametrize(("told", "outputs"), [("surplus", 8), ("entropy", 8), ("surplus", 3)])
def test_doubt_is_the_objective_under_a_task_s_own_mask_whatever_else_is_learned(told: str, outputs: int) -> None:
    method = _method(told=told, outputs=outputs)
    one, three = _task(0), _task(1, classes=(2, 3, 4))  # a task of more labels
    *_, before, after = _learn(method, one, three)
    x, masks = one.examples.x, _masks(method, after, 0)
    w = {name: w * masks[name] if name in masks else w for name, w in constants(method.wide, after.seed).items()}
    shares = functional_call(method.wide, w, (x,)).detach().double().softmax(1)
    spare, entropy = shares[:, 2:].sum(1).log(), -(shares * shares.log()).sum(1)
    for answer in (_ask(method, before, x), _ask(method, before, x, one.id), _ask(method, after, x, one.id)):
        assert torch.allclose(answer.doubt, entropy if told == "entropy" else spare, rtol=1e-4, atol=1e-6)
    alone, beside = _ask(method, after, x, one.id), _ask(method, after, torch.cat([x, three.examples.x]))
    rows = (beside.task[: len(x)] == 0).nonzero()[:, 0]
    assert len(rows) > len(x) / 2
    assert torch.allclose(beside.doubt[rows], alone.doubt[rows], rtol=1e-4, atol=1e-6)


# --- what is kept


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_old_logits_keep_their_bits_and_weights_are_those_of_the_seed(kind: str, rule: str) -> None:
    fit = Fit(optimizer="adamw", lr=0.02, weight_decay=0.1, moments="kept", steps=15, batch=20)
    method, tasks = _method(kind, rule, fit=fit), [_task(index, shift=float(index)) for index in range(4)]
    states, first = _learn(method, *tasks), constants(_method(kind).wide, _method(kind).init(7).seed)
    for after, task in enumerate(tasks, 1):
        old = _ask(method, states[after], task.examples.x, task.id)
        for state in states[after:]:
            assert equal(_ask(method, state, task.examples.x, task.id), old)
            assert equal(method.ready(state).stack.weights, first)


@pytest.mark.parametrize("rule", ["largest", "erdos-renyi"])
def test_a_mask_keeps_what_its_budget_says_whatever_the_refresh(rule: str) -> None:
    for refresh in (1, 7, 1000):
        method = _method("conv", rule, refresh=refresh)
        masks = _masks(method, _learn(method, _task(0))[-1], 0)
        for name, mask in masks.items():
            n, both = mask.numel(), sum(mask.shape[:2])
            density = 0.3 if rule == "largest" else min(0.5, 2 * both / n)
            assert mask.sum() == n - int((1 - density) * n), name


def test_a_task_that_is_learned_again_gets_a_new_mask_and_the_others_keep_theirs() -> None:
    method = _method()
    *_, before, after = _learn(method, _task(0), _task(1), _task(2), _task(1, shift=1.0))
    assert [id.index for id in after.ids] == [0, 2, 1]
    for old, new in ((0, 0), (2, 1)):
        for parts in ("masks", "heads", "stats"):
            assert equal(getattr(after, parts)[new], getattr(before, parts)[old])
    assert not equal(after.masks[2], before.masks[1])
    got = _ask(method, after, _task(1, shift=1.0).examples.x, TaskId(1, torch.arange(2)))
    assert (got.labels[got.logits.argmax(1)] == _task(1).examples.labels).float().mean() > 0.95


@pytest.mark.parametrize("transfer", ["none", "scores"])
def test_a_task_is_forgotten_but_for_its_share_in_the_mean_of_scores(transfer: str) -> None:
    method = _method(transfer=transfer)
    *_, one, two, three = _learn(method, _task(0), _task(1), _task(2, classes=(2, 3)))
    assert equal(method.forget(three, 2), two._replace(mean=three.mean, met=three.met))
    assert method.forget(three, 0).labels.tolist() == [0, 1, 2, 3]  # some of which task 1 has too
    assert equal(method.forget(two, 1), one._replace(mean=two.mean, met=two.met))
    assert (two.mean == {}) == (transfer == "none")


def test_the_mean_of_scores_weighs_all_tasks_alike_though_some_were_forgotten_since() -> None:
    method = _method(transfer="scores")
    *_, three = _learn(method, *map(_task, range(3)))
    less = method.forget(method.forget(three, 0), 1)
    assert equal(method.learn(less, _task(3), 9)[0].mean, method.learn(three, _task(3), 9)[0].mean)


def test_every_task_has_statistics_of_its_own() -> None:
    fit = replace(STILL, steps=1, batch=60, order="arrival")  # one step over all of a task, and no score moves
    method, tasks = _method("conv", fit=fit), [_task(0), _task(1, shift=4.0)]
    state = _learn(method, *tasks)[-1]
    for place, task in enumerate(tasks):
        w = method.ready(state).bound.tasks[place].params["0.weight"]
        out = nn.functional.conv2d(task.examples.x, w, stride=2, padding=1)
        stats = state.stats[place]
        torch.testing.assert_close(stats["1.running_mean"], 0.1 * out.mean((0, 2, 3)))
        torch.testing.assert_close(stats["1.running_var"], 0.9 + 0.1 * out.var((0, 2, 3)))
        assert equal(method.ready(state).bound.tasks[place].stats, stats)


def test_a_task_costs_a_bit_a_weight_and_its_labels() -> None:
    method = SupSup(build("mlp:300-100", (784,), 10), replace(FIT, steps=1, batch=10), outputs=500)
    x, labels = normal(1, 10 * 784).view(10, 784).float(), torch.arange(10)
    tasks = [Task(Arrays(x, labels), TaskId(index, labels)) for index in range(3)]
    sizes = [tree.nbytes(state) for state in _learn(method, *tasks)]
    assert sizes[0] == 0  # W costs a seed
    weights = 784 * 300 + 300 * 100 + 100 * 500
    for before, after in pairwise(sizes):
        names = 8 * 10 if before else 2 * 8 * 10  # of the task, and all that were learned
        assert after - before == weights // 8 + 3 * (1 + 4) + names  # bitmaps with header and check
    parts = tree.components(_learn(method, *tasks)[-1])
    assert parts == {"labels": 80, "ids.classes": 3 * 80, "masks": 3 * (33_150 + 10), "heads": 3 * (6_250 + 5)}


READ_BACK = """
import sys
from pathlib import Path
import torch
from perdure.contract import Fit, TaskId
from perdure.methods.supsup import SupSup
from perdure.nets import build
from perdure.store import Blobs, load_state

folder, name, most = sys.argv[1:]
torch.manual_seed(99)
torch.rand(1000)
method = SupSup(build("mlp:24-16", (2, 6, 6), 2), Fit(lr=1.0), outputs=8, told="entropy", most=int(most))
state = load_state(Blobs(Path(folder)), name, SupSup.states)
x = torch.load(Path(folder) / "x", weights_only=True)
ready = method.ready(state)
ids = [id._replace(classes=id.classes.sort().values) for id in state.ids]
answers = [method.predict(ready, x), *(method.predict(ready, x, id) for id in ids)]
torch.save([answer.logits for answer in answers], Path(folder) / "logits")
"""


def test_a_stored_state_answers_the_same_in_another_process_that_allows_another_number_of_tasks(tmp_path: Path) -> None:
    method, tasks = _method(most=3), [_task(index) for index in (0, 5, 3)]
    state, x = _learn(method, *tasks)[-1], torch.cat([task.examples.x for task in tasks])
    answers = [_ask(method, state, x), *(_ask(method, state, x, task.id) for task in tasks)]
    name = save_state(Blobs(tmp_path), state).name
    torch.save(x, tmp_path / "x")
    subprocess.run([sys.executable, "-c", READ_BACK, str(tmp_path), name, "50"], check=True)
    read = torch.load(tmp_path / "logits", weights_only=True)
    assert equal(tuple(read), tuple(answer.logits for answer in answers))


def test_a_state_of_few_tasks_is_the_beginning_of_one_of_many_whatever_the_limit() -> None:
    few, many = _method(most=2), _method(most=9)
    short, long = (_learn(method, *map(_task, range(n)))[-1] for method, n in ((few, 2), (many, 4)))
    for name in ("ids", "masks", "heads", "stats"):
        assert equal(getattr(short, name), getattr(long, name)[:2]), name
    assert short.seed == long.seed


# --- transfer


def test_scores_start_as_they_are_drawn_where_nothing_is_transferred() -> None:
    for rule in ("threshold", "largest"):
        method = _method(rule=rule, fit=STILL)
        state = _learn(method, _task(0), _task(1))[-1]
        for place in range(2):
            scores = start_scores(method.wide, fold(fold(7, place + 1), "scores"))
            budgets = {name: score.numel() - int(0.7 * score.numel()) for name, score in scores.items()}
            expected = {name: score >= 0 for name, score in scores.items()}
            if rule == "largest":
                expected = Largest(budgets, 1).masks(scores)
            assert equal(_masks(method, state, place), expected)


@pytest.mark.parametrize("rule", ["threshold", "largest"])
def test_scores_are_transferred_as_their_mean(rule: str) -> None:
    method, states = _method(rule=rule, transfer="scores"), []
    states = _learn(method, *map(_task, range(3)))
    one, two, three = (state.mean for state in states[1:])
    scores = [one, {n: 2 * two[n] - one[n] for n in one}, {n: 3 * three[n] - 2 * two[n] for n in one}]
    for place, own in enumerate(scores):  # each undone from the running mean gives its task's mask
        for name, mask in _masks(method, states[-1], place).items():
            magnitude = own[name] if rule == "threshold" else own[name].abs()
            assert magnitude[mask].min() >= magnitude[~mask].max() - 1e-5
    still = method.with_(fit=STILL).learn(states[-1], _task(3), 0)[0]
    budgets = {name: int(mask.sum()) for name, mask in _masks(method, still, 3).items()}
    exact = Largest(budgets, 1).masks(three) if rule == "largest" else {n: score >= 0 for n, score in three.items()}
    assert equal(_masks(method, still, 3), exact)  # the fourth starts at the mean of three
    for name, mean in still.mean.items():
        torch.testing.assert_close(mean, three[name])


@pytest.mark.parametrize("rule", ["threshold", "largest"])
def test_masks_are_transferred_by_weighing_drawn_scores_with_how_many_keep_a_weight(rule: str) -> None:
    method = _method(rule=rule, transfer="masks")
    state = _learn(method, *map(_task, range(3)))[-1]
    old = [_masks(method, state, place) for place in range(3)]
    still = _masks(method, method.with_(fit=STILL).learn(state, _task(3), 0)[0], 3)
    drawn = start_scores(method.wide, fold(0, "scores"))
    for name, mask in still.items():
        votes = sum(own[name].long() for own in old)
        expected = votes >= 2  # a threshold: the majority, whatever was drawn
        if rule == "largest":
            expected = largest(drawn[name] * (votes + 0.5) / 4, int(old[0][name].sum()))
        assert torch.equal(mask, expected), name
    assert state.mean == {}


@pytest.mark.parametrize("transfer", ["scores", "masks"])
def test_transfer_starts_lower_where_tasks_are_alike(transfer: str) -> None:
    alike = [_task(0), replace_id(_task(0), 1)]
    traces = []
    for method in (_method(), _method(transfer=transfer)):
        state = method.learn(method.init(7), alike[0], 1)[0]
        traces.append(method.learn(state, alike[1], 2)[1].loss[:5].mean())
    assert traces[1] < traces[0] / 2


def replace_id(task: Task, index: int) -> Task:
    return task._replace(id=TaskId(index, task.id.classes))


# --- the edges


def test_a_task_that_was_never_learned_has_no_answer() -> None:
    method = _method()
    state = _learn(method, _task(0))[-1]
    got = _ask(method, state, _task(1).examples.x, TaskId(1, torch.arange(2)))
    assert (got.logits.shape, got.labels.shape, got.task) == ((60, 0), (0,), None)


def test_more_labels_than_outputs_and_more_tasks_than_masks_are_refused() -> None:
    method = _method(outputs=4, most=2)
    with pytest.raises(Refused, match=r"a task has 5 labels, and the network 4 outputs; raise method\.outputs"):
        _learn(method, _task(0, (0, 1, 2, 3, 4)))
    state = _learn(method, _task(0), _task(1))[-1]
    with pytest.raises(Refused, match=r"all 2 masks are in use; raise method\.most, or leave it out"):
        method.learn(state, _task(2), 0)
    again = method.learn(state, _task(1), 0)[0]  # which takes the place of its own mask
    assert [id.index for id in again.ids] == [0, 1]


def test_a_damaged_mask_is_refused() -> None:
    method = _method()
    state = _learn(method, _task(0), _task(1))[-1]
    for parts in ("masks", "heads"):
        for name, code in getattr(state, parts)[1].items():
            damaged = code.clone()
            damaged[len(code) // 2] ^= 8
            codes = (getattr(state, parts)[0], {**getattr(state, parts)[1], name: damaged})
            if len(code) > 256:  # shorter codes carry no check
                with pytest.raises(Refused, match="the mask is damaged, or not one of 1,728 entries"):
                    method.ready(state._replace(**{parts: codes}))
            codes = (codes[0], {**codes[1], name: code[:-9]})
            with pytest.raises(Refused, match=r"the mask is damaged, or not one of .* learn the task again"):
                method.ready(state._replace(**{parts: codes}))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Embedding(9, 4), r"0 \(Embedding\) has parameters that a mask does not cover: weight"),
        (nn.LSTM(4, 4), r"0 \(LSTM\) has parameters .* use a net of these and normalisations"),
        (nn.ConvTranspose1d(4, 4, 3), "0 is a transposed convolution"),
    ],
)
def test_layers_that_take_no_mask_are_named_before_any_work(layer: nn.Module, message: str) -> None:
    with pytest.raises(Refused, match=message):
        SupSup(nn.Sequential(layer, nn.Linear(4, 2))).init(0)


@pytest.mark.parametrize(
    ("net", "fit", "message"),
    [
        (_net("mlp"), replace(FIT, start="net"), r"fit\.start net has no meaning here, where all weights follow from"),
        (_net("mlp"), replace(FIT, freeze="1.*"), r"fit\.freeze has no meaning here"),
        (
            nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2)),
            FIT,
            "a frozen 0.weight and 0.bias has",
        ),
    ],
)
def test_weights_that_are_given_or_held_are_refused(net: nn.Module, fit: Fit, message: str) -> None:
    with pytest.raises(Refused, match=message):
        SupSup(net, fit).init(0)


def test_a_life_has_ids_or_none() -> None:
    method, task = _method(fit=replace(FIT, steps=None, epochs=1, order="arrival")), _task(0)
    chunk = Task(task.examples, None)
    with pytest.raises(Refused, match="tasks were learned by their ids, and a flow without ids cannot go on"):
        method.learn(_learn(method, task)[-1], chunk, 1)
    with pytest.raises(Refused, match="a flow without ids was learned, and its masks belong to no task"):
        method.learn(_learn(method, chunk)[-1], task, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "top"}, r"method\.rule is 'top'; use one of threshold, largest"),
        ({"infer": "guess"}, r"method\.infer is 'guess'; use one of one-shot, binary, sweep"),
        ({"told": "loss"}, r"method\.told is 'loss'; use one of entropy, surplus"),
        ({"transfer": "all"}, r"method\.transfer is 'all'; use one of none, scores, masks"),
        ({"budget": "all"}, r"method\.budget is 'all'; use one of uniform, erdos-renyi"),
        ({"most": 0}, r"method\.most is 0; it must be at least 1"),
        ({"pool": 0}, r"method\.pool is 0"),
        ({"density": 1.0}, r"method\.density is 1\.0; a share lies between 0 and 1, and e is positive"),
        ({"budget": "erdos-renyi", "density": 0.0}, r"method\.density is 0\.0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        SupSup(nn.Linear(3, 2), **options)
