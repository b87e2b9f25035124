"""What a learner is given as arrays, .npz and .npy files and datasets: what comes of it, and what is refused."""

import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import TensorDataset

from perdure.contract import Refused
from perdure.datasets import npz
from perdure.learner import intake
from perdure.learner.intake import Signature, arrays, read

X, Y = np.arange(12.0).reshape(6, 2), np.array([3, 1, 3, 1, 3, 1])
WORDS = np.array(["owl", "wren", "owl", "wren", "owl", "wren"])
REGRESSION = "perdure's learner learns classes; a number to be predicted (regression) is not offered"


class Pairs:
    """A map-style dataset that counts what is read."""

    def __init__(self, x, y):
        self.x, self.y, self.reads = x, y, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.reads += 1
        return self.x[row], self.y[row]


def taken(given):
    """All inputs, in order, in memory."""
    return torch.as_tensor(given.x[np.arange(given.x.shape[0])])


@pytest.mark.parametrize(
    ("x", "kind", "dtype"),
    [
        (X, "numbers", torch.float32),
        (X.astype(np.float16), "numbers", torch.float32),
        (X.astype(">f4"), "numbers", torch.float32),
        (X.tolist(), "numbers", torch.float32),
        (torch.tensor(X, requires_grad=True), "numbers", torch.float32),
        (torch.tensor(X, dtype=torch.bfloat16), "numbers", torch.float32),
        (X.astype(np.uint8), "whole numbers", torch.uint8),
        (X.astype(">i2"), "whole numbers", torch.int64),
        (torch.tensor(X).int(), "whole numbers", torch.int64),
        (X > 5, "whole numbers", torch.uint8),
    ],
)
def test_the_kind_of_number_is_part_of_the_signature(x, kind, dtype):
    given = read((x, Y))
    assert given.signature == Signature(kind, (2,), ())
    assert given.x.dtype == dtype
    assert torch.equal(given.x, torch.tensor(X > 5 if x is not X and given.x.max() == 1 else X).to(dtype))
    assert read(x, labelled=False).y is None


@pytest.mark.parametrize(
    ("y", "as_read"),
    [
        (Y.tolist(), Y),
        (Y.astype(np.float32), Y),
        (torch.tensor(Y).byte(), Y),
        (Y > 1, np.array([1, 0, 1, 0, 1, 0])),
        (WORDS, WORDS),
        (WORDS.tolist(), WORDS),
        (WORDS.astype("S"), WORDS),
        (WORDS.astype(">U9"), WORDS),
        (WORDS.astype(object), WORDS),
        (np.ma.array(Y), Y),
        (["Grünfink", "赤"] * 3, np.array(["Grünfink", "赤"] * 3)),
    ],
)
def test_labels_are_integers_or_strings(y, as_read):
    found = read((X, y)).y
    assert found.dtype.kind == as_read.dtype.kind
    assert found.tolist() == as_read.tolist()


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy is older than 2")
def test_labels_may_be_numpys_strings_of_any_length():
    assert read((X, WORDS.astype(np.dtypes.StringDType()))).y.tolist() == WORDS.tolist()
    missing = np.array([*WORDS[1:], np.nan], np.dtypes.StringDType(na_object=np.nan))
    with pytest.raises(Refused, match="labels are integers or strings"):
        read((X, missing))


@pytest.mark.parametrize("last", [1, 3, 4])
def test_channels_that_come_last_come_first(tmp_path, last):
    x = np.random.default_rng(0).integers(0, 256, (6, 9, 7, last), np.uint8)
    np.save(tmp_path / "X.npy", x)
    np.save(tmp_path / "y.npy", Y)
    for given in (read((x, Y)), read(tmp_path / "X.npy"), read(Pairs(x, Y))):
        assert given.signature == Signature("whole numbers", (last, 9, 7))
        assert np.array_equal(taken(given).numpy(), np.moveaxis(x, 3, 1))


