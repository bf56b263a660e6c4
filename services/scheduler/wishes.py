"""Whose wish counts, when several people ask for what cannot be all at once: the last one's. Pure.

Whoever asks for a number of nodes goes on asking until it is so. That may be neither taken for a new wish, or two who
ask would fight for ever, nor dropped, since a scheduler that comes to lead knows nothing of wishes that its predecessor
had not got around to. So a repeated wish counts where none is known, and else comes true or has been replaced; then
whoever has it is told.

A request that comes a second time is no wish, whatever it says: a broker may deliver it late.
"""

from __future__ import annotations

from collections.abc import Hashable

REQUESTS_REMEMBERED = 10_000

Asker = tuple[str, int]
"""A request's reply inbox and number: the same when it is asked again."""


class Wishes:
    """Those that one leading scheduler has heard."""

    def __init__(self, remembered: int = REQUESTS_REMEMBERED) -> None:
        self._remembered = remembered
        self._heard: dict[Asker, None] = {}
        self._wished: dict[Hashable, None] = {}

    def is_new(self, subject: Hashable, asker: Asker, again: bool) -> bool:
        """Whether a request that is about `subject` is to be granted now, and not one that was or has been
        replaced."""
        if asker in self._heard or (again and subject in self._wished):
            return False
        self._heard[asker] = None
        if len(self._heard) > self._remembered:
            del self._heard[next(iter(self._heard))]
        self._wished[subject] = None
        return True

    def forget(self, subject: Hashable) -> None:
        """It is not there any more; what comes to be under its name is another one."""
        self._wished.pop(subject, None)
