"""A scheduler while it leads: post, timers, the spawner. What is to be done, `reconcile.py` says.

Everything that comes in changes what is observed or desired and wakes one loop, which decides, compares and
sends. It rests a little after each round, so that a thousand reports that come together are one round, and
looks again every second without being woken, because silence, patience and repeats come with time alone.

**What holds while others may lead by now.** Its number is larger than that of any before it, and so are all
incarnations that it gives out; whoever takes its commands refuses those of smaller ones. A round decides, then writes
what it decided into the log, and only commands when all that is desired is there: another scheduler that leads since
has read it, so commands sent too late say nothing that it does not know. Every few seconds the log is looked at for a
later claim; a scheduler that has not done so lately commands nothing, answers no other scheduler and takes nothing away
from clients, and one that cannot for the time of the lease gives up.

**Beginning.** What the log says is wanted from the start, with all parts where they were placed, so nobody is told
that a program does not run because the scheduler is new. For a little while it then only listens: who has not reported
yet is not lost, and what is being removed is not gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from dist_zero_common.aside import Aside
from dist_zero_common.broker.base import Connect, ConnectionState
from dist_zero_common.broker.topology import (
    STANDBY,
    check_inbox,
    queue_of,
    scheduler_inbox,
    sequencer_clients_inbox,
)
from dist_zero_common.clock import Clock, wait_changed
from dist_zero_common.errors import BrokerError, MalformedMessage, RequestError, StoreError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token, log_state
from dist_zero_common.protocol.dispatch import Handlers, Role, check_handlers, dispatch
from dist_zero_common.protocol.messages.control import (
    Leads,
    MachineReport,
    RunnerReport,
    StandsBy,
    StartRunner,
)
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.requests import (
    AskStatus,
    AutoscaleProgram,
    DrainMachine,
    Locate,
    RemoveProgram,
    ScaleProgram,
    ScaleServices,
    SubmitProgram,
    SystemStatus,
    VoidTransaction,
)
from dist_zero_common.protocol.stored import (
    RecordedProgram,
)
from dist_zero_common.store.base import Store
from services.scheduler.changes import NO_CHANGES, Changes, changes_between
from services.scheduler.changing import target_fingerprint
from services.scheduler.deciding import decide, forget_silent, unread_queues, with_program
from services.scheduler.growing import Growing
from services.scheduler.host_keeping import HostKeeping
from services.scheduler.lead import LeadOptions
from services.scheduler.log import (
    recalled_assignment,
    recalled_removal,
    recorded,
    recorded_machines,
    recorded_program,
)
from services.scheduler.programs import known_base
from services.scheduler.reconcile import Repeats, reconcile
from services.scheduler.reports import check_machine_report, check_reply_to, check_runner_report
from services.scheduler.requests import Requests
from services.scheduler.scaling import with_drained, with_recalled_machines, with_services, without_machine
from services.scheduler.sleeping import woken
from services.scheduler.spawners.base import Spawner
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Assignment,
    Desired,
    Heard,
    Observed,
    SchedulerOptions,
    WantedProgram,
    hear_machine,
    hear_runner,
    inbox_of,
    lost_parts,
    nothing_desired,
    silent,
)
from services.scheduler.status import status_of
from services.scheduler.unread import hear_of_inbox, missed
from services.scheduler.wishes import Wishes
from services.scheduler.written_log import Deposed, WrittenLog

ROUND_SECONDS = 1.0
LOOK_SECONDS = 0.5
"""How often it is looked who has missed a report."""
REST_SECONDS = 0.05
UNREAD_SECONDS = 30.0
"""A queue that nobody will read any more is deleted after so long."""
CHECKS_PER_LEASE = 3
SURE_FOR = 2 / 3
"""Of the lease: for so long after a look into the log a scheduler takes it that it leads."""
STANDBYS_MAX = 100
ROLES = (Role.SCHEDULER,)


class Leader:
    """One scheduler, from its claim to lead until it is deposed."""

    def __init__(
        self,
        *,
        system: str,
        connect: Connect,
        store: Store,
        clock: Clock,
        spawner: Spawner,
        log: Logger,
        options: SchedulerOptions,
        lead: LeadOptions,
        written: WrittenLog,
        counters: Counter[str],
        changes: dict[str, Changes] | None = None,
    ) -> None:
        """`written`: the log, in which this scheduler has claimed the lead. `counters`, `changes`: where it is counted
        what is done, and what becomes of each program's placement."""
        number = written.state.leader
        self.system, self.store, self.clock = system, store, clock
        self.log = log.bind(scheduler=number)
        self.counters = counters
        self.changes = changes if changes is not None else {}
        self.observed = Observed()
        self.desired = nothing_desired(system, number, options)
        self.unusable: dict[str, RecordedProgram] = {}
        """Programs that shall run and cannot: they stay in the log."""
        self.changed = asyncio.Event()
        self.tasks: asyncio.TaskGroup
        self._options, self._lead, self._written = options, lead, written
        self._repeats = Repeats()
        self._growing = Growing(options.growth, self.log)
        self._silent: tuple[str, ...] = ()
        self._began = self._looked_at = self._checked_at = clock.monotonic()
        self._settled = False
        self._unsaid: list[tuple[str, Message]] = []
        self._said = asyncio.Event()
        self._standbys: dict[str, tuple[float, str]] = {}
        """When each scheduler that stands by was last heard of, and its host."""
        self._hosts = HostKeeping(self, spawner)
        self._fenced: dict[str, int] = {}
        self._log_state = log_state(self.log)
        sender = f"scheduler-{number}"
        self.post = Mailbox(
            connect,
            system=system,
            sender=sender,
            set_aside=Aside(store, sender, self.log),
            on_unroutable=self._on_unroutable,
            on_state=self._on_state,
        )
        requests = Requests(self)
        self._requests = requests
        self._wishes = Wishes()
        self._handlers: Handlers[None] = {
            MachineReport: self._on_machine_report,
            RunnerReport: self._on_runner_report,
            SubmitProgram: requests.on_submit_program,
            Locate: requests.on_locate,
            RemoveProgram: requests.on_remove_program,
            ScaleProgram: requests.on_scale_program,
            AutoscaleProgram: requests.on_autoscale_program,
            VoidTransaction: requests.on_void_transaction,
            DrainMachine: self._on_drain_machine,
            ScaleServices: self._on_scale_services,
            AskStatus: self._on_ask_status,
            StandsBy: self._on_stands_by,
        }
        check_handlers(ROLES, self._handlers)

    async def run(self) -> None:
        """Lead until cancelled. Raises `Deposed`."""
        async with asyncio.TaskGroup() as self.tasks:
            self.tasks.create_task(self.post.run())
            self.tasks.create_task(self._keep_checking())
            await self._recall()
            # Where nothing has run before, there is nobody to listen for, and what is submitted need not wait.
            self._settled = not (self.desired.programs or self.desired.removals)
            await self.post.listen(queue_of(scheduler_inbox(self.system)), self._on_message)
            self.log.info("scheduler_started", machines=self._options.machines)
            self.tasks.create_task(self._hosts.run())
            self.tasks.create_task(self._keep_looking())
            while True:
                await wait_changed(self.changed, ROUND_SECONDS)
                await self._round()
                await asyncio.sleep(REST_SECONDS)

    # -- the lead ------------------------------------------------------------------------------------------

    async def _keep_checking(self) -> None:
        """Look every now and then whether this scheduler still leads, and at once if something waits to be said."""
        lease = self._lead.lease_seconds
        while True:
            await wait_changed(self._said, lease / CHECKS_PER_LEASE)
            said, self._unsaid = self._unsaid, []
            now = self.clock.monotonic()
            try:
                async with asyncio.timeout(lease / CHECKS_PER_LEASE):
                    await self._written.check()
                    self._confirmed(now)
                    await self._written.collect()
            except (StoreError, TimeoutError) as failed:
                self.log.warning("lead_not_confirmed", reason=str(failed) or "the store does not answer")
                await asyncio.sleep(min(ROUND_SECONDS, lease / CHECKS_PER_LEASE))
            if self._checked_at >= now:
                for inbox, message in said:
                    self.post.send(inbox, message)
            else:
                self._unsaid = said + self._unsaid
            if self.clock.monotonic() - self._checked_at > lease:
                raise Deposed(f"for {lease:g} s the store has not said whether another scheduler leads")

    def _confirmed(self, asked_at: float) -> None:
        """At this time at the earliest another one has claimed the lead."""
        self._checked_at = max(self._checked_at, asked_at)

    def surely_leads(self) -> bool:
        """Whether the log was looked at lately. No proof: a scheduler may be stopped right behind this."""
        unsure = self.clock.monotonic() - self._checked_at
        return unsure <= self._lead.lease_seconds * SURE_FOR

    def say_if_leading(self, inbox: str, message: Message) -> None:
        """Send a message once the log has shown that this scheduler still leads."""
        self._unsaid.append((inbox, message))
        self._said.set()

    def _on_stands_by(self, message: StandsBy) -> None:
        checked_name("scheduler", message.name, MalformedMessage)
        check_inbox(self.system, STANDBY, message.reply_to)
        self._standbys.pop(message.name, None)
        self._standbys[message.name] = self.clock.monotonic(), message.host
        while len(self._standbys) > STANDBYS_MAX:
            del self._standbys[next(iter(self._standbys))]
        if self.surely_leads():
            self.post.send(message.reply_to, Leads(self.desired.scheduler))

    @property
    def standby_hosts(self) -> dict[str, float]:
        """When a scheduler that stands by on each host was last heard of."""
        hosts: dict[str, float] = {}
        for at, host in self._standbys.values():
            hosts[host] = max(at, hosts.get(host, at))
        return hosts

    def standbys_now(self) -> dict[str, str]:
        """The schedulers that stand by, as far as was heard within a lease, and their hosts."""
        now = self.clock.monotonic()
        return {
            name: host
            for name, (at, host) in sorted(self._standbys.items())
            if now - at <= self._lead.lease_seconds
        }

    # -- the beginning -------------------------------------------------------------------------------------

    async def _recall(self) -> None:
        """Want what the log says."""
        self.desired = with_recalled_machines(self.desired, self._written.state.machines)
        for name, program in sorted(self._written.state.programs.items()):
            if program.wanted:
                await self._recall_program(program)
            else:
                removal = recalled_removal(program, self.desired, self.clock.monotonic())
                self.desired = replace(self.desired, removals={**self.desired.removals, name: removal})

    async def _recall_program(self, recorded: RecordedProgram) -> None:
        program = recorded.program
        while True:
            try:
                base = await known_base(self.store, program)
                placed = recorded.graph or base.graph
                graph = recorded.wished_graph or placed
                target = target_fingerprint(graph)
                break
            except StoreError as failed:
                self.log.warning("programs_not_recalled", program=program, reason=str(failed))
                await asyncio.sleep(ROUND_SECONDS)
            except RequestError as wrong:
                self.log.error("program_lost", program=program, reason=str(wrong))
                self.unusable[program] = recorded
                return
        assignment = recalled_assignment(replace(recorded, graph=placed), self.desired.scheduler)
        now = self.clock.monotonic()
        # The base may still say by which map the program ran before it was placed by this one.
        there = base.shard_map if assignment is None else assignment.placement.shard_map
        wanted = WantedProgram(
            program,
            graph,
            target,
            recorded.wished_map or there,
            since=now,
            assignment=assignment,
            limits=recorded.limits,
            tried=recorded.tried,
            asleep=recorded.asleep,
        )
        self.desired = with_program(self.desired, wanted)
        if recorded.nodes and assignment is None:
            removal = recalled_removal(recorded, self.desired, now)
            self.desired = replace(self.desired, removals={**self.desired.removals, program: removal})
        self.log.info("program_recalled", program=program, nodes=len(wanted.shard_map.nodes))
        if assignment is not None:
            self._tell_placed(program, assignment)

    def _settle(self, now: float) -> None:
        """See whether the time of mere listening is over: everybody was heard who has a part of a program, or has had
        his time for that."""
        desired = self.desired
        began = max(self._began, self.observed.listening_since)
        self._settled = now - began >= self._options.regain_seconds or not (
            desired.removals
            or any(
                program.assignment is None or lost_parts(program.assignment, desired, self.observed, now)
                for program in desired.programs.values()
            )
        )

    # -- rounds --------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Decide, write it down, compare, send."""
        now = self.clock.monotonic()
        slept, self._looked_at = now - self._looked_at, now
        if slept >= self._options.silence_seconds / 2:
            self._listen_anew(now)
        before = self._decide(now)
        await self._write_down()
        for name, program in self.desired.programs.items():
            known = before.programs.get(name)
            if program.assignment is not None and (known is None or known.assignment != program.assignment):
                self._tell_placed(name, program.assignment)
            changes = changes_between(known, program) if known is not None else NO_CHANGES
            self.changes[name] = self.changes.get(name, NO_CHANGES) + changes
        for name in before.removals:
            if name not in self.desired.removals and name not in self.desired.programs:
                self.log.info("program_removed", program=name)
                self.tasks.create_task(self._requests.end_removal(name))
        self._command()
        self._tell_silent(self.clock.monotonic())

    def _decide(self, now: float) -> Desired:
        """Refine what is desired; returns what it was before."""
        before = self.desired
        self.desired = forget_silent(self.desired, self.observed, now)
        if self._settled:
            self.desired = self._growing.decide(self.desired, self.observed, now)
        self.desired = decide(self._ripe(), self.observed, now)
        if not self._settled:
            self.desired = replace(self.desired, programs=before.programs, removals=before.removals)
            self._settle(now)
        for queue in unread_queues(before, self.desired):
            self.tasks.create_task(self._delete_later(queue))
        return before

    def _ripe(self) -> Desired:
        """What of all that is desired may be decided on now."""
        return self.desired if self._settled else replace(self.desired, programs={}, removals={})

    async def _write_down(self) -> None:
        """Bring into the log all that is desired, also what has come to be so meanwhile."""
        while True:
            programs, machines = recorded(self.desired) | self.unusable, recorded_machines(self.desired)
            if (programs, machines) == (self._written.state.programs, self._written.state.machines):
                return
            now = self.clock.monotonic()
            await self._written.write(programs, machines)
            self._confirmed(now)

    def is_recorded(self, program: str = "") -> bool:
        """Whether the log has all that is desired of machines, and of this program."""
        state, desired = self._written.state, self.desired
        return state.machines == recorded_machines(desired) and (
            program not in desired.programs
            or state.programs.get(program) == recorded_program(desired, program)
        )

    def _command(self) -> None:
        """Send what is outstanding. All that is desired is in the log at this moment."""
        if not self.surely_leads():
            self._said.set()
            return
        self._fence_agents()
        now = self.clock.monotonic()
        for command in self._repeats.due(reconcile(self._ripe(), self.observed, now), now):
            self.counters["commands"] += 1
            self.post.send(command.inbox, command.message)

    def _fence_agents(self) -> None:
        """Tell each agent once to start the runner that it has: that changes nothing, but from then on it refuses what
        schedulers of smaller numbers say."""
        for name, runner in self.desired.runners.items():
            machine = self.observed.machines[runner.machine]
            status, agent = machine.runners.get(name), machine.report.incarnation
            runs = status is not None and status.alive and status.incarnation == runner.incarnation
            if runs and self._fenced.get(runner.machine) != agent:
                self._fenced[runner.machine] = agent
                start = StartRunner(self.desired.scheduler, name, runner.incarnation, agent)
                self.post.send(machine.report.inbox, start)

    def _tell_placed(self, program: str, assignment: Assignment) -> None:
        runners = [part.runner for part in assignment.runners()]
        placement = assignment.placement
        own = placement.version > self.desired.scheduler * INCARNATIONS_PER_SCHEDULER
        self.log.info(
            "program_placed" if own else "program_adopted",
            program=program,
            generation=placement.generation,
            version=placement.version,
            runners=runners,
        )

    async def _delete_later(self, queue: str) -> None:
        """Not at once: somebody may be on the point of acking or forwarding what is there."""
        await asyncio.sleep(UNREAD_SECONDS)
        await self.post.delete(queue)

    def _on_state(self, state: ConnectionState, reason: str) -> None:
        self._log_state(state, reason)
        if state is ConnectionState.CONNECTED:
            self._listen_anew(self.clock.monotonic())

    def _listen_anew(self, now: float) -> None:
        """We slept, or had no connection: that nothing was heard meanwhile says nothing of others."""
        self.observed.listening_since = now

    def _tell_silent(self, now: float) -> None:
        """Log who fell silent and who is back."""
        silence = self._options.silence_seconds
        before, self._silent = self._silent, tuple(silent(self.observed, now, silence))
        for name in self._silent:
            if name not in before:
                self.log.warning("silent", name=name, seconds=silence)
        for name in before:
            if name not in self._silent:
                self.log.info("heard_again", name=name)

    async def _keep_looking(self) -> None:
        """Ask the broker about runners that have missed a report, see `unread.py`, and about messages for programs that
        sleep."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self.clock.monotonic()
            for program in [each.program for each in self.desired.programs.values() if each.asleep]:
                try:
                    waiting = await self.post.ask_broker(sequencer_clients_inbox(self.system, program))
                except BrokerError:
                    break
                if waiting is not None and waiting.waiting:
                    self.wake(program, "messages wait for it")
            for part in list(missed(self.desired, self.observed, now)):
                try:
                    inbox = await self.post.ask_broker(inbox_of(self.system, part))
                except BrokerError:
                    break  # of whom nothing is known without a connection
                if hear_of_inbox(self.observed, part, inbox, now):
                    self.log.warning("inbox_unread", runner=part.runner, incarnation=part.runner_incarnation)
                    self.changed.set()

    def forget_machine(self, machine: str) -> None:
        """A machine was given back."""
        before = self.desired
        self.desired = without_machine(before, self.observed, machine)
        for queue in unread_queues(before, self.desired):
            self.tasks.create_task(self._delete_later(queue))

    # -- messages ------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, token: Token) -> None:
        dispatch(ROLES, self._handlers, message)
        self.post.settle(token)

    def _on_unroutable(self, inbox: str) -> None:
        self.log.info("inbox_gone", inbox=inbox)

    def _on_machine_report(self, message: MachineReport) -> None:
        check_machine_report(self.system, message)
        self._heard(hear_machine(self.observed, message, self.clock.monotonic()), message.machine)

    def _on_runner_report(self, message: RunnerReport) -> None:
        check_runner_report(self.system, message)
        now = self.clock.monotonic()
        heard = hear_runner(self.observed, message, now)
        if heard is not Heard.STALE:
            self._growing.hear(message, now)
        self._heard(heard, message.runner)

    def _heard(self, heard: Heard, name: str) -> None:
        self.counters[f"reports_{heard.value}"] += 1
        if heard is Heard.STALE:
            self.log.debug("report_refused", name=name)
        elif heard is Heard.CHANGED:
            self.changed.set()

    def wake(self, program: str, reason: str) -> None:
        """Somebody wants something of a program: it shall run, if it sleeps."""
        now = self.clock.monotonic()
        awake = woken(self.desired, program, now)
        if awake is not self.desired:
            self.log.info("program_woken", program=program, reason=reason)
            self.desired = awake
            self._growing.loads.woken(program, now)
            self.changed.set()

    def _on_ask_status(self, message: AskStatus) -> None:
        check_reply_to(self.system, message.reply_to)
        self.post.send(message.reply_to, self.status(message.request))

    def status(self, request: int) -> SystemStatus:
        """What there is, and how far it is, as the answer to the question of this number."""
        now = self.clock.monotonic()
        standbys = list(self.standbys_now())
        growth = self._growing.told(self.desired, now)
        return replace(
            status_of(self.desired, self.observed, now, request, standbys, growth, changes=self.changes),
            services=self._hosts.services(1 + len(standbys)),
            hosts=self._hosts.notes(),
            store=self._options.store,
        )

    def _on_scale_services(self, message: ScaleServices) -> None:
        check_reply_to(self.system, message.reply_to)
        try:
            scaled = with_services(self.desired, message.services)
        except RequestError as wrong:
            self.say_if_leading(message.reply_to, RequestRefused(message.request, str(wrong)))
            return
        is_new = self._wishes.is_new((message.reply_to, message.request), message.again)
        if scaled is not self.desired and not is_new:
            reason = "somebody has asked for another number of hosts since, or that it follows the load"
            self.say_if_leading(message.reply_to, RequestRefused(message.request, reason))
            return
        if scaled is not self.desired:
            counts = [f"{each.service}={each.count}" for each in message.services]
            self.log.info("services_scaled", services=counts)
            self.desired = scaled
            self.changed.set()
        if not self.is_recorded():
            return  # whoever asked asks again, until the log has it
        self._on_ask_status(AskStatus(message.request, message.reply_to))

    def _on_drain_machine(self, message: DrainMachine) -> None:
        check_reply_to(self.system, message.reply_to)
        if message.machine not in self.observed.machines:
            there = ", ".join(sorted(self.observed.machines)) or "none"
            reason = f"no machine {message.machine!r} has announced itself; there are {there}"
            self.say_if_leading(message.reply_to, RequestRefused(message.request, reason))
            return
        drained = with_drained(self.desired, message.machine, message.drained)
        asker = message.reply_to, message.request
        is_new = self._wishes.is_new(asker, message.again)
        if drained is not self.desired and not is_new:
            now = "let run things again" if message.drained else "drained"
            reason = f"machine {message.machine!r} was {now} since: somebody has asked for that"
            self.say_if_leading(message.reply_to, RequestRefused(message.request, reason))
            return
        if drained is not self.desired:
            self.log.info("machine_drained", machine=message.machine, drained=message.drained)
            self.desired = drained
            self.changed.set()
        if not self.is_recorded():
            return  # whoever asked asks again, until the log has it
        self._on_ask_status(AskStatus(message.request, message.reply_to))
