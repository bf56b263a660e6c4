"""Rows in and out of files: what goes out comes in again, and what does not fit is named by line and
column."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero.arrow_batches import Unfit
from dist_zero.files import RowFile, arrow_table, pandas_frame, polars_frame, read_rows, write_rows
from dist_zero.row import Row as UserRow
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    DATETIME_MAX_US,
    DATETIME_MIN_US,
    FLOAT,
    INT,
    INT_MAX,
    INT_MIN,
    NAN,
    STR,
    DataType,
    Kind,
    Row,
    RowType,
    decimal_type,
    enum_type,
)
from dist_zero_common.errors import DataError, OperatorError

DECIMAL, ENUM = decimal_type(2), enum_type(("RED", "GREEN", "dark blue"))
TYPES = (BOOL, INT, FLOAT, STR, BYTES, DATETIME, DECIMAL, ENUM)
EVERYTHING = RowType(
    tuple(f"{'n' if nullable else ''}{dtype.kind.value}" for nullable in (False, True) for dtype in TYPES),
    TYPES + tuple(dtype.optional() for dtype in TYPES),
)
PLAIN = RowType(("k", "v", "s"), (INT, FLOAT, STR.optional()))
NAMES = [
    "rows.csv", "rows.csv.gz", "rows.csv.zst", "rows.csv.bz2", "rows.csv.zip",
    "rows.jsonl", "rows.jsonl.gz", "rows.ndjson.zst", "rows.jsonl.zip", "rows.parquet",
]  # fmt: skip


def values(dtype: DataType) -> st.SearchStrategy[object]:
    """Stored values of a type, the extreme ones often."""
    ints = st.integers(INT_MIN, INT_MAX) | st.sampled_from((INT_MIN, INT_MAX, 0))
    by_kind: dict[Kind, st.SearchStrategy[object]] = {
        Kind.BOOL: st.booleans(),
        Kind.INT: ints,
        Kind.FLOAT: st.floats(allow_nan=False).map(lambda v: v + 0.0) | st.just(NAN),
        Kind.STR: st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        Kind.BYTES: st.binary(max_size=5),
        Kind.DATETIME: st.integers(DATETIME_MIN_US, DATETIME_MAX_US),
        Kind.DECIMAL: ints,
        Kind.ENUM: st.integers(0, len(dtype.members) - 1),
    }
    strategy = by_kind[dtype.kind]
    return st.none() | strategy if dtype.nullable else strategy


def read(path: Path, row_type: RowType, *nulls: str) -> list[Row]:
    return [row for block in RowFile(path, row_type, nulls).blocks() for row in block]


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, row_type: RowType, *nulls: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, row_type, *nulls)
    return str(caught.value)


_JSON_TEXTS = r"""
    0 | 1 | -0 | 2 | 1.0 | 1e2 | 1.50 | -0.0 | 1e400 | 0.125 | 9223372036854775807 | 9223372036854775808 | true | null
    | NaN | Infinity | [1] | {} | "1" | "NaN" | "true" | "RED" | "YQ==" | "YQ" | "" | "é\u00e9" | "\ud800"
    | "\ud83d\ude00" | "2013-01-01" | "2013-01-01T05:00:00Z" | "2013-01-01 05:00:00" | "0001-01-01T00:00Z" | "12.5"
    | "2013-01-01T05:00:00.1234567+01:00" | "0000-01-01" | "9999-12-31T23:59:59-01:00" | " 12.5" | "1e2" | 1.5e-3
    | "2013-02-30" | "2013-01-01T24:00" | "20130101" | "2013-01-01T05:00:60Z" | "2013-01-01T05" | 01 | +1 | .5 | 1. | -
    """.strip().split("|")
_LINE_ENDS = ("\n", "\n", "\n", "\r\n", "\n\n", " \n", "\r", " ", "")
_OBJECTS = (
    '{"c": %s}',
    '{"c": %s}',
    '{"x": [1], "c": %s, "y": {}}',
    '{"c": 1, "c": %s}',
    '{"d": %s}',
    " [%s]",
)


@settings(max_examples=200)
@given(
    dtype=st.sampled_from(EVERYTHING.types),
    values=st.lists(st.sampled_from(_JSON_TEXTS), min_size=1, max_size=3),
    ends=st.lists(st.sampled_from(_LINE_ENDS), min_size=3, max_size=3),
    shape=st.sampled_from(_OBJECTS),
)
def test_oracle_json_by_columns_is_json_by_lines(
    dtype: DataType, values: list[str], ends: list[str], shape: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever there is in the lines, reading them a column at a time gives the rows, or the error, of reading each."""
    path, row_type = tmp_path_factory.mktemp("files") / "a.jsonl", RowType(("c",), (dtype,))
    path.write_bytes(
        "".join(shape % value.strip() + end for value, end in zip(values, ends, strict=False)).encode()
    )

    def outcome() -> object:
        try:
            return [(type(row[0]), repr(row[0])) for row in read(path, row_type)]
        except DataError as refused:
            return str(refused)

    by_columns = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_zero.files.json_batch", _unfit)
        assert outcome() == by_columns


