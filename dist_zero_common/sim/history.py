"""What happened in a simulation, in order: the proof that two runs were the same run.

Every publish, delivery, ack and store operation is fed into one rolling hash together with its virtual
time. Equal digests mean equal histories, byte for byte. The hash holds everything; the text of only the
newest records is kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

#: Records kept as text for messages of failed runs.
RECORDS_KEPT = 200
#: The digests of the newest bodies up to this size are kept: what is published is soon delivered.
_SMALL_BYTES = 8 * 1024


@dataclass(slots=True)
class Counter:
    """How many records of one kind there were, and the bytes that they carried."""

    records: int = 0
    bytes: int = 0


class History:
    """The ordered record of one run."""

    def __init__(self) -> None:
        self.counters: dict[str, Counter] = {}
        self._hash = blake2b(digest_size=16)
        self._newest: deque[str] = deque(maxlen=RECORDS_KEPT)

    def record(self, seconds: float, kind: str, place: str, detail: str = "", body: bytes = b"") -> None:
        """Add that a thing of `kind` happened at `seconds` of virtual time, to a queue or object `place`."""
        counter = self.counters.get(kind)
        if counter is None:
            counter = self.counters[kind] = Counter()
        counter.records += 1
        counter.bytes += len(body)
        digest = _small_digest(body) if len(body) <= _SMALL_BYTES else _digest(body)
        line = f"{seconds!r} {kind} {place} {detail} {len(body)} {digest}\n"
        self._hash.update(line.encode())
        self._newest.append(line)

    def digest(self) -> str:
        """32 hexadecimal digits that stand for everything recorded so far."""
        return self._hash.copy().hexdigest()

    def newest(self) -> list[str]:
        """The newest records, oldest first: `seconds kind place detail length digest-of-body`."""
        return [line.rstrip("\n") for line in self._newest]


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=8).hexdigest() if body else "-"


_small_digest = lru_cache(256)(_digest)
