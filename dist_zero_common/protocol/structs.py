"""Between frozen dataclasses and Cap'n Proto structs of the same name and fields, by walking both once per
class.

Fields are snake_case in the class and camelCase in the schema. Annotations may be int, bool, float, str,
bytes, enums, dataclasses, unions of dataclasses (a struct that is one union, its members named after the
classes), `X | None` of a dataclass or union (null is an absent struct), and `tuple[X, ...]` of any but enums.

The result is a `StructCodec` per class: two functions that hold the schema's field objects, for looking those up by
name is most of the cost. They are made when first used, since classes may contain each other: as source with a line for
each field, since walking over lists of fields is most of the rest. A value that does not fit raises what the library
raises; `codec.py` turns that into our errors.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dist_zero_common.errors import InternalError, MalformedMessage

Write = Callable[[Any, Any], None]
"""Writes a value: (builder of its struct, value)."""
WriteField = Callable[[Any, Any], None]
"""Writes a field: (builder of the struct that has it, value)."""
Read = Callable[[Any], Any]
"""Makes a value of what the library returns for it."""

_PLAIN = (int, bool, float, str, bytes)


class StructCodec:
    """How a dataclass, or a union of them, is written into the builder of its struct and read from a
    reader."""

    __slots__ = ("read", "write")

    read: Read
    write: Write

    def __init__(self, compile_read: Callable[[], Read], compile_write: Callable[[], Write]) -> None:
        def first_read(reader: Any) -> Any:
            self.read = compile_read()
            return self.read(reader)

        def first_write(builder: Any, value: Any) -> None:
            self.write = compile_write()
            self.write(builder, value)

        self.read, self.write = first_read, first_write


class StructCodecs:
    """The codecs of all classes. `modules` has every struct of the schemas, as the library loads it, by
    name."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self._classes: dict[type, StructCodec] = {}

    def module(self, name: str) -> Any:
        """The struct `name`. Raises `InternalError` if no schema has it."""
        try:
            return self._modules[name]
        except KeyError:
            raise InternalError(f"no schema has a struct {name}") from None

    def struct_names(self) -> list[str]:
        """The names of all structs of the schemas."""
        return list(self._modules)

    def of_class(self, cls: type) -> StructCodec:
        """The codec of a dataclass."""
        codec = self._classes.get(cls)
        if codec is None:
            codec = StructCodec(partial(self._compile_read, cls), partial(self._compile_write, cls))
            self._classes[cls] = codec
        return codec

    def _of_value(self, hint: Any, schema: Any) -> StructCodec:
        """The codec of a dataclass, or of a union for which the schema has a struct."""
        if _is_union(hint):
            return self._of_union(typing.get_args(hint), struct_name(schema))
        if not dataclasses.is_dataclass(hint):
            raise InternalError(f"no schema can say {hint}")
        assert isinstance(hint, type)
        return self.of_class(hint)

    # ---- structs

    def _fields(self, cls: type) -> list[tuple[str, Any, Any]]:
        """(name, annotation, schema field) of every field of a class, in its order."""
        in_schema = self.module(cls.__name__).schema.fields
        hints = typing.get_type_hints(cls)
        names = [f.name for f in dataclasses.fields(cls)]
        if {camel_case(name) for name in names} != set(in_schema):
            raise InternalError(f"{cls.__name__} and its schema have different fields")
        return [(name, hints[name], in_schema[camel_case(name)]) for name in names]

    def _compile_write(self, cls: type) -> Write:
        fields = self._fields(cls)
        known: dict[str, Any] = {}
        lines = ["def write(builder, value):", "    put = builder._set_by_field"]
        # What is written first stands first: the order is part of a stored format.
        for place, (name, hint, field) in enumerate(sorted(fields, key=lambda each: each[1] not in _PLAIN)):
            if hint in _PLAIN:
                known[f"f{place}"] = field
                lines += [
                    f"    item = value.{name}",
                    f"    if item: put(f{place}, item)",  # a struct begins with zeros and nothing
                    f"    elif item is None: raise TypeError('{name} is None')",
                ]
            else:
                known[f"w{place}"] = self._field_writer(hint, field)
                lines.append(f"    w{place}(builder, value.{name})")
        return _function("write", lines, known)

    def _compile_read(self, cls: type) -> Read:
        known: dict[str, Any] = {"cls": cls, "Open": _open_twin(cls)}
        lines = ["def read(reader):", "    get, made = reader._get_by_field, Open()"]
        for place, (name, hint, field) in enumerate(self._fields(cls)):
            if hint in _PLAIN:
                known[f"f{place}"] = field
                lines.append(f"    made.{name} = get(f{place})")
            else:
                known[f"r{place}"] = self._field_reader(f"{cls.__name__}.{name}", hint, field)
                lines.append(f"    made.{name} = r{place}(reader)")
        return _function("read", [*lines, "    made.__class__ = cls", "    return made"], known)

    def _of_union(self, classes: tuple[type, ...], name: str) -> StructCodec:
        fields = self.module(name).schema.fields
        members = {lower_camel(cls.__name__): cls for cls in classes}
        if set(members) != set(fields):
            raise InternalError(f"the union {name} and its schema have different members")
        by_class = {cls: (fields[member], self.of_class(cls)) for member, cls in members.items()}
        by_name = {member: by_class[cls] for member, cls in members.items()}

        def write(builder: Any, value: Any) -> None:
            field, codec = by_class[type(value)]
            codec.write(builder._init_by_field(field), value)

        def read(reader: Any) -> Any:
            field, codec = by_name[reader._which_str()]
            if not reader._has_by_field(field):
                raise MalformedMessage(f"a {name} without content")
            return codec.read(reader._get_by_field(field))

        return StructCodec(lambda: read, lambda: write)

    # ---- fields

    def _field_writer(self, hint: Any, field: Any) -> WriteField:
        inner, optional = _without_none(hint)
        element = _element(inner)
        if element is not None:
            return self._list_writer(element, field)
        if _is_enum(inner):
            numbers = _enum_numbers(inner, field.schema)
            return lambda builder, value: builder._set_by_field(field, numbers[value])
        codec = self._of_value(inner, field.schema)

        def write(builder: Any, value: Any) -> None:
            if value is not None or not optional:
                codec.write(builder._init_by_field(field), value)

        return write

    def _list_writer(self, element: Any, field: Any) -> WriteField:
        if element in _PLAIN:

            def write_plain(builder: Any, values: tuple[Any, ...]) -> None:
                if values:
                    builder._set_by_field(field, list(values))

            return write_plain
        codec = self._of_value(element, field.schema.elementType)

        def write(builder: Any, values: tuple[Any, ...]) -> None:
            if values:
                slots = builder._init_by_field(field, len(values))
                for place, value in enumerate(values):
                    codec.write(slots[place], value)

        return write

    def _field_reader(self, what: str, hint: Any, field: Any) -> Read:
        """A function from the reader of a struct to the value of its `field`; `what` is for messages."""
        inner, optional = _without_none(hint)
        element = _element(inner)
        if element is not None:
            return self._list_reader(element, field)
        if _is_enum(inner):
            return _enum_reader(what, inner, field)
        codec = self._of_value(inner, field.schema)

        def read(reader: Any) -> Any:
            if reader._has_by_field(field):
                return codec.read(reader._get_by_field(field))
            if optional:
                return None
            raise MalformedMessage(f"{what} is missing")

        return read

    def _list_reader(self, element: Any, field: Any) -> Read:
        if element in _PLAIN:

            def read_plain(reader: Any) -> tuple[Any, ...]:
                return tuple(reader._get_by_field(field)) if reader._has_by_field(field) else ()

            return read_plain
        codec = self._of_value(element, field.schema.elementType)

        def read(reader: Any) -> tuple[Any, ...]:
            return tuple(map(codec.read, reader._get_by_field(field))) if reader._has_by_field(field) else ()

        return read


