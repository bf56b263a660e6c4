"""What clients ask of the scheduler: to run a program, to say where it is, to remove it.

Requests are answered at once with how far things are; a client that wants more asks again, with the same
number or another. Requests that came to an end are remembered for a while: a broker may deliver a
`SubmitProgram` again after the program was removed, or a `RemoveProgram` after it was submitted anew, and
neither must undo what came later.

What takes something away from who asks, a refusal above all, is said only after a look at the log has shown that
this scheduler led when it was asked (`Leader.say_if_leading`): a deposed one that does not know it yet knows nothing
of the programs that came since.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dist_zero_common.broker.topology import sequencer_clients_inbox
from dist_zero_common.errors import RequestError, StoreError
from dist_zero_common.ids import checked_name
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.requests import (
    AutoscaleProgram,
    ChangeWanted,
    Locate,
    Located,
    ProgramChange,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    ScaleProgram,
    SubmitProgram,
    TransactionVoided,
    VoidTransaction,
)
from services.scheduler.changing import (
    change_of,
    change_to_stored,
    is_live,
    is_target,
    live_graph,
    submitted,
    target_fingerprint,
)
from services.scheduler.deciding import with_program, without_program
from services.scheduler.programs import (
    Submission,
    checked_submission,
    known_base,
    note_on,
    stored_base,
)
from services.scheduler.reports import check_reply_to
from services.scheduler.scaling import pinned, rescaled_program, with_limits
from services.scheduler.state import WantedProgram, progress_of
from services.scheduler.voiding import Voider, want_void, without_void
from services.scheduler.wishes import Asker, Wishes

if TYPE_CHECKING:
    from services.scheduler.leader import Leader

REQUESTS_REMEMBERED = 10_000

JUST_TELL = ChangeWanted(only_tells=True, drops=True, begins_empty=())
BEING_REMOVED = "it is being removed, and may start again when that is done"

Request = SubmitProgram | Locate | RemoveProgram | ScaleProgram | AutoscaleProgram | VoidTransaction
Asked = SubmitProgram | Locate | ScaleProgram | AutoscaleProgram
"""What is answered with where a program is."""


class Requests:
    """The requests to one leading scheduler."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._starting: dict[str, list[SubmitProgram | RemoveProgram]] = {}
        self._submitted: _Recent = _Recent(REQUESTS_REMEMBERED)
        self._removers: dict[str, list[RemoveProgram]] = {}
        self._removed: _Recent = _Recent(REQUESTS_REMEMBERED)
        self._voider = Voider(leader.store, leader.log)
        self._wishes = Wishes()

    def on_locate(self, message: Locate) -> None:
        """Say where a program is."""
        check_reply_to(self._leader.system, message.reply_to)
        self._answer(message, message.program, "")

    def on_submit_program(self, message: SubmitProgram) -> None:
        """See to it that a program runs."""
        check_reply_to(self._leader.system, message.reply_to)
        try:
            submission = checked_submission(message.graph, message.nodes)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        program = submission.program
        if program in self._starting:
            self._starting[program].append(message)
        elif program in self._leader.desired.programs:
            self._admit(message, submission)
        elif message.change is not None and message.change.only_tells:
            self._leader.tasks.create_task(self._tell_of_stored(message, submission))
        elif self._submitted.get(_asker(message)) == program:
            self._refuse(message, f"the program {program!r} was removed after this request; submit it anew")
        elif program in self._leader.desired.removals:
            self._tell_starting(message, program, BEING_REMOVED)
        else:
            self._starting[program] = [message]
            self._leader.tasks.create_task(self._start_program(submission))

    def on_remove_program(self, message: RemoveProgram) -> None:
        """See to it that a program does not run."""
        check_reply_to(self._leader.system, message.reply_to)
        try:
            program = checked_name("program", message.program, RequestError)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        if program in self._starting:
            self._starting[program].append(message)
        elif self._removed.get(_asker(message)) == program:
            self._leader.say_if_leading(message.reply_to, ProgramRemoved(message.request, program))
        else:
            self._remove(message)

    def on_scale_program(self, message: ScaleProgram) -> None:
        """See to it that a program runs on so many nodes."""
        check_reply_to(self._leader.system, message.reply_to)
        if message.program in self._starting:
            return  # whoever asked asks again
        wanted = self._leader.desired.programs.get(message.program)
        if wanted is not None:
            try:
                scaled = pinned(rescaled_program(wanted, message.nodes))
            except RequestError as wrong:
                self._refuse(message, str(wrong))
                return
            is_new = self._wishes.is_new(_asker(message), message.again)
            if scaled is not wanted and not is_new:
                there = len(wanted.shard_map.nodes)
                self._refuse(
                    message,
                    f"{wanted.program!r} is to run on {there} node{'s' if there > 1 else ''} by now, and not on"
                    f" {message.nodes}: somebody has asked for that since",
                )
                return
            if scaled is not wanted:
                self._leader.log.info("program_scaled", program=wanted.program, nodes=message.nodes)
                self._leader.desired = with_program(self._leader.desired, scaled)
                self._leader.changed.set()
            if not self._leader.is_recorded(message.program):
                return  # whoever asked asks again, until the log has it
        self._answer(message, message.program, "")

    def on_autoscale_program(self, message: AutoscaleProgram) -> None:
        """Let a program grow and shrink by itself within these limits."""
        check_reply_to(self._leader.system, message.reply_to)
        desired = self._leader.desired
        if message.program in desired.programs:
            try:
                limited = with_limits(desired, message.program, message.nodes, message.machines)
            except RequestError as wrong:
                self._refuse(message, str(wrong))
                return
            if limited is not desired:
                self._leader.log.info("program_automatic", program=message.program)
                self._leader.desired = limited
                self._leader.changed.set()
            if not self._leader.is_recorded(message.program):
                return  # whoever asked asks again, until the log has it
        self._answer(message, message.program, "")

    def on_void_transaction(self, message: VoidTransaction) -> None:
        """See to it that a transaction is void."""
        check_reply_to(self._leader.system, message.reply_to)
        self._leader.wake(message.program, "a transaction is to be voided")
        if not self._voider.is_looking(message):
            self._leader.tasks.create_task(self._void(message))

    async def _void(self, message: VoidTransaction) -> None:
        leader = self._leader
        try:
            if await self._voider.is_void(message, leader.desired):
                voided = TransactionVoided(message.request, message.program, message.place)
                leader.say_if_leading(message.reply_to, voided)
            else:
                leader.desired = want_void(leader.desired, message.program, message.place)
                leader.changed.set()  # whoever asked asks again, until the log has it
        except RequestError as wrong:
            leader.desired = without_void(leader.desired, message.program, message.place)
            self._refuse(message, str(wrong))
        except StoreError as failed:
            leader.log.warning("store_failed", program=message.program, reason=str(failed))

    # -- programs ------------------------------------------------------------------------------------------

    async def _start_program(self, submission: Submission) -> None:
        """Look into the store for what the program is, then deal with all requests that came meanwhile."""
        program = submission.program
        answer: Callable[[SubmitProgram], None]
        try:
            base = await stored_base(self._leader.store, submission, self._leader.clock.now_us())
            target = target_fingerprint(base.graph)
        except StoreError as failed:
            self._leader.log.error("store_failed", program=program, reason=str(failed))
            note = f"the store does not answer, so it is not known whether there is a log: {failed}"
            answer = partial(self._tell_starting, program=program, note=note)
        except RequestError as wrong:
            answer = partial(self._refuse, reason=str(wrong))
        else:
            now = self._leader.clock.monotonic()
            wanted = WantedProgram(program, base.graph, target, base.shard_map, since=now)
            answer = partial(self._start, wanted=wanted)
        for message in self._starting.pop(program):
            if isinstance(message, RemoveProgram):
                self._remove(message)
            else:
                answer(message)

    async def _tell_of_stored(self, message: SubmitProgram, submission: Submission) -> None:
        """Say what submitting a program that does not run would do; nothing is done."""
        program, note = submission.program, ""
        try:
            base = await known_base(self._leader.store, program)
        except StoreError as failed:
            self._leader.log.warning("store_failed", program=program, reason=str(failed))
            return  # whoever asked asks again
        except RequestError:
            change = ProgramChange((), 0, 0)
            note = f"there is no program {program!r} in the store yet: it would begin with no rows"
        else:
            try:
                assert message.change is not None
                change = change_to_stored(program, base, message.graph, message.change)
            except RequestError as wrong:
                self._refuse(message, str(wrong))
                return
        located = Located(message.request, program, ProgramState.STARTING, b"", None, note, change)
        self._leader.post.send(message.reply_to, located)

    def _start(self, message: SubmitProgram, wanted: WantedProgram) -> None:
        """Answer a submission now that the store has said what the program is, starting that for the first
        one."""
        submission = checked_submission(message.graph, message.nodes)
        try:
            submitted(wanted, message.graph, message.change)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        if wanted.program in self._leader.desired.removals:
            self._tell_starting(message, wanted.program, BEING_REMOVED)
            return
        if wanted.program not in self._leader.desired.programs:
            self._leader.desired = with_program(self._leader.desired, wanted)
            self._leader.changed.set()
            self._leader.log.info("program_wanted", program=wanted.program, nodes=len(wanted.shard_map.nodes))
        self._admit(message, submission)

    def _admit(self, message: SubmitProgram, submission: Submission) -> None:
        """Answer a submission of a name that has a program."""
        known = self._leader.desired.programs[submission.program]
        if (
            message.change is not None
            and self._submitted.get(_asker(message)) == known.program
            and not is_target(known, message.graph)
        ):
            self._refuse(message, f"the program {known.program!r} was changed after this request; ask anew")
            return
        try:
            wanted = submitted(known, message.graph, message.change)
        except RequestError as wrong:
            self._refuse(message, str(wrong))
            return
        if wanted is not known:
            self._leader.log.info("program_changed", program=wanted.program, fingerprint=wanted.fingerprint)
            self._leader.desired = with_program(self._leader.desired, wanted)
            self._leader.changed.set()
        if message.change is None or not message.change.only_tells:
            self._submitted.put(_asker(message), wanted.program)
        note = note_on(message.nodes, len(wanted.shard_map.nodes))
        if message.change is not None or not is_live(wanted, message.graph):
            change = change_of(wanted, message.graph, message.change or JUST_TELL, self._leader.observed)
            if change is not None:
                self._tell_changing(message, wanted, change)
                return
        self._answer(message, wanted.program, note)

    def _remove(self, message: RemoveProgram) -> None:
        program = message.program
        if self._leader.unusable.pop(program, None) is not None:
            self._leader.changed.set()
        hosted = any(program in seen.programs() for seen in self._leader.observed.runners.values())
        if (
            program not in self._leader.desired.removals
            and not hosted
            and program not in self._leader.desired.programs
        ):
            self._removed.put(_asker(message), program)
            self._leader.say_if_leading(message.reply_to, ProgramRemoved(message.request, program))
            return
        if program not in self._leader.desired.removals or program in self._leader.desired.programs:
            self._leader.desired = without_program(
                self._leader.desired, program, self._leader.clock.monotonic()
            )
            self._leader.log.info("program_unwanted", program=program)
            self._leader.changed.set()
        waiting = self._removers.setdefault(program, [])
        if _asker(message) not in (_asker(other) for other in waiting):
            waiting.append(message)

    async def end_removal(self, program: str) -> None:
        """Nothing of a removed program runs any more, and the log says so: tell whoever wanted that."""
        askers = self._removers.pop(program, [])
        await self._leader.post.delete(sequencer_clients_inbox(self._leader.system, program))
        for asked in askers:
            self._removed.put(_asker(asked), program)
            self._leader.post.send(asked.reply_to, ProgramRemoved(asked.request, program))

    # -- answers -------------------------------------------------------------------------------------------

    def _answer(self, message: Asked, program: str, note: str) -> None:
        """Say how far a program is."""
        wanted = self._leader.desired.programs.get(program)
        if wanted is None:
            self._answer_without(message, program)
            return
        if wanted.asleep and not isinstance(message, AutoscaleProgram):
            self._leader.wake(program, "somebody looks for it")
            wanted = self._leader.desired.programs[program]
        progress = progress_of(
            wanted, self._leader.desired, self._leader.observed, self._leader.clock.monotonic()
        )
        starting = wanted.assignment is None or progress.state is ProgramState.STARTING
        located = Located(
            message.request,
            program,
            progress.state,
            live_graph(wanted.graph if wanted.assignment is None else wanted.assignment.graph),
            None if starting or wanted.assignment is None else wanted.assignment.placement,
            "; ".join(part for part in (note, progress.note) if part),
        )
        self._leader.post.send(message.reply_to, located)

    def _answer_without(self, message: Asked, program: str) -> None:
        """Say what is known of a program that does not run."""
        if program in self._starting:
            self._tell_starting(message, program, "its log is being looked for in the store")
        elif program in self._leader.desired.removals:
            self._refuse(message, f"the program {program!r} is being removed")
        else:
            there = ", ".join(sorted(self._leader.desired.programs)) or "none"
            self._refuse(
                message,
                f"no program {program!r} runs in the system {self._leader.system!r}; running: {there}",
            )

    def _tell_changing(self, message: SubmitProgram, wanted: WantedProgram, change: ProgramChange) -> None:
        """Say how far the change to a program is that somebody wants to run, or only wants to hear of."""
        leader = self._leader
        leader.wake(wanted.program, "it is changed")
        wanted = leader.desired.programs[wanted.program]
        progress = progress_of(wanted, leader.desired, leader.observed, leader.clock.monotonic())
        halted = progress.state is ProgramState.HALTED
        state = ProgramState.HALTED if halted else ProgramState.STARTING
        leader.post.send(
            message.reply_to,
            Located(message.request, wanted.program, state, b"", None, progress.note, change),
        )

    def _tell_starting(self, message: Asked, program: str, note: str) -> None:
        located = Located(message.request, program, ProgramState.STARTING, b"", None, note)
        self._leader.post.send(message.reply_to, located)

    def _refuse(self, message: Request, reason: str) -> None:
        self._leader.counters["requests_refused"] += 1
        self._leader.log.info("request_refused", request=type(message).__name__, reason=reason)
        self._leader.say_if_leading(message.reply_to, RequestRefused(message.request, reason))


def _asker(message: SubmitProgram | RemoveProgram | ScaleProgram) -> Asker:
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
