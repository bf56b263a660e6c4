"""Rows in and out of files: CSV, JSON Lines, Parquet, plain or compressed.

CSV and Parquet are read by pyarrow, a block at a time and by type, and become batches a column at a time
(`arrow_batches.py`). Where a block does not fit the row type,
the file is read again from there line by line, which is slower and either says which line and column is
wrong, or reads what pyarrow was too strict for. Columns that the row type does not have are passed over; a
column that it has and the file lacks is an error.

Text cells: an empty one is null where null is allowed, as is one of the given `nulls`; an empty cell of a
text column that allows no null is the empty text. `text_values.py` says how each type is written.
"""

from __future__ import annotations

import codecs
import csv
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from dist_zero.arrow_batches import Unfit, column_of, json_batch, read_as, table_of
from dist_zero.batch import Batch
from dist_zero.column_data import encode_column
from dist_zero.row import Row, row_from_stored, row_type_of
from dist_zero.text_rows import (
    BLOCK_ROWS,
    check_columns,
    column_places,
    csv_rows,
    in_blocks,
    json_rows,
)
from dist_zero.text_values import (
    FALSE_TEXTS,
    TRUE_TEXTS,
    json_row,
    json_value,
)
from dist_zero.types import (
    DataType,
    Kind,
    RowType,
    to_stored,
)
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError, OperatorError
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob

SomeRow = TypeVar("SomeRow", bound=Row)

FORMATS = ("csv", "jsonl", "ndjson", "parquet")
COMPRESSIONS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2", "zip": "zip"}
BLOCK_BYTES = 2**20
_READ_ROWS = 8 * BLOCK_ROWS
"""Rows of a Parquet file that are decoded at a time: each time costs as much as some thousands of rows."""
_ROWS_LOOKED_AT = 100
_SCALE_WITHOUT_EXPONENT_MAX = 6


