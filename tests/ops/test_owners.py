"""Owners: gaps that forgotten tasks leave, and weights that are free again."""

import pytest
import torch

from perdure.contract import Refused, TaskId
from perdure.model import Part
from perdure.ops.owners import indices, released, vacated

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
