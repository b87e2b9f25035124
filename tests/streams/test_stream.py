"""What a scenario shows and hides, slices, and the flow without borders."""

import re

import pytest
import torch

from perdure.contract import Refused, Scenario
from perdure.data import Arrays, View
from perdure.datasets import Base
from perdure.streams.drifting import drifting
from perdure.streams.permuted import permuted
from perdure.streams.split import split
from perdure.streams.stream import Lesson, Stream, assemble, parse_scenario

GG, GNS, GNU, NNS = Scenario.GG, Scenario.GNS, Scenario.GNU, Scenario.NNS


def everything(examples):
    """All of a set: inputs and labels."""
    x, y, _ = examples.take(torch.arange(len(examples)))
    return x, y


def same(a, b):
    return all(torch.equal(one, other) for one, other in zip(everything(a), everything(b), strict=True))


def of(*labels):
    """A lesson whose example i is the number i, with these labels, learned and asked."""
    y = torch.tensor(labels)
    part = Arrays(torch.arange(len(labels))[:, None], y)
    return Lesson(part, part, y.unique())


@pytest.mark.parametrize(
    ("text", "scenario"),
    [
        ("gg", GG),
        ("GNs", GNS),
        ("gnu", GNU),
        ("NNS", NNS),
        ("task", GG),
        ("Domain", GNS),
        ("class", GNU),
        ("free", NNS),
    ],
)
def test_scenarios_have_letters_and_names(text, scenario):
    assert parse_scenario(text) is scenario


def test_unknown_scenarios_are_refused():
    with pytest.raises(
        Refused, match=r"nnu does not exist: a label never seen before gives the new task away.*use gnu"
    ):
        parse_scenario("NNu")
    with pytest.raises(Refused) as refusal:
        parse_scenario("domian")
    assert str(refusal.value) == (
        "unknown scenario 'domian'; did you mean domain? There are: gg, gns, gnu, nns, task, domain, class, free"
    )


@pytest.mark.parametrize("kind", [permuted, split])
@pytest.mark.parametrize("scenario", [GG, GNS, GNU])
def test_the_id_is_given_in_training_and_names_the_labels(tiny, kind, scenario):
    stream = kind(tiny, 3, scenario=scenario)
    assert len(stream) == len(stream.tasks) == len(stream.exams) == 3
    assert (stream.ends, stream.begins) == ((1, 2, 3), (0, 1, 2))
    for i, (task, exam) in enumerate(zip(stream, stream.exams, strict=True)):
        assert task.id.index == exam.id.index == i
        assert torch.equal(task.examples.labels.unique(), task.id.classes)
        assert torch.equal(exam.examples.labels.unique(), exam.id.classes)
        assert torch.equal(task.id.classes, exam.id.classes)


@pytest.mark.parametrize("kind", [permuted, split])
def test_no_id_in_the_flow_but_the_evaluator_keeps_it(tiny, kind):
    stream = kind(tiny, 3, scenario=NNS, chunk=7)
    assert all(task.id is None for task in stream.tasks)
    assert [exam.id.index for exam in stream.exams] == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "scenario", "labels", "classes"),
    [
        (permuted, GG, range(6), [range(6)] * 3),
        (permuted, GNS, range(6), [range(6)] * 3),
        (permuted, NNS, range(6), [range(6)] * 3),
        (permuted, GNU, None, [range(6), range(6, 12), range(12, 18)]),
        (split, GG, None, [[3, 5], [0, 1], [2, 4]]),
        (split, GNU, None, [[3, 5], [0, 1], [2, 4]]),
        (split, GNS, range(2), [range(2)] * 3),
        (split, NNS, range(2), [range(2)] * 3),
    ],
)
def test_labels_are_those_of_the_table(tiny, kind, scenario, labels, classes):
    given = {"class_order": "5,3,0,1,4,2"} if kind is split else {}
    stream = kind(tiny, 3, scenario=scenario, **given)
    assert stream.labels is None if labels is None else stream.labels.tolist() == list(labels)
    assert [exam.id.classes.tolist() for exam in stream.exams] == [list(labels) for labels in classes]


def test_unshared_labels_that_repeat_are_pairs_of_task_and_label(tiny):
    shared, unshared = permuted(tiny, 3, scenario=GNS), permuted(tiny, 3, scenario=GNU)
    for t in range(3):
        assert torch.equal(unshared[t].examples.labels, shared[t].examples.labels + 6 * t)
        assert torch.equal(unshared.exams[t].examples.labels, shared.exams[t].examples.labels + 6 * t)


