"""XXH64, seed 0: the one hash of stored formats (keys, checksums, fingerprints). The only importer of xxhash.

It is fast and the same everywhere; it protects against accidents and damage, not against people. So does XXH3, which is
several times as fast: it is for what is compared within one process and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import xxhash

xxh64: Callable[[bytes | memoryview], int] = xxhash.xxh64_intdigest
"""The 64-bit hash of bytes, as a number from 0 to 2⁶⁴ − 1."""

xxh3_128: Callable[[bytes | memoryview], bytes] = xxhash.xxh3_128_digest
"""The 128-bit XXH3 of bytes, as 16 bytes."""


def xxh64_of_all(pieces: Iterable[bytes | memoryview]) -> int:
    """`xxh64` of the pieces, one behind the other."""
    hashed = xxhash.xxh64()
    for piece in pieces:
        hashed.update(piece)
    return hashed.intdigest()
