"""Clients and the sequencer, of writing: a session, its numbered transactions, and whether the log has them."""

from __future__ import annotations

from dataclasses import dataclass

TRANSACTION_BYTES_MAX = 15 * 2**20
"""Largest transaction, as it is handed out: its payload and 16 bytes per row. The broker's 16 MiB less room for the
envelope and for the blocks into which the writes are divided."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Start a session under a client name; deposes the older session of that name."""

    request: int
    client: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """`committed`: the last number that sessions of this client name have committed, 0 for none."""

    request: int
    session: int
    committed: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """Transaction `number` (1, 2, 3 …) of a session; `payload` is an encoded `Payload`."""

    session: int
    number: int
    payload: bytes
    reply_to: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The log has this transaction, in this epoch."""

    session: int
    number: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ResendFrom:
    """The sequencer lacks this number of the session; please send it and what follows again."""

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class SessionUnknown:
    """No such session: expired, deposed, or never opened."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class TransactionRefused:
    """The transaction breaks the row types or a limit; nothing of it was recorded."""

    session: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The system is behind; the transaction was not kept. Send it again after this time."""

    session: int
    number: int
    retry_after_ms: int
