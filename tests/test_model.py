"""Facts about models: start values, the head that grows, answers in evaluation mode, and a module left untouched."""

import copy
import warnings

import pytest
import torch
from torch import nn

from perdure.contract import Fit, Refused, Task, TaskId
from perdure.data import Arrays
from perdure.model import (
    Model,
    Part,
    accuracy,
    answer,
    check_classes,
    features,
    forward,
    grow,
    head_of,
    index_of,
    narrow,
    place_of,
    probe,
    rows_of,
    start,
    with_outputs,
    without,
)
from perdure.tree import equal


class Odd(nn.Module):
    """A net whose layers are declared in another order than they are used, with noise, statistics and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.gain = nn.Parameter(torch.full((4,), 2.0))
        self.body = nn.Linear(6, 4)
        self.noise = nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.noise(self.norm(self.body(x)) * self.gain))


def mlp(rows: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, rows))


def task(labels: list[int], classes: list[int] | None = None) -> Task:
    id = None if classes is None else TaskId(0, torch.tensor(classes))
    return Task(Arrays(torch.zeros(len(labels), 6), torch.tensor(labels)), id)


def test_the_head_is_the_last_linear_layer_or_the_one_that_fit_names():
    assert head_of(mlp(), Fit()) == "3"
    assert head_of(Odd(), Fit(head="head")) == "head"
    assert head_of(nn.Linear(2, 2), Fit()) == ""
    with pytest.raises(Refused, match=r"fit.head names 'top', but the net's Linear layers are 1, 3"):
        head_of(mlp(), Fit(head="top"))
    with pytest.raises(Refused, match="no Linear layer to be its head; end it with one"):
        head_of(nn.Sequential(nn.Flatten()), Fit())


def test_a_probe_finds_the_layer_that_answers():
    assert probe(Odd(), Fit(), torch.zeros(1, 6)) == "head"
    assert probe(mlp(), Fit(), torch.zeros(2, 2, 3)) == "3"
    assert probe(nn.Linear(6, 2), Fit(), torch.zeros(2, 6)) == ""
    with pytest.raises(Refused, match=r"the net cannot take inputs of shape \(5,\)"):
        probe(mlp(), Fit(), torch.zeros(1, 5))
    with pytest.raises(Refused, match=r"with \(B, rows\) logits, and answers \(1, 2, 2\)"):
        probe(nn.Linear(6, 2), Fit(), torch.zeros(1, 2, 6))


def test_start_values_are_those_of_reset_parameters_under_the_key():
    net = Odd()
    model = start(net, Fit(head="head"), 5)
    assert equal(start(net, Fit(head="head"), 5), model)
    assert equal(start(Odd(), Fit(head="head"), 5), model)
    assert not equal(start(net, Fit(head="head"), 6).params["body.weight"], model.params["body.weight"])
    assert model.params["body.weight"].abs().max() <= 6**-0.5  # the bound of Linear's own start
    assert equal(model.params["gain"], net.gain.detach())  # no layer resets it
    assert equal(model.stats["norm.running_var"], torch.ones(4))
    assert model.labels.tolist() == [0, 1, 2]
    assert model.moments == {}


def test_start_values_of_a_layer_do_not_depend_on_the_other_layers():
    one = start(mlp(3), Fit(), 1).params
    two = start(mlp(7), Fit(), 1).params
    assert equal(one["1.weight"], two["1.weight"])
    assert not equal(one["1.weight"].flatten()[:12], one["3.weight"].flatten())


def test_start_from_the_net_keeps_its_values():
    net = Odd()
    net.norm.running_mean += 1
    model = start(net, Fit(start="net", head="head"), 5)
    assert equal(model.params, {name: param.detach() for name, param in net.named_parameters()})
    assert equal(model.stats, dict(net.named_buffers()))
    model.params["gain"].zero_()
    assert net.gain.detach().tolist() == [2.0] * 4


def test_start_changes_neither_the_net_nor_the_callers_generator():
    net = Odd()
    before, noise = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    start(net, Fit(head="head"), 5)
    assert equal(dict(net.state_dict()), dict(before))
    assert torch.equal(torch.get_rng_state(), noise)


def test_new_rows_of_the_head_are_zero_and_old_ones_keep_their_bits():
    net, fit = mlp(2), Fit()
    model = start(net, fit, 0)
    moments = {"exp_avg": dict(model.params), "step": {"": torch.tensor(7.0)}}
    grown = grow(net, fit, model._replace(moments=moments), task([5, 1, 3], [1, 3, 5]))
    assert grown.labels.tolist() == [0, 1, 3, 5]
    for tensors in (grown.params, grown.moments["exp_avg"]):
        for name in ("3.weight", "3.bias"):
            assert equal(tensors[name][:2], model.params[name])
            assert equal(tensors[name][2:], torch.zeros_like(tensors[name][2:]))
        assert tensors["1.weight"] is model.params["1.weight"]
    assert grown.moments["step"][""] == 7
    assert model.labels.tolist() == [0, 1]


def test_a_head_grows_with_the_labels_of_the_id_or_with_those_that_show():
    net, fit = with_outputs(mlp(), Fit(), 0), Fit()
    model = start(net, fit, 0)
    assert model.labels.tolist() == []
    assert grow(net, fit, model, task([5, 1, 5], [1, 2, 5])).labels.tolist() == [1, 2, 5]
    seen = grow(net, fit, model, task([5, 1, 5]))
    assert seen.labels.tolist() == [1, 5]
    assert grow(net, fit, seen, task([1])) is seen
    assert grow(net, fit, seen, task([4])).labels.tolist() == [1, 5, 4]


def test_a_net_that_is_its_own_head_grows():
    net = nn.Linear(6, 1)
    grown = grow(net, Fit(), start(net, Fit(), 0), task([0, 2]))
    assert forward(net, grown, torch.ones(4, 6)).shape == (4, 2)


def test_other_outputs_without_a_warning():
    net = nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3, bias=False)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = with_outputs(net, Fit(), 0)
        start(none, Fit(), 1)
    assert none[1][1].weight.shape == (0, 4)
    assert none[1][1].bias is None
    assert with_outputs(net, Fit(), 3) is net
    assert with_outputs(nn.Linear(2, 3), Fit(), 5).weight.shape == (5, 2)
    assert net[1][1].weight.shape == (3, 4)


def test_the_forward_pass_is_the_net_in_evaluation_mode():
    net = Odd()
    net(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))  # moves the statistics
    model = start(net, Fit(start="net", head="head"), 0)
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    logits = forward(net, model, x)
    assert net.training
    assert net.noise.training
    assert all(param.requires_grad and param.grad is None for param in net.parameters())
    assert equal(dict(net.state_dict()), dict(before))
    assert not logits.requires_grad
    assert equal(logits, net.eval()(x).detach())


def test_features_are_what_the_head_sees_and_accuracy_counts_its_likeliest_labels():
    net, fit = Odd(), Fit(start="net", head="head")
    net(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))  # moves the statistics
    model = start(net, fit, 0)._replace(labels=torch.tensor([7, 2, 5]))
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    seen = features(net, fit, model, x)
    net.eval()
    torch.testing.assert_close(seen, (net.norm(net.body(x)) * net.gain).detach())
    likeliest = model.labels[net(x).argmax(1)]
    wrong = torch.where(torch.arange(9) < 4, likeliest, likeliest + 1)
    assert accuracy(net, model, Arrays(x, wrong)) == 4 / 9


def test_rows_of_labels():
    labels = torch.tensor([4, 9, 2, 7])
    assert rows_of(labels, torch.tensor([2, 4, 5, 7])).tolist() == [2, 0, 3]
    assert rows_of(labels, torch.tensor([], dtype=torch.int64)).tolist() == []


def test_an_answer_is_narrowed_to_the_labels_of_the_task():
    net = mlp(3)
    model = Model(start(net, Fit(), 0).params, {}, torch.tensor([4, 9, 2]), {})
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    whole = answer(net, model, x)
    assert whole.labels.tolist() == [4, 9, 2]
    assert whole.task is None
    narrowed = answer(net, model, x, TaskId(0, torch.tensor([2, 4, 6])))
    assert narrowed.labels.tolist() == [2, 4]
    assert equal(narrowed.logits, whole.logits[:, [2, 0]])
    assert equal(narrow(whole, None), whole)


def test_before_any_label_there_is_no_answer():
    net = with_outputs(mlp(), Fit(), 0)
    nothing = answer(net, start(net, Fit(), 0), torch.zeros(5, 6))
    assert nothing.logits.shape == (5, 0)
    assert nothing.labels.tolist() == []


def test_a_task_without_an_id_comes_after_all_that_were_learned():
    assert index_of(task([0, 1], [0, 1]), [0, 4]) == 0
    assert [index_of(task([0, 1]), learned) for learned in ([], [0, 1], [4, 0], [None, 1], [None])] == [0, 2, 5, 2, 0]


def test_one_part_is_left_out_and_an_unknown_one_refused():
    parts = tuple(Part(TaskId(index, torch.arange(2)), {}, {}) for index in (3, 0, 5))
    assert [part.task for part in without(parts, 0)] == [3, 5]
    assert place_of(5, [3, None, 5]) == 2
    with pytest.raises(Refused, match="no task of index 1 is kept; those kept are 3, 0, 5"):
        without(parts, 1)
    with pytest.raises(Refused, match="no task of index 1 is kept; those kept are none"):
        place_of(1, [None])


def test_a_task_whose_examples_show_one_class_is_refused_whatever_its_id_says():
    check_classes(task([7, 7, 3]))
    with pytest.raises(Refused, match=r"show one class.* add it to a task that has others"):
        check_classes(task([7, 7], [3, 7]))
