"""The machine agent's shell: announces its machine, and starts, watches and stops node runners on it as it is told.

It reports every second and at once when something has changed. A report carries the agent's incarnation, which is the
time at which it started: of two agents that one machine has had, the later one counts. (A machine whose clock is set
back between two starts is not believed before that time has come again.)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from dist_zero_common.aside import only_logged
from dist_zero_common.broker.base import Connect, ConnectionState
from dist_zero_common.broker.topology import agent_inbox, queue_of, scheduler_inbox
from dist_zero_common.clock import Clock, wait_changed
from dist_zero_common.errors import MalformedMessage, OperatorError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token, log_state
from dist_zero_common.protocol.dispatch import Handlers, Role, check_handlers, dispatch
from dist_zero_common.protocol.messages.control import MachineReport, RunnerStatus, StartRunner, StopRunner
from dist_zero_common.protocol.messages.envelope import Message
from services.machine_agent.launchers.base import Launcher
from services.machine_agent.state import (
    AgentState,
    RunnerState,
    is_for_successor,
    on_command,
    on_ended,
    on_started,
    statuses,
)

HEARTBEAT_SECONDS = 1.0
ROLES = (Role.AGENT,)


class AgentService:
    """One agent."""

    def __init__(
        self,
        *,
        system: str,
        machine: str,
        connect: Connect,
        clock: Clock,
        launcher: Launcher,
        cores: int,
        memory_bytes: int,
        labels: Sequence[str],
        log: Logger,
        on_superseded: Callable[[], None] = lambda: None,
    ) -> None:
        """`labels` are `name=value`. `on_superseded` is called when a later agent of this machine's name has come: the
        scheduler heeds that one, and this one is of no use any more."""
        self.counters: Counter[str] = Counter()
        self._system, self._machine, self._launcher = system, checked_name("machine", machine), launcher
        self.cores, self.memory_bytes, self._labels = cores, memory_bytes, tuple(labels)
        self._inbox = agent_inbox(system, machine)
        self._incarnation = clock.now_us()
        self._log = log.bind(system=system, machine=machine, agent_incarnation=self._incarnation)
        self._state = AgentState(self._incarnation)
        self._commanded, self._changed = asyncio.Event(), asyncio.Event()
        self._leaving, self._on_superseded = False, on_superseded
        self.post = Mailbox(
            connect,
            system=system,
            sender=f"agent-{machine}",
            set_aside=only_logged(self._log),
            on_unroutable=self._on_unroutable,
            on_state=log_state(self._log),
        )
        self._handlers: Handlers[None] = {StartRunner: self._on_command, StopRunner: self._on_command}
        check_handlers(ROLES, self._handlers)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.post.run())
            await self.post.listen(queue_of(self._inbox), self._on_message)
            self._log.info("agent_started", cores=self.cores, memory_bytes=self.memory_bytes)
            tasks.create_task(self._obey())
            while True:
                self._watch()
                self._report()
                await wait_changed(self._changed, HEARTBEAT_SECONDS)

    @property
    def runners(self) -> tuple[RunnerStatus, ...]:
        """What it reports of its runners."""
        return statuses(self._state)

    async def say_goodbye(self) -> None:
        """End all runners and report it, so that what they host is placed elsewhere at once. Nothing is started any
        more, and the scheduler forgets the machine. Returns when the broker has the report."""
        self._leaving = True
        for name, runner in self._state.runners.items():
            await self._launcher.stop(name)
            self._state = on_ended(self._state, name, runner.incarnation)
        self._log.info("agent_leaves", running=len(self._state.runners))
        self._report()
        await self.post.wait_sent()

    @property
    def running(self) -> int:
        """How many runners run."""
        return sum(status.alive for status in statuses(self._state))

    def _report(self) -> None:
        if self.post.state is not ConnectionState.CONNECTED:
            return  # old news are of no use to anybody
        report = MachineReport(
            machine=self._machine,
            incarnation=self._incarnation,
            inbox=self._inbox,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            labels=self._labels,
            runners=self.runners,
            leaves=self._leaving and not any(runner.alive for runner in self.runners),
        )
        self.post.send(scheduler_inbox(self._system), report)

    def _watch(self) -> None:
        """Notice runners that have ended by themselves."""
        for status in statuses(self._state) if not self._leaving else ():
            if status.alive and not self._launcher.alive(status.runner, status.incarnation):
                self.counters["runners_died"] += 1
                self._log.error("runner_died", runner=status.runner, incarnation=status.incarnation)
                self._state = on_ended(self._state, status.runner, status.incarnation)

    async def _obey(self) -> None:
        """Do what commands have made of the state, one runner after the other, until there is nothing left to do."""
        while True:
            await self._commanded.wait()
            self._commanded.clear()
            for name in list(self._state.runners):
                await self._converge(name, self._state.runners[name])
            self._changed.set()

    async def _converge(self, name: str, runner: RunnerState) -> None:
        if runner.is_settled() or self._leaving:
            return
        try:
            await self._launcher.stop(name)
            if not runner.wanted:
                self._log.info("runner_stopped", runner=name, incarnation=runner.incarnation)
                self._state = on_ended(self._state, name, runner.incarnation)
                return
            await self._launcher.start(name, runner.incarnation)
        except OperatorError as failed:
            self._log.error(
                "launcher_failed", runner=name, incarnation=runner.incarnation, reason=str(failed)
            )
            self._state = on_ended(self._state, name, runner.incarnation)
        else:
            self.counters["runners_started"] += 1
            self._log.info("runner_started", runner=name, incarnation=runner.incarnation)
            self._state = on_started(self._state, name, runner.incarnation)

    # -- messages ------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, token: Token) -> None:
        dispatch(ROLES, self._handlers, message)
        self.post.settle(token)

    def _on_command(self, command: StartRunner | StopRunner) -> None:
        checked_name("runner", command.runner, MalformedMessage)
        state = on_command(self._state, command)
        if state is None:
            self.counters["commands_refused"] += 1
            self._log.warning("command_refused", command=command, newest=self._state.scheduler)
            if is_for_successor(self._state, command):
                self._on_superseded()
            return
        if state.runners != self._state.runners:
            self._commanded.set()
        else:
            self._changed.set()  # the scheduler asks again: it has not heard
        self._state = state

    def _on_unroutable(self, inbox: str) -> None:
        self._log.debug("inbox_gone", inbox=inbox)
