"""The world of one simulated run: its seed, its chance, its weather, its clock and its history."""

from __future__ import annotations

import asyncio
import random
from hashlib import blake2b

from dist_zero_common.clock import LoopClock
from dist_zero_common.sim.faults import Weather, drawn_weather
from dist_zero_common.sim.history import History

#: Wall time at the start of every simulated run, 2020-01-01 UTC: fixed, because a seed must not change an
#: answer.
START_US = 1_577_836_800_000_000


class SimWorld:
    """What the parts of a simulated system share. `weather` is a profile's name, or settled weather."""

    def __init__(self, seed: int, weather: str | Weather = "faithful") -> None:
        self.seed = seed
        self.history = History()
        self.clock = LoopClock(START_US)
        self._streams: dict[str, random.Random] = {}
        if isinstance(weather, str):
            weather = drawn_weather(weather, self.rng("weather"))
        self.weather = weather

    def rng(self, purpose: str) -> random.Random:
        """The stream of chance for `purpose`: one object per name, independent of the others.

        A purpose of its own for each part keeps the others' draws in place when one part draws more.
        """
        stream = self._streams.get(purpose)
        if stream is None:
            stream = self._streams[purpose] = self.fresh_rng(purpose)
        return stream

    def fresh_rng(self, purpose: str) -> random.Random:
        """A generator at the beginning of the stream of chance for `purpose`, for what must come out the same
        whoever asks and how often."""
        key = blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        return random.Random(int.from_bytes(key, "little"))

    def record(self, kind: str, place: str, detail: str = "", body: bytes = b"") -> None:
        """Add a record to the history, at the running loop's time."""
        self.history.record(asyncio.get_running_loop().time(), kind, place, detail, body)
