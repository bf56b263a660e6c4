"""Between columns of Arrow and batches, a whole column at a time; with `files.py` the only importer of pyarrow.

On the way in `column_of` holds the rules of `types.to_stored`: one NaN, no −0.0, naive datetimes in UTC, decimals
scaled, enums by name. It says no more than that something does not fit: whoever reads a file looks at the cells of such
a column one by one, and so finds the one to name. On the way out nothing can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from dist_zero.batch import Batch
from dist_zero.column_data import shifted, word_at
from dist_zero.text_values import value_from_text
from dist_zero.types import DATETIME_MAX_US, DATETIME_MIN_US, INT, NAN, DataType, Kind, RowType
from dist_zero_common.errors import InternalError
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob


class Unfit(Exception):
    """A column that has to be looked at cell by cell."""


# ---- in ------------------------------------------------------------------------------------------------------


def column_of(dtype: DataType, array: pa.Array) -> ColumnBlob:
    """An Arrow array of the type that `read_as` says, or of text, as a stored column. Raises `Unfit` or `DataError` if
    a value does not fit, and what pyarrow raises."""
    if array.null_count and not dtype.nullable:
        raise Unfit
    return _WITH_NULLS[dtype.kind](dtype, array)


def read_as(dtype: DataType) -> pa.DataType:
    """The Arrow type whose values `column_of` takes."""
    match dtype.kind:
        case Kind.BOOL:
            return pa.bool_()
        case Kind.INT:
            return pa.int64()
        case Kind.FLOAT:
            return pa.float64()
        case Kind.BYTES:
            return pa.binary()
        case Kind.DATETIME:
            return pa.timestamp("us", "UTC")
        case Kind.DECIMAL:
            return pa.decimal128(38, dtype.scale)
        case Kind.STR | Kind.ENUM:
            return pa.string()
    raise InternalError(f"no Arrow type for {dtype}")


def json_batch(row_type: RowType, lines: bytes) -> Batch:
    """The rows of some lines of JSON Lines. Raises `Unfit`, `DataError`, or what pyarrow raises, where they have to be
    looked at line by line: pyarrow is stricter than we are with values, but not with lines."""
    if lines.count(b"\n{") + lines.startswith(b"{") != lines.count(b"\n") + (not lines.endswith(b"\n")):
        raise Unfit  # not every line is an object
    schema = pa.schema(
        [(name, _in_json(dtype)) for name, dtype in zip(row_type.names, row_type.types, strict=True)]
    )
    table = pa_json.read_json(
        pa.BufferReader(lines),
        pa_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).combine_chunks()
    if table.num_rows != lines.count(b"\n{") + 1:
        raise Unfit  # not every line is one
    arrays = [column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in table.columns]
    columns = [column_of(dtype, array) for dtype, array in zip(row_type.types, arrays, strict=True)]
    return Batch.of_blob(row_type.types, BatchBlob(table.num_rows, b"", tuple(columns)))


def _in_json(dtype: DataType) -> pa.DataType:
    return pa.string() if dtype.kind in (Kind.BYTES, Kind.DATETIME) else read_as(dtype)


def _bools(dtype: DataType, array: pa.Array) -> ColumnBlob:  # noqa: ARG001 (same shape as its neighbours)
    return ColumnBlob(_validity(array), b"", _data(_filled(array, False).cast(pa.uint8()), 1))


def _words(dtype: DataType, array: pa.Array) -> ColumnBlob:  # noqa: ARG001
    return ColumnBlob(_validity(array), b"", _data(_filled(array, 0), 8))


def _floats(dtype: DataType, array: pa.Array) -> ColumnBlob:  # noqa: ARG001
    values = pc.add(_filled(array, 0.0), 0.0)  # and no zero is negative
    is_nan = pc.is_nan(values)
    if pc.any(is_nan).as_py():
        values = pc.if_else(is_nan, pa.scalar(NAN, pa.float64()), values)
    return ColumnBlob(_validity(array), b"", _data(values, 8))


def _texts(dtype: DataType, array: pa.Array) -> ColumnBlob:  # noqa: ARG001
    array.validate(full=True)  # a Parquet file may hold any bytes
    return _of_any_length(array, _filled(array, "").cast(pa.large_string()))


def _bytes(dtype: DataType, array: pa.Array) -> ColumnBlob:
    if pa.types.is_string(array.type):
        array = _by_text(dtype, array, pa.binary())
    return _of_any_length(array, _filled(array, b"").cast(pa.large_binary()))


def _datetimes(dtype: DataType, array: pa.Array) -> ColumnBlob:
    if pa.types.is_string(array.type):
        return _words(dtype, _datetimes_of_text(dtype, array))
    return _words(dtype, _in_years(array.cast(pa.timestamp("us")).cast(pa.int64())))


def _datetimes_of_text(dtype: DataType, array: pa.Array) -> pa.Array:
    for read in (pa.timestamp("us", "UTC"), pa.timestamp("us")):  # all with a zone, or none
        try:
            return _in_years(array.cast(read).cast(pa.timestamp("us")).cast(pa.int64()))
        except pa.ArrowException:
            pass
    return _by_text(dtype, array, pa.int64())


def _in_years(values: pa.Array) -> pa.Array:
    """Microseconds, if all are of years that a datetime can have."""
    ends = pc.min_max(values)
    some = len(values) > values.null_count
    if some and not DATETIME_MIN_US <= ends["min"].as_py() <= ends["max"].as_py() <= DATETIME_MAX_US:
        raise Unfit
    return values


def _decimals(dtype: DataType, array: pa.Array) -> ColumnBlob:
    if pa.types.is_string(array.type):
        return _words(dtype, _by_text(dtype, array, pa.int64()))
    zero = pa.scalar(0).cast(array.type)
    halves = memoryview(_data(_filled(array, zero), 16)).cast("q")
    low, high = halves[::2].tobytes(), halves[1::2].tobytes()
    signs = pc.shift_right(_numbers(pa.int64(), low), 63)
    if not signs.equals(_numbers(pa.int64(), high)):  # it needs more than 64 bits
        raise Unfit
    return ColumnBlob(_validity(array), b"", low)


def _enums(dtype: DataType, array: pa.Array) -> ColumnBlob:
    places = pc.index_in(array, pa.array(dtype.members, pa.string()))
    if places.null_count != array.null_count:
        raise Unfit
    return _words(dtype, places.cast(pa.int64()))


_WITH_NULLS: dict[Kind, Callable[[DataType, pa.Array], ColumnBlob]] = {
    Kind.BOOL: _bools,
    Kind.INT: _words,
    Kind.FLOAT: _floats,
    Kind.STR: _texts,
    Kind.BYTES: _bytes,
    Kind.DATETIME: _datetimes,
    Kind.DECIMAL: _decimals,
    Kind.ENUM: _enums,
}


def _by_text(dtype: DataType, array: pa.Array, read: pa.DataType) -> pa.Array:
    """The stored values of cells; each text that there is is read once."""
    texts = pc.unique(array).drop_null()
    known = pa.array([value_from_text(dtype, text) for text in texts.to_pylist()], read)
    return known.take(pc.index_in(array, texts))


def _filled(array: pa.Array, value: Any) -> pa.Array:
    return array.fill_null(value) if array.null_count else array


def _validity(array: pa.Array) -> bytes:
    return _data(array.is_valid().cast(pa.uint8()), 1) if array.null_count else b""


def _of_any_length(array: pa.Array, large: pa.Array) -> ColumnBlob:
    """A text column; `large`: its values with 8-byte offsets and without nulls."""
    _, offsets, data = large.buffers()
    count = len(large)
    if not count:
        return ColumnBlob(b"", bytes(8), b"")
    ends = offsets.slice(8 * large.offset, 8 * (count + 1)).to_pybytes()
    first, last = word_at(ends, 0), word_at(ends, count)
    values = data.slice(first, last - first).to_pybytes() if data is not None else b""
    return ColumnBlob(_validity(array), shifted(ends, -first), values)


def _data(array: pa.Array, width: int) -> bytes:
    """The values of an array that has no nulls, each of `width` bytes."""
    if not len(array):
        return b""
    data: bytes = array.buffers()[1].slice(width * array.offset, width * len(array)).to_pybytes()
    return data


# ---- out -----------------------------------------------------------------------------------------------------


def table_of(row_type: RowType, batches: Sequence[Batch]) -> pa.Table:
    """Batches of a row type as an Arrow table: datetimes as timestamps in UTC, decimals as decimal128, enums as text.
    Weights are passed over."""
    fields = [
        pa.field(name, read_as(dtype), nullable=dtype.nullable)
        for name, dtype in zip(row_type.names, row_type.types, strict=True)
    ]
    schema = pa.schema(fields)
    blobs = [piece.to_blob() for batch in batches for piece in batch.split(_TABLE_BYTES)]
    chunks = [pa.record_batch(_arrays(row_type, blob), schema=schema) for blob in blobs]
    return pa.Table.from_batches(chunks, schema=schema).combine_chunks()


_Key = tuple[pa.Array, bool]
"""Values to order rows by, and whether they descend."""


def sorted_table(
    row_type: RowType, batches: Sequence[Batch], order: Sequence[tuple[int, bool]], sign: int = 1
) -> pa.Table:
    """The rows whose weights have this sign, each as often as its weight says, in the order of a view: by the places in
    `order`, of which those with true descend, then by all columns; null last, NaN behind all numbers."""
    return sorted_tables(row_type, batches, order, (sign,))[0]


def sorted_tables(
    row_type: RowType, batches: Sequence[Batch], order: Sequence[tuple[int, bool]], signs: Sequence[int]
) -> list[pa.Table]:
    """The same for several signs."""
    if not batches or not row_type.types:
        return [table_of(row_type, batches) for _ in signs]
    blob = Batch.concat(row_type.types, batches).whole_blob()
    rows = table_of(row_type, [Batch.of_blob(row_type.types, blob)])
    keys = _keys(row_type, blob, order)
    weights = _numbers(pa.int64(), blob.weights) if blob.weights else None
    return [_sorted(*_told(rows, keys, weights, sign)) for sign in signs]


def _told(
    rows: pa.Table, keys: list[_Key], weights: pa.Array | None, sign: int
) -> tuple[pa.Table, list[_Key], pa.Array | None]:
    """The rows of one sign with their keys, and how often each is there; None: once."""
    if weights is None and sign > 0:
        return rows, keys, None
    if weights is None:
        return rows.slice(0, 0), [(array.slice(0, 0), descends) for array, descends in keys], None
    told = pc.greater(weights, 0) if sign > 0 else pc.less(weights, 0)
    if pc.all(told).as_py():
        return rows, keys, pc.abs(weights)
    keys = [(array.filter(told), descends) for array, descends in keys]
    return rows.filter(told), keys, pc.abs(weights.filter(told))


def _sorted(rows: pa.Table, keys: list[_Key], counts: pa.Array | None) -> pa.Table:
    places = None if _is_in_order(keys) else _places_by(keys)
    if counts is not None and len(counts) and pc.max(counts).as_py() > 1:
        places = places if places is not None else pc.indices_nonzero(pa.repeat(True, len(counts)))
        ends = pc.cumulative_sum_checked(counts.take(places))
        places = pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, places))
    return rows if places is None else rows.take(places)


def _keys(row_type: RowType, blob: BatchBlob, order: Sequence[tuple[int, bool]]) -> list[_Key]:
    """What a view's rows are ordered by."""
    named = {place for place, _ in order}
    keys: list[_Key] = []
    for place, descending in [
        *order,
        *((place, False) for place in range(len(row_type)) if place not in named),
    ]:
        dtype, column = row_type.types[place], blob.columns[place]
        array = array_of(_COMPARED_AS.get(dtype.kind, dtype), column, blob.row_count)
        if dtype.kind is Kind.FLOAT and descending:  # Arrow has NaN last in both directions
            keys.append((pc.is_nan(array).cast(pa.uint8()), True))
        keys.append((array.cast(pa.uint8()) if dtype.kind is Kind.BOOL else array, descending))
    return keys


