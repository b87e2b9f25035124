"""SupSup without ids: whose is a batch is decided before any step on it, and the decision does not hang on chunks."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from perdure import tree
from perdure.contract import Fit, Refused, Task
from perdure.data import Arrays
from perdure.methods.supsup import Supermasks, SupSup
from perdure.nets import build
from perdure.rng import fold, normal, permutation

WIDTH, CLASSES, EACH, BATCH = 256, 4, 800, 20
FIT = Fit(optimizer="rmsprop", lr=1e-3, batch=BATCH, epochs=1, order="arrival")


def _method(net: nn.Module | None = None, **options: object) -> SupSup:
    return SupSup(net or build("mlp:128", (WIDTH,), CLASSES), FIT, **{"outputs": 40, "every": 20, **options})


def _examples(task: int, n: int = EACH) -> tuple[Tensor, Tensor]:
    """Four classes around centres that are the task's own."""
    labels = permutation(fold(1, task), n) % CLASSES
    centres = normal(fold(2, task), CLASSES * WIDTH).view(CLASSES, WIDTH)
    return (centres[labels] + normal(fold(3, task), n * WIDTH).view(n, WIDTH)).float(), labels


def _flow(tasks: list[int], chunk: int, n: int = EACH) -> list[Task]:
    x, y = (torch.cat(parts) for parts in zip(*(_examples(task, n) for task in tasks), strict=True))
    return [Task(Arrays(*part), None) for part in zip(x.split(chunk), y.split(chunk), strict=True)]


def _live(method: SupSup, flow: list[Task]) -> Supermasks:
    state = method.init(5)
    for call, chunk in enumerate(flow):
        state, trace = method.learn(state, chunk, fold(6, call))
        assert len(trace.loss) <= len(chunk.examples) / BATCH
    return state


def _accuracy(method: SupSup, state: Supermasks, task: int) -> float:
    x, y = _examples(task + 100)
    x = x - _centres(task + 100)[y] + _centres(task)[y]  # new examples of the same task
    answer = method.predict(method.ready(state), x, state.ids[task])
    return float((answer.labels[answer.logits.argmax(1)] == y).float().mean())


def _centres(task: int) -> Tensor:
    return normal(fold(2, task), CLASSES * WIDTH).view(CLASSES, WIDTH).float()


def test_each_task_gets_a_mask_at_its_border_and_returns_to_it() -> None:
    method = _method()
    state = _live(method, _flow([0, 1, 2, 0, 3, 1], chunk=400))
    assert state.flow is not None
    batches = EACH // BATCH
    assert state.flow.log.tolist() == [
        [0, 0],
        [batches, 1],
        [2 * batches, 2],
        [3 * batches, 0],
        [4 * batches, 3],
        [5 * batches, 1],
    ]
    assert [grown.steps for grown in state.flow.masks] == [2 * batches, 2 * batches, batches, batches]
    assert min(_accuracy(method, state, task) for task in range(4)) > 0.95


def test_the_allocation_is_the_same_for_every_chunk_that_is_a_multiple_of_the_batch() -> None:
    method, tasks = _method(), [0, 1, 0]
    whole, *parts = (_live(method, _flow(tasks, chunk)) for chunk in (3 * EACH, 400, 60, BATCH))
    for state in parts:
        assert tree.equal(state, whole)


