"""The bases themselves: their shapes, values and splits, and what is refused."""

import gzip
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from perdure.contract import Refused
from perdure.datasets import BASES, idx, load
from perdure.datasets.base import scale_of, stratified


def test_digits_are_those_of_scikit_learn_dealt_once():
    base, again, source = load("digits"), load("digits"), load_digits()
    assert (base.name, base.shape, base.classes) == ("digits", (8, 8), 10)
    assert base.train.x.dtype == torch.uint8
    assert int(base.train.x.max()) == 16
    both = torch.cat([base.train.x, base.exam.x]).flatten(1)
    labels = torch.cat([base.train.labels, base.exam.labels])
    rows = sorted([*row, label] for row, label in zip(both.tolist(), labels.tolist(), strict=True))
    assert rows == sorted(
        [*map(int, row), label] for row, label in zip(source.data, source.target.tolist(), strict=True)
    )
    assert torch.equal(base.train.x, again.train.x)
    assert torch.equal(base.exam.labels, again.exam.labels)


def test_digits_are_shuffled_and_stratified():
    base = load("digits")
    whole = torch.from_numpy(load_digits().target).bincount()
    assert base.exam.labels.bincount().tolist() == [round(0.2 * int(n)) for n in whole]
    assert base.train.labels[:12].tolist() == [0, 1, 8, 3, 7, 5, 4, 4, 4, 7, 2, 8]


def test_stratified_deals_every_row_once_and_a_share_of_every_class():
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 2 + [3])
    rest, share = stratified(labels, 0.2, 7)
    assert torch.cat([rest, share]).sort().values.tolist() == list(range(58))
    assert labels[share].bincount(minlength=4).tolist() == [10, 1, 1, 0]
    assert not torch.equal(stratified(labels, 0.2, 8)[1], share)


def test_both_parts_of_a_stratified_split_are_shuffled_to_their_ends():
    """One label in ten follows itself, at the front of either part as elsewhere."""
    labels = torch.arange(300) % 10
    for part in (0, 1):
        fronts = torch.stack([labels[stratified(labels, 0.2, key)[part][:21]] for key in range(100)])
        assert float((fronts[:, 1:] == fronts[:, :-1]).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_scales_in_closed_form():
    base = load("digits")
    assert base.scaled("unit").train.scale == (0.0, 1 / 16)
    assert base.scaled("none").train.scale == (0.0, 1.0)
    standard = base.scaled("standard")
    inputs = standard.train.scale(standard.train.x)
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.square().mean()) == pytest.approx(1, abs=1e-5)
    assert standard.exam.scale == standard.train.scale
    assert float(base.scaled("unit").train.take(torch.arange(len(base.train))).x.max()) == 1.0
    with pytest.raises(Refused, match=re.escape("stream.scale is 'best'; it must be one of unit, standard, none")):
        base.scaled("best")


def test_a_scale_knows_only_the_rows_it_is_given():
    x = torch.tensor([[0, 4], [-8, 2], [100, 100]])
    assert scale_of(x, "unit", torch.tensor([0, 1])) == (0.0, 1 / 8)
    assert scale_of(x, "standard", torch.tensor([0, 1])) == pytest.approx((-0.5, (84 / 4 - 0.25) ** -0.5))
    assert scale_of(x.float() / 7, "unit") == (0.0, 1.0)
    assert scale_of(torch.zeros(3, 2), "standard") == (0.0, 1.0)
    assert scale_of(torch.zeros(3, 2, dtype=torch.uint8), "unit") == (0.0, 1.0)


def test_unknown_base_names_the_nearest_and_the_known(tmp_path):
    np.savez(tmp_path / "letters.npz", X_train=1)
    with pytest.raises(Refused) as refusal:
        load("fashion-mnits", tmp_path)
    assert str(refusal.value) == (
        "unknown base 'fashion-mnits'; did you mean fashion-mnist? "
        "There are: digits, mnist, fashion-mnist, kmnist, cifar100, letters"
    )
    assert [*BASES] == ["digits", "mnist", "fashion-mnist", "kmnist", "cifar100"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01\0\0\0\x05abc", "is corrupt: its header says [5], but 3 bytes follow; get it anew"),
        (b"\0\0\x0d\x01\0\0\0\x01abcd", "is not an IDX file of bytes; get it anew"),
        (b"\0\0\x08", "is not an IDX file of bytes; get it anew"),
        (b"\0\0\x08\x03\0\0\0\x01", "is not an IDX file of bytes; get it anew"),
        (b"\0\0\x08\x01\0\0\0\0", "is corrupt: its header says [0], but 0 bytes follow; get it anew"),
    ],
)
def test_idx_is_checked(content, message):
    with pytest.raises(Refused, match=re.escape(f"here {message}")):
        idx.parse("here", bytearray(content))


