"""`dist-zero join`: a machine agent in the foreground, for a person who looks at it.

It is the same agent as that of any other machine, and its runner is a child process that ends with it, however it ends.
What it adds are questions that nobody is there to ask on other machines: whether the system is there, whether the
machine's name is free, whether the store is the system's own. And it says what happens, one line for each change.

**Names.** Of two agents of one name the scheduler heeds the one that was started later. So a name whose machine was
heard of lately is refused, one that is silent is taken over, and if two hosts join under one name at the same moment,
the earlier one finds out that it is not meant any more, and ends.

**The store.** Whoever runs a part of a program over another store than the system's would begin a second, empty log of
it. So before anything runs, the newest claim in the schedulers' log there has to be the one of the scheduler that
answers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dist_zero.cli.diagnosis import SILENT_MS
from dist_zero.cli.reach import status_of
from dist_zero.cli.render import console_for
from dist_zero.cli.status import shown_bytes
from dist_zero.client.remote import RemoteSystem, parts_on
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.topology import agent_inbox
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import BrokerError, ConnectionLost, OperatorError, SettingsError, first_error
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.messages.requests import MachineStatus, SystemStatus
from dist_zero_common.settings import Settings, child_environment
from dist_zero_common.store.opening import directory_of, open_store

if TYPE_CHECKING:
    from services.machine_agent.machine import Machine
    from services.machine_agent.service import AgentService

LOOK_SECONDS = 1.0
GOODBYE_SECONDS = 15.0
"""So long the runner and the broker have to end what they are at."""
LEFT_SECONDS = 20.0
"""So long it is watched how the nodes of a machine that has left move elsewhere."""
SUPERSEDED_LOOKS = 5
"""A later runner of this machine's that was not started here, so many looks in a row, is another host's."""
STORE_LOOKS = 3
"""Where the newest claim in the store is not that of whoever answers, its maker may be just about to lead."""


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """`settings`: those of the agent and of its runner. `client_url`: where questions are asked. `store`: where the
    store is, or None for where the scheduler says."""

    settings: Settings
    client_url: str = field(repr=False)
    store: Path | str | None


async def join_system(options: JoinOptions) -> None:
    """Be a machine until told to end. Raises `SettingsError` and `OperatorError` for what keeps it from that."""
    from services.machine_agent.machine import this_machine
    from services.scheduler.spawners.base import role_of

    settings = options.settings
    machine = this_machine(settings.machine)
    if role_of(machine.name) is not None:
        raise SettingsError(
            f"{machine.name!r} is a name for hosts that a system obtains by itself: choose another one with"
            " --machine NAME"
        )
    remote = RemoteSystem(options.client_url, settings.system)
    try:
        status = await status_of(remote)
    except ConnectionLost:
        raise
    except BrokerError as error:
        may = "to join takes a user who may do what agents, runners and clients do at this broker"
        raise OperatorError(f"{str(error).rstrip('.')}; {may}") from error
    _check_name(machine.name, status)
    store = options.store or status.store
    await _check_store(store, options.store is not None, status, remote, settings)
    console = console_for()
    for line in _hello(machine, status, settings):
        console.print(line)
    await _Joined(options, machine, str(store), remote).run()


def _check_name(name: str, status: SystemStatus) -> None:
    there = next((each for each in status.machines if each.machine == name), None)
    if there is not None and there.silent_ms < SILENT_MS:
        raise OperatorError(
            f"a machine {name!r} is there already, heard of {there.silent_ms / 1000:.1f} s ago: choose another name"
            " with --machine NAME, or end that one first; if it was this host until just now, try again in some seconds"
        )


async def _check_store(
    where: Path | str, given: bool, status: SystemStatus, remote: RemoteSystem, settings: Settings
) -> None:
    """Raise `SettingsError` unless the store is there and is the system's."""
    from services.scheduler.written_log import WrittenLog

    if not where:
        raise SettingsError(
            "the scheduler does not say where the store is: name it with --store, or in DIST_ZERO_STORE"
        )
    directory = directory_of(where)
    if directory is not None and not directory.is_dir():
        whose = (
            "there is no directory"
            if given
            else "the scheduler has the store in a directory that is not here:"
        )
        raise SettingsError(
            f"{whose} {directory}; mount the system's store on this host, and say where with --store DIR"
        )
    store = open_store(where, settings)
    try:
        written = WrittenLog(store, "join", get_logger("join", RealClock()))
        for look in range(STORE_LOOKS):
            claimed = (await written.load()).leader
            if claimed == status.scheduler:
                return
            if look < STORE_LOOKS - 1:
                await asyncio.sleep(LOOK_SECONDS)
                status = await status_of(remote)
    finally:
        await store.close()
    there = f"scheduler {claimed} was the last to lead there" if claimed else "no scheduler has written there"
    raise SettingsError(
        f"{where} is not the store of system {settings.system!r}: {there}, and scheduler {status.scheduler} answers."
        " Say with --store where the system's store is from here"
        + (", and with AWS_ENDPOINT_URL at which address" if directory is None else "")
    )


