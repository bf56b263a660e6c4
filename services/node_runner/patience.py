"""How long to wait before asking for what may be lost. Slow is not lost: each time longer. Pure."""

from __future__ import annotations

ASK_SECONDS, ASK_SECONDS_MAX = 2.0, 16.0


class Patience:
    """Watches over one thing that is waited for. `what` tells it from the next one."""

    __slots__ = ("_due", "_pause", "_what")

    def __init__(self) -> None:
        self._what: object = None
        self._due = self._pause = 0.0

    def is_over(self, what: object, now: float) -> bool:
        """Whether to ask now, given what is waited for (None: nothing): when it has been the same for 2 seconds, then
        after 4 more, then 8 …, every 16 at the latest. `now` is in seconds."""
        if what is None or what != self._what:
            self._what, self._pause = what, ASK_SECONDS
            self._due = now + self._pause
            return False
        if now < self._due:
            return False
        self._pause = min(2 * self._pause, ASK_SECONDS_MAX)
        self._due = now + self._pause
        return True