def test_images_and_labels_must_fit(tmp_path, root, monkeypatch):
    source = idx.SOURCES["mnist"]
    monkeypatch.setitem(idx.SOURCES, "mnist", source._replace(sums=(source.sums[0], None, *source.sums[2:])))
    (root / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x03abc"))
    with pytest.raises(Refused, match="mnist: train-images-idx3-ubyte and train-labels-idx1-ubyte do not fit together"):
        load("mnist", root)


def test_kmnist_splits_its_test_part_where_that_is_all(tmp_path, tiny, monkeypatch):
    source = idx.SOURCES["mnist"]
    monkeypatch.setitem(idx.SOURCES, "kmnist", source._replace(sums=(None, None, source.sums[2], None)))
    folder = tmp_path / "root" / "kmnist"
    folder.mkdir(parents=True)
    doubled = b"\0\0\x08\x01\0\0\0\x0a" + bytes([i % 2 for i in range(10)])
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes((tiny / "t10k-images-idx3-ubyte.gz").read_bytes())
    (folder / "t10k-labels-idx1-ubyte").write_bytes(doubled)
    with pytest.warns(UserWarning, match="kmnist: no root holds its training part, so its test part is split 80/20"):
        base = load("kmnist", folder.parent)
    assert (len(base.train), len(base.exam)) == (8, 2)
    assert base.exam.labels.sort().values.tolist() == [0, 1]
    whole = torch.cat([base.train.x, base.exam.x]).flatten(1)[:, 0]
    assert whole.sort().values.tolist() == list(range(100, 140, 4))
    for part in idx.FILES[:2]:
        (folder / f"{part}.gz").write_bytes((tiny / f"{part}.gz").read_bytes())
    assert len(load("kmnist", folder.parent).train) == 20


def save(path, **changes):
    arrays = {
        "X_train": np.arange(24, dtype=np.uint8).reshape(6, 4),
        "y_train": np.array([5, 7, 9, 5, 7, 9]),
        "X_test": np.zeros((3, 4), np.uint8),
        "y_test": np.array([9, 7, 5]),
    }
    np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})


@pytest.mark.parametrize("place", ["mine.npz", "npz/mine.npz"])
def test_any_npz_is_a_base_with_labels_numbered_from_zero(tmp_path, place):
    (tmp_path / "npz").mkdir()
    save(tmp_path / place)
    base = load("mine", tmp_path)
    assert (base.name, base.shape, base.classes) == ("mine", (4,), 3)
    assert base.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert base.exam.labels.tolist() == [2, 1, 0]
    assert base.train.x.tolist() == np.arange(24).reshape(6, 4).tolist()


def test_strings_are_numbered_in_sorted_order(tmp_path):
    save(tmp_path / "mine.npz", y_train=np.array(list("cabcab")), y_test=np.array(list("abc")))
    base = load("mine", tmp_path)
    assert base.train.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert base.exam.labels.tolist() == [0, 1, 2]


