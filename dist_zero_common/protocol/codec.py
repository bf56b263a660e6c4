"""Messages and stored objects to bytes and back: the only importer of pycapnp, which brings its own compiler.

`structs.py` says how classes and schemas go together. What is written is *sealed*: 16 bytes in front say what
it is and hold a checksum of the rest, so that damage is noticed before anything is parsed:

    bytes 0-3     "DZ", then the version of this format, 1
    bytes 4-7     length of the rest
    bytes 8-15    XXH64 of the rest

all little-endian. Whatever is wrong with bytes that came from elsewhere, `decode` raises `MalformedMessage`
and nothing else. The library checks pointers and counts as it follows them. Every field is copied out once, so
reading a good message touches each of its bytes once; a bad one can point to the same bytes again and again,
and is refused when twice its size has been read, or when it is nested more than 16 deep.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import capnp

import schemas
from dist_zero_common.checksum import xxh64, xxh64_of_all
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol.messages.envelope import ENVELOPE_BYTES_MAX
from dist_zero_common.protocol.stored import (
    Base,
    CheckpointManifest,
    CheckpointPart,
    LogRecord,
)
from dist_zero_common.protocol.structs import StructCodec, StructCodecs

STORED_BYTES_MAX = 256 * 2**20
"""Largest object of the log. A record holds many transactions, so it may be larger than a message, as may one row of a
checkpoint: a join's has the texts of both sides."""

FORMAT_VERSION = 1
SEAL_SIZE = 16

_STORED = (LogRecord, Base, CheckpointManifest, CheckpointPart)
_T = TypeVar("_T")
_SEAL = struct.Struct("<2sHIQ")
_TABLE_OF_ONE = struct.Struct("<2I")
_MAGIC = b"DZ"
_NESTING_MAX = 16
_TRAVERSAL_FACTOR = 2
_TRAVERSAL_WORDS_MIN = 64


def encode(value: object) -> bytes:
    """The sealed bytes of a dataclass that has a schema. Raises `InternalError` if it does not fit that, or
    is larger than `decode` would take."""
    cls = type(value)
    builder = codecs().module(cls.__name__).new_message()
    try:
        codecs().of_class(cls).write(builder, value)
    except (capnp.KjException, TypeError, ValueError, OverflowError, AttributeError, LookupError) as e:
        raise InternalError(f"{cls.__name__} does not fit its schema: {_reason(e)}") from e
    data = seal(*_pieces(builder))
    if len(data) > size_max(cls):
        raise InternalError(f"a {cls.__name__} of {len(data)} bytes: at most {size_max(cls)} are allowed")
    return data


def decode(cls: type[_T], data: bytes) -> _T:
    """The dataclass in these bytes, whoever sent them. Raises `MalformedMessage` and nothing else."""
    codec, module = codecs().of_class(cls), codecs().module(cls.__name__)
    if len(data) > size_max(cls):
        raise MalformedMessage(f"{len(data)} bytes are too many for a {cls.__name__}")
    body = unseal(data)
    if len(body) % 8:
        raise MalformedMessage(f"{len(body)} bytes are no whole number of words")
    words = len(body) // 8 * _TRAVERSAL_FACTOR + _TRAVERSAL_WORDS_MIN
    try:
        value: _T = _read(codec, module, body, words)
    except MalformedMessage:
        raise
    except InternalError:  # the schema's fault, not the sender's
        raise
    except Exception as e:
        raise MalformedMessage(f"no {cls.__name__}: {_reason(e)}") from None
    return value


def _read(codec: StructCodec, module: Any, body: memoryview, words: int) -> Any:
    """Almost every message is one segment, which is said by the eight bytes in front of it; for that there is a shorter
    way."""
    if len(body) >= 8 and _TABLE_OF_ONE.unpack_from(body) == (0, len(body) // 8 - 1):
        return codec.read(
            module.from_segments([body[8:]], traversal_limit_in_words=words, nesting_limit=_NESTING_MAX)
        )
    with module.from_bytes(body, traversal_limit_in_words=words, nesting_limit=_NESTING_MAX) as reader:
        return codec.read(reader)


def size_max(cls: type) -> int:
    """The most bytes that a sealed `cls` may have."""
    return STORED_BYTES_MAX if cls in _STORED else ENVELOPE_BYTES_MAX


def seal(*pieces: bytes) -> bytes:
    """The pieces, one behind the other, behind their length and checksum."""
    size = sum(map(len, pieces))
    return b"".join((_SEAL.pack(_MAGIC, FORMAT_VERSION, size, xxh64_of_all(pieces)), *pieces))


def unseal(data: bytes) -> memoryview:
    """What was sealed. Raises `MalformedMessage` if it is damaged, or never was sealed."""
    if len(data) < SEAL_SIZE:
        raise MalformedMessage(f"{len(data)} bytes are too few for any message")
    magic, version, length, checksum = _SEAL.unpack_from(data)
    if magic != _MAGIC:
        raise MalformedMessage("not a message of DistZero")
    if version != FORMAT_VERSION:
        raise MalformedMessage(f"format version {version}; this is version {FORMAT_VERSION}")
    body = memoryview(data)[SEAL_SIZE:]
    if length != len(body):
        raise MalformedMessage(f"{len(body)} bytes instead of {length}: cut short or too long")
    if xxh64(body) != checksum:
        raise MalformedMessage("bad checksum")
    return body


def _pieces(builder: Any) -> list[bytes]:
    """What `to_bytes` of the library returns, in pieces that were copied once (it copies twice): the number of segments
    less one and the words of each, as 32-bit numbers filled up to whole words, then the segments."""
    segments: list[bytes] = builder.to_segments()
    if len(segments) == 1:
        return [_TABLE_OF_ONE.pack(0, len(segments[0]) // 8), segments[0]]
    table = [len(segments) - 1, *(len(segment) // 8 for segment in segments)]
    if len(table) % 2:
        table.append(0)
    return [struct.pack(f"<{len(table)}I", *table), *segments]


@cache
def codecs() -> StructCodecs:
    """The codecs of everything in the schemas, which are compiled when this is first called."""
    folder = Path(schemas.__file__).parent
    modules: dict[str, object] = {}
    for path in sorted(folder.glob("*.capnp")):
        loaded = vars(capnp.load(str(path), imports=[str(folder)]))
        modules |= {name: item for name, item in loaded.items() if hasattr(item, "new_message")}
    return StructCodecs(modules)


def _reason(error: Exception) -> str:
    """The first line of what the library says, which goes on with addresses of its stack."""
    return str(error).partition("\n")[0][:200] or type(error).__name__