def _function(name: str, lines: list[str], known: dict[str, Any]) -> Callable[..., Any]:
    """The function that this source defines, with these names in it."""
    exec("\n".join(lines), known)  # field names are the only part of it that is not written here
    made: Callable[..., Any] = known[name]
    return made


def _open_twin(cls: type) -> type:
    """A class whose objects become those of a frozen dataclass with slots by naming it their class, when all fields are
    set: its own way, `object.__setattr__` for each field, takes several times as long. Raises `InternalError` for a
    class that does more when it is made."""
    if not hasattr(cls, "__slots__") or hasattr(cls, "__post_init__"):
        raise InternalError(f"{cls.__name__} is no dataclass with slots and without rules of its own")
    return type(cls.__name__, (), {"__slots__": tuple(field.name for field in dataclasses.fields(cls))})


def camel_case(name: str) -> str:
    """The schema's spelling of a field's name."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def lower_camel(name: str) -> str:
    """The name of a union's member, given that of its class."""
    return name[0].lower() + name[1:]


def struct_name(schema: Any) -> str:
    """The name of a struct, given its schema."""
    return str(schema.node.displayName).rpartition(":")[2]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _element(hint: Any) -> Any | None:
    """X of `tuple[X, ...]`, None of anything else."""
    arguments = typing.get_args(hint)
    return arguments[0] if typing.get_origin(hint) is tuple and arguments[1:] == (...,) else None


def _without_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` as X and true; any other annotation as itself and false."""
    arguments = typing.get_args(hint)
    if not _is_union(hint) or type(None) not in arguments:
        return hint, False
    members = tuple(argument for argument in arguments if argument is not type(None))
    return typing.Union[members], True  # noqa: UP007 (of a tuple)


def _enum_reader(what: str, cls: type[enum.Enum], field: Any) -> Read:
    members = {number: member for member, number in _enum_numbers(cls, field.schema).items()}

    def read(reader: Any) -> enum.Enum:
        number = reader._get_by_field(field).raw
        if number not in members:
            raise MalformedMessage(f"{what}: no {cls.__name__} has the number {number}")
        return members[number]

    return read


def _enum_numbers(cls: type[enum.Enum], schema: Any) -> dict[enum.Enum, int]:
    """The schema's numbers of an enum's members."""
    numbers = schema.enumerants
    if {camel_case(member.name.lower()) for member in cls} != set(numbers):
        raise InternalError(f"the enum {cls.__name__} and its schema have different members")
    return {member: numbers[camel_case(member.name.lower())] for member in cls}
