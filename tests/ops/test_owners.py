"""Owners: gaps that forgotten tasks leave, and weights that are free again."""

import pytest
import torch

from perdure import tree
from perdure.contract import Refused, TaskId
from perdure.model import Part
from perdure.ops.codec import entropy_bits
from perdure.ops.owners import at_rest, at_work, indices, released, vacated, with_task
from perdure.rng import bits, permutation

PARTS = tuple(Part(TaskId(index, torch.arange(2)), {}, {}) for index in (4, 1, 7))


def test_a_gap_keeps_the_place_of_later_tasks_and_closes_at_the_end() -> None:
    assert indices(vacated(PARTS, 1)) == [4, None, 7]
    assert indices(vacated(PARTS, 7)) == [4, 1]
    assert indices(vacated(vacated(PARTS, 1), 7)) == [4]
    assert vacated(vacated(vacated(PARTS, 4), 1), 7) == ()
    with pytest.raises(Refused, match="no task of index 1 is kept; those kept are 4, 7"):
        vacated(vacated(PARTS, 1), 1)


def test_what_belongs_to_none_of_the_first_tasks_is_free_and_fresh() -> None:
    params = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "head": torch.ones(2)}
    owner = {"w": torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)}
    after, owners = released(params, owner, 1, {"w": -params["w"], "head": -params["head"]})
    assert after["w"].tolist() == [[1, 2], [-3, -4]]
    assert after["head"].tolist() == [1, 1]
    assert owners["w"].tolist() == [[0, 1], [0, 0]]
    assert owners["w"].dtype == torch.uint8
    assert owner["w"].tolist() == [[0, 1], [2, 3]]


def test_owners_come_back_from_rest_as_they_were() -> None:
    shapes = {"deep": (7, 5, 3, 3), "flat": (1000,), "one": (1, 1), "none": (0, 4)}
    params = {name: torch.empty(shape) for name, shape in shapes.items()}
    for tasks in (0, 1, 2, 7, 255):
        owner = {
            name: (bits(tasks, w.numel()) % (tasks + 1)).abs().to(torch.uint8).view(w.shape)
            for name, w in params.items()
        }
        masks = at_rest(owner, tasks)
        assert {len(codes) for codes in masks.values()} == {tasks}
        back = at_work(masks, params, tasks)
        for name, mine in owner.items():
            assert back[name].dtype == torch.uint8
            assert torch.equal(back[name], mine)
    channels = torch.empty(4, 2, 3, 3).to(memory_format=torch.channels_last)  # weights may lie in any order
    mine = torch.arange(72).remainder(3).to(torch.uint8).view(4, 2, 3, 3)
    assert torch.equal(at_work(at_rest({"w": mine}, 2), {"w": channels}, 2)["w"], mine)


def test_owners_at_rest_take_what_their_shares_leave_undecided() -> None:
    n, q, tasks = 100_000, 0.75, 10
    owner, free, least = torch.zeros(n, dtype=torch.uint8), permutation(0, n), 0.0
    for t in range(1, tasks + 1):
        own, rest = free[: (m := round((1 - q) * len(free)))], free[m:]
        least += entropy_bits(len(free), m) / 8
        owner[own], free = t, rest
    taken = sum(map(len, at_rest({"w": owner}, tasks)["w"]))
    assert least <= taken < 1.02 * least
    assert taken < 0.39 * n  # of a byte a weight; four planes of bits would take half of one


def test_a_damaged_mask_of_owners_is_refused() -> None:
    owner = {"w": bits(0, 4000).remainder(2).abs().to(torch.uint8)}
    (code,) = at_rest(owner, 1)["w"]
    code[20] ^= 1
    with pytest.raises(Refused, match="damaged"):
        at_work({"w": (code,)}, {"w": torch.empty(4000)}, 1)


def test_masks_of_owners_that_are_not_one_a_task_are_refused() -> None:
    params, masks = {"w": torch.empty(8)}, at_rest({"w": torch.arange(8, dtype=torch.uint8)}, 7)
    assert at_work(masks, params, 7)["w"].tolist() == list(range(8))
    for wrong, tasks in (
        (masks, 6),
        (masks, 8),
        ({"v": masks["w"]}, 7),
        ({"w": params["w"]}, 8),
        ({"w": masks["w"][:1] * 256}, 256),
    ):
        with pytest.raises(Refused, match=f"no masks of owners for the {tasks} tasks"):
            at_work(wrong, params, tasks)  # type: ignore[arg-type]


def test_a_task_more_is_a_mask_more_and_changes_no_other() -> None:
    owner = {"w": bits(1, 300).remainder(4).abs().to(torch.uint8)}
    two = at_rest({"w": owner["w"] * (owner["w"] < 3)}, 2)
    three = with_task(two, owner, 3)
    assert three["w"][:2] == two["w"]
    assert tree.equal(three, at_rest(owner, 3))
