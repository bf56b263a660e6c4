"""Several schedulers in one simulated system, each behind a gate at which it can be stopped or killed at any step; and
a witness who reads all that they say.

A step is an operation on the store, before and after it takes effect, or on the broker. A scheduler whose gate is shut
is one that hangs: its connection stays open and is given messages, none of which it handles.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.base import (
    Broker,
    Connect,
    ConnectionState,
    Consumer,
    Delivery,
    OnConnection,
    OnDelivery,
    Queue,
    QueueDepth,
)
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages.control import DropProgram, HostNode, HostSequencer, Placement
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.stored import (
    SchedulerRecord,
)
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created, Store
from dist_zero_common.store.layout import scheduler_log_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.scheduler.growth import GrowthOptions
from services.scheduler.lead import LeadOptions
from services.scheduler.log import LogState, folded, with_record
from services.scheduler.service import SchedulerService


class Gate:
    """Where a scheduler can be stopped. `dies_at`: the step at which it is killed."""

    def __init__(self, dies_at: int = -1) -> None:
        self.steps = 0
        self.dies_at = dies_at
        self.task: asyncio.Task[None] | None = None
        self.store_open = asyncio.Event()
        """Whether the store is reached."""
        self.store_open.set()
        self._open = asyncio.Event()
        self._open.set()
        self._held: list[tuple[OnDelivery, Delivery]] = []

    def shut(self) -> None:
        """Stop it."""
        self._open.clear()

    def reopen(self) -> None:
        """Let it go on, with all that has come for it meanwhile."""
        self._open.set()
        held, self._held = self._held, []
        for on_delivery, delivery in held:
            on_delivery(delivery)

    async def step(self) -> None:
        """One more step: returns when it may be taken, and never if the scheduler is killed here."""
        self.steps += 1
        if self.steps == self.dies_at:
            assert self.task is not None
            self.task.cancel()
            await asyncio.Event().wait()
        while not self._open.is_set():
            await self._open.wait()

    def deliver(self, on_delivery: OnDelivery, delivery: Delivery) -> None:
        """Hand over a delivery, now or later."""
        if self._open.is_set():
            on_delivery(delivery)
        else:
            self._held.append((on_delivery, delivery))


class GatedStore:
    """A store behind a gate."""

    def __init__(self, store: Store, gate: Gate) -> None:
        self._store, self._gate = store, gate

    async def create(self, name: str, data: bytes) -> Created:
        await self._step()
        created = await self._store.create(name, data)
        await self._step()
        return created

    async def read(self, name: str) -> bytes | None:
        await self._step()
        return await self._store.read(name)

    async def list(self, prefix: str) -> list[str]:
        await self._step()
        return await self._store.list(prefix)

    async def delete(self, name: str) -> None:
        await self._step()
        await self._store.delete(name)

    async def close(self) -> None:
        await self._store.close()

    async def _step(self) -> None:
        await self._gate.store_open.wait()
        await self._gate.step()


class GatedBroker:
    """A connection behind a gate."""

    def __init__(self, broker: Broker, gate: Gate) -> None:
        self._broker, self._gate = broker, gate

    @property
    def state(self) -> ConnectionState:
        return self._broker.state

    @state.setter
    def state(self, state: ConnectionState) -> None:
        raise AssertionError(state)

    @property
    def reason(self) -> str:
        return self._broker.reason

    @reason.setter
    def reason(self, reason: str) -> None:
        raise AssertionError(reason)

    def on_connection(self, callback: OnConnection) -> None:
        self._broker.on_connection(callback)

    async def declare(self, queue: Queue) -> None:
        await self._gate.step()
        await self._broker.declare(queue)

    async def publish(self, queue: str, body: bytes) -> None:
        await self._gate.step()
        await self._broker.publish(queue, body)

    async def consume(self, queue: str, on_delivery: OnDelivery, prefetch: int) -> Consumer:
        await self._gate.step()
        return await self._broker.consume(
            queue, lambda delivery: self._gate.deliver(on_delivery, delivery), prefetch
        )

    async def depth(self, queue: str) -> QueueDepth | None:
        await self._gate.step()
        return await self._broker.depth(queue)

    async def delete(self, queue: str) -> None:
        await self._gate.step()
        await self._broker.delete(queue)

    async def close(self) -> None:
        await self._broker.close()


@dataclass
class Witness:
    """Sees all records of the log and all messages, and says what must not be. `wrong` is what was."""

    state: LogState = field(default_factory=LogState)
    claims: list[tuple[int, float]] = field(default_factory=list)
    decided: set[tuple[str, int]] = field(default_factory=set)
    """Each part that a record has ever placed: its program and its incarnation; and with each placement its version."""
    wrong: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    def see_record(self, record: SchedulerRecord) -> None:
        """A record has come to be in the store."""
        if record.number <= self.state.number:
            self.counters["strays"] += 1
            return
        self.state = folded([record]) if self.state.number == 0 else with_record(self.state, record)
        if record.scheduler == record.number:
            self.claims.append((record.number, asyncio.get_running_loop().time()))
        for program in record.programs:
            if program.placement is not None:
                self.decided.add((program.program, program.placement.version))
            sequencer = (program.sequencer,) if program.sequencer is not None else ()
            for part in (*program.nodes, *sequencer):
                self.decided.add((program.program, part.incarnation))

    def see_message(self, message: Message) -> None:
        """A message has come to a queue."""
        match message:
            case HostNode() | HostSequencer():
                self.counters["hosted"] += 1
                self.counters["hosted late"] += message.scheduler < self.state.leader
                if (message.program, message.incarnation) not in self.decided:
                    self.wrong.append(f"was commanded before it was in the log: {message.incarnation}")
            case Placement():
                self.counters["placed"] += 1
                if (message.program, message.version) not in self.decided:
                    self.wrong.append(f"{message.program} was placed before it was in the log")
            case DropProgram():
                self.counters["dropped"] += 1
                program = self.state.programs.get(message.program)
                if program is not None and program.wanted and program.sequencer is not None:
                    kept = [part.incarnation for part in (*program.nodes, program.sequencer)]
                    if min(kept) <= message.incarnation:
                        self.wrong.append(f"{message.program} shall run, and is dropped")


class WatchedObjects(MemoryObjects):
    """What the stores share, with a witness."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness

    def create(self, name: str, data: bytes) -> Created:
        created = super().create(name, data)
        if created is Created.NEW and name.startswith(scheduler_log_prefix()):
            self._witness.see_record(decode(SchedulerRecord, data))
        return created


