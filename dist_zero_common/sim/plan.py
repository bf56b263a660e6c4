"""Fault plans: what goes wrong in a simulated run and when, as data that is drawn from the seed.

A plan is a tuple of `Fault`s. It is drawn by a pure function, before the run, and says nothing about what the run will
look like: targets are indices into what is there when the time comes. So a plan can be cut down to some of its faults,
which is how failures are made short, and the rest means the same.

**Swarm.** Every seed draws which kinds of faults it has at all, and how often (Groce et al., ISSTA 2012). A seed of
crashes alone, a seed in which the store is slow and nothing else, and one that has everything find different bugs.

A new kind is a line in `KINDS` and in `_DRAWN` here, and a function in `injector.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

from dist_zero_common.errors import SettingsError

KINDS = {
    "crash": "a runner, machine, agent, scheduler or writer is killed between any two of its steps",
    "restart": "one of them is stopped in an orderly way, and started again",
    "partition": "one of them is cut off from the broker, both ways or one way, or from the store",
    "pause": "one of them stands still for a while, and goes on as if nothing had happened",
    "duplicate": "messages come twice, for a while",
    "delay": "messages are slow and pass each other, for a while",
    "loss": "messages are lost for good, for a while",
    "broker": "connections are lost, or the broker is away, forgets its messages, or is replaced",
    "store": "the store is slow, fails, or says that it failed when it did not, for a while",
    "clock": "a machine's clock is set forward or back",
    "reshard": "the program is asked to run on another number of nodes, whatever becomes of the last such wish",
    "ambush": "who writes to the store is killed just before or after that, or stands still until others took over",
    "damage": "something that the newest base needs is damaged or gone, and all who have it in memory are killed",
}

RESHARD_NODES_MAX = 6
ABOUT_TOGETHER_SECONDS = 0.4
"""Faults of which one follows another fall within this time of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. What the fields mean depends on the kind; those that mean nothing are empty."""

    kind: str
    at_seconds: float
    target: str = ""
    """A kind of process, or machine: whichever of them `index` says, among those that are there then. `sequencer` is
    a runner that hosts one. An ambush waits until there is one."""
    index: int = 0
    variant: str = ""
    duration_seconds: float = 0.0
    """How long it lasts; of crashes and restarts, how long until it is started again; of wishes, how long whoever has
    them waits for them to come true."""
    steps: int = 0
    """Of a crash: how many more steps the process does before it is killed."""
    amount: float = 0.0
    """A chance, a factor, a number of seconds, or of nodes; of an ambush for how many seconds who stands still goes on
    doing so after another has written such an object."""

    def __str__(self) -> str:
        words = [f"{self.at_seconds:.3f} s: {self.kind}"]
        words += [f"of {self.target} {self.index}"] if self.target else []
        words += [f"({self.variant})"] if self.variant else []
        words += [f"after {self.steps:,} more steps"] if self.steps else []
        words += [f"by {self.amount:g}"] if self.amount else []
        words += [f"for {self.duration_seconds:.1f} s"] if self.duration_seconds else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one run, in the order of their times. At `horizon_seconds` all is healed."""

    horizon_seconds: float
    faults: tuple[Fault, ...]

    def only(self, numbers: Iterable[int]) -> FaultPlan:
        """The plan with some of its faults, by their places in it."""
        chosen = set(numbers)
        faults = tuple(fault for number, fault in enumerate(self.faults) if number in chosen)
        return FaultPlan(self.horizon_seconds, faults)


