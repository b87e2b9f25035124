"""Facts about trees: what goes in comes out bit for bit, and nothing else gets in."""

import json
from typing import NamedTuple

import pytest
import torch

from perdure import tree
from perdure.contract import Refused
from perdure.rng import bits, fold, integers, normal


class Leafy(NamedTuple):
    weights: object
    count: object


class Grown(NamedTuple):
    weights: object
    later: tuple[int, ...] = ()


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def random_tree(key: int, depth: int = 3):
    """Any tree a state may be, drawn by a key."""
    kind = int(integers(key, 9 if depth else 6, 1))
    draw = int(bits(key, 1, start=1))
    if kind == 0:
        shape = integers(fold(key, "shape"), 4, draw % 3).tolist()
        numbers = normal(fold(key, "x"), int(torch.tensor(shape).prod())).reshape(shape) * 10
        return numbers.to(DTYPES[draw % len(DTYPES)])
    if kind < 6:
        return (None, draw, float(normal(key, 1)), f"word {draw}", draw % 2 == 0)[kind - 1]
    branches = [random_tree(fold(key, i), depth - 1) for i in range(2 if kind == 8 else draw % 4)]
    if kind == 6:
        return {f"{i}.weight": branch for i, branch in enumerate(branches)}
    return tuple(branches) if kind == 7 else Leafy(*branches)


@pytest.mark.parametrize("key", range(60))
def test_pack_and_unpack_is_the_identity(key):
    whole = random_tree(key, depth=4)
    plain, tensors = tree.pack(whole)
    back = tree.unpack(json.loads(json.dumps(plain)), tensors, [Leafy])
    assert tree.equal(whole, back)
    assert type(back) is type(whole)
    assert tree.nbytes(back) == tree.nbytes(whole)


def test_a_named_tuple_comes_back_only_if_it_is_declared():
    plain, tensors = tree.pack(Leafy(torch.ones(2), 3))
    assert type(tree.unpack(plain, tensors, [Leafy])) is Leafy
    with pytest.raises(Refused, match="holds a 'Leafy', which this method does not declare"):
        tree.unpack(plain, tensors)
    plain["items"].append({"value": 1})
    with pytest.raises(Refused, match="Leafy"):
        tree.unpack(plain, tensors, [Leafy])


@pytest.mark.parametrize(
    "plain",
    [
        {"tensor": 1},
        {"tensor": -1},
        {"tensor": "0"},
        {"value": [1]},
        {"value": {"a": 1}},
        {"dict": [1]},
        {"tuple": "tuple"},
        {"import": "os"},
        [1],
        7,
        None,
    ],
)
def test_json_that_is_no_tree_is_refused(plain):
    with pytest.raises(Refused, match="damaged"):
        tree.unpack(plain, [torch.ones(1)])


@pytest.mark.parametrize("value", [[1], {1, 2}, object(), torch.nn.Linear(1, 1), b"x"])
def test_nothing_else_is_a_tree(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        tree.pack({"a": (value,)})
    with pytest.raises(TypeError, match=type(value).__name__):
        tree.transform((value,), lambda tensor: tensor)


def test_a_dict_has_names_as_keys():
    with pytest.raises(TypeError, match="strings"):
        tree.pack({1: 2})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_means_every_bit(dtype):
    zero, nan = torch.zeros(2, dtype=dtype), torch.tensor([float("nan")], dtype=dtype)
    assert not tree.equal(zero, -zero)
    assert tree.equal(nan, nan.clone())
    assert tree.equal(float("nan"), float("nan"))
    assert tree.equal(torch.ones(3, 2, dtype=dtype).t(), torch.ones(2, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (0.0, -0.0),
        (True, 1),
        (None, 0),
        (torch.ones(2), torch.ones(2, 1)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.tensor(1), 1),
        ({"a": 1}, {"b": 1}),
        ((1,), (1, 1)),
        (Leafy(1, 2), Leafy(1, 3)),
    ],
)
def test_different_trees_are_not_equal(a, b):
    assert not tree.equal(a, b)
    assert not tree.equal(b, a)


def test_bytes_count_each_tensor_once():
    shared = torch.zeros(10)
    state = Leafy({"a": shared, "b": torch.zeros(3, dtype=torch.uint8)}, (shared, torch.zeros(0), 5))
    assert tree.nbytes(state) == 43
    assert tree.components(state) == {"weights": 43}


class One(NamedTuple):
    id: torch.Tensor
    inner: Leafy
    both: tuple[torch.Tensor, ...]


def test_parts_are_the_fields_of_a_state_and_of_what_it_has_one_of_a_task():
    a, b = torch.zeros(2), torch.zeros(3, dtype=torch.uint8)
    tasks = tuple(One(a.clone(), Leafy({"x.y": b.clone()}, 1), (a.clone(), b.clone())) for _ in range(4))
    state = Leafy(tasks, Leafy({"w": torch.zeros(5)}, (One(a.clone(), Leafy(1, 2), ()),)))
    assert [part for part, _ in tree.parts(state)] == [
        *4 * ["weights.id", "weights.inner.weights", "weights.inner.count", "weights.both", "weights.both"],
        *("count", "count.id", "count.inner.weights", "count.inner.count"),
    ]
    assert tree.components(state) == {
        "weights.id": 32,
        "weights.inner.weights": 12,
        "weights.both": 44,
        "count": 20,
        "count.id": 8,
    }
    assert sum(tree.components(state).values()) == tree.nbytes(state)
    assert [leaf for _, leaf in tree.parts(state)] == [leaf for _, leaf in tree.leaves(state)]


def test_leaves_are_named_by_their_path():
    state = Leafy({"0.weight": 1}, (2, Leafy(3, None)))
    assert list(tree.leaves(state)) == [
        ("weights.0.weight", 1),
        ("count.0", 2),
        ("count.1.weights", 3),
        ("count.1.count", None),
    ]


def test_transform_changes_tensors_and_keeps_the_rest():
    state = Leafy({"a": torch.ones(2)}, (torch.ones(1), "word", 7, None))
    twice = tree.transform(state, lambda tensor: tensor * 2)
    assert tree.equal(twice, Leafy({"a": torch.full((2,), 2.0)}, (torch.full((1,), 2.0), "word", 7, None)))
    assert tree.equal(state.weights["a"], torch.ones(2))


def test_a_state_that_was_stored_before_a_field_came_is_read_with_its_default():
    plain, tensors = tree.pack(Grown(torch.ones(2), (3, 4)))
    assert tree.unpack(plain, tensors, [Grown]).later == (3, 4)
    whole = plain["items"]
    assert tree.unpack({**plain, "items": whole[:1]}, tensors, [Grown]).later == ()
    for items in ([], [*whole, whole[0]]):
        with pytest.raises(Refused, match="which this method does not declare"):
            tree.unpack({**plain, "items": items}, tensors, [Grown])
