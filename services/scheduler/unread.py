"""Who died, sooner than silence tells: pure.

Silence has to last for long before it is believed, because slow is not lost. But a process that has died takes its
connection with it, and the broker sees that at once: its inbox then has no reader. One that is merely slow keeps its
connection, however long it says nothing. So of a runner that has missed a report the broker is asked whether anybody
reads its inbox, and if nobody does, it is *unread*, and what it had is lost, until it reports again.

That may be wrong. A runner that has lost its connection reads nothing either until it has another one, which takes it
some tenths of a second, and up to some seconds when the broker was away; the scheduler then had no connection itself,
and asks about nobody until all have had the time to be back. Whoever is taken for dead too soon all the same does no
harm: its parts begin elsewhere, in new incarnations that compute the same, and it is told so when it is back.
"""

from __future__ import annotations

from collections.abc import Iterator

from dist_zero_common.broker.base import QueueDepth
from services.scheduler.state import Desired, Observed, Part

MISSED_SECONDS = 1.5
"""Reports come each second. Who has not reported for so long is asked about."""
RETURN_SECONDS = 6.0
"""After the scheduler itself was away for so long nobody is asked about: those who lost their connection with it try
again every five seconds at the latest."""


def missed(desired: Desired, observed: Observed, now: float) -> Iterator[Part]:
    """One part of each runner whose inbox is to be looked at."""
    if now - observed.listening_since < RETURN_SECONDS:
        return
    parts = {
        (part.runner, part.runner_incarnation): part
        for program in desired.programs.values()
        if program.assignment is not None
        for part in program.assignment.runners()
    }
    for (runner, incarnation), part in parts.items():
        seen = observed.runners.get(runner)
        if (
            seen is not None
            and seen.report.incarnation == incarnation
            and now - seen.at >= MISSED_SECONDS
            and observed.unread.get(runner) != incarnation
        ):
            yield part


def hear_of_inbox(observed: Observed, part: Part, inbox: QueueDepth | None, asked_at: float) -> bool:
    """Take in how many read the inbox of a runner, as the broker said after `asked_at`. Returns whether it is unread
    since: not if it has reported meanwhile."""
    seen = observed.runners.get(part.runner)
    if (inbox is not None and inbox.consumers) or (seen is not None and seen.at > asked_at):
        return False
    observed.unread[part.runner] = part.runner_incarnation
    return True
