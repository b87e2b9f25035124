"""Facts about example sets: every kind gives the same rows, nothing is computed before it is taken."""

import numpy as np
import pytest
import torch

from perdure.contract import Refused, Scale
from perdure.data import BLOCK, Arrays, Concat, Dataset, Mapped, View, blocks
from perdure.rng import bits, integers
from perdure.tree import equal

N = 23
X = (bits(1, N * 6) % 256).to(torch.uint8).reshape(N, 2, 3)
Y = integers(2, 4, N)
SCALE = Scale(3.0, 1 / 255)


def add_row(x, rows):
    return x + rows.to(torch.uint8)[:, None, None]


class Pairs:
    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i].numpy(), int(Y[i])


def every_kind():
    """The same examples, in every way to hold them."""
    arrays = Arrays(X, Y, SCALE)
    back = torch.arange(N).flip(0)
    return {
        "arrays": arrays,
        "mapped": Mapped(X.numpy(), Y, SCALE),
        "dataset": Dataset(Pairs(), scale=SCALE),
        "dataset with labels": Dataset(Pairs(), Y, SCALE),
        "view": View(arrays),
        "view of a view": View(View(arrays, back), back),
        "concat": Concat([View(arrays, torch.arange(5)), View(arrays, torch.arange(5, N))]),
        "concat with an empty part": Concat([arrays, View(arrays, torch.arange(0))]),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_every_kind_gives_the_same_examples(kind):
    examples, rows = every_kind()[kind], torch.tensor([22, 0, 4, 5, 4])
    assert len(examples) == N
    assert torch.equal(examples.labels, Y)
    assert equal(examples.raw(rows), X[rows])
    batch = examples.take(rows)
    assert equal(batch.x, (X[rows].float() - 3.0) * (1 / 255))
    assert torch.equal(batch.y, Y[rows])
    assert torch.equal(batch.rows, rows)
    assert equal(examples.materialise().take(rows), batch)


def test_scale_leaves_what_needs_no_scaling_and_its_argument_alone():
    x = torch.ones(3)
    assert equal(Scale(1.0, 2.0)(x), torch.zeros(3))
    assert equal(Scale()(x), x)
    assert equal(x, torch.ones(3))
    assert Scale()(X).dtype == torch.float32


def test_a_view_transforms_by_the_rows_of_its_base():
    rows = torch.tensor([9, 2, 9, 14])
    view = View(Arrays(X, Y), rows, add_row, labels=torch.tensor([0, 1, 2, 3]))
    assert equal(view.raw(torch.tensor([3, 1])), add_row(X[[14, 2]], torch.tensor([14, 2])))
    assert view.labels.tolist() == [0, 1, 2, 3]
    assert equal(view.materialise().raw(torch.arange(4)), add_row(X[rows], rows))


def test_a_transform_runs_when_taken_and_once_when_materialised():
    count = []
    view = View(Arrays(X, Y), transform=lambda x, rows: count.append(len(x)) or x)
    assert count == []
    done = view.materialise()
    assert sum(count) == N
    done.take(torch.arange(3))
    assert sum(count) == N


def test_materialising_takes_a_block_at_a_time():
    sizes = []
    base = Arrays(torch.zeros(BLOCK + 5, 1), torch.zeros(BLOCK + 5, dtype=torch.int64))
    View(base, transform=lambda x, rows: sizes.append(len(x)) or x).materialise()
    assert sizes == [BLOCK, 5]


def test_blocks_are_all_examples_in_order_or_those_that_are_asked_for(monkeypatch):
    monkeypatch.setattr("perdure.data.BLOCK", 10)
    every, some = View(Arrays(X, Y, SCALE), transform=add_row), torch.tensor([7, 3, 3, 22, 0, 1, 2, 4, 5, 6, 8])
    for rows, wanted in ((torch.arange(N), None), (some, some)):
        parts = list(blocks(every, rows=wanted))
        assert [len(part.y) for part in parts[:-1]] == [10] * (len(rows) // 10)
        assert equal(tuple(map(torch.cat, zip(*parts, strict=True))), tuple(every.take(rows)))
    assert list(blocks(every, rows=some[:0])) == []


def test_large_inputs_come_in_small_blocks():
    photos = Mapped(np.zeros((30, 3, 224, 224), np.uint8), torch.zeros(30, dtype=torch.int64))
    assert [len(part.y) for part in blocks(photos)] == [27, 3]
    assert [len(part.y) for part in blocks(Arrays(torch.zeros(2, 5_000_000), torch.zeros(2)))] == [1, 1]


def test_what_is_in_memory_is_not_copied():
    arrays = Arrays(X, Y)
    assert arrays.materialise() is arrays
    assert View(arrays).materialise() is arrays
    renamed = View(arrays, labels=Y + 4).materialise()
    assert torch.equal(renamed.labels, Y + 4)


def test_a_split_parts_the_examples_by_key():
    arrays = Arrays(X, Y, SCALE)
    rest, share = arrays.split(5, 0.3)
    assert (len(rest), len(share)) == (16, 7)
    both = torch.cat([rest.rows, share.rows])
    assert torch.equal(both.sort().values, torch.arange(N))
    assert torch.equal(arrays.split(5, 0.3)[1].rows, share.rows)
    assert not torch.equal(arrays.split(6, 0.3)[1].rows, share.rows)
    assert share.scale == SCALE


def test_wrong_numbers_of_labels_and_mixed_scales_are_refused():
    with pytest.raises(Refused, match="2 labels were given for 3 examples"):
        View(Arrays(X, Y), torch.arange(3), labels=torch.zeros(2))
    with pytest.raises(Refused, match="different scales cannot be joined"):
        Concat([Arrays(X, Y), Arrays(X, Y, SCALE)])


def test_a_memory_mapped_array_is_read_only_where_asked(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    examples = Mapped(np.load(tmp_path / "x.npy", mmap_mode="r"), Y)
    assert equal(examples.raw(torch.tensor([4, 1])), X[[4, 1]])
    assert examples.materialise() is examples
