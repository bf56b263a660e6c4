"""`dz.Row`: a row type written as a class, and its instances; rows between users and the runtime.

    class Payment(dz.Row):
        id: int
        amount: Annotated[Decimal, dz.scale(2)]
        note: str | None = None

    Payment(id=1, amount=Decimal("9.90"))

An instance is an immutable value: built by keywords, checked against the types, compared by what it holds. Its
columns are in `vars(row)`. Writers and readers convert by `to_stored_row`, `from_stored_row` and `row_from_stored`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

from dist_zero.expr.location import Refused, did_you_mean, located, user_frame
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    DECIMAL_SCALE_MAX,
    FLOAT,
    INT,
    STR,
    DataType,
    Kind,
    RowType,
    Stored,
    decimal_type,
    enum_type,
    from_stored,
    to_stored,
)
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError
from dist_zero_common.garbage import no_collection

COLUMNS_MAX = 200
_NAME_LENGTH_MAX = 200
_PLAIN: dict[object, DataType] = {
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: STR,
    bytes: BYTES,
    dt.datetime: DATETIME,
}
_HINTS: dict[object, str] = {
    decimal.Decimal: "say how many digits stand behind the point: Annotated[Decimal, dz.scale(2)]",
    dt.date: "use datetime",
    dt.timedelta: "use int, in a unit that the name says",
    dt.time: "use int, in a unit that the name says",
    complex: "use two columns of float",
}


_R = TypeVar("_R", bound="Row")
_Decoder = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How many digits a decimal column keeps behind the point: `Annotated[Decimal, dz.scale(2)]`."""

    digits: int


@located
def scale(digits: int) -> Scale:
    """The mark that makes a `Decimal` annotation a column type: 0 to 18 digits behind the point."""
    if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= DECIMAL_SCALE_MAX:
        raise Refused(f"scale({digits!r}): a decimal has 0 to {DECIMAL_SCALE_MAX} digits behind the point")
    return Scale(digits)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Row:
    """Base of row types. Annotate columns with bool, int, float, str, bytes, datetime, an Enum class, or
    `Annotated[Decimal, dz.scale(n)]`; `| None` allows null; a value in the class is the default."""

    __slots__ = ("__dict__", "_stored")
    _row_type: ClassVar[RowType] = RowType((), ())
    _defaults: ClassVar[dict[str, Any]] = {}
    _decoders: ClassVar[tuple[tuple[str, _Decoder], ...]] = ()
    _accepted: ClassVar[RowType] = _row_type
    _stored: StoredRow

    @located
    def __init_subclass__(cls, _row_type: RowType | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _row_type is not None:
            cls._row_type = cls._accepted = _row_type
            cls._decoders = _decoders_of(_row_type, {})
            return
        hints = {
            n: a
            for n, a in _annotations(cls).items()
            if n not in Row.__annotations__ and not _is_class_var(a)
        }
        columns = {name: _column(cls.__name__, name, annotation) for name, annotation in hints.items()}
        cls._row_type = cls._accepted = checked_row_type(tuple(columns), tuple(columns.values()))
        cls._defaults = {n: getattr(cls, n) for n in columns if any(n in vars(b) for b in cls.__mro__)}
        enums = {n: e for n, a in hints.items() if (e := _enum_class(a)) is not None}
        cls._decoders = _decoders_of(cls._row_type, enums)

    def __init__(self, **values: Any) -> None:
        cls = type(self)
        stored = _stored_columns(cls.__name__, cls._row_type, {**cls._defaults, **values}, lenient=False)
        _fill(self, stored)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"a {type(self).__name__} does not change; make another one with {name}={value!r:.80}"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change; {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return type(self)._row_type == type(other)._row_type and self._stored == other._stored

    def __hash__(self) -> int:
        return hash(self._stored)

    def __reduce__(self) -> tuple[Any, ...]:
        return row_from_stored, (type(self), self._stored)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in vars(self).items())})"


# ---- row types ---------------------------------------------------------------------------------------------


def row_type_of(row_class: type[Row]) -> RowType:
    """The row type that a `Row` class declares."""
    return row_class._row_type