def checked_kinds(text: str) -> tuple[str, ...]:
    """The kinds of faults in a list with commas, in the order of `KINDS`; `all` and `none` are lists, too. Raises
    `SettingsError`."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["none"]:
        return ()
    wanted = set(KINDS) if words == ["all"] else set(words)
    for word in words:
        if word not in KINDS and words != ["all"]:
            raise SettingsError(f"{word!r} is no kind of fault; there are {', '.join(KINDS)}, all and none")
    return tuple(kind for kind in KINDS if kind in wanted)


def drawn_faults(seed: int, kinds: Iterable[str], machines: int) -> FaultPlan:
    """The plan of a seed. `machines`: how many there are to choose from."""
    key = blake2b(f"{seed}/faults".encode(), digest_size=16).digest()
    rng = random.Random(int.from_bytes(key, "little"))
    horizon = rng.choice((4.0, 10.0, 25.0, 45.0))
    faults: list[Fault] = []
    share = rng.choice((0.2, 0.4, 0.7, 1.0))
    busy = rng.choice((1, 2, 4))
    for kind in KINDS:
        # Drawn whether wanted or not, so that leaving a kind out leaves the others as they are.
        own = random.Random(rng.getrandbits(64))
        if kind in kinds and own.random() < share:
            for _ in range(own.randrange(1, busy + 2)):
                faults.append(_DRAWN[kind](own, _time(own, horizon, faults), horizon, machines))
    ends = [round(fault.at_seconds + fault.duration_seconds, 4) for fault in faults if fault.kind == "ambush"]
    return FaultPlan(max([horizon, *ends]), tuple(sorted(faults, key=lambda fault: fault.at_seconds)))


def _time(rng: random.Random, horizon: float, faults: list[Fault]) -> float:
    """Some time before the horizon; often near to that of another fault, where trouble meets trouble."""
    if faults and rng.random() < 0.4:
        near = rng.choice(faults).at_seconds + rng.random() * ABOUT_TOGETHER_SECONDS
        return round(min(near, horizon), 4)
    return round(rng.random() * 0.9 * horizon, 4)


def _lasting(rng: random.Random, at: float, horizon: float, *choices: float) -> float:
    return round(min(rng.choice(choices) * (0.5 + rng.random()), horizon - at), 4)


def _process(rng: random.Random, machines: int, *targets: str) -> tuple[str, int]:
    return rng.choice(targets), rng.randrange(max(machines, 3))


def _crash(rng: random.Random, at: float, horizon: float, machines: int) -> Fault:
    target, index = _process(
        rng, machines, "runner", "sequencer", "machine", "agent", "scheduler", "writer", "watcher"
    )
    # Some processes are idle: then few steps are many.
    steps = rng.choice((0, rng.randrange(10), rng.randrange(100), rng.randrange(600)))
    seconds = _lasting(rng, at, horizon, 0.0, 0.5, 3.0)
    return Fault("crash", at, target, index, duration_seconds=seconds, steps=steps)


def _restart(rng: random.Random, at: float, horizon: float, machines: int) -> Fault:
    target, index = _process(rng, machines, "runner", "machine", "scheduler", "writer")
    return Fault("restart", at, target, index, duration_seconds=_lasting(rng, at, horizon, 0.0, 0.5, 3.0))


def _partition(rng: random.Random, at: float, horizon: float, machines: int) -> Fault:
    target, index = _process(rng, machines, "runner", "sequencer", "machine", "scheduler", "writer")
    variant = rng.choice(("both", "both", "sends", "receives", "store"))
    seconds = _lasting(rng, at, horizon, 0.5, 3.0, 14.0, 25.0)
    return Fault("partition", at, target, index, variant, seconds)


def _pause(rng: random.Random, at: float, horizon: float, machines: int) -> Fault:
    """Also for so long that others take over: who wakes up then is a zombie."""
    target, index = _process(
        rng, machines, "runner", "sequencer", "machine", "scheduler", "writer", "watcher"
    )
    return Fault(
        "pause", at, target, index, duration_seconds=_lasting(rng, at, horizon, 0.3, 3.0, 18.0, 25.0)
    )


def _weather(kind: str, *amounts: float) -> Callable[[random.Random, float, float, int], Fault]:
    def drawn(rng: random.Random, at: float, horizon: float, _machines: int) -> Fault:
        if rng.random() < 0.3:
            at = 0.0
            return Fault(kind, at, duration_seconds=horizon, amount=rng.choice(amounts))
        return Fault(
            kind, at, duration_seconds=_lasting(rng, at, horizon, 0.5, 5.0), amount=rng.choice(amounts)
        )

    return drawn


def _broker(rng: random.Random, at: float, horizon: float, _machines: int) -> Fault:
    variant = rng.choice(("connections", "away", "forgets", "replaced"))
    away = 0.0 if variant == "connections" else _lasting(rng, at, horizon, 0.0, 0.5, 3.0)
    return Fault("broker", at, variant=variant, duration_seconds=away)


def _store(rng: random.Random, at: float, horizon: float, _machines: int) -> Fault:
    variant = rng.choice(("slow", "fails", "denies", "tears"))
    # Who tears every copy of something cannot be written to, and that is said: what is to be outlived is rarer.
    amounts = {"slow": (0.2, 1.0), "tears": (0.05, 0.1)}
    amount = rng.choice(amounts.get(variant, (0.1, 0.5, 1.0)))
    seconds = _lasting(rng, at, horizon, 0.5, 3.0, 8.0)
    return Fault("store", at, variant=variant, duration_seconds=seconds, amount=amount)


def _clock(rng: random.Random, at: float, _horizon: float, machines: int) -> Fault:
    target, index = _process(rng, machines, "machine", "machine", "scheduler")
    return Fault("clock", at, target, index, amount=rng.choice((-8.0, -2.0, -0.1, 0.1, 5.0, 60.0, 3_600.0)))


def _reshard(rng: random.Random, at: float, horizon: float, _machines: int) -> Fault:
    """Those who give up early ask for the next number while the scheduler is still about the one before."""
    seconds = _lasting(rng, at, horizon, 0.3, 3.0, 20.0)
    return Fault(
        "reshard", at, duration_seconds=seconds, amount=float(rng.randrange(1, RESHARD_NODES_MAX + 1))
    )


AMBUSHES = {"log": "a record", "base": "a base", "checkpoints": "a checkpoint"}
"""What a process writes when it falls into an ambush, by what the names of such objects have in them."""


TAKE_OVER_SECONDS = 25.0
"""After so long without a sign others have taken over, whoever has kept his connection."""
COLLECTED_SECONDS = 60.0
"""After so long two bases may be there behind what was to be written, and its place collected."""
_AMBUSHED = (
    *4 * [("sequencer", "before log")],
    *2 * [("sequencer", "after log")],
    ("sequencer", "before base"),
    ("sequencer", "after base"),
    *2 * [("runner", "before checkpoints")],
    *2 * [("runner", "after checkpoints")],
)


def _ambush(rng: random.Random, at: float, horizon: float, machines: int) -> Fault:
    """In the first half of the run: who wakes up after others took over is to find that they did something. Who is
    cut off is missed at once; who keeps his connection keeps what he was sent, too, and can speak when he wakes up."""
    target, variant = rng.choice(_AMBUSHED)
    fault = Fault("ambush", round(at / 2, 4), target, rng.randrange(max(machines, 3)), variant)
    match rng.choice(("kill", "sleep", "take over", "take over", "take over, cut off")):
        case "kill":
            return fault
        case "sleep":
            return replace(fault, duration_seconds=_lasting(rng, fault.at_seconds, horizon, 12.0, 20.0))
        case how:
            variant = f"{variant} cut" if "cut" in how else variant
            amount = rng.choice((0.001, 0.001, 0.1, 1.0, 8.0))
            if variant == "before log" and amount == 1.0:
                return replace(
                    fault,
                    at_seconds=round(at / 4, 4),
                    variant=f"{variant} collected",
                    duration_seconds=COLLECTED_SECONDS,
                    amount=amount,
                )
            return replace(fault, variant=variant, duration_seconds=TAKE_OVER_SECONDS, amount=amount)


def _damage(rng: random.Random, at: float, _horizon: float, _machines: int) -> Fault:
    return Fault("damage", at, variant=rng.choice(("flipped", "cut", "gone")))


_DRAWN: dict[str, Callable[[random.Random, float, float, int], Fault]] = {
    "crash": _crash,
    "restart": _restart,
    "partition": _partition,
    "pause": _pause,
    "duplicate": _weather("duplicate", 0.05, 0.3, 1.0),
    "delay": _weather("delay", 0.02, 0.1, 0.5),
    "loss": _weather("loss", 0.02, 0.1, 0.5),
    "broker": _broker,
    "store": _store,
    "clock": _clock,
    "reshard": _reshard,
    "ambush": _ambush,
    "damage": _damage,
}