def _places_by(keys: list[_Key]) -> pa.Array:
    directions = [
        (f"k{n}", "descending" if descends else "ascending") for n, (_, descends) in enumerate(keys)
    ]
    return pc.sort_indices(
        pa.table({f"k{n}": array for n, (array, _) in enumerate(keys)}), sort_keys=directions
    )


def _is_in_order(keys: list[_Key]) -> bool:
    """Whether rows are ordered already, as what an executor says mostly is: looking costs far less than sorting. A null
    or NaN says no."""
    count = len(keys[0][0])
    if count < 2:
        return True
    ordered = pa.repeat(False, count - 1)
    for (
        array,
        descends,
    ) in keys:  # pairs of neighbours that are not ordered by the keys before are equal in them
        if array.null_count:
            return False
        left, right = array.slice(0, count - 1), array.slice(1)
        ordered = pc.or_(ordered, (pc.greater if descends else pc.less)(left, right))
        if pc.all(ordered).as_py():
            return True
        if not pc.all(pc.or_(ordered, pc.equal(left, right))).as_py():
            return False
    return True


def _arrays(row_type: RowType, blob: BatchBlob) -> list[pa.Array]:
    columns = zip(row_type.types, blob.columns, strict=True)
    return [array_of(dtype, column, blob.row_count) for dtype, column in columns]


