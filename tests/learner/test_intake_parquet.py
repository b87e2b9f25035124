"""Parquet files: what comes of them, as of CSV files, and what is refused."""

import re
import sys

import numpy as np
import pytest
import torch

from perdure.contract import Refused
from perdure.learner.intake import Signature, read

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra [tables]")
parquet = pytest.importorskip("pyarrow.parquet")


def stored(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("label", "as_read"),
    [
        (["rose", "tulip", "rose"], ["rose", "tulip", "rose"]),
        (["3", "1", "3"], ["3", "1", "3"]),
        ([3, 1, 3], [3, 1, 3]),
        ([3.0, 1.0, 3.0], [3, 1, 3]),
        ([True, False, True], [1, 0, 1]),
        (pyarrow.array(["rose", "tulip", "rose"]).dictionary_encode(), ["rose", "tulip", "rose"]),
        (pyarrow.array(["rose", "tulip", "rose"], pyarrow.large_string()), ["rose", "tulip", "rose"]),
    ],
)
def test_parquet_is_read_as_csv_is(tmp_path, monkeypatch, label, as_read):
    columns = {"height": [1.5, -2, 0.25], "label": label, "leaves": pyarrow.array([3, 40, 7], pyarrow.uint8())}
    path = stored(tmp_path / "plants.parquet", **columns, new=[True, False, True])
    for cells in (1 << 20, 8):
        monkeypatch.setattr("perdure.learner.intake.parquet.CELLS", cells)
        given = read(path)
        assert given.signature == Signature("table", (3,), ("height", "leaves", "new"))
        assert torch.equal(given.x, torch.tensor([[1.5, 3, 1], [-2, 40, 0], [0.25, 7, 1]]))
        assert given.y.tolist() == as_read
        unlabelled = read(path, labelled=False)
        assert (unlabelled.signature, unlabelled.y) == (given.signature, None)


def test_the_index_of_pandas_is_no_column(tmp_path):
    path = stored(tmp_path / "plants.parquet", a=[1, 2], y=["b", "c"], __index_level_0__=[7, 9])
    assert read(path).signature.columns == read(path, labelled=False).signature.columns == ("a",)


def test_of_a_parquet_file_to_be_asked_only_what_is_wanted_is_read(tmp_path):
    path = stored(tmp_path / "plants.parquet", a=[1, 2], note=["oops", "no"], y=[3, 4])
    given = read(path, labelled=False, wanted={"y", "a"})
    assert (given.signature.columns, given.x.tolist()) == (("a", "y"), [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, None], "y": [1, 2]}, "column a, row 1: the value is missing; fill it in, or drop the row"),
        ({"a": [1.0, np.inf], "y": [1, 2]}, "column a, row 1: the value is no finite number; fill it in, or drop"),
        ({"a": [1, 2], "y": ["x", None]}, "column y, row 1: the value is missing"),
        (
            {"a": [1, 2], "b": ["x", "z"], "y": [1, 2]},
            "column b: it holds string, not numbers; make numbers of it, drop",
        ),
        ({"a": [[1], [2]], "y": [1, 2]}, "not numbers; make numbers of it"),
        ({"a": [1, 2], "y": [[1], [2]]}, "labels are integers or strings"),
        ({"a": [1, 2], "y": [0.5, 1]}, "column y, holds numbers with a fraction, and perdure's learner learns classes"),
        ({"a": [1, 2], "y": ["", "b"]}, "column y, holds an empty label"),
        ({"a": [1, 2], "y": ["b" * 257, "b"]}, "of more than 256 characters"),
        ({"a": [1, 2]}, "has no column called label or y or target or class"),
        (
            {"a": pyarrow.array([], pyarrow.int8()), "y": pyarrow.array([], pyarrow.int8())},
            "has no row below the names",
        ),
    ],
)
def test_parquet_that_is_no_table_is_refused(tmp_path, columns, message):
    with pytest.raises(Refused, match=re.escape(message)):
        read(stored(tmp_path / "plants.parquet", **columns))


def test_parquet_that_unpacks_to_too_much_is_refused(tmp_path):
    path = stored(tmp_path / "bomb.parquet", a=pyarrow.array(np.zeros(1 << 24, np.int8)), y=np.zeros(1 << 24, np.int8))
    assert path.stat().st_size < 1 << 17
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.learner.intake.parquet.LARGEST", 1 << 25)
        with pytest.raises(Refused, match="says it has 16,777,216 rows, which take over 33,554,432 bytes as float32"):
            read(path)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    whole = stored(tmp_path / "plants.parquet", a=[1, 2], y=["b", "c"]).read_bytes()
    for content in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2] + whole[-60:], b"PAR1" + bytes(50) + whole[-8:]):
        (tmp_path / "plants.parquet").write_bytes(content)
        with pytest.raises(Refused, match=r"plants\.parquet cannot be read \(.*\); write it anew"):
            read(tmp_path / "plants.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = stored(tmp_path / "plants.parquet", a=[1, 2], y=["b", "c"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = r"plants\.parquet needs pyarrow: pip install 'perdure\[tables\]', or save it as CSV"
    with pytest.raises(Refused, match=message):
        read(path)
