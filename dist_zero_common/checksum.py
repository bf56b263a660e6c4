"""XXH64, seed 0: the one hash of stored formats (keys, checksums, fingerprints). The only importer of xxhash.

It is fast and the same everywhere; it protects against accidents and damage, not against people.
"""

from __future__ import annotations

from collections.abc import Callable

import xxhash

xxh64: Callable[[bytes | memoryview], int] = xxhash.xxh64_intdigest
"""The 64-bit hash of bytes, as a number from 0 to 2⁶⁴ − 1."""
