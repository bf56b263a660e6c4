"""The weather of a simulated run: how its network and its store behave, drawn from the seed.

Settings differ from seed to seed as well as events within a run (swarm testing, Groce et al., ISSTA 2012):
a run that is slow everywhere and one that doubles every third message find other bugs than the average of
the two. Durations are made with `+` and `*` alone, so that they are the same bits on every machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

#: `calm`: at once and in order. `faithful`: what a healthy RabbitMQ does. `hostile`: also what a bad day
#: brings.
PROFILES = ("calm", "faithful", "hostile")


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds, uniform between nothing and twice `mean`; with chance `tail`, `tail_factor` times as many."""

    mean: float = 0.0
    tail: float = 0.0
    tail_factor: float = 1.0

    def draw(self, rng: random.Random) -> float:
        """One delay. Takes two draws whatever comes out, and none when there is no delay."""
        if self.mean == 0.0:
            return 0.0
        seconds = 2.0 * self.mean * rng.random()
        return seconds * self.tail_factor if rng.random() < self.tail else seconds


@dataclass(frozen=True, slots=True)
class StoreFaults:
    """How a memory store misbehaves. Chances are per operation of the kind; each fault makes it raise `StoreError`."""

    latency: Delay = field(default_factory=Delay)
    #: The object is stored, the caller is told otherwise.
    fails_stored: float = 0.0
    #: The object is not stored.
    fails_absent: float = 0.0
    #: An object is stored that is cut short: no store that keeps its promises does this; see `store/base.py`.
    torn: float = 0.0
    #: Only objects with one of these in their names are torn; none: all of them.
    torn_of: tuple[str, ...] = ()
    #: Nothing is returned.
    fails_read: float = 0.0
    fails_list: float = 0.0
    #: The object is deleted, or is not.
    fails_delete: float = 0.0
    #: Once in so many seconds nothing works for up to `outage_seconds`, which are at most half of them; 0 for never.
    outage_every: float = 0.0
    outage_seconds: float = 0.0

    def outage_in(self, window: int, rng: random.Random) -> tuple[float, float]:
        """When the outage in this stretch of `outage_every` seconds begins and ends. `rng` is the stretch's own."""
        begins = self.outage_every * (window + 0.5 * rng.random())
        return begins, begins + self.outage_seconds * rng.random()


@dataclass(frozen=True, slots=True)
class Weather:
    """How the memory broker behaves, and the store's faults. Chances are between 0 and 1, per message."""

    profile: str
    #: From a publisher to the queue.
    transit: Delay = field(default_factory=Delay)
    #: Chance that a pair of sender and queue is slow for the whole run, and by how much.
    slow_pair: float = 0.0
    slow_factor: float = 1.0
    #: A message may pass earlier ones of its own sender. Those of different senders always may.
    overtakes: float = 0.0
    #: A second copy arrives, some time.
    duplicate: float = 0.0
    #: Confirmed, and gone.
    loss: float = 0.0
    #: The confirm comes after another transit; otherwise with the arrival.
    late_confirm: float = 0.0
    #: Unacked messages come back in any order, behind those that wait; otherwise to their old places.
    returns_shuffled: bool = False
    store: StoreFaults = field(default_factory=StoreFaults)


def drawn_weather(profile: str, rng: random.Random) -> Weather:
    """The weather of one run. Raises `ValueError` for a profile that is not in `PROFILES`."""
    if profile == "calm":
        return Weather("calm")
    if profile not in PROFILES:
        raise ValueError(f"{profile!r} is no profile: choose from {', '.join(PROFILES)}")
    hostile = profile == "hostile"
    transit = Delay(
        mean=rng.choice((0.0002, 0.001, 0.005, 0.02)),
        tail=rng.choice((0.0, 0.01, 0.1)),
        tail_factor=rng.choice((10.0, 50.0)),
    )
    store = Delay(
        mean=rng.choice((0.0, 0.001, 0.005, 0.03)),
        tail=rng.choice((0.0, 0.01, 0.05)),
        tail_factor=rng.choice((10.0, 100.0)),
    )
    return Weather(
        profile,
        transit=transit,
        slow_pair=rng.choice((0.0, 0.1, 0.3)),
        slow_factor=rng.choice((3.0, 20.0)),
        overtakes=rng.choice((0.0, 0.05, 0.5, 1.0)) if hostile else 0.0,
        duplicate=rng.choice((0.0, 0.01, 0.1, 0.3)) if hostile else 0.0,
        late_confirm=rng.choice((0.0, 0.2, 0.5)),
        returns_shuffled=hostile and rng.random() < 0.5,
        store=StoreFaults(latency=store),
    )


def drawn_store_faults(rng: random.Random, *, torn: bool = False) -> StoreFaults:
    """A store on a bad day. No profile has one: whoever wants it puts it into the weather. `torn`: also one that breaks
    its promises, over which a log stands still."""
    chances = (0.0, 0.01, 0.1, 0.3)
    every = rng.choice((0.0, 20.0, 60.0))
    return StoreFaults(
        latency=Delay(
            mean=rng.choice((0.001, 0.01, 0.1)),
            tail=rng.choice((0.0, 0.01, 0.05)),
            tail_factor=rng.choice((10.0, 300.0)),
        ),
        fails_stored=rng.choice(chances),
        fails_absent=rng.choice(chances),
        torn=rng.choice((0.01, 0.1, 0.2)) if torn else 0.0,
        fails_read=rng.choice(chances),
        fails_list=rng.choice(chances),
        fails_delete=rng.choice(chances),
        outage_every=every,
        outage_seconds=rng.choice((1.0, 5.0, 10.0)) if every else 0.0,
    )
