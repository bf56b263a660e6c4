"""Whose wish counts, when several people ask for what cannot be all at once: the last one's. Pure.

Whoever asks for a number of nodes goes on asking until it is so. That may not be taken for a new wish, or two who ask
would fight for ever. So a wish is answered when the schedulers' log has it, not before, and from then on whoever waits
says that he asks again: what he wished for has come true, is on its way, or has been replaced, whichever scheduler
leads.

A request that comes a second time is no wish, whatever it says: a broker may deliver it late.
"""

from __future__ import annotations

REQUESTS_REMEMBERED = 10_000

Asker = tuple[str, int]
"""A request's reply inbox and number: the same when it is asked again."""


class Wishes:
    """Those that one leading scheduler has heard."""

    def __init__(self, remembered: int = REQUESTS_REMEMBERED) -> None:
        self._remembered = remembered
        self._heard: dict[Asker, None] = {}

    def is_new(self, asker: Asker, again: bool) -> bool:
        """Whether a request is to be granted now, and not one that was or has been replaced."""
        if again or asker in self._heard:
            return False
        self._heard[asker] = None
        if len(self._heard) > self._remembered:
            del self._heard[next(iter(self._heard))]
        return True
