"""Tables: what comes of CSV files, which columns hold labels, and what is refused, by line and column."""

import csv
import re

import numpy as np
import pytest
import torch

from perdure.contract import Refused
from perdure.learner.intake import Signature, aligned, read, tables

PLANTS = "height,leaves,label\n1.5,3,rose\n-2,4e1,tulip\n 0.25 ,7,rose\n"


@pytest.fixture
def table(tmp_path):
    """Writes a table, as text or bytes; its path."""

    def write(content, name="plants.csv"):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "content",
    [
        PLANTS,
        PLANTS.replace(",", ";"),
        PLANTS.replace(",", "\t"),
        PLANTS.replace("\n", "\r\n"),
        PLANTS.replace("\n", "\r"),
        PLANTS.rstrip("\n"),
        PLANTS.replace("\n", "\n\n"),
        "\ufeff" + PLANTS,
        '"height", leaves ,label\n"1.5","3","rose"\n-2,40, tulip \n0.25,+7.0,rose\n',
        "height,label,leaves\n1.5,rose,3\n-2,tulip,40\n0.25,rose,7",
    ],
)
def test_a_table_is_read_however_it_is_written(table, content):
    given = read(table(content))
    assert given.signature == Signature("table", (2,), ("height", "leaves"))
    assert torch.equal(given.x, torch.tensor([[1.5, 3], [-2, 40], [0.25, 7]]))
    assert given.y.tolist() == ["rose", "tulip", "rose"]
    unlabelled = read(table(content), labelled=False)
    assert (unlabelled.signature, unlabelled.y) == (given.signature, None)
    assert torch.equal(unlabelled.x, given.x)


def test_marks_inside_quotes_divide_nothing(table):
    path = table('"height; in m, about";"leaves, all";label\n1;2;"a;b"\n3;4;"say ""c""\td"\n'.replace("\t", ","))
    given = read(path)
    assert given.signature.columns == ("height; in m, about", "leaves, all")
    assert given.y.tolist() == ["a;b", 'say "c",d']


@pytest.mark.parametrize(
    ("columns", "label", "rest"),
    [
        ("class,target,y,label", None, "class,target,y"),
        ("class,target,y", None, "class,target"),
        ("target,class", None, "class"),
        ("class,a", None, "a"),
        ("label,a", "a", "label"),
    ],
)
def test_the_column_of_labels(table, columns, label, rest):
    path = table(columns + "\n" + ",".join("1" for _ in columns.split(",")) + "\n")
    for labelled in (True, False):
        assert ",".join(read(path, label=label, labelled=labelled).signature.columns) == rest
    assert read(path, label=label).y.tolist() == [1]


def test_a_table_to_be_asked_needs_no_label_and_may_have_one_of_any_name(table):
    path = table("a,b\n1,2\n")
    for label in (None, "kind"):
        assert read(path, label=label, labelled=False).signature.columns == ("a", "b")


def test_of_a_table_to_be_asked_only_what_is_wanted_is_read(table):
    path = table("a,note,y,b,label\n1,oops,2,3,rose\n")
    given = read(path, labelled=False, wanted={"b", "y", "c"})
    assert (given.signature.columns, given.x.tolist()) == (("y", "b"), [[2, 3]])
    assert read(path, label="y", labelled=False, wanted={"b", "y"}).signature.columns == ("b",)
    with pytest.raises(Refused, match="column note: 'oops' is no finite number"):
        read(path, labelled=False, wanted={"c"})


@pytest.mark.parametrize(
    ("words", "as_read"),
    [
        (["3", "1", "3"], [3, 1, 3]),
        (["3.0", "1.", "3"], [3, 1, 3]),
        (["007", "7", "1"], ["007", "7", "1"]),
        (["1e3", "1", "2"], ["1e3", "1", "2"]),
        (["1" * 30, "1", "2"], ["1" * 30, "1", "2"]),
        (["1", "two", "2.5"], ["1", "two", "2.5"]),
        (["True", "False", "True"], ["True", "False", "True"]),
    ],
)
def test_labels_are_integers_where_all_are_written_so(table, words, as_read):
    y = read(table("a,y\n" + "".join(f"1,{word}\n" for word in words))).y
    assert y.tolist() == as_read
    assert y.dtype.kind == ("i" if isinstance(as_read[0], int) else "U")