class Schedulers(SimulatedSystem):
    """A system of several schedulers. The first one, `scheduler`, is there from the beginning; `dies_at`: the step at
    which it is killed."""

    def __init__(
        self,
        world: SimWorld,
        *,
        machines: int = 2,
        dies_at: int = -1,
        lease_seconds: float = 10.0,
        growth: GrowthOptions | None = None,
    ) -> None:
        self.witness = Witness()
        self.gates: dict[str, Gate] = {}
        self.stand_by = True
        """Whether schedulers that are started stand by when they are deposed."""
        self._dies_at, self._lease_seconds = dies_at, lease_seconds
        store = MemoryStore(WatchedObjects(self.witness), world)
        super().__init__(world, machines=machines, store=store, growth=growth)
        accept = self.broker.accept

        def witnessed(queue: str, body: bytes) -> int:
            for message in decode(Envelope, body).messages:
                self.witness.see_message(message)
            return accept(queue, body)

        self.broker.accept = witnessed  # type: ignore[method-assign]

    async def __aenter__(self) -> Schedulers:
        await super().__aenter__()
        return self

    def start_scheduler(self, name: str, *, keeps_programs: bool = True) -> SchedulerService:
        gate = self.gates[name] = Gate(self._dies_at if name == "scheduler" else -1)
        self._scheduler_starts += 1
        service = SchedulerService(
            system=self.name,
            connect=self._gated(name, gate),
            store=GatedStore(self.store, gate),
            clock=self.clock,
            spawner=self._spawner,
            log=get_logger("scheduler", self.clock),
            options=self._scheduler_options(keeps_programs),
            lead=LeadOptions(
                name=f"{name}-{self._scheduler_starts}",
                lease_seconds=self._lease_seconds if name == "scheduler" else 10.0,
                stands_by=self.stand_by,
                at_once=self._scheduler_starts == 1,
            ),
        )
        gate.task = self._schedulers[name] = self._tasks.create_task(service.run(), name=name)
        return service

    def _gated(self, name: str, gate: Gate) -> Connect:
        connect = self.connector(name)

        async def through() -> Broker:
            await gate.step()
            return GatedBroker(await connect(), gate)

        return through
