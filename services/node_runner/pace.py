"""How much an epoch takes, and when. Pure.

While fewer than `BUSY_EPOCHS` with writes are unfinished, a record is made as soon as anything waits, so that a lone
transaction waits for nothing. While there are so many, another one could only wait behind them: it is put off until one
of them is finished, or a whole record waits, or `LINGER_SECONDS` have passed, so that whoever writes hears soon even
where a node stands still. So epochs grow with the load, and what costs the same for every epoch, above all telling what
has changed of rows that many writes touch, is spread over more writes.

How large a record may be follows from how long nodes take: it grows while large epochs are done within `EPOCH_SECONDS`,
and shrinks when they take much longer. Fast nodes get much at a time, slow ones are never busy for long with one epoch.
"""

from __future__ import annotations

from collections import deque

BUSY_EPOCHS = 2
LINGER_SECONDS = 0.1
EPOCH_SECONDS = 0.25
"""Large epochs that take no longer than this let records grow; `_TOO_LONG` times that lets them shrink."""
_TOO_LONG = 4
_STEP = 2
_LARGE = 4
"""An epoch is large if its payloads are at least this part of a record: rows get places when they are handed out."""
_BYTES_MIN = 2**16


class Pace:
    """The pace of one sequencer."""

    def __init__(self, start: int, most: int) -> None:
        """`start`: the size of a record at first, in bytes as they are handed out; `most`: what it never exceeds."""
        self.record_bytes = start
        """A record takes what waits up to about this much."""
        self._least, self._most = min(start, _BYTES_MIN), max(start, most)
        self._unfinished: deque[int] = deque()
        self._handed_out: deque[tuple[int, int, float]] = deque()
        self._last_finished_at = float("-inf")
        self._waits_since: float | None = None

    def rest(self, waiting_bytes: int, now: float) -> float:
        """For how many seconds a record of what waits is to be put off, 0 if it is not."""
        if not waiting_bytes or len(self._unfinished) < BUSY_EPOCHS or waiting_bytes >= self.record_bytes:
            return 0.0
        if self._waits_since is None:
            self._waits_since = now
        return max(0.0, self._waits_since + LINGER_SECONDS - now)

    def on_proposed(self) -> None:
        """A record is being made of what has waited."""
        self._waits_since = None

    def on_record(self, epoch: int, size: int) -> None:
        """A record is there, with so many bytes of payloads."""
        if size:
            self._unfinished.append(epoch)

    def on_handed_out(self, epoch: int, size: int, now: float) -> None:
        """The nodes get this epoch, with so many bytes of payloads."""
        if size:
            self._handed_out.append((epoch, size, now))

    def on_finished(self, finished: int, now: float) -> None:
        """All nodes have finished the epochs up to this one."""
        while self._unfinished and self._unfinished[0] <= finished:
            self._unfinished.popleft()
        size, since = 0, now
        while self._handed_out and self._handed_out[0][0] <= finished:
            _, own, at = self._handed_out.popleft()
            size, since = size + own, min(since, at)
        if not size:
            return
        took = now - max(since, self._last_finished_at)
        self._last_finished_at = now
        if took >= _TOO_LONG * EPOCH_SECONDS:
            self.record_bytes = max(self._least, self.record_bytes // _STEP)
        elif took <= EPOCH_SECONDS and _LARGE * size >= self.record_bytes:
            self.record_bytes = min(self._most, self.record_bytes * _STEP)