def test_no_mask_takes_a_step_on_a_batch_that_is_not_its_own() -> None:
    method = _method()
    before = _live(method, _flow([0], EACH))
    after = method.learn(before, _flow([0, 1], EACH)[1], 9)[0]
    assert len(after.ids) == 2
    for name in ("masks", "heads", "stats"):
        assert tree.equal(getattr(after, name)[0], getattr(before, name)[0])
    assert tree.equal(after.flow.masks[0], before.flow.masks[0])
    assert [old.steps for old in after.flow.masks] == [EACH // BATCH] * 2


def test_a_border_between_two_questions_is_found_by_the_jump_of_the_loss() -> None:
    batches = EACH // BATCH
    state = _live(_method(every=30), _flow([0, 1, 2, 0], EACH))
    assert batches % 30
    assert state.flow.log.tolist() == [[0, 0], [batches, 1], [2 * batches, 2], [3 * batches, 0]]
    asked = dict(state.flow.asked.tolist())
    assert list(asked) == [30, batches, 2 * batches, 3 * batches, 150]  # by turn and at each jump, but of no young mask
    own, strange = [30, 3 * batches, 150], [batches, 2 * batches]
    assert min(asked[place] for place in own) > max(asked[place] for place in strange) >= 0


def test_known_inputs_whose_labels_are_others_get_a_mask_of_their_own() -> None:
    """The inputs alone say that they are the mask's, and more plainly than any others; its loss on them does not."""
    method, (x, y) = _method(), _examples(0)
    first = method.learn(method.init(5), _flow([0], EACH)[0], 1)[0]
    other = Task(Arrays(x, (y + 1) % CLASSES), None)
    state = method.learn(first, other, 2)[0]
    assert state.flow.log.tolist() == [[0, 0], [EACH // BATCH, 1]]
    assert tree.equal(state.masks[0], first.masks[0])
    assert len(method.learn(first, _flow([0], EACH)[0], 2)[0].ids) == 1


@pytest.mark.parametrize("every", [20, 30])  # the border is a question's turn, or found by the jump of the loss
def test_the_statistics_of_a_mask_never_see_a_batch_of_another_task(every: int) -> None:
    net = nn.Sequential(nn.Linear(WIDTH, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, CLASSES))
    method = _method(net, every=every)
    before = _live(method, _flow([0], EACH))
    after = method.learn(before, _flow([0, 1], EACH)[1], 9)[0]
    assert {place for _, place in after.flow.log.tolist()[1:]} == set(range(1, len(after.ids)))
    assert tree.equal(after.stats[0], before.stats[0])
    assert not tree.equal(after.stats[1], before.stats[0])


def test_a_mask_that_returns_goes_on_with_its_scores_and_moments() -> None:
    method = _method()
    one, two = _flow([0], EACH)[0], _flow([1], EACH)[0]
    straight = method.learn(method.learn(method.init(5), one, 1)[0], one, 2)[0]
    state = method.learn(method.init(5), one, 1)[0]
    state = method.learn(state, two, 3)[0]
    state = method.learn(state, one, 2)[0]
    assert len(state.ids) == 2
    assert tree.equal(state.masks[0], straight.masks[0])
    assert tree.equal(state.flow.masks[0], straight.flow.masks[0])


def test_the_youngest_mask_is_not_judged_before_it_has_learned_for_a_while() -> None:
    """A task that ends within the probation of its mask shares it with the next."""
    method = _method(every=60)
    short = _live(method, [*_flow([0], EACH, 10 * BATCH), *_flow([1], EACH, 100 * BATCH)])
    assert len(short.ids) == 1
    assert len(_live(_method(), _flow([0, 1], EACH)).ids) == 2


def test_a_jump_of_the_loss_is_no_question_while_the_mask_is_young() -> None:
    batches = EACH // BATCH
    young = _live(_method(every=batches + 20), _flow([0, 1], EACH))
    assert [begin for begin, _ in young.flow.log.tolist() if begin < batches + 20] == [0]
    old = _live(_method(every=batches - 10), _flow([0, 1], EACH))
    assert [begin for begin, _ in old.flow.log.tolist()] == [0, batches]


def test_what_is_about_tasks_is_refused_in_a_flow() -> None:
    method = _method(transfer="masks")
    with pytest.raises(Refused, match=r"method.transfer is about tasks, and a flow without ids has none"):
        method.learn(method.init(5), _flow([0], EACH)[0], 1)


def test_where_no_more_masks_may_be_examples_that_ask_for_one_are_left_out() -> None:
    method = _method(most=1)
    first = method.learn(method.init(5), _flow([0], EACH)[0], 1)[0]
    state, trace = method.learn(first, _flow([1], EACH)[0], 2)
    assert len(trace.loss) == 0
    assert state.flow.log.tolist() == [[0, 0], [EACH // BATCH, -1]]
    assert tree.equal((state.masks, state.flow.masks), (first.masks, first.flow.masks))
    back, trace = method.learn(state, _flow([0], EACH)[0], 3)
    assert len(trace.loss) == EACH // BATCH
    assert back.flow.log.tolist()[2:] == [[2 * EACH // BATCH, 0]]


def test_labels_that_come_later_get_the_next_outputs() -> None:
    method, (x, y) = _method(), _examples(0)
    order = y.argsort()
    chunks = [Task(Arrays(x[rows], y[rows]), None) for rows in order.split(EACH // 2)]
    state = _live(method, chunks)
    known = method.learn(method.init(5), chunks[0], fold(6, 0))[0]
    assert state.flow.labels[:2].tolist() == known.flow.labels.tolist()
    assert sorted(state.flow.labels.tolist()) == [0, 1, 2, 3]
    assert all(id.classes.tolist() == state.flow.labels.tolist() for id in state.ids)
    with pytest.raises(Refused, match=r"a task has 4 labels, and the network 3 outputs; raise method\.outputs"):
        _live(_method(outputs=3), chunks)


def test_the_log_grows_only_where_another_mask_takes_over() -> None:
    state = _live(_method(), _flow([0, 0, 1, 1], chunk=400))
    assert all(one[1] != two[1] for one, two in pairwise(state.flow.log.tolist()))
    assert len(state.flow.log) == 2


def test_a_flow_without_ids_has_no_task_to_forget() -> None:
    method = _method()
    with pytest.raises(Refused, match="no task to forget; roll back to a state before it"):
        method.forget(_live(method, _flow([0, 1], EACH)), 0)