def test_colours_come_first_and_doubles_become_singles(tmp_path):
    images = np.random.default_rng(0).random((6, 5, 7, 3))
    save(tmp_path / "mine.npz", X_train=images, X_test=images[:3])
    base = load("mine", tmp_path)
    assert base.shape == (3, 5, 7)
    assert base.train.x.dtype == torch.float32
    assert np.allclose(base.train.x.numpy(), images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_test": None},
            "has no y_test; it needs X_train, y_train, X_test, y_test, and has X_train, y_train, X_test",
        ),
        (
            {"X_train": np.array([object()] * 6)},
            "X_train cannot be read (it holds Python objects); save plain numbers and strings",
        ),
        ({"X_train": np.full((6, 4), np.nan)}, "X_train holds NaN or infinite numbers, first in row 0"),
        (
            {"X_train": np.zeros(6)},
            "X_train has shape (6,); it needs a row for each example, (N, ...), and at least one",
        ),
        ({"X_train": np.zeros((6, 0))}, "X_train has shape (6, 0); it needs a row for each example"),
        ({"X_train": np.array([["a"]] * 6)}, "X_train holds <U1, not numbers; save it as an integer or float array"),
        ({"X_train": np.zeros((6, 3), np.uint8)}, "an example to learn is uint8 (3,), but one in X_test is uint8 (4,)"),
        ({"X_train": np.zeros((6, 4))}, "an example to learn is float32 (4,), but one in X_test is uint8 (4,)"),
        ({"y_train": np.arange(5)}, "X_train has 6, y_train has 5 examples; they must be as many"),
        ({"y_train": np.arange(6) / 2}, "y_train holds labels that are not whole numbers"),
        ({"y_train": np.arange(6) - 2}, "y_train holds the label -2; labels must not be negative"),
        ({"y_train": np.zeros((6, 1), int)}, "y_train has shape (6, 1); it needs one label for each example, (N,)"),
        ({"y_train": np.zeros(6, complex)}, "y_train holds complex128; labels are integers or strings"),
        ({"y_test": np.array([5, 7, 8])}, "y_test holds 8, which y_train does not; drop it, or give examples of it"),
        ({"y_test": np.array(["5", "7", "9"])}, "y_test holds '5', which y_train does not"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, changes, message):
    save(tmp_path / "mine.npz", **changes)
    with pytest.raises(Refused, match=re.escape(message)):
        load("mine", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04N."])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(Refused, match=r"mine\.npz: the file cannot be read \(.*\); save plain numbers and strings"):
        load("mine", tmp_path)


def test_an_npz_that_is_a_plain_array_is_refused(tmp_path):
    with (tmp_path / "mine.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(Refused, match=r"mine\.npz: the file cannot be read"):
        load("mine", tmp_path)


@pytest.fixture
def sheets(tmp_path):
    """One sheet of 2,000 noise images a part, as lossless WebP."""
    folder = tmp_path / "cifar100"
    folder.mkdir()
    images = {}
    for seed, part in enumerate(("train", "test")):
        images[part] = np.random.default_rng(seed).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
        sheet = images[part].reshape(40, 50, 32, 32, 3).swapaxes(1, 2).reshape(1280, 1600, 3)
        Image.fromarray(sheet).save(folder / f"{part}_00.webp", lossless=True, quality=0, method=0)
        np.save(folder / f"{part}_y.npy", (np.arange(2000) % 100).astype(np.uint8))
    return folder, images


def test_cifar100_comes_from_sheets(tmp_path, sheets):
    base = load("cifar100", tmp_path)
    assert (base.shape, base.classes) == ((3, 32, 32), 100)
    for part, name in ((base.train, "train"), (base.exam, "test")):
        assert np.array_equal(part.x.numpy(), sheets[1][name].transpose(0, 3, 1, 2))
        assert torch.equal(part.labels, torch.arange(2000) % 100)


def test_cifar100_comes_from_an_npz_first(tmp_path, sheets):
    save(tmp_path / "cifar100.npz")
    assert load("cifar100", tmp_path).shape == (4,)


def test_cifar100_refuses_missing_and_broken_sheets(tmp_path, sheets):
    folder, _ = sheets
    (folder / "test_00.webp").write_bytes(b"broken")
    with pytest.raises(Refused, match=r"the test part of .*cifar100 cannot be read \(.*\); get it anew"):
        load("cifar100", tmp_path)
    (folder / "test_00.webp").unlink()
    with pytest.raises(Refused, match="cifar100 holds 0 test sheets for 2000 labels; get it anew"):
        load("cifar100", tmp_path)
    (folder / "train_y.npy").unlink()
    with pytest.raises(Refused, match=rf"cifar100 is in none of {tmp_path}, .*\. Save its arrays as cifar100\.npz"):
        load("cifar100", tmp_path)