class RowFile:
    """A file of rows to be read. `size` and `position` (bytes) tell how far reading is, for a progress
    bar."""

    def __init__(self, path: str | Path, row_type: RowType, nulls: Sequence[str] = ()) -> None:
        """Raises `DataError` when the file is not there, or is of no kind that we know."""
        self.path = Path(path)
        self.format, self.compression = kind_of(self.path)
        self._row_type, self._nulls = row_type, tuple(nulls)
        if not self.path.is_file():
            what = "is a directory" if self.path.is_dir() else "does not exist"
            raise DataError(f"the file {str(self.path)!r} {what}")
        self.size = self.path.stat().st_size
        self._fetched = 0
        self._scale = 1.0  # bytes of the file per byte unpacked, where that is known beforehand
        self._blocks_used: int | None = None

    @property
    def position(self) -> int:
        """How far reading is, in bytes of the file. Arrow fetches ahead of what it has given out."""
        if self._blocks_used is None:
            return self._fetched
        return min(self._fetched, int(self._blocks_used * BLOCK_BYTES * self._scale))

    def check(self) -> None:
        """Raise `DataError` now if the file cannot be read at all or lacks a column."""
        with self._read_errors():
            if self.format == "csv":
                self._csv_types()
            elif self.format == "parquet":
                self._opened_parquet().close()
            self._fetched = 0

    def blocks(self) -> Iterator[list[StoredRow]]:
        """The rows of `batches`."""
        return (batch.rows() for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        """The rows, in order, some thousands at a time. Raises `DataError` naming line or row, and column."""
        with self._read_errors():
            if self.format == "csv":
                yield from self._csv()
            elif self.format == "parquet":
                yield from self._parquet()
            else:
                yield from self._json()

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zipfile.BadZipFile, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 text: {error.reason}") from None

    # -- CSV -------------------------------------------------------------------------------------------------

    def _csv(self) -> Iterator[Batch]:
        read, types = 0, self._row_type.types
        options = self._csv_options(self._csv_types())
        try:
            with self._opened() as stream:
                for batch in pa_csv.open_csv(stream, *options):
                    columns = zip(types, batch.columns, strict=True)
                    stored = tuple([column_of(dtype, array) for dtype, array in columns])
                    if self.compression in (None, "zip"):
                        self._blocks_used = 1 + (self._blocks_used or 0)
                    yield Batch.of_blob(types, BatchBlob(batch.num_rows, b"", stored))
                    read += batch.num_rows
        except (pa.ArrowException, Unfit, DataError):
            yield from self._csv_by_line(read)

    def _csv_options(self, columns: dict[str, pa.DataType]) -> tuple[Any, Any, Any]:
        return (
            pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            pa_csv.ParseOptions(newlines_in_values=True),
            pa_csv.ConvertOptions(
                column_types=columns,
                include_columns=list(self._row_type.names),
                null_values=["", *self._nulls],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=list(TRUE_TEXTS),
                false_values=list(FALSE_TEXTS),
            ),
        )

    def _csv_types(self) -> dict[str, pa.DataType]:
        """The types to read columns as: datetimes with or without a zone, as the first rows have them."""
        with self._opened_text() as text:
            reader = csv.reader(text)
            places = column_places(self.path, self._row_type, next(reader, None))
            first = list(islice(reader, _ROWS_LOOKED_AT))
        types = {}
        for name, dtype, place in zip(self._row_type.names, self._row_type.types, places, strict=True):
            types[name] = read_as(dtype) if dtype.kind in _TYPED_IN_CSV else pa.string()
            if dtype.kind is Kind.DATETIME:
                cells = [
                    row[place]
                    for row in first
                    if place < len(row) and row[place] and row[place] not in self._nulls
                ]
                zoned = any(cell.endswith(("Z", "z")) or "+" in cell for cell in cells)
                types[name] = pa.timestamp("us", "UTC" if zoned else None)
        return types

    # -- Parquet ---------------------------------------------------------------------------------------------

    def _parquet(self) -> Iterator[Batch]:
        with self._opened_parquet() as file:
            names = list(self._row_type.names)
            read = 0
            total = max(1, file.metadata.num_rows)
            for batch in _in_blocks(file.iter_batches(_READ_ROWS, columns=names, use_threads=False)):
                columns = [
                    self._arrow_column(read, name, dtype, batch.column(name))
                    for name, dtype in zip(names, self._row_type.types, strict=True)
                ]
                yield Batch.of_blob(self._row_type.types, BatchBlob(batch.num_rows, b"", tuple(columns)))
                read += batch.num_rows
                self._fetched = self.size * read // total

    def _opened_parquet(self) -> Any:
        if self.compression is not None:
            raise DataError(f"{self.path}: Parquet files compress themselves; unpack this one first")
        try:
            file = pq.ParquetFile(self.path)
        except pa.ArrowException as error:
            raise DataError(f"{self.path} is no Parquet file: {error}") from None
        check_columns(self.path, self._row_type, file.schema_arrow.names)
        return file

    def _arrow_column(self, before: int, name: str, dtype: DataType, array: pa.Array) -> ColumnBlob:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        try:
            return column_of(dtype, array.cast(read_as(dtype)))
        except (pa.ArrowException, Unfit, DataError):
            pass
        column = []
        for row, value in enumerate(array.to_pylist(), before + 1):
            try:
                column.append(to_stored(dtype, value))
            except DataError as error:
                raise DataError(f"{self.path}, row {row:,}, column {name!r}: {error}") from None
        return encode_column(dtype, column)

    def _csv_by_line(self, skip: int) -> Iterator[Batch]:
        self._blocks_used = None
        with self._opened_text() as text:
            yield from self._batches(csv_rows(self.path, text, self._row_type, self._nulls, skip))

    # -- JSON Lines ------------------------------------------------------------------------------------------

    def _json(self) -> Iterator[Batch]:
        before = 0
        with self._opened() as stream:
            for block in _lines(stream):
                try:
                    block.decode()
                    batch = json_batch(self._row_type, block)
                except (pa.ArrowException, UnicodeDecodeError, Unfit, DataError):
                    with io.TextIOWrapper(io.BytesIO(block), encoding="utf-8", newline="") as text:
                        counted = _CountedLines(text)
                        yield from self._batches(json_rows(self.path, counted, self._row_type, before))
                    before += counted.count
                else:
                    yield batch
                    before += len(batch)

    def _batches(self, rows: Iterable[StoredRow]) -> Iterator[Batch]:
        return (Batch.from_rows(self._row_type.types, block) for block in in_blocks(rows))

    # -- opening ---------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The unpacked bytes, with `position` kept."""
        with self.path.open("rb") as raw:
            if self.compression == "zip":
                with zipfile.ZipFile(raw) as archive, archive.open(self._member(archive)) as member:
                    self._scale = self.size / max(1, archive.getinfo(member.name).file_size)
                    yield _Counted(member, self, self._scale)
            elif self.compression is not None:
                yield pa.CompressedInputStream(pa.PythonFile(_Counted(raw, self, 1.0), "r"), self.compression)
            else:
                yield _Counted(raw, self, 1.0)

    @contextmanager
    def _opened_text(self) -> Iterator[IO[str]]:
        with self._opened() as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            yield text

    def _member(self, archive: zipfile.ZipFile) -> str:
        names = [name for name in archive.namelist() if name.lower().endswith(f".{self.format}")]
        if len(names) != 1:
            raise DataError(f"{self.path} holds {len(names)} .{self.format} files; it has to hold one")
        return names[0]


class _CountedLines:
    """Lines of text, and how many were given out."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text, self.count = text, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.count += 1
            yield line


def _in_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BLOCK_ROWS):
            yield batch.slice(start, BLOCK_ROWS)


def _lines(stream: Any) -> Iterator[bytes]:
    """A file in pieces of whole lines, each of a block's size or of one line."""
    waiting: list[bytes] = []
    is_first = True
    while data := stream.read(BLOCK_BYTES):
        if is_first:
            data, is_first = data.removeprefix(codecs.BOM_UTF8), False
        end = data.rfind(b"\n") + 1
        if end:
            yield b"".join((*waiting, data[:end]))
            waiting = []
        waiting.append(data[end:])
    if any(waiting):
        yield b"".join(waiting)


class _Counted(io.RawIOBase):
    """A readable file that tells a `RowFile` how far it was read."""

    def __init__(self, file: IO[bytes], owner: RowFile, scale: float) -> None:
        super().__init__()
        self._file, self._owner, self._scale, self._read = file, owner, scale, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._read += len(data)
        self._owner._fetched = int(self._read * self._scale)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_rows(path: str | Path, row_class: type[SomeRow], nulls: Sequence[str] = ()) -> Iterator[SomeRow]:
    """The rows of a CSV, JSON Lines or Parquet file, one by one, as instances of a row class.

    `nulls`: texts that stand for null. Raises `DataError` naming the line and the column.
    """
    for block in RowFile(path, row_type_of(row_class), nulls).blocks():
        for row in block:
            yield row_from_stored(row_class, row)


def kind_of(path: Path) -> tuple[str, str | None]:
    """The format and compression that a file's name stands for; raises `DataError` for any other name."""
    parts = path.name.lower().split(".")[1:]
    compression = COMPRESSIONS.get(parts[-1]) if parts else None
    if compression is not None:
        parts = parts[:-1]
    if not parts or parts[-1] not in FORMATS:
        raise DataError(
            f"{str(path)!r}: the name has to end in one of .{', .'.join(FORMATS)}; for csv and json lines, one of"
            f" .{', .'.join(COMPRESSIONS)} may follow"
        )
    return parts[-1], compression


# ---- Arrow -------------------------------------------------------------------------------------------------


def arrow_table(row_type: RowType, rows: Sequence[StoredRow]) -> pa.Table:
    """Rows as an Arrow table: datetimes as timestamps in UTC, decimals as decimal128, enums as text."""
    return table_of(row_type, [Batch.from_rows(row_type.types, rows)])


def pandas_frame(table: pa.Table) -> Any:
    """An Arrow table as a pandas data frame. Raises `OperatorError` when pandas is not installed."""
    _check_installed("pandas")
    return table.to_pandas()


def polars_frame(table: pa.Table) -> Any:
    """An Arrow table as a polars data frame. Raises `OperatorError` when polars is not installed."""
    _check_installed("polars")
    import polars

    return polars.from_arrow(table)


def _check_installed(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise OperatorError(f"{library} is not installed: pip install {library}, or take to_arrow")


def write_rows(path: str | Path, row_type: RowType, rows: Sequence[StoredRow]) -> None:
    """Write rows to a file of the kind that its name stands for. It appears whole or not at all."""
    path = Path(path)
    form, compression = kind_of(path)
    part = path.with_name(path.name + ".part")
    try:
        if form == "parquet":
            if compression is not None:
                raise DataError(
                    f"{path}: Parquet files compress themselves; leave out the .{path.suffix[1:]}"
                )
            pq.write_table(arrow_table(row_type, rows), part, compression="zstd")
        else:
            with _writing(part, path, compression) as out:
                _write_csv(out, row_type, rows) if form == "csv" else _write_json_lines(out, row_type, rows)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _write_csv(out: Any, row_type: RowType, rows: Sequence[StoredRow]) -> None:
    text = RowType(row_type.names, tuple(_csv_written_as(dtype) for dtype in row_type.types))
    as_text = [written != dtype for written, dtype in zip(text.types, row_type.types, strict=True)]
    if any(as_text):
        types = row_type.types
        rows = [
            tuple([json_value(t, v) if as_ else v for as_, t, v in zip(as_text, types, row, strict=True)])
            for row in rows
        ]
    pa_csv.write_csv(arrow_table(text, rows), out)


def _csv_written_as(dtype: DataType) -> DataType:
    """Datetimes and bytes are text in a CSV file, and decimals so fine that Arrow would write an exponent; it writes
    everything else as we do."""
    if dtype.kind in (Kind.DATETIME, Kind.BYTES) or dtype.scale > _SCALE_WITHOUT_EXPONENT_MAX:
        return DataType(Kind.STR, nullable=dtype.nullable)
    return dtype


def _write_json_lines(out: Any, row_type: RowType, rows: Sequence[StoredRow]) -> None:
    for row in rows:
        line = json.dumps(json_row(row_type, row), ensure_ascii=False, allow_nan=False)
        out.write(line.encode() + b"\n")


@contextmanager
def _writing(part: Path, path: Path, compression: str | None) -> Iterator[Any]:
    with part.open("wb") as raw:
        if compression == "zip":
            with (
                zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open(path.stem, "w") as member,
            ):
                yield member
        elif compression is not None:
            with pa.CompressedOutputStream(pa.PythonFile(raw, "w"), compression) as packed:
                yield packed
        else:
            yield raw


_TYPED_IN_CSV = (Kind.BOOL, Kind.INT, Kind.FLOAT)
