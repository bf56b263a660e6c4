"""What `app.source` declares, checked where it is written.

A source brings two collections of its own into the program, for the ids of the messages that have been applied: of
the queue `payments`, the dataset `_payments_applied` and the view `_payments_applied_ids` of it (see `ledger.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dist_zero.bridge.foreign import Message
from dist_zero.expr.checked import unknown_column
from dist_zero.expr.location import Refused
from dist_zero.row import Row
from dist_zero.types import RowType

FORMATS = ("json", "msgpack")
QUEUE_BYTES_MAX = 255
"""AMQP has no longer names."""
_ASIDE = ".set-aside"

Decode = str | Callable[[Message], Any]
"""`json`, `msgpack`, or a function from a message to a row, rows or None."""
Key = str | Callable[[Message], Any] | None
"""A column, a function from a message to a text or number, or None: the message-id."""


class AppliedMessage(Row):
    """A message that has been applied, by its id; `at`: when."""

    id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """A queue of the user's whose messages become rows of a dataset. `location` is the user's file and line."""

    dataset: str
    queue: str
    decode: Decode
    key: Key
    set_aside: str
    remember_us: int
    location: str

    @property
    def applied(self) -> str:
        """The dataset of the ids of applied messages."""
        return f"_{_plain(self.queue, '_')}_applied"

    @property
    def applied_view(self) -> str:
        """The view that it is read by."""
        return f"{self.applied}_ids"

    @property
    def client_id(self) -> str:
        """The name of the bridge's sessions: a second bridge of this queue ends the first one's."""
        return f"bridge-{_plain(self.queue, '-')}"


def checked_source(
    dataset: str,
    row_type: RowType,
    *,
    queue: object,
    decode: object,
    key: object,
    set_aside: object,
    remember_us: int,
    location: str,
) -> Source:
    """The source of these parts; raises `Refused`."""
    name = _queue_name("queue", queue)
    aside = f"{name}{_ASIDE}" if set_aside is None else _queue_name("set_aside", set_aside)
    if aside == name:
        raise Refused(f"source: messages of {name!r} cannot be set aside in the same queue")
    if len(aside.encode()) > QUEUE_BYTES_MAX:
        raise Refused(f"source: {aside!r:.80}… is too long for a queue; name another one with set_aside=")
    if not callable(decode) and decode not in FORMATS:
        raise Refused(
            f"source: decode={decode!r:.80} is none of {', '.join(map(repr, FORMATS))} and no function of a message"
        )
    if not (key is None or isinstance(key, str) or callable(key)):
        raise Refused(
            f"source: key={key!r:.80}; name a column, give a function of a message, or leave it out to go by the"
            " messages' message-id"
        )
    if isinstance(key, str) and key not in row_type.names:
        raise Refused(unknown_column(key, row_type, f"dataset {dataset!r}, for the key of its source"))
    if remember_us <= 0:
        raise Refused("source: remember has to be longer than nothing")
    return Source(dataset, name, decode, key, aside, remember_us, location)


def _queue_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name.encode()) > QUEUE_BYTES_MAX:
        raise Refused(
            f"source: {what}={name!r:.80} is no name of a queue: that is a text of 1 to {QUEUE_BYTES_MAX} bytes"
        )
    return name


def _plain(queue: str, gap: str) -> str:
    """The name of a queue as far as letters, digits and gaps say it; a hash of it if they say nothing."""
    plain = re.sub(r"[^a-z0-9]+", gap, queue.lower())[:80].strip(gap)
    return plain or hashlib.blake2b(queue.encode(), digest_size=8).hexdigest()
