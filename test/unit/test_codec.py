"""Codec: classes and schemas agree, what is written is read back, and bad bytes are refused and nothing
else."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import pkgutil
import random
import tracemalloc
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_zero_common.checksum import xxh64
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol import codec, messages, program, stored
from dist_zero_common.protocol.messages import control, epochs, pieces, reading, requests, writing
from dist_zero_common.protocol.messages.envelope import ENVELOPE_BYTES_MAX, Envelope
from dist_zero_common.protocol.structs import camel_case, lower_camel, struct_name
from test.unit.strategies import instances

_FEW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


_MESSAGES = [
    importlib.import_module(f"{messages.__name__}.{found.name}")
    for found in pkgutil.iter_modules(messages.__path__)
]
_MODULES = [*_MESSAGES, program, stored]


def _classes() -> list[type]:
    found = [
        item
        for module in _MODULES
        for item in vars(module).values()
        if inspect.isclass(item) and item.__module__ == module.__name__ and dataclasses.is_dataclass(item)
    ]
    assert len(found) > 60
    return found


def _unions() -> dict[str, Any]:
    return {
        name: item
        for module in _MODULES
        for name, item in vars(module).items()
        if isinstance(item, types.UnionType)
    }


def test_every_class_has_its_struct_and_every_struct_its_class() -> None:
    """Proves that nothing is on one side alone, for dataclasses and for unions of them."""
    in_schemas = set(codec.codecs().struct_names())
    assert in_schemas == {cls.__name__ for cls in _classes()} | set(_unions())


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_class_and_struct_have_the_same_fields_in_the_same_order(cls: type) -> None:
    """Proves that names, order and kinds of fields agree, so that a change on one side alone is noticed."""
    fields = codec.codecs().module(cls.__name__).schema.fields
    hints = typing.get_type_hints(cls)
    assert [camel_case(f.name) for f in dataclasses.fields(cls)] == list(fields)
    for f in dataclasses.fields(cls):
        wire = fields[camel_case(f.name)]
        assert _wire_kind(wire.proto.slot.type, wire) == _class_kind(hints[f.name]), f.name


def _wire_kind(wire: Any, field: Any, schema: Any = None) -> str:
    kind = str(wire.which())
    if kind == "list":
        return f"[{_wire_kind(wire.list.elementType, field, field.schema.elementType if _nested(wire) else None)}]"
    if kind in ("struct", "enum"):
        return struct_name(schema or field.schema)
    return (
        "int"
        if kind.lstrip("u").startswith("int")
        else {"float64": "float", "text": "str", "data": "bytes"}.get(kind, kind)
    )


def _nested(wire: Any) -> bool:
    return str(wire.list.elementType.which()) in ("struct", "enum")


def _class_kind(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"[{_class_kind(typing.get_args(hint)[0])}]"
    if isinstance(hint, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        if len(members) == 1:
            return _class_kind(members[0])
        (name,) = [name for name, union in _unions().items() if set(typing.get_args(union)) == set(members)]
        return name.rpartition(".")[2]
    return str(hint.__name__)


@pytest.mark.parametrize("name", _unions())
def test_union_and_struct_have_the_same_members_in_the_same_order(name: str) -> None:
    """Proves that a new message stands last in both (numbers are stored), and that members are named after
    classes."""
    members = [lower_camel(cls.__name__) for cls in typing.get_args(_unions()[name])]
    assert members == list(codec.codecs().module(name).schema.fields)


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_round_trip(cls: type) -> None:
    """Proves that reading what was written gives an equal value, for any value of any class."""

    @_FEW
    @given(instances(cls))
    def check(value: object) -> None:
        data = codec.encode(value)
        back: Any = codec.decode(cls, data)
        assert back == value
        assert codec.encode(back) == data

    check()


def test_round_trip_of_many_segments_and_large_fields() -> None:
    """Proves that size alone breaks nothing: many small messages, and a field near the largest allowed."""
    many = Envelope("s", "r", tuple(writing.Transaction(1, i, b"x" * 200, "r") for i in range(3000)))
    large = Envelope("s", "r", (writing.Transaction(1, 1, bytes(writing.TRANSACTION_BYTES_MAX), "reply"),))
    for envelope in (many, large):
        assert codec.decode(Envelope, codec.encode(envelope)) == envelope


def test_what_is_read_is_as_frozen_as_what_was_made() -> None:
    """Readers fill an object of another class before it becomes what it is."""
    read = codec.decode(pieces.ShardMap, codec.encode(pieces.ShardMap(3, (2**64 - 1,), ("a",))))
    assert type(read) is pieces.ShardMap
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.version = 4  # type: ignore[misc]


def test_fields_of_other_kinds_are_written_behind_plain_ones() -> None:
    """Where a field's content stands follows from when it is written: of a stored object, those that were written
    before and those that are written now have the same bytes."""
    data = codec.encode(
        pieces.WritesBlob(
            1, pieces.WriteKind.PUT, (7,), pieces.BatchBlob(0, b"", ()), b"tttttttt", b"rrrrrrrr"
        )
    )
    places = [data.index(b"tttttttt"), data.index(b"rrrrrrrr"), data.index(b"\x07\0\0\0", codec.SEAL_SIZE)]
    assert places == sorted(places)


@pytest.mark.parametrize("sizes", [[], [1], [300], [5_000] * 3, [200] * 3_000, [100_000, 1, 2**20]], ids=str)
def test_what_is_written_is_what_the_library_writes(sizes: list[int]) -> None:
    """Proves that putting the segments together by hand, which saves a copy, makes the library's own bytes."""
    envelope = Envelope(
        "s", "r", tuple(writing.Transaction(1, i, b"x" * size, "r") for i, size in enumerate(sizes))
    )
    builder = codec.codecs().module("Envelope").new_message()
    codec.codecs().of_class(Envelope).write(builder, envelope)
    assert bytes(codec.unseal(codec.encode(envelope))) == builder.to_bytes()


