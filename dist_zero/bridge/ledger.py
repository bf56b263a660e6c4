"""What one session of a bridge knows about messages: which are applied, which wait, which are on their way.

No I/O and no clock: the bridge tells it what comes and what was committed, and asks what to write next. `bridge.py` has
the theory. Ids are forgotten when their time is over, counted from when they were applied; but none in the
first hour of a session, because what an earlier bridge applied and could not ack any more comes again then, however
long that bridge has been gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from dist_zero.types import Row as StoredRow

PART_MESSAGES = 1_000
PART_BYTES = 2**20
"""A transaction takes no further message beyond these; a larger message has one to itself."""
FORGET_MAX = 2 * PART_MESSAGES
"""Ids forgotten per transaction: more than can come in, so that what piled up gets less."""
GRACE_US = 3_600 * 1_000_000

Receipt = TypeVar("Receipt")


@dataclass(slots=True)
class Entry(Generic[Receipt]):
    """A message that is to be applied; `receipts` are its copies, all of which are to be acked when it is."""

    id: str
    rows: list[StoredRow]
    size: int
    receipts: list[Receipt]


@dataclass(frozen=True, slots=True)
class Part(Generic[Receipt]):
    """What one transaction writes: the rows and ids of these messages, applied at a time; ids to forget."""

    entries: list[Entry[Receipt]]
    forget: list[str]
    at_us: int

    def halves(self) -> tuple[Part[Receipt], Part[Receipt]]:
        """The same in two transactions."""
        middle = len(self.entries) // 2
        return (
            Part(self.entries[:middle], self.forget, self.at_us),
            Part(self.entries[middle:], [], self.at_us),
        )


@dataclass(slots=True)
class Counts:
    """What a bridge has done, over all its sessions. `repeated`: copies of messages that were applied already or on
    their way; `empty`: messages that stood for no rows."""

    applied: int = 0
    rows: int = 0
    repeated: int = 0
    empty: int = 0
    set_aside: int = 0
    sessions: int = 0


@dataclass(slots=True)
class Ledger(Generic[Receipt]):
    """The messages of one session, which begins at `opened_us` with what a snapshot says is `applied`, by time."""

    remember_us: int
    opened_us: int
    applied: dict[str, int]
    counts: Counts = field(default_factory=Counts)
    _pending: dict[str, Entry[Receipt]] = field(default_factory=dict)
    _waiting: deque[Entry[Receipt]] = field(default_factory=deque)
    _waiting_bytes: int = 0

    @classmethod
    def of(
        cls, applied: Iterable[tuple[str, int]], *, remember_us: int, opened_us: int, counts: Counts
    ) -> Ledger[Receipt]:
        """The ledger of a new session; `applied` are the pairs of id and time in the snapshot."""
        oldest_first = sorted(applied, key=lambda pair: (pair[1], pair[0]))
        counts.sessions += 1
        return cls(remember_us, opened_us, dict(oldest_first), counts)

    def is_applied(self, message_id: str) -> bool:
        """Whether the message is committed: its copies are to be acked, and nothing else."""
        if message_id not in self.applied:
            return False
        self.counts.repeated += 1
        return True

    def joins_pending(self, message_id: str, receipt: Receipt) -> bool:
        """Whether the message waits or is on its way; this copy of it will be acked when it is committed."""
        entry = self._pending.get(message_id)
        if entry is None:
            return False
        entry.receipts.append(receipt)
        self.counts.repeated += 1
        return True

    def take(self, message_id: str, rows: list[StoredRow], size: int, receipt: Receipt) -> None:
        """A message that nobody has seen is to be applied."""
        entry = self._pending[message_id] = Entry(message_id, rows, size, [receipt])
        self._waiting.append(entry)
        self._waiting_bytes += size

    @property
    def waiting(self) -> int:
        """How many messages wait for a transaction."""
        return len(self._waiting)

    def has_whole_part(self) -> bool:
        """Whether more waits than fits one transaction."""
        return len(self._waiting) >= PART_MESSAGES or self._waiting_bytes >= PART_BYTES

    def next_part(self, now_us: int) -> Part[Receipt]:
        """What the next transaction is to write; it may be nothing."""
        entries: list[Entry[Receipt]] = []
        size = 0
        while self._waiting and len(entries) < PART_MESSAGES:
            size += self._waiting[0].size
            if entries and size > PART_BYTES:
                break
            entries.append(self._waiting.popleft())
            self._waiting_bytes -= entries[-1].size
        return Part(entries, self._forgotten(now_us), now_us)

    def committed(self, part: Part[Receipt]) -> list[Receipt]:
        """The transaction is in the log: returns what may be acked now."""
        done: list[Receipt] = []
        for entry in part.entries:
            del self._pending[entry.id]
            self.applied[entry.id] = part.at_us
            self.counts.applied += 1
            self.counts.rows += len(entry.rows)
            done += entry.receipts
        return done

    def withdraw(self, entry: Entry[Receipt]) -> list[Receipt]:
        """The message cannot be applied: returns its copies."""
        del self._pending[entry.id]
        return entry.receipts

    def _forgotten(self, now_us: int) -> list[str]:
        """The oldest ids whose time is over; they are not known any more from here on."""
        if now_us < self.opened_us + GRACE_US:
            return []
        over = now_us - self.remember_us
        forgotten = []
        for message_id, at_us in islice(self.applied.items(), FORGET_MAX):
            if at_us > over:
                break
            forgotten.append(message_id)
        for message_id in forgotten:
            del self.applied[message_id]
        return forgotten