def array_of(dtype: DataType, column: ColumnBlob, count: int) -> pa.Array:
    """A column as an Arrow array of the type `read_as(dtype)`."""
    valid = None
    if column.validity:
        valid = _numbers(pa.uint8(), column.validity).cast(pa.bool_()).buffers()[1]
    read, data = read_as(dtype), pa.py_buffer(column.values)
    match dtype.kind:
        case Kind.BOOL:
            bits = pa.Array.from_buffers(pa.uint8(), count, [None, data]).cast(pa.bool_()).buffers()[1]
            return pa.Array.from_buffers(read, count, [valid, bits])
        case Kind.STR | Kind.BYTES:
            large = pa.large_string() if dtype.kind is Kind.STR else pa.large_binary()
            offsets = pa.py_buffer(column.offsets)
            return pa.Array.from_buffers(large, count, [valid, offsets, data]).cast(read)
        case Kind.ENUM:
            places = pa.Array.from_buffers(pa.int64(), count, [valid, data])
            return pa.array(dtype.members, pa.string()).take(places)
        case Kind.DECIMAL:
            wide = pa.Array.from_buffers(pa.int64(), count, [valid, data]).cast(pa.decimal128(38, 0))
            return pa.Array.from_buffers(read, count, wide.buffers(), offset=wide.offset)
        case _:
            return pa.Array.from_buffers(read, count, [valid, data])


def _numbers(read: pa.DataType, data: bytes) -> pa.Array:
    """An array of numbers without nulls."""
    return pa.Array.from_buffers(read, len(data) * 8 // read.bit_width, [None, pa.py_buffer(data)])


_TABLE_BYTES = 2**30
_ONE = (1).to_bytes(8, "little")
_COMPARED_AS = {Kind.ENUM: INT, Kind.DECIMAL: INT, Kind.DATETIME: INT}