def test_the_same_numbers_come_from_every_form(tmp_path):
    np.savez(tmp_path / "mine.npz", X=X, y=WORDS)
    np.savez_compressed(tmp_path / "small.npz", X=X, y=WORDS)
    np.save(tmp_path / "birds_X_may.npy", X)
    np.save(tmp_path / "birds_y_may.npy", WORDS)
    np.savez(tmp_path / "asked.npz", X=X)
    forms = [
        (X, WORDS),
        tmp_path / "mine.npz",
        str(tmp_path / "small.npz"),
        tmp_path / "birds_X_may.npy",
        (str(tmp_path / "birds_X_may.npy"), tmp_path / "birds_y_may.npy"),
        Pairs(torch.tensor(X), WORDS.tolist()),
    ]
    for form in forms:
        given = read(form)
        assert given.signature == Signature("numbers", (2,))
        assert given.y.tolist() == WORDS.tolist()
        assert torch.equal(taken(given), torch.tensor(X, dtype=torch.float32))
        assert given.x.shape == (6, 2)
    (tmp_path / "birds_y_may.npy").unlink()
    for form in [X, *forms, tmp_path / "asked.npz"]:
        given = read(form, labelled=False)
        assert given.y is None
        assert torch.equal(taken(given), torch.tensor(X, dtype=torch.float32))


def test_an_npy_file_stays_on_disk(tmp_path):
    """64 MB are checked and sampled in a few."""
    big = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (1 << 20, 16))
    big[:, 0] = np.arange(1 << 20)
    big.flush()
    np.save(tmp_path / "y.npy", np.arange(1 << 20) % 2)
    for form in (tmp_path / "X.npy", (big, np.arange(1 << 20) % 2)):
        tracemalloc.start()
        given = read(form)
        some = given.x[np.array([7, 3, 1 << 19])]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert not isinstance(given.x, torch.Tensor)
        assert some[:, 0].tolist() == [7, 3, 1 << 19]
        assert most < 1 << 26
    big[700_000, 3] = np.inf
    big.flush()
    with pytest.raises(Refused, match=r"X\.npy holds NaN or infinite numbers, first in row 700000; fill or drop"):
        read(tmp_path / "X.npy")


def test_a_file_in_columns_is_read_as_one_in_rows(tmp_path):
    np.save(tmp_path / "X.npy", np.asfortranarray(X))
    assert torch.equal(taken(read(tmp_path / "X.npy", labelled=False)), torch.tensor(X, dtype=torch.float32))


def test_a_dataset_is_read_when_it_is_taken():
    source = Pairs(torch.tensor(X), Y.tolist())
    source.targets = Y.tolist()
    given = read(source)
    begun = source.reads
    assert begun <= 2
    assert given.x[np.array([4, 1])].tolist() == [[8, 9], [2, 3]]
    assert source.reads == begun + 2
    assert given.y.tolist() == Y.tolist()


def test_a_dataset_without_a_list_of_labels_is_read_once():
    for wrong in (None, Y[:5], lambda: Y):
        source = Pairs(torch.tensor(X), [np.int64(y) for y in Y])
        source.labels = wrong
        assert read(source).y.tolist() == Y.tolist()
        assert source.reads <= 2 + len(Y)
    source = Pairs(X, WORDS.tolist())
    source.targets, source.target_transform = Y, str
    assert read(source).y.tolist() == WORDS.tolist()
    assert read(TensorDataset(torch.tensor(X), torch.tensor(Y))).y.tolist() == Y.tolist()