def test_shared_labels_are_ranks_within_the_task(tiny):
    given = {"class_order": "5,3,0,1,4,2"}
    unshared, shared = split(tiny, 3, **given), split(tiny, 3, scenario=GNS, **given)
    for t, (low, high) in enumerate([(3, 5), (0, 1), (2, 4)]):
        renamed = {low: 0, high: 1}
        assert shared[t].examples.labels.tolist() == [renamed[int(y)] for y in unshared[t].examples.labels]


def test_overlapping_labels():
    lessons = [of(4, 7, 9), of(7, 9), of(9, 11, 4)]

    def stream(scenario):
        made = assemble("mine", scenario, lessons, 0)
        return made.labels, [exam.examples.labels.tolist() for exam in made.exams]

    assert stream(GG) == (None, [[4, 7, 9], [7, 9], [9, 11, 4]])
    assert stream(GNU) == (None, [[0, 1, 2], [3, 4], [6, 7, 5]])
    known, names = stream(GNS)
    assert known.tolist() == [0, 1, 2, 3]
    assert names == [[0, 1, 2], [1, 2], [2, 3, 0]]


def test_shared_labels_need_as_many_in_each_task():
    with pytest.raises(Refused) as refusal:
        assemble("mine", GNS, [of(0, 1), of(2, 3, 4)], 0)
    assert str(refusal.value) == (
        "scenario gns shares labels among tasks, so each needs as many; they have 2 to 3. "
        "Use gnu or gg, or as many labels in each task"
    )


@pytest.mark.parametrize("scenario", [GG, GNS, NNS])
def test_one_label_alone_is_refused(scenario):
    with pytest.raises(Refused) as refusal:
        assemble("mine", scenario, [of(0, 0), of(1, 1)], 0)
    assert str(refusal.value) == (
        "a task has one label only, and where only its own labels compete "
        f"(scenario {scenario.value}) every answer is right; use fewer tasks, so that each has two labels or more, "
        "or scenario gnu"
    )
    assert len(assemble("mine", GNU, [of(0, 0), of(1, 1)], 0)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lessons": []}, "tasks is 0; it must be at least 1"),
        ({"chunk": 0, "scenario": NNS}, "chunk is 0; it must be at least 1"),
        ({"passes": -1, "scenario": NNS}, "passes is -1; it must be at least 1"),
        ({"examples_per_task": 0}, "examples_per_task is 0; it must be at least 1"),
        ({"examples_per_task": 4}, "examples_per_task is 4, but task 2 has 3; use at most that"),
        (
            {"chunk": 5},
            "stream.chunk means nothing in scenario gnu: only in nns do examples come in a flow; leave it out, or use "
            "fit.epochs to repeat",
        ),
        ({"passes": 2}, "stream.passes means nothing in scenario gnu"),
        ({"lessons": [of(0, 1), of(0, 1)._replace(train=View(of(0).train, torch.arange(0)))]}, "no examples to learn"),
        ({"lessons": [of(0, 1)._replace(exam=View(of(0).exam, torch.arange(0)))]}, "task 1 has no examples to ask"),
    ],
)
def test_what_makes_no_stream_is_refused(given, message):
    arguments = {"scenario": GNU, "lessons": [of(0, 1, 0, 1), of(2, 3, 2)], "seed": 0, **given}
    with pytest.raises(Refused, match=re.escape(message)):
        assemble("mine", **arguments)


@pytest.mark.parametrize("scenario", [GNS, GNU, NNS])
def test_a_slice_is_the_stream_of_these_tasks(tiny, scenario):
    chunk = {"chunk": 25} if scenario is NNS else {}
    long, short = permuted(tiny, 5, scenario=scenario, **chunk), permuted(tiny, 3, scenario=scenario, **chunk)
    part = long[:3]
    assert isinstance(part, Stream)
    assert (len(part), part.ends, part.begins, part.name) == (3, short.ends, short.begins, "permuted-tiny")
    for one, other in zip([*part.tasks, *part.exams], [*short.tasks, *short.exams], strict=True):
        assert same(one.examples, other.examples)
    assert [exam.id.index for exam in long[3:].exams] == [0, 1]
    with pytest.raises(IndexError):
        part[99]
    with pytest.raises(Refused, match="tasks is 0"):
        long[:0]


def test_a_slice_keeps_the_examples_that_were_drawn(tiny):
    stream = permuted(tiny, 4, examples_per_task=20)
    assert same(stream[2:][0].examples, stream[2].examples)


