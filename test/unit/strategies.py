"""Hypothesis strategies that several tests of data share: types, stored values, rows, messages."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any

from hypothesis import strategies as st

from dist_zero import types as t
from dist_zero_common.protocol.codec import codecs
from dist_zero_common.protocol.structs import camel_case

ENUM = t.enum_type(("red", "green", "blue"))
KINDS = (t.BOOL, t.INT, t.FLOAT, t.STR, t.BYTES, t.DATETIME, t.decimal_type(2), ENUM)

_words = st.one_of(
    st.integers(-3, 3), st.integers(t.INT_MIN, t.INT_MAX), st.sampled_from((t.INT_MIN, t.INT_MAX))
)
_VALUES: dict[t.Kind, st.SearchStrategy[Any]] = {
    t.Kind.BOOL: st.booleans(),
    t.Kind.INT: _words,
    t.Kind.FLOAT: st.floats().map(t.canonical_float),
    t.Kind.STR: st.text(max_size=8),
    t.Kind.BYTES: st.binary(max_size=8),
    t.Kind.DATETIME: st.one_of(
        st.integers(t.DATETIME_MIN_US, t.DATETIME_MAX_US),
        st.sampled_from((0, t.DATETIME_MIN_US, t.DATETIME_MAX_US)),
    ),
    t.Kind.DECIMAL: _words,
    t.Kind.ENUM: st.integers(0, 2),
}

data_types = st.sampled_from(KINDS).flatmap(lambda dtype: st.sampled_from((dtype, dtype.optional())))
"""A column type, nullable or not."""


def row_types(min_size: int = 0, max_size: int = 4) -> st.SearchStrategy[tuple[t.DataType, ...]]:
    """The types of a row's columns."""
    return st.lists(data_types, min_size=min_size, max_size=max_size).map(tuple)


def stored_values(dtype: t.DataType) -> st.SearchStrategy[Any]:
    """A stored value of this type."""
    values = _VALUES[dtype.kind]
    return st.one_of(st.none(), values) if dtype.nullable else values


def stored_rows(dtypes: tuple[t.DataType, ...]) -> st.SearchStrategy[t.Row]:
    """A stored row of these types."""
    return st.tuples(*map(stored_values, dtypes))


_INT_RANGES = {
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
_OTHERS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: st.text(max_size=6),
    bytes: st.binary(max_size=9),
    float: st.floats(allow_nan=False).map(t.canonical_float),
}


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Any instance of a dataclass that has a schema, its numbers within those of the schema."""
    hints = typing.get_type_hints(cls)
    in_schema = codecs().module(cls.__name__).schema.fields
    fields = [
        _field(hints[f.name], in_schema[camel_case(f.name)].proto.slot.type) for f in dataclasses.fields(cls)
    ]
    return st.builds(cls, *fields)


def _field(hint: Any, wire: Any) -> st.SearchStrategy[Any]:
    if hint is int:
        return st.integers(*_INT_RANGES[str(wire.which())])
    if hint in _OTHERS:
        return _OTHERS[hint]
    if typing.get_origin(hint) is tuple:
        return st.lists(_field(typing.get_args(hint)[0], _element(wire)), max_size=3).map(tuple)
    if isinstance(hint, types.UnionType):
        return st.one_of([_field(member, wire) for member in typing.get_args(hint)])
    if hint is types.NoneType:
        return st.none()
    return st.sampled_from(hint) if issubclass(hint, enum.Enum) else st.deferred(lambda: instances(hint))


def _element(wire: Any) -> Any:
    return wire.list.elementType
