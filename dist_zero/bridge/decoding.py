"""From a message of the user's queue to the rows it stands for and the id it is applied by.

Values are read as in files of JSON Lines (`text_values.py`): fields are found by name, further ones are passed over, a
column that allows no null has to be there. What does not fit raises `Undecodable`, whatever it is: nothing that a
message holds may end the bridge.
"""

from __future__ import annotations

import decimal
import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgpack

from dist_zero.bridge.foreign import Message
from dist_zero.bridge.source import Source
from dist_zero.expr.location import shown_path
from dist_zero.row import Row, to_stored_row
from dist_zero.text_values import json_value, row_from_json
from dist_zero.types import Kind, RowType
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError

ID_LENGTH_MAX = 1_000
_PLAIN_ENCODINGS = (None, "", "identity", "binary", "utf-8", "utf8")

Decoder = Callable[[Message], list[StoredRow]]


class Undecodable(Exception):
    """A message that is no row of its dataset, or has no id; says why."""


def id_before_decoding(source: Source, message: Message) -> str | None:
    """The id of a message, unless it is in a column: then None."""
    if isinstance(source.key, str):
        return None
    if source.key is None:
        if not message.message_id:
            raise Undecodable(
                "it has no message-id, so that it could not be told from a copy of itself; publish with one, or name"
                " a key in app.source"
            )
        return _checked_id("message-id", message.message_id)
    found = _of_users("key", source.key, message)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise Undecodable(
            f"the function for the key gave {type(found).__name__} {found!r:.80}, no text or number"
        )
    return _checked_id("key", str(found))


def id_in_column(column: str, row_type: RowType, rows: list[StoredRow]) -> str:
    """The id of a message that has its rows' value in this column."""
    place = row_type.index(column)
    first = rows[0][place]
    if any(row[place] != first for row in rows):
        raise Undecodable(f"its rows differ in the column {column!r}, which is its key")
    if first is None:
        raise Undecodable(f"the column {column!r}, which is its key, is null")
    return _checked_id("key", str(json_value(row_type.types[place], first)))


def decoder(decode: str | Callable[[Message], Any], row_type: RowType) -> Decoder:
    """The function that gives the rows of a message, or raises `Undecodable`."""
    if not isinstance(decode, str):
        return lambda message: _rows(row_type, _of_users("decode", decode, message))
    parse = _json_parser(row_type) if decode == "json" else _msgpack
    return lambda message: _rows(row_type, _parsed(decode, parse, message))


def _parsed(name: str, parse: Callable[[bytes], Any], message: Message) -> Any:
    if message.content_encoding not in _PLAIN_ENCODINGS:
        raise Undecodable(
            f"its content-encoding is {message.content_encoding!r:.80}; decode it with a function in app.source"
        )
    try:
        found = parse(message.body)
    except Exception as error:  # parsers have many ways to say no
        raise Undecodable(f"no {name}: {str(error) or type(error).__name__:.300}") from None
    if not isinstance(found, Mapping | list):
        raise Undecodable(f"expected an object or a list of objects, got {found!r:.80}")
    return found


def _json_parser(row_type: RowType) -> Callable[[bytes], Any]:
    if any(dtype.kind is Kind.DECIMAL for dtype in row_type.types):
        return partial(json.loads, parse_float=decimal.Decimal)
    return json.loads


def _msgpack(body: bytes) -> Any:
    return msgpack.unpackb(body, timestamp=3)  # MessagePack's own times are datetimes


def _rows(row_type: RowType, found: Any) -> list[StoredRow]:
    if found is None:
        return []
    if isinstance(found, Row | Mapping):
        return [_row(row_type, found)]
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise Undecodable(f"expected a row or rows, got {type(found).__name__} {found!r:.80}")
    rows = []
    for number, each in enumerate(found, 1):
        try:
            rows.append(_row(row_type, each))
        except Undecodable as unfit:
            raise Undecodable(f"row {number}: {unfit}") from None
    return rows


def _row(row_type: RowType, row: Any) -> StoredRow:
    try:
        return to_stored_row(row_type, row) if isinstance(row, Row) else row_from_json(row_type, row)
    except DataError as error:
        raise Undecodable(str(error)) from None


def _of_users(what: str, function: Callable[[Message], Any], message: Message) -> Any:
    """What a function of the user's makes of the message; a generator is run to its end here."""
    try:
        found = function(message)
        if isinstance(found, Iterable) and not isinstance(found, Row | Mapping | str | bytes | list | tuple):
            return list(found)
        return found
    except Exception as error:  # the user's own
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{shown_path(frame.filename)}:{frame.lineno}"
        raise Undecodable(f"{what} raised {type(error).__name__}: {error!s:.300} ({place})") from None


def _checked_id(what: str, text: str) -> str:
    if not text or len(text) > ID_LENGTH_MAX:
        raise Undecodable(f"its {what} has {len(text):,} characters; 1 to {ID_LENGTH_MAX:,} are possible")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Undecodable(f"its {what} is no text: {text!r:.80}") from None
    return text
