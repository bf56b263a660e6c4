"""Applies a fault plan to a simulated system, and keeps what it did: a line for people, a count per kind, a record in
the history.

It knows processes, the broker and the weather, and nothing of how the system recovers. A fault that finds nobody to
hit (a writer that is done, a machine that is away) is recorded as missed, not as applied.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial

from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import SEQUENCER_CLIENTS
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.plan import AMBUSHES, Fault, FaultPlan
from dist_zero_common.sim.processes import Ambush, Process, SkewedClock
from dist_zero_common.sim.world import SimWorld

SEQUENCER = "sequencer"
AMBUSH_TRIES, AMBUSH_SECONDS = 100, 0.1
"""How often an ambush looks for a victim, and the pauses between."""
TORN = ("/base/", "/checkpoints/")
"""What a store that tears does it to: a torn record of a log stops a program, and has to."""
GOODBYE_SECONDS_MAX = 5.0
"""Who has not ended in an orderly way by then is killed."""
HEARTBEATS_SECONDS = 15.0
"""A broker takes a connection for lost from which it heard nothing for so long."""


@dataclass(slots=True)
class Processes:
    """Those that there are, and how long who ended stays away."""

    all: list[Process] = field(default_factory=list)
    away_seconds: dict[str, float] = field(default_factory=dict)

    def started(self, process: Process) -> Process:
        """A process begins."""
        self.all = [each for each in self.all if not each.ended]
        self.all.append(process)
        return process

    def living(self) -> list[Process]:
        """Those that have not ended, in the order of their names."""
        there = [each for each in self.all if not each.ended and not each.killed]
        return sorted(there, key=lambda each: (each.kind, each.name))

    def hit_by(self, fault: Fault, broker: MemoryBroker) -> list[Process]:
        """What a fault is about: one process, or all of a machine; nothing if there is none."""
        living = self.living()
        if fault.target == SEQUENCER:
            readers = broker.readers_of(f".{SEQUENCER_CLIENTS.name}.")
            living = [each for each in living if any(each.has(reader) for reader in readers)]
            return [living[fault.index % len(living)]] if living else []
        if fault.target == "machine":
            machines = sorted({each.machine for each in living if each.machine})
            machine = machines[fault.index % len(machines)] if machines else None
            return [each for each in living if each.machine == machine]
        there = [each for each in living if each.kind == fault.target]
        return [there[fault.index % len(there)]] if there else []


Damage = Callable[[str], str]
"""Damages something in a way: returns what; empty if a system could not do without it just now."""
IsFull = Callable[[str, bytes], bool]
"""Whether an object says something that matters: an ambush at one that does not would be for nothing."""
Reshard = Callable[[int], Awaitable[None]]
"""Has the program run on so many nodes; returns when it does. Raises `OperatorError` or `RequestError`."""


class Injector:
    """The faults of one run."""

    def __init__(
        self, world: SimWorld, broker: MemoryBroker, processes: Processes, clock: SkewedClock
    ) -> None:
        self.reshard: Reshard | None = None
        """How to ask for another number of nodes, once there is a program."""
        self.damage: Damage = lambda _how: ""
        self.is_full: IsFull = lambda _name, _data: True
        self.lines: list[tuple[float, str]] = []
        """What was done, with its time."""
        self.applied: Counter[str] = Counter()
        """How often each kind of fault had an effect, by `kind` or `kind variant`."""
        self.healed_at = 0.0
        self._world, self._broker, self._processes, self._clock = world, broker, processes, clock
        self._calm = world.weather
        self._blowing: dict[int, Fault] = {}
        self._away = 0
        self._sleepers: list[Callable[[Process, str, bool], None]] = []
        self._kinds: dict[str, Callable[[Fault], bool | None]] = {
            "crash": self._crash,
            "restart": self._restart,
            "partition": self._partition,
            "pause": self._pause,
            "duplicate": self._blow,
            "delay": self._blow,
            "loss": self._blow,
            "store": self._blow,
            "broker": self._restart_broker,
            "clock": self._set_clock,
            "reshard": self._reshard,
            "ambush": self._ambush,
            "damage": self._damage,
        }
        self._tasks: asyncio.TaskGroup

    async def run(self, plan: FaultPlan) -> None:
        """Do what the plan says, each fault at its time, and heal everything at the horizon."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as self._tasks:
            for number, fault in enumerate(plan.faults):
                await asyncio.sleep(begun + fault.at_seconds - loop.time())
                done = self._kinds[fault.kind](fault)
                if done:
                    self._count(fault)
                elif done is False:
                    self._tell(f"{fault.kind} of a {fault.target} finds none", f"missed {number}")
            await asyncio.sleep(begun + plan.horizon_seconds - loop.time())
        self.heal()

    def _count(self, fault: Fault) -> None:
        self.applied[f"{fault.kind} {fault.variant}".rstrip()] += 1

    def heal(self) -> None:
        """End all faults."""
        self.healed_at = asyncio.get_running_loop().time()
        self._blowing.clear()
        self._world.weather = _healed(self._calm)
        self._broker.unreachable = False
        for process in self._processes.living():
            process.crash_after(-1)
            process.ambush = None
            process.heal()
            process.go_on()
        self._tell("all faults are over", "healed")

    def _tell(self, line: str, detail: str) -> None:
        self.lines.append((asyncio.get_running_loop().time(), line))
        self._world.record("fault", detail, line)

    # -- processes ----------------------------------------------------------------------------------------------

    def _crash(self, fault: Fault) -> bool:
        victims = self._processes.hit_by(fault, self._broker)
        if not victims:
            return False
        first = victims[0]
        self._processes.away_seconds[first.kind] = fault.duration_seconds

        def killed() -> None:
            self._tell(f"{_named(fault, victims)} is killed", first.name)
            for other in victims[1:]:
                other.kill()

        first.on_killed = killed
        if fault.steps:
            first.crash_after(fault.steps)
        else:
            first.kill()
        return True

    def _restart(self, fault: Fault) -> bool:
        victims = self._processes.hit_by(fault, self._broker)
        if not victims:
            return False
        self._processes.away_seconds[victims[0].kind] = fault.duration_seconds
        self._tell(f"{_named(fault, victims)} is told to end", victims[0].name)
        self._tasks.create_task(self._stop(victims[0]))  # a machine's runners end with its agent
        return True

    async def _stop(self, process: Process) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS_MAX):
                await process.stop()
                return
        process.kill()

    def _pause(self, fault: Fault) -> bool:
        victims = self._processes.hit_by(fault, self._broker)
        if not victims:
            return False
        self._tell(f"{_named(fault, victims)} stands still", victims[0].name)
        for process in victims:
            process.pause()
        self._tasks.create_task(self._wake(fault, victims))
        return True

    async def _wake(self, fault: Fault, victims: list[Process]) -> None:
        await asyncio.sleep(min(fault.duration_seconds, HEARTBEATS_SECONDS))
        if fault.duration_seconds > HEARTBEATS_SECONDS:
            for process in victims:
                process.lose_connections("no heartbeats came")
            await asyncio.sleep(fault.duration_seconds - HEARTBEATS_SECONDS)
        self._tell(f"{_named(fault, victims)} goes on", victims[0].name)
        for process in victims:
            process.go_on()

    def _partition(self, fault: Fault) -> bool:
        victims = self._processes.hit_by(fault, self._broker)
        if not victims:
            return False
        until = asyncio.get_running_loop().time() + fault.duration_seconds
        both = fault.variant == "both"
        for process in victims:
            if fault.variant == "store":
                process.store_cut = True
            else:
                sends, receives = both or fault.variant == "sends", both or fault.variant == "receives"
                process.cut_off(until=until, sends=sends, receives=receives)
        what = {
            "both": "is cut off from the broker",
            "sends": "sends nothing that arrives",
            "receives": "receives nothing",
            "store": "is cut off from the store",
        }
        self._tell(f"{_named(fault, victims)} {what[fault.variant]}", victims[0].name)
        self._tasks.create_task(self._reconnect(fault, victims))
        return True

    async def _reconnect(self, fault: Fault, victims: list[Process]) -> None:
        await asyncio.sleep(fault.duration_seconds)
        for process in victims:
            process.heal()
        self._tell(f"{_named(fault, victims)} is reached again", victims[0].name)

    def _ambush(self, fault: Fault) -> None:
        """It counts when somebody has walked into it."""
        self._tasks.create_task(self._lie_in_wait(fault))

    async def _lie_in_wait(self, fault: Fault) -> None:
        for _ in range(AMBUSH_TRIES):
            victims = self._processes.hit_by(fault, self._broker)
            if (
                fault.target == SEQUENCER
            ):  # whoever comes to host one, and so writes what only sequencers write
                victims = [each for each in self._processes.living() if each.kind == "runner"]
            if victims:
                self._lay(fault, victims)
                return
            await asyncio.sleep(AMBUSH_SECONDS)

    def _lay(self, fault: Fault, victims: list[Process]) -> None:
        moment, part = fault.variant.split()[:2]
        caught: list[str] = []

        def fits(name: str, data: bytes) -> bool:
            if not (_is_of(part, name) and self.is_full(name, data)):
                return False
            caught.append(name)
            return True

        def spring(victim: Process) -> None:
            for other in victims:
                other.ambush = None
            self._count(fault)
            what = "stands still" if fault.duration_seconds else "is killed"
            self._tell(f"{victim} {what} just {moment} it writes {AMBUSHES[part]}", victim.name)
            if not fault.duration_seconds:
                victim.kill()
                return
            sleeping = self._sleep(fault, part, victim, caught[-1])
            try:  # in a context of its own, for that of the victim stands still
                self._tasks.create_task(sleeping, context=Context())
            except RuntimeError:  # all faults are over at this very moment: it goes on
                sleeping.close()
                return
            victim.pause()

        for victim in victims:
            victim.ambush = Ambush(moment == "before", fits, partial(spring, victim))

    async def _sleep(self, fault: Fault, part: str, victim: Process, caught: str) -> None:
        """Let it stand still until another has written what it was to write, and a little longer. Or until that place
        has been collected since: with it sleeps a writer, who so hears first what it has to say when it goes on."""
        if not fault.amount:
            await self._wake(replace(fault, target=""), [victim])
            return
        collected = fault.variant.endswith(" collected")
        writers = self._processes.hit_by(replace(fault, target="writer"), self._broker) if collected else []
        for writer in writers:
            self._tell(f"{writer} stands still with it", writer.name)
            writer.pause()
        if fault.variant.endswith(" cut"):
            victim.lose_connections("no route to host")
        taken_over = asyncio.Event()

        def heard(process: Process, name: str, gone: bool) -> None:
            awaited = gone and name == caught if collected else not gone and _is_of(part, name)
            if process is not victim and awaited:
                taken_over.set()

        self._sleepers.append(heard)
        with suppress(TimeoutError):
            async with asyncio.timeout(fault.duration_seconds):
                await taken_over.wait()
                await asyncio.sleep(fault.amount)
        self._sleepers.remove(heard)
        self._tell(f"{victim} goes on", victim.name)
        victim.go_on()
        for writer in writers:
            await asyncio.sleep(fault.amount)
            writer.go_on()

    def written(self, process: Process, name: str) -> None:
        """A process has written an object: who waits for somebody to do so may wake up."""
        for sleeper in self._sleepers:
            sleeper(process, name, False)

    def deleted(self, process: Process, name: str) -> None:
        """A process has collected an object."""
        for sleeper in self._sleepers:
            sleeper(process, name, True)

    def _damage(self, fault: Fault) -> bool:
        what = self.damage(fault.variant)
        if not what:
            return False
        self._tell(f"{what} is {fault.variant}, and all runners are killed", what)
        for process in self._processes.living():
            if process.kind == "runner":
                process.kill()
        return True

    def _set_clock(self, fault: Fault) -> bool:
        victims = self._processes.hit_by(fault, self._broker)
        if not victims:
            return False
        machine = victims[0].machine
        self._clock.jump(machine, round(fault.amount * 1_000_000))
        how = f"{abs(fault.amount):g} s {'forward' if fault.amount > 0 else 'back'}"
        self._tell(f"the clock of {_named(fault, victims)} is set {how}", victims[0].name)
        return True

    # -- the number of nodes -------------------------------------------------------------------------------------

    def _reshard(self, fault: Fault) -> bool:
        if self.reshard is None:
            return False
        nodes = round(fault.amount)
        self._tell(f"somebody wants the program to run on {nodes} nodes", f"reshard {nodes}")
        self._tasks.create_task(self._ask(self.reshard(nodes), nodes, fault.duration_seconds))
        return True

    async def _ask(self, asking: Awaitable[None], nodes: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await asking
        except TimeoutError:
            self._tell(f"who wanted {nodes} nodes waits no longer", f"reshard {nodes} late")
        except (OperatorError, RequestError) as refused:
            self._tell(f"{nodes} nodes are refused: {refused}", f"reshard {nodes} refused")
        else:
            self._tell(f"who wanted {nodes} nodes hears that it has them", f"reshard {nodes} done")

    # -- broker, network, store ----------------------------------------------------------------------------------

    def _restart_broker(self, fault: Fault) -> bool:
        match fault.variant:
            case "connections":
                self._broker.lose_connections("the broker closed it")
            case "away":
                self._broker.lose_connections("the broker is away")
            case "forgets":
                self._broker.restart()
            case _:
                self._broker.wipe()
        what = {
            "connections": "closes all connections",
            "away": "is restarted and keeps its messages",
            "forgets": "is restarted and has no messages any more",
            "replaced": "is replaced by an empty one",
        }
        away = f", away for {fault.duration_seconds:.1f} s" if fault.duration_seconds else ""
        self._tell(f"the broker {what[fault.variant]}{away}", "broker")
        if fault.duration_seconds:
            self._tasks.create_task(self._stay_away(fault.duration_seconds))
        return True

    async def _stay_away(self, seconds: float) -> None:
        self._away += 1
        self._broker.unreachable = True
        await asyncio.sleep(seconds)
        self._away -= 1
        self._broker.unreachable = self._away > 0

    def _blow(self, fault: Fault) -> bool:
        self._tasks.create_task(self._blow_over(fault))
        return True

    async def _blow_over(self, fault: Fault) -> None:
        self._blowing[id(fault)] = fault
        self._set_weather()
        what = f"{fault.kind} {fault.variant}".rstrip()
        self._tell(f"{what} begins, by {fault.amount:g}", "weather")
        await asyncio.sleep(fault.duration_seconds)
        self._blowing.pop(id(fault), None)
        self._set_weather()
        self._tell(f"{what} ends", "weather")

    def _set_weather(self) -> None:
        weather = self._calm
        for fault in self._blowing.values():
            weather = _with(weather, fault)
        self._world.weather = weather


def _is_of(part: str, name: str) -> bool:
    """Whether an object of a program is of this kind; schedulers have a log, too."""
    return name.startswith("programs/") and f"/{part}/" in name


def _named(fault: Fault, victims: list[Process]) -> str:
    return f"machine {victims[0].machine}" if fault.target == "machine" else str(victims[0])


def _healed(weather: Weather) -> Weather:
    """An ordinary day: on a link that is twenty times slower than others, progress takes longer than anybody waits."""
    return replace(
        weather,
        transit=Delay(weather.transit.mean),
        slow_factor=1.0,
        store=replace(weather.store, latency=Delay(weather.store.latency.mean)),
    )


def _with(weather: Weather, fault: Fault) -> Weather:
    """The weather with one more fault in it."""
    store = weather.store
    match fault.kind, fault.variant:
        case "duplicate", _:
            return replace(weather, duplicate=max(weather.duplicate, fault.amount))
        case "loss", _:
            return replace(weather, loss=max(weather.loss, fault.amount))
        case "delay", _:
            transit = Delay(
                max(weather.transit.mean, fault.amount), 0.05, 2.0
            )  # slow pairs take 20 times as long
            return replace(weather, transit=transit, overtakes=1.0, late_confirm=0.5, returns_shuffled=True)
        case "store", "slow":
            return replace(weather, store=replace(store, latency=Delay(fault.amount, 0.05, 5.0)))
        case "store", "tears":
            return replace(weather, store=replace(store, torn=fault.amount, torn_of=TORN))
        case "store", "fails":
            return replace(weather, store=replace(store, fails_absent=fault.amount))
        case _:
            return replace(weather, store=replace(store, fails_stored=fault.amount))
