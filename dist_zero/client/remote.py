"""A system that runs elsewhere, reached over its broker: clients of its programs, and questions to its scheduler.

Errors and logs name the broker by its address, never with the password of its URL.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

from dist_zero.client.change import MayChange, OnChange, change_program, tell_change
from dist_zero.client.client import Client
from dist_zero.client.line import CONNECT_SECONDS_MAX, RETURN_SECONDS_MAX, Line
from dist_zero.client.opening import new_client
from dist_zero.expr.graph import encode_graph
from dist_zero_common.broker.base import Broker, Connect, QueueDepth
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.clock import Clock, RealClock
from dist_zero_common.errors import InternalError, MalformedMessage, OperatorError, RequestError, first_error
from dist_zero_common.ids import checked_name
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import RequestRefused, TransactionPlace
from dist_zero_common.protocol.messages.requests import (
    AskStatus,
    AutoscaleProgram,
    DrainMachine,
    Located,
    MachineLimits,
    NodeLimits,
    ProgramChange,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    ScaleProgram,
    ScaleServices,
    ServiceCount,
    SystemStatus,
    TransactionVoided,
    VoidTransaction,
)

if TYPE_CHECKING:
    from dist_zero.program import Program

NOTHING_LOST = MayChange()
ASK_SECONDS = 0.5
"""A scheduler that has said nothing for so long is asked again."""
SILENT_SECONDS = 5.0
"""Whoever follows a system is told when its scheduler has not answered for so long."""
LOOK_SECONDS = 1.0
"""So often whoever waits for a machine to be empty, or for hosts, looks."""
WRONG_LOOKS = 5
"""What is wrong with a host so many times in a row does not pass by itself."""

OnLook = Callable[[SystemStatus], None]
"""Hears how far things are."""


class Look:
    """What `RemoteSystem.looking` gives."""

    def __init__(self, system: str, line: Line) -> None:
        self._system, self._line = system, line

    async def status(self) -> SystemStatus:
        """What is there and how far it is. Raises `OperatorError` when no scheduler answers for minutes."""
        status = await self._line.questions.ask(
            lambda request: (scheduler_inbox(self._system), AskStatus(request, self._line.replies)),
            "its status",
            patience=ASK_SECONDS,
        )
        assert isinstance(status, SystemStatus)
        return status

    @property
    def waiting_for(self) -> str:
        """What is known to keep answers from coming, in words; empty when nothing is."""
        return self._line.waiting_for


class RemoteSystem:
    """The system `system` at the broker with this URL. Nothing is connected before it is used."""

    def __init__(
        self,
        url: str,
        system: str,
        clock: Clock | None = None,
        *,
        connect: Connect | None = None,
        process: str | None = None,
    ) -> None:
        """`connect`: what makes the connections, for a broker that is none of RabbitMQ's; the URL is not used then.
        `process`: what tells this one from all others there are, if it is not to be drawn."""
        self.name = checked_name("system", system)
        self._url, self._given = url, connect
        self._clock = clock or RealClock()
        self._process = process or uuid.uuid4().hex[:16]
        self._connections = 0
        self._reached = False

    def connect(
        self, program: Program | str, *, nodes: int = 1, client_id: str | None = None
    ) -> AbstractAsyncContextManager[Client]:
        """A client of a program, which is submitted on `nodes` nodes if it is given whole; a name finds one that
        runs. `client_id` names its sessions, see `dz.connect`."""
        name = self._new_name()
        return new_client(
            program,
            system=self.name,
            connection=name,
            connect=self._connect(name),
            clock=self._clock,
            nodes=nodes,
            client_id=client_id,
            connect_seconds=self._connect_seconds(),
        )

    async def status(self) -> SystemStatus:
        """What is there and how far it is. Raises `OperatorError` when no scheduler answers."""
        async with self.looking() as look:
            return await look.status()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Look]:
        """A line for whoever asks for the status again and again; it stays through losses of the connection, and is for
        whichever scheduler leads."""
        async with self._line() as line:
            yield Look(self.name, line)

    async def statuses(self, seconds: float) -> AsyncGenerator[SystemStatus | OperatorError]:
        """What is there, again and again with so many seconds between; while no scheduler answers, why not."""
        async with self._line() as line:
            while True:
                try:
                    async with asyncio.timeout(SILENT_SECONDS):
                        said = await line.questions.ask(
                            lambda request: (scheduler_inbox(self.name), AskStatus(request, line.replies)),
                            "its status",
                            patience=ASK_SECONDS,
                        )
                except TimeoutError:
                    reason = line.waiting_for or f"the scheduler of system {self.name!r} does not answer"
                    said = OperatorError(reason)
                yield said
                await asyncio.sleep(seconds)

    async def remove(self, program: str) -> None:
        """Stop a program and wait until it has stopped; what is in the store stays."""
        async with self._line() as line:
            await line.questions.ask(
                lambda request: (
                    scheduler_inbox(self.name),
                    RemoveProgram(request, program, line.replies),
                ),
                f"the end of program {program!r}",
                patience=ASK_SECONDS,
            )

    async def scale(self, program: str, nodes: int) -> None:
        """Run a program on so many nodes, and wait until it does. Raises `RequestError` if that cannot be, or somebody
        has asked for another number since: the last wish counts."""
        async with self._line() as line:
            for again in chain([False], repeat(True)):

                def question(request: int, again: bool = again) -> tuple[str, Message]:
                    wish = ScaleProgram(request, program, nodes, line.replies, again)
                    return scheduler_inbox(self.name), wish

                located = await line.questions.ask(
                    question,
                    f"program {program!r} on {nodes} nodes",
                    patience=ASK_SECONDS,
                )
                assert isinstance(located, Located)
                if located.state is ProgramState.HALTED:
                    raise OperatorError(f"program {program!r} stands still: {located.note}")
                if located.placement is not None and len(located.placement.shard_map.nodes) == nodes:
                    return
                await asyncio.sleep(ASK_SECONDS)

    async def scale_services(
        self, counts: Mapping[str, int], *, wait: bool = False, on_look: OnLook = lambda _: None
    ) -> SystemStatus:
        """Let there be so many hosts with each of these services (`node-runner`, `scheduler`) from now on; returns when
        the schedulers' log says so, or with `wait` when they are ready and all others are gone. Raises `RequestError`
        if that cannot be, or somebody has asked for another number since, and `OperatorError` while one of them cannot
        be obtained, which the scheduler goes on trying."""
        wanted = tuple(ServiceCount(service, count) for service, count in counts.items())
        wrong = 0
        async with self._line() as line:
            for again in chain([False], repeat(True)):

                def question(request: int, again: bool = again) -> tuple[str, Message]:
                    return scheduler_inbox(self.name), ScaleServices(request, wanted, line.replies, again)

                status = await line.questions.ask(question, "another number of hosts", patience=ASK_SECONDS)
                assert isinstance(status, SystemStatus)
                on_look(status)
                there = [each for each in status.services if each.service in counts]
                if not wait or all(each.ready == each.wanted and not each.leaving for each in there):
                    return status
                notes = [f"{note.host} {note.text}".strip() for note in status.hosts if note.wrong]
                wrong = wrong + 1 if notes else 0
                if wrong >= WRONG_LOOKS:
                    raise OperatorError(f"{'; '.join(notes)} (the scheduler goes on trying)")
                await asyncio.sleep(LOOK_SECONDS)
        raise InternalError("whoever waits goes on asking")

    async def change(
        self,
        program: Program,
        change: MayChange = NOTHING_LOST,
        *,
        nodes: int = 1,
        on_progress: OnChange | None = None,
    ) -> None:
        """Have a program run as it is declared now, whatever runs under its name, and wait until it does. Raises
        `RequestError` if it cannot become that, or something would be lost that `change` does not name."""
        async with self._line() as line:
            await change_program(
                line,
                self.name,
                program.name,
                encode_graph(program.graph()),
                nodes=nodes,
                change=change,
                on_progress=on_progress,
            )

    async def tell_change(self, program: Program, change: MayChange = NOTHING_LOST) -> ProgramChange:
        """What `change` would keep, fill and drop; nothing is done."""
        async with self._line() as line:
            return await tell_change(line, self.name, program.name, encode_graph(program.graph()), change)

    async def autoscale(self, program: str, nodes: NodeLimits, machines: MachineLimits | None = None) -> None:
        """Let a program grow and shrink by itself within these limits, and if they are given, the machines, too;
        returns when the schedulers' log says so. Raises `RequestError` for limits that make no sense."""
        async with self._line() as line:
            await line.questions.ask(
                lambda request: (
                    scheduler_inbox(self.name),
                    AutoscaleProgram(request, program, nodes, machines, line.replies),
                ),
                f"limits for program {program!r}",
                patience=ASK_SECONDS,
            )

    async def drain(self, machine: str, drained: bool = True, *, wait: bool = False) -> SystemStatus:
        """Let a machine run nothing any more, or, with `drained` false, let it run things again; with `wait`, return
        when nothing runs there any more. Raises `RequestError` for one that has never announced itself, and when
        somebody has asked for the opposite since: the last wish counts; `OperatorError` when what runs there has
        nowhere to go."""
        async with self._line() as line:
            for again in chain([False], repeat(True)):

                def question(request: int, again: bool = again) -> tuple[str, Message]:
                    wish = DrainMachine(request, machine, drained, line.replies, again)
                    return scheduler_inbox(self.name), wish

                status = await line.questions.ask(
                    question, f"machine {machine!r} to be drained", patience=ASK_SECONDS
                )
                assert isinstance(status, SystemStatus)
                parts = parts_on(status, machine)
                if not (wait and drained and parts):
                    return status
                if not any(each.ready for each in status.machines if each.machine != machine):
                    raise OperatorError(
                        f"{parts} parts of programs run on {machine}, and there is no other machine that is ready"
                    )
                await asyncio.sleep(LOOK_SECONDS)
        raise InternalError("whoever waits goes on asking")

    async def void(self, program: str, place: TransactionPlace) -> None:
        """Take a transaction out of a program, and wait until its log says so. Raises `RequestError` when that cannot
        be any more."""
        async with self._line() as line:
            await line.questions.ask(
                lambda request: (
                    scheduler_inbox(self.name),
                    VoidTransaction(request, program, place, line.replies),
                ),
                f"the record that voids transaction {place} of {program!r}",
                patience=ASK_SECONDS,
            )

    async def depth(self, queues: Iterable[str]) -> dict[str, QueueDepth | None]:
        """How these queues are doing; None for one that is not there."""
        broker: Broker = await self._connect(self._new_name())()
        try:
            return {queue: await broker.depth(queue) for queue in queues}
        finally:
            await broker.close()

    def _new_name(self) -> str:
        self._connections += 1
        return f"client-{self._process}-{self._connections}"

    def _connect(self, name: str) -> Connect:
        if self._given is not None:
            connect = self._given
        else:
            from dist_zero_common.broker.rabbitmq import connector  # who simulates needs no aio-pika

            connect = connector(self._url, name)

        async def connect_and_note() -> Broker:
            broker = await connect()
            self._reached = True
            return broker

        return connect_and_note

    def _connect_seconds(self) -> float:
        return RETURN_SECONDS_MAX if self._reached else CONNECT_SECONDS_MAX

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[Line]:
        """A line to the scheduler, for the time of a question."""
        name = self._new_name()

        def on_message(message: Message) -> None:
            match message:
                case SystemStatus() | ProgramRemoved() | Located() | TransactionVoided():
                    line.questions.answer(message.request, message)
                case RequestRefused():
                    line.questions.refuse(message.request, RequestError(message.reason))
                case _:
                    raise MalformedMessage(f"a {type(message).__name__} answers no question to a scheduler")

        async def run() -> None:
            try:
                await line.run()
            except Exception as error:  # whatever it is, it belongs to whoever asks
                line.questions.fail(first_error(error))

        line = Line(
            self._connect(name),
            system=self.name,
            name=name,
            subject=f"system {self.name!r}",
            clock=self._clock,
            log=get_logger("client", self._clock, client=name, system=self.name),
            on_message=on_message,
            connect_seconds=self._connect_seconds(),
        )
        running = asyncio.create_task(run(), name=f"{name} line")
        try:
            await line.listen()
            yield line
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def parts_on(status: SystemStatus, machine: str) -> int:
    """How many parts of programs run on a machine."""
    return sum(
        [place.machine for place in program.nodes].count(machine) + (program.sequencer_machine == machine)
        for program in status.programs
    )
