"""Hosts that do not come, and hosts that fall silent: when one is ended, and when it is asked for again. Pure.

What hosts there shall be, `reconcile.py` says; a spawner obtains them, and promises no more than that: whether anything
runs there, only the host itself can say, by reporting. So of each host it is remembered since when it was asked for and
when it was heard of, as long as one scheduler leads. The next one begins anew, and waits for longer at worst.

- A host that was asked for has `report_seconds` to report. One that does not is ended and asked for again.
- One that has reported and is silent for `lost_seconds` is, too. What it ran is elsewhere long before, so nothing is in
  a hurry, and a wrong guess costs a host and no more. Of the silent ones, one after the other is replaced: the next one
  when the one before has reported, or has not in its time. Where many are silent at once, the broker or the network is
  the likelier culprit, and ending all hosts would help nobody.
- Replacing may not help: what is wrong with one host is wrong with the next. The second time in a row a minute passes
  before the host is asked for again, then two, then four, at most an hour. One that is well for `lost_seconds` has no
  history. A host that is asked for and vanishes before it ever reports is asked for again after 1, 2, 4 … seconds, at
  most 60; one that was heard of and vanishes, at once.
- What the spawner refuses is tried again after 1, 2, 4 … seconds, at most 60, host by host: a host that cannot be paid
  for keeps no other from being given back.

A replaced host that comes back, because it was cut off, or could not be ended, does no harm. Its successor has its
name; the reports of an agent that started earlier are refused, and so are, by that agent, commands to the later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dist_zero_common.protocol.messages.requests import HostNote

REFUSED_SECONDS_MIN, REFUSED_SECONDS_MAX = 1.0, 60.0
REPLACED_SECONDS_MIN, REPLACED_SECONDS_MAX = 60.0, 3600.0
ASKED_SECONDS_MIN, ASKED_SECONDS_MAX = 1.0, 60.0
END_SECONDS = 60.0
"""A host that was ended and is still listed after so long is ended again."""
IN_VAIN = 2
"""Who was replaced so often in a row is something that a person has to look after."""
ASKS_IN_VAIN = 4
"""And so is who was asked for so often, and is not there."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """A host that was asked for and has not reported after `report_seconds` is replaced, and one that has reported and
    is silent for `lost_seconds`, which is more than finding out that it failed takes."""

    report_seconds: float = 600.0
    lost_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class SpawnHost:
    """Obtain this host."""

    host: str


@dataclass(frozen=True, slots=True)
class ReturnHost:
    """Give this host back; nothing runs on it that is needed."""

    host: str


@dataclass(frozen=True, slots=True)
class ReplaceHost:
    """End this host, for this reason; it is asked for again when it is gone."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What is remembered of a host. `since`: when it was asked for, or first listed; None while it is not there.
    `asks`: how often it was asked for since it was last heard of. From `well_since` to `heard_at` it was heard of.
    `ended_at`: when it was ended, to be replaced. `failures`: how often in a row it was in vain; `was_silent` and
    `reason`: why, the last time; `again_at`: it is not asked for before. `refused`: what the spawner said, `refusals`
    times in a row, and `retry_at` when it is asked again."""

    since: float | None = None
    asks: int = 0
    listed: bool = False
    well_since: float | None = None
    heard_at: float | None = None
    ended_at: float | None = None
    failures: int = 0
    was_silent: bool = False
    reason: str = ""
    again_at: float = float("-inf")
    refused: str = ""
    refusals: int = 0
    retry_at: float = float("-inf")

    def is_on_its_way(self) -> bool:
        """Whether it was asked for, or was ended to be, and has not been heard of since."""
        return (self.since is not None or self.ended_at is not None) and self.heard_at is None


_UNKNOWN = HostMemory()


class Hosts:
    """The hosts of a spawner, as one leading scheduler remembers them. It looks, asks what is due, does it, and says
    what came of it."""

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        self._hosts: dict[str, HostMemory] = {}
        self._listening_since = float("-inf")
        self._unlisted, self._unlisted_until = "", 0.0

    # -- what is seen ----------------------------------------------------------------------------------------------

    def look(
        self,
        spawned: Iterable[str],
        wanted: Iterable[str],
        heard: Mapping[str, float],
        listening_since: float,
        now: float,
    ) -> None:
        """Take in what the spawner lists and when each host was last heard of. `listening_since`: before that, whoever
        was silent may have spoken to deaf ears."""
        self._listening_since = listening_since
        there = dict.fromkeys(spawned)
        for host in there:
            known = self._hosts.get(host, _UNKNOWN)
            since = now if known.since is None and known.ended_at is None else known.since
            self._hosts[host] = replace(known, since=since, listed=True)
        for host, known in list(self._hosts.items()):
            if known.listed and host not in there:
                gone = replace(known, since=None, listed=False, well_since=None, heard_at=None)
                self._hosts[host] = gone  # we have ended it, or it has ended by itself
            elif host in heard:
                self._hosts[host] = self._heard(known, heard[host])
        kept = {*there, *wanted}
        self._hosts = {host: known for host, known in self._hosts.items() if host in kept}

    def _heard(self, known: HostMemory, at: float) -> HostMemory:
        if known.since is None or at < known.since or at == known.heard_at:
            return known
        silence = at - max(known.heard_at or at, self._listening_since)
        begun = (
            known.well_since if known.well_since is not None and silence < self._options.lost_seconds else at
        )
        known = replace(known, well_since=begun, heard_at=at, asks=0, again_at=float("-inf"))
        if at - begun >= self._options.lost_seconds and known.failures:
            return replace(known, failures=0, reason="", was_silent=False)
        return known

    def unlisted(self, reason: str, retry_at: float) -> None:
        """The spawner does not say which hosts there are; with no reason, it does again."""
        self._unlisted, self._unlisted_until = reason, retry_at

    # -- what is to be done ----------------------------------------------------------------------------------------

    def due(
        self, outstanding: Iterable[SpawnHost | ReturnHost], kept: Iterable[str], now: float
    ) -> list[SpawnHost | ReturnHost | ReplaceHost]:
        """What of all that is outstanding to do now, and which of the hosts that are `kept` to replace."""
        due: list[SpawnHost | ReturnHost | ReplaceHost] = []
        for action in outstanding:
            known = self._hosts.get(action.host, _UNKNOWN)
            paused = now < known.again_at and isinstance(action, SpawnHost)
            if now >= known.retry_at and not paused:
                due.append(action)
        return due + self._replacements(kept, now)

    def _replacements(self, kept: Iterable[str], now: float) -> list[ReplaceHost]:
        busy = any(
            known.was_silent and known.failures == 1 and known.is_on_its_way()
            for known in self._hosts.values()
        )
        replacements = []
        for host in kept:
            known = self._hosts.get(host, _UNKNOWN)
            if not known.listed or now < known.retry_at:
                continue
            if known.ended_at is not None:
                if now - known.ended_at >= END_SECONDS:
                    replacements.append(ReplaceHost(host, known.reason))
                continue
            if self._is_overdue(known, now):
                seconds = self._options.report_seconds
                replacements.append(
                    ReplaceHost(host, f"it had not reported {seconds:g} s after it was asked for")
                )
            elif not busy and self._is_lost(known, now):
                busy = True
                replacements.append(ReplaceHost(host, f"it was silent for {self._silence(known, now):.0f} s"))
        return replacements

    def _is_overdue(self, known: HostMemory, now: float) -> bool:
        if known.since is None or known.heard_at is not None:
            return False
        return now - max(known.since, self._listening_since) >= self._options.report_seconds

    def _is_lost(self, known: HostMemory, now: float) -> bool:
        return known.heard_at is not None and self._silence(known, now) >= self._options.lost_seconds

    def _silence(self, known: HostMemory, now: float) -> float:
        return now - max(known.heard_at or 0.0, self._listening_since)

    # -- what came of it -------------------------------------------------------------------------------------------

    def done(self, action: SpawnHost | ReturnHost | ReplaceHost, now: float) -> None:
        """The spawner has done it."""
        known = replace(
            self._hosts.get(action.host, _UNKNOWN), refused="", refusals=0, retry_at=float("-inf")
        )
        match action:
            case SpawnHost():
                since = now if known.since is None else known.since
                pause = _pause(known.asks + 1, ASKED_SECONDS_MIN, ASKED_SECONDS_MAX)
                self._hosts[action.host] = replace(
                    known, since=since, ended_at=None, asks=known.asks + 1, again_at=now + pause
                )
            case ReturnHost():
                self._hosts.pop(action.host, None)
            case ReplaceHost(reason=reason):
                again = known.ended_at is not None
                failures = known.failures if again else known.failures + 1
                pause = _pause(failures - 1, REPLACED_SECONDS_MIN, REPLACED_SECONDS_MAX)
                self._hosts[action.host] = replace(
                    known,
                    since=None,
                    asks=0,
                    was_silent=known.was_silent if again else known.heard_at is not None,
                    well_since=None,
                    heard_at=None,
                    ended_at=now,
                    failures=failures,
                    reason=reason,
                    again_at=known.again_at if again else now + pause,
                )

    def refused(self, action: SpawnHost | ReturnHost | ReplaceHost, reason: str, now: float) -> None:
        """The spawner could not do it."""
        known = self._hosts.get(action.host, _UNKNOWN)
        refusals = known.refusals + 1
        pause = _pause(refusals, REFUSED_SECONDS_MIN, REFUSED_SECONDS_MAX)
        what = "be obtained" if isinstance(action, SpawnHost) else "be given back"
        self._hosts[action.host] = replace(
            known, refused=f"cannot {what}: {reason}", refusals=refusals, retry_at=now + pause
        )

    # -- what people are told --------------------------------------------------------------------------------------

    def notes(self, now: float) -> list[HostNote]:
        """What is to be said of hosts that are not simply there, by name."""
        notes = [_note(host, known, now) for host, known in sorted(self._hosts.items())]
        if self._unlisted:
            again = _in_seconds(self._unlisted_until - now)
            text = f"it is not known which hosts there are: {self._unlisted}; asked again {again}"
            notes.insert(0, HostNote("", text, wrong=True))
        return [note for note in notes if note is not None]


def _note(host: str, known: HostMemory, now: float) -> HostNote | None:
    if known.refused:
        return HostNote(host, f"{known.refused}; tried again {_in_seconds(known.retry_at - now)}", wrong=True)
    if known.heard_at is not None:
        return None
    wrong = known.failures >= IN_VAIN or known.asks >= ASKS_IN_VAIN
    again = f"asked for again {_in_seconds(known.again_at - now)}"
    often = f" for the {_ordinal(known.failures)} time in a row" if known.failures > 1 else ""
    if known.asks > 1 and not known.listed:
        text = f"was asked for {known.asks} times, and is not there; {again}"
    elif known.since is not None:
        text = f"was asked for {now - known.since:.0f} s ago, and has not reported yet"
    elif known.failures:
        text = f"was ended{often}, because {known.reason}; {again}"
    else:
        return None
    if known.failures and known.since is not None:
        text += f"; the one before it was ended{often}, because {known.reason}"
    return HostNote(host, f"{text}; what it wrote when it started says why" if wrong else text, wrong)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _pause(times: int, least: float, most: float) -> float:
    """How long to wait after something was in vain so many times: nothing, least, twice as long …, most."""
    return min(least * 2.0 ** (times - 1), most) if times > 0 else 0.0


def _in_seconds(seconds: float) -> str:
    return f"in {seconds:.0f} s" if seconds >= 1.0 else "now"
