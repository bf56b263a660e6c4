"""Programs of which nothing runs until somebody wants something of them. Pure.

A program that sleeps is wanted, and nothing of it is: its parts are removed like those of a program that shall be gone,
but it keeps its place among the programs, its log, and the inbox of its sequencer, in which whatever clients send
waits. Whoever locates it wakes it, and so does a message in that inbox. Then it is placed anew, and begins at its
newest base, as after the loss of all its machines: so nothing is lost, whenever it was put to sleep.
"""

from __future__ import annotations

from dataclasses import replace

from services.scheduler.deciding import with_program, without_program
from services.scheduler.state import Desired, Observed, WantedProgram


def put_to_sleep(desired: Desired, program: str, now: float) -> Desired:
    """With nothing of the program running any more."""
    wanted = desired.programs[program]
    asleep = replace(
        wanted,
        asleep=True,
        assignment=None,
        preparation=None,
        lost_since=None,
        room_since=None,
        halted_since=None,
    )
    return with_program(without_program(desired, program, now), asleep)


def woken(desired: Desired, program: str, now: float) -> Desired:
    """With the program running again; the same object if it does not sleep."""
    wanted = desired.programs.get(program)
    if wanted is None or not wanted.asleep:
        return desired
    return with_program(desired, replace(wanted, asleep=False, since=now))


def is_saved(program: WantedProgram, observed: Observed) -> bool:
    """Whether all of a program is finished and in its newest base: then it begins again quickly, and nobody waits for
    anything of it."""
    part = program.assignment.sequencer if program.assignment is not None else None
    seen = observed.runners.get(part.runner) if part is not None else None
    sequencer = seen.sequencers.get(program.program) if seen is not None else None
    if part is None or sequencer is None or sequencer.status.incarnation != part.incarnation:
        return False
    status = sequencer.status
    return status.base == status.finished_epoch == status.epoch