def checked_row_type(names: tuple[str, ...], column_types: tuple[DataType, ...]) -> RowType:
    """The row type of these columns; raises `Refused` for bad or doubled names and for too many columns."""
    if not names:
        raise Refused("a row needs at least one column")
    if len(names) > COLUMNS_MAX:
        raise Refused(f"{len(names)} columns; a row has at most {COLUMNS_MAX}")
    seen: set[str] = set()
    for name in names:
        if not name.isidentifier() or name.startswith("_") or len(name) > _NAME_LENGTH_MAX:
            raise Refused(f"{name!r} cannot be the name of a column: use letters, digits and _, not _ first")
        if name in seen:
            raise Refused(f"there would be two columns {name!r}; give one of them another name")
        seen.add(name)
    return RowType(names, column_types)


def annotation_type(annotation: object) -> DataType:
    """The column type an annotation stands for; raises `Refused` with what to use instead."""
    if isinstance(annotation, Scale):
        return decimal_type(annotation.digits)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _optional_type(annotation, args)
    if origin is Annotated and args[0] is decimal.Decimal:
        scales = [a for a in args[1:] if isinstance(a, Scale)]
        if len(scales) == 1:
            return decimal_type(scales[0].digits)
    plain = _PLAIN.get(annotation) if isinstance(annotation, type) else None
    if plain is not None:
        return plain
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _enum_type(annotation)
    raise Refused(f"{_shown(annotation)} is no column type; {_HINTS.get(_bare(annotation), _WANTED)}")


_WANTED = (
    "use bool, int, float, str, bytes, datetime, Annotated[Decimal, dz.scale(n)] or an Enum class,"
    " or one of these | None"
)


def _optional_type(annotation: object, args: tuple[Any, ...]) -> DataType:
    inner = [a for a in args if a is not types.NoneType]
    if len(inner) != 1 or len(args) != 2:
        raise Refused(f"{_shown(annotation)} is no column type; {_WANTED}")
    return annotation_type(inner[0]).optional()


def _enum_type(annotation: type[enum.Enum]) -> DataType:
    members = tuple(member.name for member in annotation)
    if not members or issubclass(annotation, enum.Flag):
        raise Refused(
            f"{_shown(annotation)} is no column type: an enum needs members, and flags are not supported"
        )
    return enum_type(members)


def _annotations(cls: type) -> dict[str, Any]:
    """Annotations of the class and its bases, those written as text looked up where the class is written."""
    scope = {**vars(cls), **user_frame().f_locals}
    try:
        return typing.get_type_hints(cls, localns=scope, include_extras=True)
    except NameError as error:
        raise Refused(
            f"{cls.__name__}: {error}; a column's type has to be known where the class is written"
        ) from None
    except TypeError as error:
        raise Refused(f"{cls.__name__}: an annotation is no type: {error}") from None


def _column(owner: str, name: str, annotation: object) -> DataType:
    try:
        return annotation_type(annotation)
    except Refused as refused:
        raise Refused(f"column {name!r} of {owner}: {refused}") from None


def _is_class_var(annotation: object) -> bool:
    return typing.get_origin(annotation) is ClassVar or annotation is ClassVar


def _enum_class(annotation: object) -> type[enum.Enum] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, enum.Enum):
            return candidate
    return None


def _bare(annotation: object) -> object:
    """The type below `Annotated`, if it can be looked up."""
    if typing.get_origin(annotation) is Annotated:
        return typing.get_args(annotation)[0]
    return annotation if isinstance(annotation, type) else None


def _shown(annotation: object) -> str:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "")


# ---- rows between users and the runtime --------------------------------------------------------------------


def to_stored_row(row_type: RowType, row: Row | Mapping[str, Any]) -> StoredRow:
    """The stored row of a `Row` or a mapping; columns that allow null may be left out of a mapping.

    Raises `DataError` that names the column, its type and the value.
    """
    if isinstance(row, Row):
        own = type(row)
        # rows come in thousands for the same dataset, whose row type need not be compared each time
        if own._accepted is not row_type:
            if own._row_type != row_type:
                raise DataError(f"a {own.__name__} has the columns {own._row_type}, not {row_type}")
            own._accepted = row_type
        return row._stored
    if not isinstance(row, Mapping):
        raise DataError(f"expected a row or a mapping, got {type(row).__name__} {row!r:.80}")
    return _stored_columns("the row", row_type, row, lenient=True)


