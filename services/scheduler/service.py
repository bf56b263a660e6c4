"""The scheduler's shell: post, timers, the store and the spawner. What is to be done, `reconcile.py` says.

Everything that comes in changes what is observed or desired and wakes one loop, which decides, compares and
sends. It rests a little after each round, so that a thousand reports that come together are one round, and
looks again every second without being woken, because silence, patience and repeats come with time alone.

Requests are answered at once with how far things are; a client that wants more asks again, with the same
number or another. Requests that came to an end are remembered for a while: a broker may deliver a
`SubmitProgram` again after the program was removed, or a `RemoveProgram` after it was submitted anew, and
neither must undo what came later.

One scheduler runs per system. Its number, claimed in the store when it starts, is larger than that of any
before it, and whoever takes its commands refuses those of smaller numbers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from dist_zero_common.aside import Aside
from dist_zero_common.broker.base import Connect, ConnectionState
from dist_zero_common.broker.topology import queue_of, scheduler_inbox, sequencer_clients_inbox
from dist_zero_common.clock import Clock, wait_changed
from dist_zero_common.errors import OperatorError, RequestError, StoreError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token, log_state
from dist_zero_common.protocol.dispatch import Handlers, Role, check_handlers, dispatch
from dist_zero_common.protocol.messages import (
    AskStatus,
    Locate,
    Located,
    MachineReport,
    Message,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    RequestRefused,
    RunnerReport,
    SubmitProgram,
    TransactionVoided,
    VoidTransaction,
)
from dist_zero_common.store.base import Created, Store
from dist_zero_common.store.layout import (
    number_of,
    scheduler_incarnation_name,
    scheduler_incarnations_prefix,
)
from services.scheduler.programs import (
    REMOVED,
    RUNS,
    Submission,
    WantedPrograms,
    checked_submission,
    different_program,
    known_base,
    note_on,
    stored_base,
)
from services.scheduler.reconcile import (
    Repeats,
    SpawnMachine,
    decide,
    forget_silent,
    reconcile,
    reconcile_machines,
    unread_queues,
    with_program,
    without_program,
)
from services.scheduler.reports import check_machine_report, check_reply_to, check_runner_report
from services.scheduler.spawners.base import Spawner
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Desired,
    Heard,
    Observed,
    SchedulerOptions,
    WantedProgram,
    hear_machine,
    hear_runner,
    nothing_desired,
    progress_of,
    silent,
)
from services.scheduler.status import status_of
from services.scheduler.voiding import Voider, want_void, without_void

ROUND_SECONDS = 1.0
REST_SECONDS = 0.05
UNREAD_SECONDS = 30.0
"""A queue that nobody will read any more is deleted after so long."""
MACHINES_SECONDS_MIN, MACHINES_SECONDS_MAX = 1.0, 60.0
REQUESTS_REMEMBERED = 10_000
ROLES = (Role.SCHEDULER,)

BEING_REMOVED = "it is being removed, and may start again when that is done"

Asker = tuple[str, int]
"""A request's reply inbox and number: the same when it is asked again."""