def _hello(machine: Machine, status: SystemStatus, settings: Settings) -> list[Text]:
    known = any(each.machine == machine.name for each in status.machines)
    size = f"{machine.cores} core{'s' if machine.cores > 1 else ''}, {shown_bytes(machine.memory_bytes)}"
    system, name = (settings.system, "bold"), (machine.name, "bold")
    lines = [Text.assemble("joins system ", system, " as machine ", name, f" ({size}); Ctrl-C leaves it")]
    if known:
        lines.append(Text(f"takes the place of machine {machine.name}, which is silent", "yellow"))
    return lines


class _Joined:
    """This host while it is a machine of a system."""

    def __init__(self, options: JoinOptions, machine: Machine, store: str, remote: RemoteSystem) -> None:
        self._settings, self._machine, self._store, self._remote = options.settings, machine, store, remote
        self._clock = RealClock()
        self._log = get_logger("join", self._clock, system=self._settings.system, machine=machine.name)
        self._console = console_for()
        self._stop = asyncio.Event()
        self._superseded = asyncio.Event()
        self._foreign_looks = 0
        self._said = ""
        self._parts = 0

    async def run(self) -> None:
        """Until SIGINT or SIGTERM; a second one does not wait for a goodbye."""
        from services.machine_agent.launchers.process import ProcessLauncher
        from services.machine_agent.service import AgentService

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        settings, machine = self._settings, self._machine
        try:
            async with ProcessLauncher(self._environment, self._log) as launcher:
                agent = AgentService(
                    system=settings.system,
                    machine=machine.name,
                    connect=connector(settings.broker_url, f"{settings.system}: agent of {machine.name}"),
                    clock=self._clock,
                    launcher=launcher,
                    cores=machine.cores,
                    memory_bytes=machine.memory_bytes,
                    labels=settings.labels,
                    log=self._log,
                    on_superseded=self._superseded.set,
                )
                await self._serve(agent)
        except* OperatorError as failed:
            raise first_error(failed) from None

    async def _serve(self, agent: AgentService) -> None:
        serving = asyncio.create_task(agent.run(), name="agent")
        following = asyncio.create_task(self._follow(agent), name="follow")
        stopped = asyncio.create_task(self._stop.wait())
        superseded = asyncio.create_task(self._superseded.wait())
        tasks: list[asyncio.Task[Any]] = [serving, following, stopped, superseded]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if superseded in done:
                raise OperatorError(
                    f"another machine has joined system {self._settings.system!r} as {self._machine.name!r} since, and"
                    " counts; this one has ended. Each needs a name of its own: --machine NAME"
                )
            for task in (serving, following):
                if task in done:
                    task.result()
            self._stop.clear()
            again = asyncio.create_task(self._stop.wait())
            tasks.append(again)
            leaving = asyncio.create_task(self._leave(agent, following))
            tasks.append(leaving)
            await asyncio.wait([again, leaving], return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                leaving.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _on_signal(self) -> None:
        self._stop.set()

    def _environment(self, runner: str, incarnation: int) -> Mapping[str, str]:
        from services.machine_agent.__main__ import runner_settings

        own = {"DIST_ZERO_STORE": self._store, "DIST_ZERO_LOG_DIR": str(self._settings.log_directory)}
        return child_environment(runner_settings(self._settings, self._machine, runner, incarnation) | own)

    # -- what a person sees ----------------------------------------------------------------------------------------

    async def _follow(self, agent: AgentService) -> None:
        """Say what the scheduler makes of this machine."""
        async with aclosing(self._remote.statuses(LOOK_SECONDS)) as statuses:
            async for status in statuses:
                if isinstance(status, OperatorError):
                    self._say(f"{status}; what runs here goes on", "yellow")
                    continue
                here = next((each for each in status.machines if each.machine == self._machine.name), None)
                if here is not None:
                    self._look_for_others(here, agent)
                self._parts = parts_on(status, self._machine.name)
                self._say(*_told(here, status))

    def _look_for_others(self, here: MachineStatus, agent: AgentService) -> None:
        own = max((runner.incarnation for runner in agent.runners), default=0)
        self._foreign_looks = self._foreign_looks + 1 if here.runner_incarnation > own else 0
        if self._foreign_looks >= SUPERSEDED_LOOKS:
            self._superseded.set()

    async def _leave(self, agent: AgentService, following: asyncio.Task[None]) -> None:
        """Say goodbye, and see where the nodes go."""
        following.cancel()
        parts = self._parts
        self._say("leaving" + (f": {_parts_in_words(parts)} to other machines" if parts else ""))
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await agent.say_goodbye()
                await agent.post.delete(agent_inbox(self._settings.system, self._machine.name))
        except TimeoutError:
            raise OperatorError(
                "left without a goodbye, for the broker takes nothing: the system finds out by itself"
            ) from None
        if not parts:
            self._say(f"left system {self._settings.system}")
            return
        if await self._have_moved():
            self._say(f"left system {self._settings.system}: all that ran here runs elsewhere")
        else:
            waits = "what ran here waits for a machine that has room for it"
            self._say(f"left system {self._settings.system}: {waits}", "yellow")

    async def _have_moved(self) -> bool:
        """Whether nothing is placed here any more, as far as is worth waiting for."""
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(LEFT_SECONDS),
                aclosing(self._remote.statuses(LOOK_SECONDS / 2)) as statuses,
            ):
                async for status in statuses:
                    if isinstance(status, SystemStatus):
                        if not parts_on(status, self._machine.name):
                            return True
                        if not any(each.ready for each in status.machines):
                            return False
        return False

    def _say(self, line: str, style: str = "") -> None:
        """Once, as long as nothing else is to be said."""
        if line != self._said:
            self._said = line
            self._console.print(Text(line, style))


def _told(here: MachineStatus | None, status: SystemStatus) -> tuple[str, str]:
    """What is to be said of this machine, and how."""
    if here is None:
        return f"waits for scheduler {status.scheduler} to take notice", "dim"
    if not here.ready:
        return (
            f"scheduler {status.scheduler} has taken notice; {here.note or 'its runner is starting'}",
            "dim",
        )
    programs = []
    for program in status.programs:
        nodes = sum(place.machine == here.machine for place in program.nodes)
        parts = [f"{nodes} of {len(program.nodes)} nodes"] if nodes else []
        parts += ["the sequencer"] if program.sequencer_machine == here.machine else []
        if parts:
            programs.append(f"{program.program}: {' and '.join(parts)}")
    if programs:
        return f"runs here: {'; '.join(programs)}", "green"
    return f"ready: nothing runs here yet{f' ({here.note})' if here.note else ''}", "green"


def _parts_in_words(parts: int) -> str:
    return f"{parts} part{'s' if parts > 1 else ''} of programs move{'' if parts > 1 else 's'}"