def test_a_signature_says_what_it_is():
    assert str(read((X, Y)).signature) == "numbers of shape (2,)"
    columns = tuple(f"c{place}" for place in range(23))
    assert str(Signature("table", (3,), columns[:3])) == "a table of c0, c1, c2"
    assert str(Signature("table", (23,), columns)).endswith("c18, c19 and 3 more")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:5], Y), "X has 5 examples, and y 6 labels; give one label an example"),
        ((X[:0], Y[:0]), "X has shape (0, 2); it needs a row for each example"),
        ((X[:, :0], Y), "X has shape (6, 0); it needs"),
        ((Y, Y), "X has shape (6,); it needs a row for each example, (N, ...)"),
        ((3.5, Y), "X has shape (); it needs"),
        ((X.astype(object), Y), "X holds object, not numbers; save it as an integer or float array"),
        ((X + 1j, Y), "X holds complex128, not numbers"),
        ((X.astype(str), Y), "not numbers"),
        (([[1, 2], [3]], Y), "X is no array (setting an array element with a sequence"),
        ((torch.eye(2).to_sparse(), Y), "X is no array ("),
        ((np.full((6, 2), 1e39), Y), "X holds NaN or infinite numbers, first in row 0"),
        ((np.full((6, 2), 2**63, np.uint64), Y), "X holds whole numbers above 9223372036854775807; save it as a float"),
        ((X, Y + 0.5), f"y holds numbers with a fraction, and {REGRESSION}. Give whole numbers or strings"),
        ((X, [0.5, np.nan, 1, 1, 1, 1]), REGRESSION),
        ((X, Y * np.nan), "y holds labels that are not whole numbers"),
        ((X, np.full(6, 2**63, np.uint64)), "y holds the label 9223372036854775808; labels go up to"),
        ((X, np.full(6, 1e30)), "y holds the label 1000000000000000019884624838656; labels go up to"),
        ((X, Y[:, None]), "y has shape (6, 1); it needs one label for each example, (N,)"),
        ((X, np.array([1, *WORDS[1:]], object)), "y holds object; labels are integers or strings"),
        ((X, np.array([np.nan, *WORDS[1:]], object)), "y holds object; labels are integers or strings"),
        ((X, [*WORDS[1:], np.nan]), "y holds nan among strings; give all as strings, and drop what is missing"),
        ((X, [*WORDS[1:], 1]), "y holds 1 among strings"),
        ((X, [*WORDS[1:], True]), "y holds True among strings"),
        ((X, np.array([*WORDS[1:], np.nan])), "y holds the label nan, which says that it is missing; drop such"),
        ((X, np.ma.array(Y, mask=Y == 1)), "y has masked values; fill or drop them"),
        ((np.ma.array(X, mask=X > 5), Y), "X has masked values; fill or drop them"),
        ((X, [None, *Y[1:]]), "y holds object"),
        ((X, ["", *WORDS[1:]]), "y holds an empty label; drop such examples, or give them one"),
        ((X, ["  ", *WORDS[1:]]), "y holds an empty label"),
        ((X, ["a" * 257, *WORDS[1:]]), "y holds a label of more than 256 characters; give it a shorter one"),
        ((X, ["a\x1b[2J", *WORDS[1:]]), "y holds the label 'a\\x1b[2J', which has control characters; remove them"),
        ((X, ["a\0b", *WORDS[1:]]), "which has control characters"),
        ((X, ["a\ud800", *WORDS[1:]]), "which has control characters"),
        ((X, np.array([0x110001] * 6, np.uint32).view("U1")), "y holds what is no text; save it anew"),
        ((X, np.array([b"\xff"] * 6)), "y holds bytes that are no UTF-8"),
        ((X,), "a tuple of 1 was given; give (X, y)"),
        (X, "X came without labels; give (X, y)"),
        ({"X": X, "y": Y}, "X came without labels; give (X, y)"),
        (TensorDataset(torch.tensor(X)), "item 0 of the dataset is no pair (x, y); it needs a label"),
        (csr_matrix(X), "the dataset has no length (sparse array length is ambiguous; use getnnz() or shape[0]); give"),
        (Pairs(X[:0], Y), "the dataset is empty; give at least one example"),
        (Pairs(Y, Y), "the dataset has shape (1,); it needs"),
        (Pairs([{}], [1]), "the dataset holds object, not numbers"),
    ],
)
def test_what_is_no_examples_is_refused(data, message):
    with pytest.raises(Refused, match=re.escape(message)):
        read(data)


def test_what_a_dataset_gives_is_checked_when_it_is_taken():
    given = read(Pairs([X[0], X[0] * np.nan, X[0, :1], X[0].astype(int)], [0, 0, 1, 1]))
    assert given.x[np.array([0, 0])].tolist() == [[0, 1], [0, 1]]
    for row, message in [
        (1, "the dataset holds NaN or infinite numbers, first in row 1; fill or drop such rows"),
        (2, "item 2 of the dataset is float64 (1,), and item 0 float64 (2,); make all alike"),
        (3, "item 3 of the dataset is int64 (2,), and item 0 float64 (2,)"),
    ]:
        with pytest.raises(Refused, match=re.escape(message)):
            given.x[np.array([0, row])]