@pytest.mark.parametrize("scenario", [GNS, NNS])
def test_fewer_examples_are_some_of_them_drawn_by_the_seed(tiny, scenario):
    def learned(**given):
        stream = permuted(tiny, 2, scenario=scenario, **given)
        return [row for task in stream for row in everything(task.examples)[0].flatten(1).tolist()]

    few, again, other, whole = (
        learned(examples_per_task=20),
        learned(examples_per_task=20),
        learned(examples_per_task=20, seed=1),
        learned(),
    )
    assert len(few) == 40
    assert few == again
    assert few != other
    assert all(row in whole for row in few)
    assert len({tuple(row) for row in few}) == 40
    assert len(permuted(tiny, 2, examples_per_task=20).exams[0].examples) == 30


@pytest.mark.parametrize(("chunk", "passes"), [(1, 1), (7, 1), (25, 2), (60, 1), (61, 3), (1000, 2)])
def test_the_flow_holds_every_example_so_many_times_and_cuts_across_borders(tiny, chunk, passes):
    shared = permuted(tiny, 3, scenario=GNS)
    flow = permuted(tiny, 3, scenario=NNS, chunk=chunk, passes=passes)
    sizes = [len(task.examples) for task in flow.tasks]
    assert sum(sizes) == 3 * 60 * passes
    assert set(sizes[:-1]) <= {chunk}
    x, y = (torch.cat(parts) for parts in zip(*(everything(task.examples) for task in flow.tasks), strict=True))
    for t in range(3):
        wish = sorted(
            [*row.flatten().tolist(), int(label)] for row, label in zip(*everything(shared[t].examples), strict=True)
        )
        stretch = slice(t * 60 * passes, (t + 1) * 60 * passes)
        got = sorted([*row.flatten().tolist(), int(label)] for row, label in zip(x[stretch], y[stretch], strict=True))
        assert got == sorted(wish * passes)
        assert flow.begins[t] == stretch.start // chunk
        assert flow.ends[t] == -(-stretch.stop // chunk)


def test_every_pass_is_a_whole_one_in_another_order(tiny):
    flow = permuted(tiny, 1, scenario=NNS, chunk=60, passes=2)
    first, second = (everything(task.examples)[0].flatten(1) for task in flow.tasks)
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())


def test_chunks_hold_the_same_flow_at_every_size(tiny):
    def flow(chunk):
        stream = permuted(tiny, 3, scenario=NNS, chunk=chunk, passes=2)
        return torch.cat([everything(task.examples.materialise())[0] for task in stream.tasks])

    assert torch.equal(flow(1000), flow(7))


def test_a_chunk_tells_no_task(tiny):
    """What a chunk gives through the protocol is a function of its examples: equal tasks give equal kinds of it."""
    stream = permuted(tiny, 2, scenario=NNS, chunk=40)
    for task in stream.tasks:
        x, y, rows = task.examples.take(torch.arange(len(task.examples)))
        assert torch.equal(rows, torch.arange(len(y)))
        assert set(y.tolist()) <= set(range(6))
        assert x.shape[1:] == stream.shape
    kinds = {(type(task.examples), task.examples.scale, task.examples.raw(torch.tensor([0])).dtype) for task in stream}
    assert len(kinds) == 1


def test_an_ordered_stream_flows_in_order_of_arrival(tiny):
    tasks, flow = drifting(tiny, 3, scenario=GNS), drifting(tiny, 3, scenario=NNS, chunk=7)
    assert flow.ordered
    arrived = torch.cat([everything(task.examples)[0] for task in tasks])
    assert torch.equal(torch.cat([everything(task.examples)[0] for task in flow]), arrived)


@pytest.mark.parametrize("scenario", [GG, GNS, GNU, NNS])
def test_a_thousand_tasks_are_built_without_touching_an_input(tiny, scenario):
    class Watched(Arrays):
        def raw(self, indices):
            touched.append(len(indices))
            return super().raw(indices)

    touched: list[int] = []
    train, exam = (Watched(part.x, part.labels) for part in (tiny.train, tiny.exam))
    stream = permuted(Base("tiny", train, exam, 6), 1000, scenario=scenario)
    assert len(stream) == 1000
    assert sum(touched) <= 1  # the shape of one input
    task = stream.tasks[-1]
    assert sum(touched) <= 1
    task.examples.take(torch.tensor([3, 4]))
    assert sum(touched) <= 3


def test_slicing_a_stream_made_by_hand_says_what_to_do(tiny):
    made = permuted(tiny, 2)
    bare = Stream(made.name, GNS, (5, 6), made.scale, made.labels, False, None, [*made], [*made.exams], (1, 2), (0, 1))
    assert bare[1].id.index == 1
    with pytest.raises(TypeError, match="put together by hand"):
        bare[:1]