class SchedulerService:
    """One scheduler."""

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
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.observed = Observed()
        self.desired: Desired
        self.post: Mailbox
        self._system, self._connect, self._store, self._clock = system, connect, store, clock
        self._spawner, self._options = spawner, options
        self._log = log.bind(system=system)
        self._changed = asyncio.Event()
        self._wanted = WantedPrograms(store)
        self._repeats = Repeats()
        self._voider = Voider(store, self._log)
        self._silent: tuple[str, ...] = ()
        self._looked_at = 0.0
        self._starting: dict[str, list[SubmitProgram | RemoveProgram]] = {}
        self._submitted: _Recent = _Recent(REQUESTS_REMEMBERED)
        self._removers: dict[str, list[RemoveProgram]] = {}
        self._removed: _Recent = _Recent(REQUESTS_REMEMBERED)
        self._tasks: asyncio.TaskGroup
        self._handlers: Handlers[None] = {
            MachineReport: self._on_machine_report,
            RunnerReport: self._on_runner_report,
            SubmitProgram: self._on_submit_program,
            Locate: self._on_locate,
            RemoveProgram: self._on_remove_program,
            AskStatus: self._on_ask_status,
            VoidTransaction: self._on_void_transaction,
        }
        check_handlers(ROLES, self._handlers)

    async def run(self) -> None:
        """Serve until cancelled."""
        number = await self._claim_number()
        self._log = self._log.bind(scheduler=number)
        self._log_state = log_state(self._log)
        self.desired = nothing_desired(self._system, number, self._options)
        sender = f"scheduler-{number}"
        self.post = Mailbox(
            self._connect,
            system=self._system,
            sender=sender,
            set_aside=Aside(self._store, sender, self._log),
            on_unroutable=self._on_unroutable,
            on_state=self._on_state,
        )
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self.post.run())
            if self._options.keeps_programs:  # first, or somebody would be told that a program does not run
                await self._recall_programs()
            await self.post.listen(queue_of(scheduler_inbox(self._system)), self._on_message)
            self._log.info("scheduler_started", machines=self._options.machines)
            self._tasks.create_task(self._keep_machines())
            while True:
                await wait_changed(self._changed, ROUND_SECONDS)
                self._round()
                await asyncio.sleep(REST_SECONDS)

    async def _claim_number(self) -> int:
        """The number of this scheduler, one that no other ever had: creating its object decides."""
        while True:
            try:
                names = await self._store.list(scheduler_incarnations_prefix())
                number = number_of(names[-1]) + 1 if names else 1
                claimed = await self._store.create(scheduler_incarnation_name(number), b"claimed")
                if claimed is Created.NEW:
                    return number
            except StoreError as failed:
                self._log.warning("claim_failed", reason=str(failed))
                await asyncio.sleep(ROUND_SECONDS)

    async def _recall_programs(self) -> None:
        """Want what an earlier scheduler wanted, unless somebody has decided otherwise meanwhile."""
        while True:
            try:
                for program in await self._wanted.load():
                    if program not in self.desired.programs:
                        await self._recall_program(program)
                return
            except StoreError as failed:
                self._log.warning("programs_not_recalled", reason=str(failed))
                await asyncio.sleep(ROUND_SECONDS)

    async def _recall_program(self, program: str) -> None:
        try:
            base = await known_base(self._store, program)
            stored = checked_submission(base.graph, len(base.shard_map.nodes))
        except RequestError as wrong:
            self._log.error("program_lost", program=program, reason=str(wrong))
            return
        if program not in self.desired.programs and program not in self.desired.removals:
            now = self._clock.monotonic()
            wanted = WantedProgram(program, base.graph, stored.fingerprint, base.shard_map, since=now)
            self.desired = with_program(self.desired, wanted)
            self._changed.set()
            self._log.info("program_recalled", program=program, nodes=len(base.shard_map.nodes))

    # -- rounds --------------------------------------------------------------------------------------------

    def _round(self) -> None:
        """Decide, compare, send."""
        now = self._clock.monotonic()
        slept, self._looked_at = now - self._looked_at, now
        if slept >= self._options.silence_seconds / 2:
            self._listen_anew(now)
        self.desired = forget_silent(self.desired, self.observed, now)
        before, self.desired = self.desired, decide(self.desired, self.observed, now)
        self._tell_decided(before)
        for queue in unread_queues(before, self.desired):
            self._tasks.create_task(self._delete_later(queue))
        for command in self._repeats.due(reconcile(self.desired, self.observed, now), now):
            self.counters["commands"] += 1
            self.post.send(command.inbox, command.message)
        self._tell_silent(now)

    def _tell_decided(self, before: Desired) -> None:
        for name, program in self.desired.programs.items():
            known = before.programs.get(name)
            if program.assignment is not None and (known is None or known.assignment != program.assignment):
                runners = [part.runner for part in program.assignment.runners()]
                placement = program.assignment.placement
                adopted = (known is None or known.assignment is None) and (
                    placement.generation <= self.desired.scheduler * INCARNATIONS_PER_SCHEDULER
                )
                self._log.info(
                    "program_adopted" if adopted else "program_placed",
                    program=name,
                    generation=placement.generation,
                    version=placement.version,
                    runners=runners,
                )
        for name in before.removals:
            if name not in self.desired.removals:
                self._log.info("program_removed", program=name)
                self._tasks.create_task(self._end_removal(name, self._removers.pop(name, [])))

    async def _end_removal(self, program: str, askers: list[RemoveProgram]) -> None:
        while self._options.keeps_programs:
            try:
                await self._wanted.decide(program, REMOVED)
                break
            except StoreError as failed:
                self._log.warning("store_failed", program=program, reason=str(failed))
                await asyncio.sleep(ROUND_SECONDS)
        await self.post.delete(sequencer_clients_inbox(self._system, program))
        for asked in askers:
            self._removed.put(_asker(asked), program)
            self.post.send(asked.reply_to, ProgramRemoved(asked.request, program))

    async def _delete_later(self, queue: str) -> None:
        """Not at once: somebody may be on the point of acking or forwarding what is there."""
        await asyncio.sleep(UNREAD_SECONDS)
        await self.post.delete(queue)

    def _on_state(self, state: ConnectionState, reason: str) -> None:
        self._log_state(state, reason)
        if state is ConnectionState.CONNECTED:
            self._listen_anew(self._clock.monotonic())

    def _listen_anew(self, now: float) -> None:
        """We slept, or had no connection: that nothing was heard meanwhile says nothing of others."""
        self.observed.listening_since = now

    def _tell_silent(self, now: float) -> None:
        """Log who fell silent and who is back."""
        silence = self._options.silence_seconds
        before, self._silent = self._silent, tuple(silent(self.observed, now, silence))
        for name in self._silent:
            if name not in before:
                self._log.warning("silent", name=name, seconds=silence)
        for name in before:
            if name not in self._silent:
                self._log.info("heard_again", name=name)

    async def _keep_machines(self) -> None:
        """Obtain and return machines, as reconciling what the spawner lists says."""
        pause = MACHINES_SECONDS_MIN
        while True:
            try:
                actions = reconcile_machines(self.desired, await self._spawner.list())
                for action in actions:
                    if isinstance(action, SpawnMachine):
                        self._log.info("machine_wanted", machine=action.machine)
                        await self._spawner.spawn(action.machine)
                    else:
                        self._log.info("machine_returned", machine=action.machine)
                        await self._spawner.stop(action.machine)
                pause = MACHINES_SECONDS_MIN
            except OperatorError as failed:
                self._log.error("spawner_failed", reason=str(failed))
                pause = min(2 * pause, MACHINES_SECONDS_MAX)
            await asyncio.sleep(pause)

    # -- messages ------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, token: Token) -> None:
        dispatch(ROLES, self._handlers, message)
        self.post.settle(token)

    def _on_unroutable(self, inbox: str) -> None:
        self._log.info("inbox_gone", inbox=inbox)

    def _on_machine_report(self, message: MachineReport) -> None:
        check_machine_report(self._system, message)
        self._heard(hear_machine(self.observed, message, self._clock.monotonic()), message.machine)

    def _on_runner_report(self, message: RunnerReport) -> None:
        check_runner_report(self._system, message)
        self._heard(hear_runner(self.observed, message, self._clock.monotonic()), message.runner)

    def _heard(self, heard: Heard, name: str) -> None:
        self.counters[f"reports_{heard.value}"] += 1
        if heard is Heard.STALE:
            self._log.debug("report_refused", name=name)
        elif heard is Heard.CHANGED:
            self._changed.set()

    def _on_locate(self, message: Locate) -> None:
        check_reply_to(self._system, message.reply_to)
        self._answer(message, message.program, "")

    def _on_ask_status(self, message: AskStatus) -> None:
        check_reply_to(self._system, message.reply_to)
        now = self._clock.monotonic()
        self.post.send(message.reply_to, status_of(self.desired, self.observed, now, message.request))

    def _on_submit_program(self, message: SubmitProgram) -> None:
        check_reply_to(self._system, message.reply_to)
        try:
            submission = checked_submission(message.graph, message.nodes)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        program = submission.program
        if program in self._starting:
            self._starting[program].append(message)
        elif program in self.desired.programs:
            self._admit(message, submission)
        elif self._submitted.get(_asker(message)) == program:
            self._refuse(message, f"the program {program!r} was removed after this request; submit it anew")
        elif program in self.desired.removals:
            self._tell_starting(message, program, BEING_REMOVED)
        else:
            self._starting[program] = [message]
            self._tasks.create_task(self._start_program(submission))

    def _on_remove_program(self, message: RemoveProgram) -> None:
        check_reply_to(self._system, message.reply_to)
        try:
            program = checked_name("program", message.program, RequestError)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        if program in self._starting:
            self._starting[program].append(message)
        elif self._removed.get(_asker(message)) == program:
            self.post.send(message.reply_to, ProgramRemoved(message.request, program))
        else:
            self._remove(message)

    def _on_void_transaction(self, message: VoidTransaction) -> None:
        check_reply_to(self._system, message.reply_to)
        if not self._voider.is_looking(message):
            self._tasks.create_task(self._void(message))

    async def _void(self, message: VoidTransaction) -> None:
        try:
            if await self._voider.is_void(message, self.desired):
                voided = TransactionVoided(message.request, message.program, message.place)
                self.post.send(message.reply_to, voided)
            else:
                self.desired = want_void(self.desired, message.program, message.place)
                self._changed.set()  # whoever asked asks again, until the log has it
        except RequestError as wrong:
            self.desired = without_void(self.desired, message.program, message.place)
            self._refuse(message, str(wrong))
        except StoreError as failed:
            self._log.warning("store_failed", program=message.program, reason=str(failed))

    # -- programs ------------------------------------------------------------------------------------------

    async def _start_program(self, submission: Submission) -> None:
        """Look into the store for what the program is, then deal with all requests that came meanwhile."""
        program = submission.program
        answer: Callable[[SubmitProgram], None]
        try:
            base = await stored_base(self._store, submission, self._clock.now_us())
            stored = checked_submission(base.graph, len(base.shard_map.nodes))
            if self._options.keeps_programs and stored.fingerprint == submission.fingerprint:
                await self._wanted.decide(program, RUNS)
        except StoreError as failed:
            self._log.error("store_failed", program=program, reason=str(failed))
            note = f"the store does not answer, so it is not known whether there is a log: {failed}"
            answer = partial(self._tell_starting, program=program, note=note)
        except RequestError as wrong:
            answer = partial(self._refuse, reason=str(wrong))
        else:
            now = self._clock.monotonic()
            wanted = WantedProgram(program, base.graph, stored.fingerprint, base.shard_map, since=now)
            answer = partial(self._start, wanted=wanted)
        for message in self._starting.pop(program):
            if isinstance(message, RemoveProgram):
                self._remove(message)
            else:
                answer(message)

    def _start(self, message: SubmitProgram, wanted: WantedProgram) -> None:
        """Answer a submission now that the store has said what the program is, starting that for the first
        one."""
        submission = checked_submission(message.graph, message.nodes)
        if submission.fingerprint != wanted.fingerprint:
            self._refuse(message, different_program(wanted.program))
        elif wanted.program in self.desired.removals:
            self._tell_starting(message, wanted.program, BEING_REMOVED)
        else:
            if wanted.program not in self.desired.programs:
                self.desired = with_program(self.desired, wanted)
                self._changed.set()
                self._log.info("program_wanted", program=wanted.program, nodes=len(wanted.shard_map.nodes))
            self._admit(message, submission)

    def _admit(self, message: SubmitProgram, submission: Submission) -> None:
        """Answer a submission of a name that has a program."""
        wanted = self.desired.programs[submission.program]
        if submission.fingerprint != wanted.fingerprint:
            self._refuse(message, different_program(wanted.program))
            return
        self._submitted.put(_asker(message), wanted.program)
        self._answer(message, wanted.program, note_on(message.nodes, len(wanted.shard_map.nodes)))

    def _remove(self, message: RemoveProgram) -> None:
        program = message.program
        hosted = any(program in seen.programs() for seen in self.observed.runners.values())
        if program not in self.desired.removals and not hosted and program not in self.desired.programs:
            self._removed.put(_asker(message), program)
            self.post.send(message.reply_to, ProgramRemoved(message.request, program))
            return
        if program not in self.desired.removals:
            self.desired = without_program(self.desired, program, self._clock.monotonic())
            self._log.info("program_unwanted", program=program)
            self._changed.set()
        waiting = self._removers.setdefault(program, [])
        if _asker(message) not in (_asker(other) for other in waiting):
            waiting.append(message)

    # -- answers -------------------------------------------------------------------------------------------

    def _answer(self, message: SubmitProgram | Locate, program: str, note: str) -> None:
        """Say how far a program is."""
        wanted = self.desired.programs.get(program)
        if wanted is None:
            self._answer_without(message, program)
            return
        progress = progress_of(wanted, self.desired, self.observed, self._clock.monotonic())
        starting = wanted.assignment is None or progress.state is ProgramState.STARTING
        located = Located(
            message.request,
            program,
            progress.state,
            wanted.graph,
            None if starting or wanted.assignment is None else wanted.assignment.placement,
            "; ".join(part for part in (note, progress.note) if part),
        )
        self.post.send(message.reply_to, located)

    def _answer_without(self, message: SubmitProgram | Locate, program: str) -> None:
        """Say what is known of a program that does not run."""
        if program in self._starting:
            self._tell_starting(message, program, "its log is being looked for in the store")
        elif program in self.desired.removals:
            self._refuse(message, f"the program {program!r} is being removed")
        else:
            there = ", ".join(sorted(self.desired.programs)) or "none"
            self._refuse(
                message, f"no program {program!r} runs in the system {self._system!r}; running: {there}"
            )

    def _tell_starting(self, message: SubmitProgram | Locate, program: str, note: str) -> None:
        located = Located(message.request, program, ProgramState.STARTING, b"", None, note)
        self.post.send(message.reply_to, located)

    def _refuse(self, message: SubmitProgram | Locate | RemoveProgram | VoidTransaction, reason: str) -> None:
        self.counters["requests_refused"] += 1
        self._log.info("request_refused", request=type(message).__name__, reason=reason)
        self.post.send(message.reply_to, RequestRefused(message.request, reason))


def _asker(message: SubmitProgram | RemoveProgram) -> Asker:
    return message.reply_to, message.request


class _Recent:
    """The program of each of the newest requests."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._programs: dict[Asker, str] = {}

    def put(self, asker: Asker, program: str) -> None:
        self._programs[asker] = program
        if len(self._programs) > self._count_max:
            del self._programs[next(iter(self._programs))]

    def get(self, asker: Asker) -> str | None:
        return self._programs.get(asker)