def test_paths_that_hold_nothing_are_refused(tmp_path):
    np.save(tmp_path / "mine.npy", X)
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "mine.doc").write_text("hm")
    (tmp_path / "one.png").write_text("hm")
    for name, message in [
        ("none.npz", "there is no file {}/none.npz; check the path"),
        ("X.npy", "there is no file {}/y.npy; check the path"),
        ("mine.npy", "{}/mine.npy does not say where its labels are: call it X.npy, and them y.npy beside it, or give"),
        ("mine.doc", "{}/mine.doc is of no kind that is read; give .npz, .npy, .csv, .tsv, .parquet, or a folder of"),
        ("one.png", "{}/one.png is of no kind that is read"),
    ]:
        with pytest.raises(Refused, match=re.escape(message.format(tmp_path))):
            read(tmp_path / name)
    for data in ((X, Y), tmp_path / "X.npy", tmp_path):
        with pytest.raises(Refused, match="label 'kind' names a column, which only tables have; leave it out"):
            read(data, label="kind")
    assert read(tmp_path / "mine.npy", labelled=False).x.shape == (6, 2)


def header(shape: str, descr: str = "'<f8'", version: int = 1) -> bytes:
    """The beginning of an .npy file."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("(1000000000000, 2)") + bytes(96), "it has fewer numbers than its header says"),
        (header("(7, 2)") + bytes(96), "it has fewer numbers than its header says"),
        (header("(-6, -2)") + bytes(96), "it has fewer numbers than its header says"),
        (header("(1000000000000,)", "'<U0'"), "it has fewer numbers than its header says"),
        (header("(6,)", "('<f8', (1000, 1000))"), "it has fewer numbers than its header says"),
        (header("(6, 2)", "'|O'") + bytes(96), "it holds Python objects"),
        (header("(6, 2)", "[('a', '|O')]") + bytes(96), "it holds Python objects"),
        (header("(6, 2)", version=3) + bytes(96), "its format is none of 1.0 and 2.0"),
        (header("(6, 2)", "'spam'") + bytes(96), "descr is not a valid dtype"),
        (header("(" * 5000), ""),
        (header("0o9, 1_"), ""),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "EOF"),
        (b"hm", "EOF"),
        (b"", "EOF"),
        (b"\x80\x04K\x01." * 20, "the magic string is not correct"),
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(tmp_path, content, reason):
    (tmp_path / "X.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as file:
        file.writestr("X.npy", content)
    tracemalloc.start()
    for name in ("X.npy", "mine.npz"):
        with pytest.raises(Refused, match=rf"cannot be read \(.*{re.escape(reason)}"):
            read(tmp_path / name, labelled=False)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_an_npy_file_with_no_example_is_refused(tmp_path):
    for shape in ("(0, 2)", "(5, 0)", "(1000000000000, 0)"):
        (tmp_path / "X.npy").write_bytes(header(shape))
        with pytest.raises(Refused, match=r"X\.npy"):
            read(tmp_path / "X.npy", labelled=False)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """What is packed tightly may grow by so much; what is not, is as large as the file and may be read."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("X.npy", "w") as part:
        part.write(header("(2048, 4096)", "'|u1'"))
        for _ in range(2048):
            part.write(bytes(4096))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 14
    assert read(tmp_path / "bomb.npz", labelled=False).x.shape == (2048, 4096)
    monkeypatch.setattr(npz, "GROWTH", 1 << 22)
    tracemalloc.start()
    with pytest.raises(Refused, match=r"bomb\.npz: the file cannot be read \(it unpacks to over 0 GiB more than the"):
        read(tmp_path / "bomb.npz", labelled=False)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    np.savez(tmp_path / "plain.npz", X=np.zeros((2048, 4096), np.uint8))
    assert read(tmp_path / "plain.npz", labelled=False).x.shape == (2048, 4096)


def test_memory_that_runs_out_is_no_crash(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", X=X)

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(Refused, match=r"X cannot be read \(MemoryError\)"):
        read(tmp_path / "mine.npz", labelled=False)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "mine.npz", X=np.array([[Path()]]), y=Y)
    np.save(tmp_path / "X.npy", np.array([[Path()]]))
    for name in ("mine.npz", "X.npy"):
        with pytest.raises(Refused, match="it holds Python objects"):
            read(tmp_path / name, labelled=False)


def test_what_the_learner_imports_is_there():
    assert {"Array", "Given", "Kind", "Signature", "aligned", "is_table", "read"} == set(intake.__all__)
    assert arrays.beside(Path("a/X_X.npy")) == Path("a/X_y.npy")


def test_labels_may_be_negative() -> None:
    given = read((np.zeros((3, 2)), [-1, 1, -1]))
    assert given.y is not None
    assert given.y.tolist() == [-1, 1, -1]