def test_encoding_is_a_stored_format() -> None:
    """Proves that the bytes of a known object are what they were when the format was fixed, and that those of an
    object that was written before fields were added still mean the same."""
    record = reading.EpochFinished(7, 2**40)
    assert (
        codec.encode(record).hex()
        == "445a010020000000e54b01eb30cb870a0000000003000000000000000200000007000000000000000000000000010000"
    )
    base = stored.Base(7, 1, 1_000_000, pieces.ShardMap(1, (2**64 - 1,), ("node-0",)), b"graph")
    written_before = bytes.fromhex(
        "445a010070000000124f853b733e5ef5000000000d0000000000000003000200"
        "0700000000000000010000000000000040420f00000000000800000001000200"
        "010000002a00000067726170680000000100000000000000050000000d000000"
        "050000000e000000ffffffffffffffff010000003a0000006e6f64652d300000"
    )
    assert codec.decode(stored.Base, written_before) == base


@pytest.mark.parametrize(
    "value",
    [
        writing.Committed(-1, 1, 1),
        writing.Committed(2**64, 1, 1),
        epochs.EmptyRows("p", 1, 1, 2**32, 1, b""),
        writing.OpenSession(1, "lone \ud800", "r"),
        writing.OpenSession(1, None, "r"),  # type: ignore[arg-type]
        writing.Transaction(1, 1, "text", 5),  # type: ignore[arg-type]
        Envelope("s", "r", (stored.Base(1, 1, 1, pieces.ShardMap(1, (), ()), b""),)),  # type: ignore[arg-type]
        control.HostNode(1, "p", 1, None, 1, 1, b""),  # type: ignore[arg-type]
        pieces.Payload(()).writes,
        writing.Transaction(1, 1, bytes(ENVELOPE_BYTES_MAX), "r"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_fit_the_schema_is_our_bug(value: object) -> None:
    """Proves that a value that cannot be sent raises `InternalError` where it is sent, not at the
    receiver."""
    with pytest.raises(InternalError):
        codec.encode(value)


# ---- bad bytes ---------------------------------------------------------------------------------------------


def _sealed_again(body: bytes) -> bytes:
    return codec.seal(body)


def _body(value: object) -> bytes:
    return codec.encode(value)[codec.SEAL_SIZE :]


def _refused(cls: type, data: bytes) -> bool:
    """Whether `decode` refuses; anything but a value or `MalformedMessage` fails the test."""
    try:
        codec.decode(cls, data)
    except MalformedMessage as e:
        assert str(e) and "\n" not in str(e)
        return True
    return False


@_FEW
@given(instances(Envelope), st.data())
def test_one_changed_bit_is_noticed(envelope: Envelope, data: st.DataObject) -> None:
    """Proves that damage on the way is found whatever it hits."""
    good = codec.encode(envelope)
    at = data.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[at // 8] ^= 1 << at % 8
    assert _refused(Envelope, bytes(bad))


def test_truncated_and_extended_messages_are_refused() -> None:
    """Proves that every prefix of a message is refused, and a message with more behind it."""
    good = codec.encode(Envelope("system", "runner", (writing.Committed(1, 2, 3),)))
    assert all(_refused(Envelope, good[:end]) for end in range(len(good)))
    assert _refused(Envelope, good + bytes(8))


@pytest.mark.parametrize("damage", ["bits", "words", "truncated", "noise", "pointers"])
@pytest.mark.parametrize("name", ["Envelope", "Payload", "LogRecord", "Base", "GraphBlob"])
def test_fuzzed_messages_are_read_or_refused(name: str, damage: str) -> None:
    """Proves that damage behind a right checksum ends in a value or in `MalformedMessage`, never in anything
    else."""
    (cls,) = [cls for cls in _classes() if cls.__name__ == name]
    chance = random.Random(f"{name} {damage}")
    refused = 0

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(instances(cls))
    def check(value: object) -> None:
        nonlocal refused
        body = _body(value)
        for _ in range(12):
            refused += _refused(cls, _sealed_again(_damaged(body, damage, chance)))

    check()
    assert refused > 20


def _damaged(body: bytes, damage: str, chance: random.Random) -> bytes:
    bad = bytearray(body)
    if damage == "noise":
        return chance.randbytes(8 * chance.randrange(40))
    if damage == "truncated":
        return body[: chance.randrange(len(body))]
    for _ in range(chance.randrange(1, 4)):
        if damage == "bits":
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
            continue
        at = 8 * chance.randrange(len(bad) // 8)
        if damage == "words":
            bad[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), chance.randbytes(8)))
        else:  # a pointer to somewhere near, of any kind and length
            offset, rest = chance.randrange(-len(body) // 8, len(body) // 8), chance.getrandbits(32)
            word = ((offset & 0x3FFFFFFF) << 2 | chance.randrange(4)) | rest << 32
            bad[at : at + 8] = word.to_bytes(8, "little")
    return bytes(bad)


def _message(*words: int) -> bytes:
    """A sealed message of one segment with these words."""
    data = b"".join(word.to_bytes(8, "little") for word in words)
    return codec.seal((0).to_bytes(4, "little") + len(words).to_bytes(4, "little") + data)


def _struct(offset: int, data_words: int, pointers: int) -> int:
    return (offset & 0x3FFFFFFF) << 2 | data_words << 32 | pointers << 48


def _list(offset: int, kind: int, count: int) -> int:
    return (offset & 0x3FFFFFFF) << 2 | 1 | kind << 32 | count << 35


_EMPTY_STRUCTS = (2**29 - 1) << 2


_HOSTILE: dict[str, tuple[type, bytes]] = {
    "half a billion empty structs": (
        pieces.Payload,
        _message(_struct(0, 0, 1), _list(0, 7, 0), _EMPTY_STRUCTS),
    ),
    "half a billion nothings": (pieces.Payload, _message(_struct(0, 0, 1), _list(0, 0, 2**29 - 1))),
    "data longer than the message": (
        pieces.ColumnBlob,
        _message(_struct(0, 0, 3), _list(2, 2, 2**29 - 1), 0, 0, 0),
    ),
    "a list that contains itself": (pieces.Payload, _message(_struct(0, 0, 1), _list(-1, 6, 1), 0)),
    "a root that is itself": (pieces.Payload, _message(_struct(-1, 0, 1))),
    "a root that is a list": (pieces.Payload, _message(_list(0, 2, 8), 0)),
    "a root behind the end": (pieces.Payload, _message(_struct(99, 0, 1))),
    "a far pointer to no segment": (pieces.Payload, _message(2 | 7 << 32)),
    "a capability": (pieces.Payload, _message(3)),
    "no root": (Envelope, _message()),
    "four billion segments": (Envelope, codec.seal(b"\xff" * 64)),
}


@pytest.mark.parametrize("what", _HOSTILE)
def test_hostile_message_is_refused(what: str) -> None:
    """Proves that small messages that claim to be huge, or are knotted, are refused, and cost no memory."""
    cls, data = _HOSTILE[what]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            codec.decode(cls, data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_amplified_message_is_refused() -> None:
    """Proves that one large text to which a thousand pointers lead is not copied a thousand times."""
    count, length = 1000, 8 * 4096
    root = [_struct(0, 1, 2), 1, _list(1, 6, count), 0]
    pointers = [_list(count - place - 1, 2, length) for place in range(count)]
    with pytest.raises(MalformedMessage, match="limit"):
        codec.decode(reading.SnapshotRequest, _message(*root, *pointers, *[0] * (length // 8)))


def test_unknown_enum_and_union_numbers_are_refused() -> None:
    """Proves that a number that no member has is refused by name, not taken for another member."""
    blob = pieces.WritesBlob(0, pieces.WriteKind.APPEND, (), pieces.BatchBlob(0, b"", ()), b"", b"")
    body = bytearray(_body(blob))
    at = body.index((3).to_bytes(2, "little"), 16)
    body[at] = 9
    with pytest.raises(MalformedMessage, match="no WriteKind has the number 9"):
        codec.decode(pieces.WritesBlob, codec.seal(bytes(body)))


def test_struct_that_must_be_there_is_not_invented() -> None:
    """Proves that an absent struct is refused where the class has no None, and None where it has."""
    located = requests.Located(1, "p", requests.ProgramState.STARTING, b"", None, "")
    assert codec.decode(requests.Located, codec.encode(located)).placement is None
    empty = codec.codecs().module("Got").new_message().to_bytes()
    with pytest.raises(MalformedMessage, match=r"Got\.row is missing"):
        codec.decode(reading.Got, codec.seal(empty))


def test_message_of_no_kind_is_refused() -> None:
    """Proves that a union without content is not taken for its first member with nothing in it."""
    envelope = codec.codecs().module("Envelope").new_message()
    envelope.init("messages", 1)
    with pytest.raises(MalformedMessage, match="Message without content"):
        codec.decode(Envelope, codec.seal(envelope.to_bytes()))


def test_too_large_a_message_is_refused_before_it_is_looked_at() -> None:
    """Proves that the bound on size comes first; what is in the log may be larger than a message."""
    with pytest.raises(MalformedMessage, match="too many"):
        codec.decode(Envelope, bytes(ENVELOPE_BYTES_MAX + 1))
    assert codec.size_max(stored.LogRecord) > 2 * ENVELOPE_BYTES_MAX


def test_seal_says_what_is_wrong() -> None:
    """Proves that wrong magic, version, length and checksum are told apart."""
    good = codec.seal(b"12345678")
    assert bytes(codec.unseal(good)) == b"12345678"
    assert int.from_bytes(good[8:16], "little") == xxh64(b"12345678")
    for at, what in ((0, "not a message"), (2, "format version"), (4, "instead of"), (9, "bad checksum")):
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(MalformedMessage, match=what):
            codec.unseal(bytes(bad))


def test_schemas_are_found_beside_their_package() -> None:
    """Proves that schemas are package data: found by import, wherever the package is installed."""
    import schemas

    assert {path.name for path in Path(schemas.__file__).parent.glob("*.capnp")} >= {"messages.capnp"}


def test_enum_members_are_in_the_schemas_order() -> None:
    """Proves that enums are numbered alike on both sides."""
    owners = {
        "WriteKind": ("WritesBlob", "kind"),
        "ProgramState": ("Located", "state"),
        "Fate": ("ChangeLine", "fate"),
    }
    found = {
        item.__name__: item
        for module in _MESSAGES
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, enum.Enum)
    }
    assert set(found) == set(owners)
    for name, cls in found.items():
        struct, field = owners[name]
        numbers = codec.codecs().module(struct).schema.fields[field].schema.enumerants
        assert [camel_case(member.name.lower()) for member in cls] == list(numbers)