def from_stored_row(row_type: RowType, stored: StoredRow) -> dict[str, Any]:
    """The columns of a stored row as user values, by name; enums are their members' names."""
    return {n: from_stored(t, v) for n, t, v in zip(row_type.names, row_type.types, stored, strict=True)}


def row_from_stored(row_class: type[_R], stored: StoredRow) -> _R:
    """The instance of a stored row that is known to be right."""
    row = row_class.__new__(row_class)
    _fill(row, stored)
    return row


def rows_from_stored(row_class: type[_R], rows: Iterable[StoredRow]) -> list[_R]:
    """`row_from_stored` of many."""
    names, new, set_stored = row_class._row_type.names, row_class.__new__, vars(Row)["_stored"].__set__
    made = []
    with no_collection():
        for stored in rows:
            row = new(row_class)
            set_stored(row, stored)
            row.__dict__.update(zip(names, stored, strict=True))
            made.append(row)
        for name, decode in row_class._decoders:
            for row in made:
                if row.__dict__[name] is not None:
                    row.__dict__[name] = decode(row.__dict__[name])
    return made


def to_stored_column(row_type: RowType, name: str, value: object) -> Stored:
    """The stored value of one column; raises `DataError` that names the column, its type and the value."""
    try:
        dtype = row_type.types[row_type.index(name)]
    except KeyError:
        raise _unknown("the row", row_type, name) from None
    try:
        return to_stored(dtype, value)
    except DataError as error:
        raise DataError(f"column {name!r} ({dtype}): {error}") from None


def _stored_columns(what: str, row_type: RowType, values: Mapping[str, Any], *, lenient: bool) -> StoredRow:
    if not values.keys() <= set(row_type.names):
        raise _unknown(what, row_type, next(n for n in values if n not in row_type.names))
    stored = []
    for name, dtype in zip(row_type.names, row_type.types, strict=True):
        if name not in values and not (lenient and dtype.nullable):
            raise DataError(f"{what} lacks the column {name!r} ({dtype})")
        try:
            stored.append(to_stored(dtype, values.get(name)))
        except DataError as error:
            raise DataError(f"column {name!r} ({dtype}): {error}") from None
    return tuple(stored)


def _unknown(what: str, row_type: RowType, name: object) -> DataError:
    return DataError(f"{what} has no column {name!r}.{did_you_mean(name, row_type.names)} It has {row_type}")


def _fill(row: Row, stored: StoredRow) -> None:
    """Give a new row its value."""
    object.__setattr__(row, "_stored", stored)
    columns = row.__dict__
    columns.update(zip(type(row)._row_type.names, stored, strict=True))
    for name, decode in type(row)._decoders:
        if columns[name] is not None:
            columns[name] = decode(columns[name])


def _decoders_of(row_type: RowType, enums: Mapping[str, type[enum.Enum]]) -> tuple[tuple[str, _Decoder], ...]:
    """The columns whose stored values are not the user's, with functions from one to the other."""
    decoders: list[tuple[str, _Decoder]] = []
    for name, dtype in zip(row_type.names, row_type.types, strict=True):
        if name in enums:
            decoders.append((name, tuple(enums[name]).__getitem__))
        elif dtype.kind in (Kind.DATETIME, Kind.DECIMAL, Kind.ENUM):
            decoders.append((name, functools.partial(from_stored, dtype)))
    return tuple(decoders)


# ---- rows of views -----------------------------------------------------------------------------------------


class ViewRow(Row, _row_type=RowType((), ())):
    """A row of a view. Its columns follow from the program and are attributes, unknown to type checkers."""

    if typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __reduce__(self) -> tuple[Any, ...]:
        # the class is nowhere that pickle could find it by name
        return view_row, (type(self).__name__, self._row_type, self._stored)


def row_class_of(name: str, row_type: RowType) -> type[ViewRow]:
    """A `Row` class for a row type that no class declares, as a view's; enums are their members' names."""
    return types.new_class(name, (ViewRow,), {"_row_type": row_type})


def view_row(view: str, row_type: RowType, stored: StoredRow) -> ViewRow:
    """A row of a view from what it is made of, for pickle and copy."""
    return row_from_stored(row_class_of(view, row_type), stored)
