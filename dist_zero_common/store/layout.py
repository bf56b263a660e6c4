"""Names every object in the store, as `broker/topology.py` names every queue.

    programs/<program>/base/<epoch>      where a program's log begins (`Base`)
    programs/<program>/log/<epoch>       the record of one epoch (`LogRecord`)
    scheduler/log/<number>               a record of the schedulers' log (`SchedulerRecord`)
    scheduler/incarnations/<number>      before there was that log: claimed by each scheduler that started
    scheduler/programs/<program>/<number>  likewise: whether a program shall run, as the last of these says
    aside/<process>/<hash>               a message that could not be understood, with the reason

Numbers are padded with zeros, so that names sort as numbers do.
"""

from __future__ import annotations


def bases_prefix(program: str) -> str:
    """What the names of all bases of a program begin with."""
    return f"programs/{program}/base/"


def base_name(program: str, epoch: int) -> str:
    """A program's base at `epoch`."""
    return f"{bases_prefix(program)}{epoch:020d}"


def records_prefix(program: str) -> str:
    """Where the records of `program` are."""
    return f"programs/{program}/log/"


def record_name(program: str, epoch: int) -> str:
    """The record of `epoch`."""
    return f"{records_prefix(program)}{epoch:020d}"


def scheduler_log_prefix() -> str:
    """Where the records of the schedulers' log are."""
    return "scheduler/log/"


def scheduler_record_name(number: int) -> str:
    """Record `number` of the schedulers' log."""
    return f"{scheduler_log_prefix()}{number:020d}"


def scheduler_incarnations_prefix() -> str:
    """What the names of all claims of scheduler incarnations begin with."""
    return "scheduler/incarnations/"


def scheduler_incarnation_name(number: int) -> str:
    """The claim of scheduler incarnation `number`."""
    return f"{scheduler_incarnations_prefix()}{number:010d}"


def wanted_programs_prefix() -> str:
    """What the names of all decisions on whether a program shall run begin with."""
    return "scheduler/programs/"


def wanted_program_name(program: str, number: int) -> str:
    """Decision `number`, counted from 1, on whether `program` shall run."""
    return f"{wanted_programs_prefix()}{program}/{number:010d}"


def aside_name(process: str, digest: str) -> str:
    """A message set aside by `process`; `digest` is of its bytes, so that the same message is kept once."""
    return f"aside/{process}/{digest}"


def number_of(name: str) -> int:
    """The number at the end of an object's name."""
    return int(name.rsplit("/", 1)[1])