def _unfit(*_: object) -> None:
    raise Unfit


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_what_is_written_is_read_again(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Every format and packing keeps every value of every type, null and extremes included. In a CSV file an
    empty text where null is allowed, and lines ends in texts, are what the format cannot always tell
    apart."""
    rows = data.draw(st.lists(st.tuples(*map(values, EVERYTHING.types)), max_size=8))
    if ".csv" in name:
        nullable_text = EVERYTHING.index("nstr")
        rows = [
            tuple(
                (None if i == nullable_text and v == "" else v.replace("\r", "").replace("\0", ""))
                if isinstance(v, str)
                else None
                if EVERYTHING.types[i].nullable and v == b""
                else v
                for i, v in enumerate(row)
            )
            for row in rows
        ]
        rows = [
            tuple(None if i == nullable_text and v == "" else v for i, v in enumerate(row)) for row in rows
        ]
    path = tmp_path_factory.mktemp("files") / name
    write_rows(path, EVERYTHING, rows)
    assert read(path, EVERYTHING) == rows
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_nulls_are_named(tmp_path: Path) -> None:
    """The given texts are null where null is allowed; an empty cell always is, but for texts that allow
    none."""
    path = written(tmp_path, "a.csv", 'k,v,s,t\n1,2,NA,\n2,3.5,,x\n3,1,"NA",y\n')
    row_type = RowType(("k", "v", "s", "t"), (INT, FLOAT, STR.optional(), STR))
    assert read(path, row_type, "NA") == [(1, 2.0, None, ""), (2, 3.5, None, "x"), (3, 1.0, None, "y")]
    assert read(path, row_type)[0] == (1, 2.0, "NA", "")


def test_columns_are_found_by_name_and_others_passed_over(tmp_path: Path) -> None:
    """The order of columns in the file does not matter, nor do columns that the row type does not have."""
    path = written(tmp_path, "a.csv", "x,s,v,k\n9,one,2,1\n")
    assert read(path, PLAIN) == [(1, 2.0, "one")]


def test_datetimes_with_and_without_zone(tmp_path: Path) -> None:
    """ISO with Z, with an offset, and the plain form, which is UTC; also mixed in one column."""
    row_type = RowType(("at",), (DATETIME,))
    hour = 1_357_016_400_000_000
    for cells in (
        ["2013-01-01T05:00:00Z", "2013-01-01T06:00:00+01:00"],
        ["2013-01-01 05:00:00", "2013-01-01T05:00"],
        ["2013-01-01 05:00:00", "2013-01-01T05:00:00Z"],
    ):
        path = written(tmp_path, "a.csv", "at\n" + "\n".join(cells) + "\n")
        assert read(path, row_type) == [(hour,), (hour,)]


def test_a_bad_value_far_down_is_named_by_line_and_column(tmp_path: Path) -> None:
    """The issue's example: a value of the wrong type in line 71,204; everything before it is read."""
    lines = ["k,v,s", *(f"{i},0.5,{'x' * 50}" for i in range(80_000))]  # several blocks of a megabyte
    lines[71_203] = "71202,oops,x"
    path = written(tmp_path, "a.csv", "\n".join(lines))
    seen: list[int] = []
    with pytest.raises(DataError, match=r"a\.csv, line 71,204, column 'v': expected float, got 'oops'"):
        for block in RowFile(path, PLAIN).blocks():
            seen += [row[0] for row in block]
    assert seen == list(range(71_202))


def test_lines_are_counted_through_quoted_line_ends(tmp_path: Path) -> None:
    """The line is the one an editor shows, also behind texts with line ends in them."""
    path = written(tmp_path, "a.csv", 'k,v,s\n1,2,"a\nb\nc"\n2,x,y\n')
    assert "line 5, column 'v'" in refusal(path, PLAIN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("k,w,s\n1,2,3\n", "has no column 'v'; it has k, w, s"),
        ("k,v,s\n,2,3\n", "line 2, column 'k': null is not allowed"),
        ("k,v,s\n1,2,3\n1,2\n", "line 3: 2 cells"),
        ("k,v,s\n1.5,2,3\n", "line 2, column 'k': expected int, got '1.5'"),
        ("k,v,s\n99999999999999999999,2,3\n", "line 2, column 'k'"),
        ("k,v,s\n1_000,2,3\n", "line 2, column 'k': expected int, got '1_000'"),
    ],
)
def test_csv_refusals(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake in a CSV file is told with its place."""
    assert message in refusal(written(tmp_path, "a.csv", text), PLAIN)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused, not guessed at."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"k,v,s\n1,2,Z\xfcrich\n")
    assert "not UTF-8" in refusal(path, PLAIN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"k": 1', "line 2: no JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"k": 1}', "line 2: column 'v' (float) is missing"),
        ('{"k": "x", "v": 1}', "line 2: column 'k': expected int, got 'x'"),
        ('{"k": true, "v": 1}', "line 2: column 'k': expected int"),
        ('{"k": null, "v": 1}', "line 2: column 'k': null is not allowed"),
    ],
)
def test_json_lines_refusals(tmp_path: Path, line: str, message: str) -> None:
    """Each mistake in a line of JSON is told with its place."""
    assert message in refusal(written(tmp_path, "a.jsonl", f'{{"k": 0, "v": 1}}\n{line}\n'), PLAIN)


def test_parquet_of_other_types(tmp_path: Path) -> None:
    """Narrow ints, dictionaries, naive and finer timestamps are taken; what does not fit is named by row."""
    row_type = RowType(("k", "s", "at"), (INT, STR.optional(), DATETIME))
    at = pa.array([1_357_016_400_000], pa.timestamp("ms"))
    table = pa.table({"k": pa.array([7], pa.int16()), "s": pa.array(["a"]).dictionary_encode(), "at": at})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", row_type) == [(7, "a", 1_357_016_400_000_000)]
    pq.write_table(
        pa.table({"k": pa.array([1, None]), "v": [1.0, 2.0], "s": ["x", "y"]}), tmp_path / "b.parquet"
    )
    assert "b.parquet, row 2, column 'k': null is not allowed" in refusal(tmp_path / "b.parquet", PLAIN)
    written(tmp_path, "c.parquet", "no parquet")
    assert "is no Parquet file" in refusal(tmp_path / "c.parquet", PLAIN)


def test_packed_files_of_others(tmp_path: Path) -> None:
    """Files that other tools packed are read; a zip file has to hold one file of the kind."""
    text = b"k,v,s\n1,2,x\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(text))
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("deep/a.csv", text)
        archive.writestr("readme.txt", b"hello")
    for name in ("a.csv.gz", "a.csv.bz2", "a.csv.zip"):
        assert read(tmp_path / name, PLAIN) == [(1, 2.0, "x")]
    with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
        archive.writestr("readme.txt", b"hello")
    assert "holds 0 .csv files" in refusal(tmp_path / "b.csv.zip", PLAIN)
    written(tmp_path, "c.csv.gz", "not packed")
    assert "c.csv.gz cannot be read" in refusal(tmp_path / "c.csv.gz", PLAIN)


@pytest.mark.parametrize("name", ["nothing.csv", "x.xls", "x", "x.gz", "x.parquet.gz"])
def test_files_that_are_not_there_or_not_known(tmp_path: Path, name: str) -> None:
    """A missing file and an unknown name are refused before anything is read."""
    if name != "nothing.csv":
        written(tmp_path, name, "")
    assert name in refusal(tmp_path / name, PLAIN)


def test_blocks_and_position(tmp_path: Path) -> None:
    """A long file comes in several blocks, and `position` ends at `size`."""
    path = written(tmp_path, "a.jsonl", "".join(f'{{"k": {i}, "v": 1}}\n' for i in range(60_000)))
    file = RowFile(path, PLAIN)
    blocks = list(file.blocks())
    assert len(blocks) == 2 and [row[0] for block in blocks for row in block] == list(range(60_000))
    assert file.position == file.size == path.stat().st_size


@pytest.mark.parametrize("name", ["a.csv", "a.csv.zip", "a.csv.gz", "a.parquet"])
def test_position_grows_with_what_is_given_out(tmp_path: Path, name: str) -> None:
    """Whatever is fetched ahead, `position` says how far the rows are that were given out, where that is
    known."""
    rows: list[Row] = [(n, n / 7, "x" * 50) for n in range(60_000)]
    write_rows(tmp_path / name, PLAIN, rows)
    file = RowFile(tmp_path / name, PLAIN)
    positions = [file.position for _ in file.blocks()]
    assert positions == sorted(positions)
    assert positions[0] <= file.size
    assert len(positions) > 3
    if name in ("a.csv", "a.csv.zip"):
        assert positions[0] < file.size / 2
    assert file.position == file.size


def test_rows_of_a_class(tmp_path: Path) -> None:
    """`dz.read_rows` gives instances of a row class."""

    class Reading(UserRow):
        k: int
        v: float

    path = written(tmp_path, "a.csv", "k,v\n1,2\n3,NA\n")
    rows = read_rows(path, Reading)
    assert next(rows) == Reading(k=1, v=2.0)


def test_out_to_arrow_pandas_and_polars() -> None:
    """Tables keep names, types and nulls; data frames are made of them."""
    table = arrow_table(EVERYTHING, [])
    assert table.num_rows == 0
    assert table.schema.field("ndecimal").type == pa.decimal128(38, 2)
    table = arrow_table(PLAIN, [(1, 2.0, None), (2, 3.5, "x")])
    assert table.to_pylist() == [{"k": 1, "v": 2.0, "s": None}, {"k": 2, "v": 3.5, "s": "x"}]
    assert list(pandas_frame(table)["k"]) == [1, 2]
    assert polars_frame(table).row(1) == (2, 3.5, "x")


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pandas or polars the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for frame, name in ((pandas_frame, "pandas"), (polars_frame, "polars")):
        with pytest.raises(OperatorError, match=f"{name} is not installed"):
            frame(arrow_table(PLAIN, []))


def test_json_lines_are_json(tmp_path: Path) -> None:
    """What other tools read: one object per line, no NaN, decimals exact."""
    row_type = RowType(("d", "f", "at"), (DECIMAL, FLOAT, DATETIME))
    write_rows(tmp_path / "a.jsonl", row_type, [(123, NAN, 1_357_016_400_000_000)])
    line = (tmp_path / "a.jsonl").read_text()
    assert json.loads(line) == {"d": "1.23", "f": "NaN", "at": "2013-01-01T05:00:00Z"}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_fine_decimals_have_no_exponent(tmp_path: Path, name: str) -> None:
    """All their digits are written, where Python and Arrow would turn to exponents, and read again."""
    row_type, rows = RowType(("d",), (decimal_type(8),)), [(0,), (-5,), (123_456_789,)]
    write_rows(tmp_path / name, row_type, rows)
    text = (tmp_path / name).read_text()
    assert all(f'"{digits}"' in text for digits in ("0.00000000", "-0.00000005", "1.23456789"))
    assert read(tmp_path / name, row_type) == rows