def test_a_signature_is_aligned_by_name(table):
    known = read(table(PLANTS)).signature
    given = read(table("leaves,kind,height\n3,1,1.5\n4,2,-2\n"), labelled=False)
    assert given.signature.columns == ("leaves", "kind", "height")
    same = aligned(given, known)
    assert same.signature == known
    assert torch.equal(same.x, torch.tensor([[1.5, 3], [-2, 4]]))
    message = "the table lacks the columns height; what was learned has height, leaves, and it has leaves, width"
    with pytest.raises(Refused, match=message):
        aligned(read(table("leaves,width\n1,2\n"), labelled=False), known)
    array = read(np.eye(2), labelled=False)
    assert aligned(array, known) is array


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,label\n1,2,x\n1,,x\n", "line 3, column b: '' is no finite number; write it like 1.5, drop the line or"),
        ("a,b,label\n\n1,2,x\n1,2,x\n1,nan,x", "line 5, column b: 'nan' is no finite number"),
        ("a;b;label\n1;3,5;x\n", "line 2, column b: '3,5' is no finite number; write it like 1.5"),
        ("a,b,label\n1,-inf,x\n", "line 2, column b: '-inf' is no finite number"),
        ("a,b,label\n1,1_000,x\n", "line 2, column b: '1_000' is no finite number"),
        ("a,b,label\n1,2,x\n\uff11,2,x\n", "line 3, column a: '\uff11' is no finite number"),
        ("a,b,label\n1,1e39,x\n", "line 2, column b: '1e39' is no finite number"),
        (
            "a,b,kind,label\n1,2,rose,x\n",
            "column kind: 'rose' is no finite number; write it like 1.5, drop the line or ",
        ),
        ("a,label\n1,x\n1,2,x\n", "line 3: 3 fields, and the first line names 2 columns; mend that line"),
        ('a,label\n1,"x\ny"\n1\n', "line 4: 1 fields, and the first line names 2 columns"),
        (
            "a,b\n1,2\n",
            "has no column called label or y or target or class; name the one that holds the labels. It has a, b",
        ),
        ("5.1,3.5,rose\n4.9,3,rose", "has no column called label"),
        ("5.1,3.5\n4.9,3\n", "begins with 5.1, 3.5; its first line must name the columns"),
        ("", "begins with nothing; its first line must name the columns"),
        ("\n\na,label\n1,2", "begins with nothing"),
        ("a,,label\n1,2,3\n", "column 2 of {} is called ''; give it a name of 1 to 256 characters, or drop it"),
        ("a,b\x1bc,label\n1,2,3\n", "column 2 of {} is called 'b\\x1bc'; give it"),
        ("a,b,a,label\n1,2,3,4\n", "{} has two columns called a; give every column a name of its own"),
        ("label\n1\n", "{} has no columns but that of labels; it needs numbers to learn from"),
        ("a,label\n", "{} has no row below the names of its columns; give at least one example"),
        ("a,label\n1,\n", "{}, column label, holds an empty label; drop such examples, or give them one"),
        ("a,label\n1,2\n2,NaN\n", "holds the label NaN, which says that it is missing; drop such rows"),
        (
            "a,label\n1,2\n2,2.5\n",
            "holds numbers with a fraction, and perdure's learner learns classes; a number to be",
        ),
        (f"a,label\n1,{'x' * 257}\n", "of more than 256 characters; give it a shorter one"),
        ("a,label\n1,x\x07\n", "holds the label 'x\\x07', which has control characters; remove them"),
        ('a,label\n1,"x\n', "({} bytes) is no table (unexpected end of data); check its quotes"),
        ('a,label\n1,"x"y\n', "is no table (',' expected after '\"'); check its quotes"),
        (f"a,label\n1,{'x' * 131_073}\n", "({} bytes) is no table (field larger than field limit (131072))"),
        ("a,label\n1,\0\n", "holds NUL bytes: it is no text; save it as CSV in UTF-8"),
        ("a,label\n1,2\n".encode("utf-16"), "(26 bytes) is no text in UTF-8 (invalid start byte); save it as such"),
        ("a,label\n1,Grün\n".encode("latin1"), "is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\xff", "is no text in UTF-8"),
        (",".join(map(str, range(1 << 16))) + ",label\n", "has 65,537 columns, and a table at most 65,536; save it as"),
        ("a,label\n" + "1" * (1 << 22), "has a line of 4,194,304 characters or more; save the table as .npz or .npy"),
    ],
)
def test_what_is_no_table_is_refused(table, content, message):
    path = table(content)
    nbytes = f"{path.stat().st_size:,}"
    with pytest.raises(Refused) as refusal:
        read(path)
    assert message.replace("({} bytes)", f"({nbytes} bytes)").replace("{}", str(path)) in str(refusal.value)


def test_a_large_table_is_refused_by_its_size(table, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST", 40)
    with pytest.raises(Refused, match=re.escape("has 58 bytes, and a CSV file at most 40; save it as .npy")):
        read(table(PLANTS))
    assert read(table("a,y\n1,2\n")).y.tolist() == [2]
    with pytest.raises(Refused, match="holds labels of up to 7 characters in too many rows; shorten them"):
        read(table("a,y\n1,seventy\n2,a\n3,a\n"))


def test_a_table_of_many_blocks_is_whole(table, monkeypatch):
    monkeypatch.setattr(tables, "CELLS", 70)
    numbers = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
    lines = "".join(",".join(map(repr, row)) + f",{place % 7}\n" for place, row in enumerate(numbers.tolist()))
    given = read(table("a,b,c,d,e,y\n" + lines))
    assert np.array_equal(given.x.numpy(), numbers)
    assert given.y.tolist() == [place % 7 for place in range(1000)]
    with pytest.raises(Refused, match="line 1002, column c: 'oops' is no finite number"):
        read(table("a,b,c,d,e,y\n" + lines + "1,1,oops,1,1,1\n"))


def test_a_wide_header_needs_no_comma(table):
    """Where it has none it is one field to who looks for commas, longer than a field may be."""
    names = [f"a column with a long name of its own: number {place}" for place in range(4000)]
    given = read(table("\t".join(names) + "\tlabel\n" + "1\t" * 4000 + "x\n"))
    assert given.signature.columns == tuple(names)


def test_the_limit_of_a_field_is_the_one_that_is_documented():
    assert csv.field_size_limit() == 131_072
