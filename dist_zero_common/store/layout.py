"""Names every object in the store, as `broker/topology.py` names every queue.

    programs/<program>/base/<generation>-<epoch>     a state to begin at (`Base`)
    programs/<program>/damaged/<generation>-<epoch>  a base that cannot be used, nor what it was copied from, and why
    programs/<program>/damaged/<generation>-<epoch>.alone  a base that cannot be read; copies of it may be whole
    programs/<program>/halted/<epoch>-<node>-<incarnation>
                                         why a node stands still, and on which transactions
    programs/<program>/attempts/<node>/<base>-<incarnation>
                                         an incarnation of a node goes over what is behind this base (`attempts.py`)
    programs/<program>/attempts/<node>/step/<epoch>-<incarnation>
                                         likewise: it is in a step of this epoch
    programs/<program>/voided/<epoch>-<index>  a transaction that was taken out
    programs/<program>/log/<epoch>       the record of one epoch (`LogRecord`)
    programs/<program>/checkpoints/<node>/<epoch>-<generation>
                                         the state of a node at an epoch (`CheckpointManifest`)
    programs/<program>/checkpoints/<node>/<epoch>-<generation>.<part>
                                         a piece of a large one (`CheckpointPart`)
    ...<epoch>-<generation>=<copy>, ....<part>=<copy>
                                         the same once more, because the one before it is damaged
    scheduler/log/<number>               a record of the schedulers' log (`SchedulerRecord`)
    scheduler/incarnations/<number>      before there was that log: claimed by each scheduler that started
    scheduler/programs/<program>/<number>  likewise: whether a program shall run, as the last of these says
    aside/<process>/<hash>               a message that could not be understood, with the reason

Numbers are padded with zeros, so that names sort as numbers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.stored import (
    CheckpointId,
)

_ALONE = ".alone"
_CHECKPOINT = re.compile(r"([^/]+)/(\d{20})-(\d{10})(?:\.(\d{6}))?(?:=\d)?\Z")


def bases_prefix(program: str) -> str:
    """What the names of all bases of a program begin with."""
    return f"programs/{program}/base/"


def base_name(program: str, epoch: int, generation: int = 0) -> str:
    """The base of a generation of a program at `epoch`. The names of later generations sort behind those of earlier
    ones."""
    return f"{bases_prefix(program)}{generation:020d}-{epoch:020d}"


def damaged_prefix(program: str) -> str:
    """What the names of all marks on damaged bases of a program begin with."""
    return f"programs/{program}/damaged/"


def damaged_name(program: str, epoch: int, generation: int, *, alone: bool = False) -> str:
    """The mark that a base is damaged: something that it refers to, or the object `alone`."""
    return f"{damaged_prefix(program)}{generation:020d}-{epoch:020d}{_ALONE if alone else ''}"


def unusable(program: str, marks: Iterable[str], generation: int, epoch: int) -> bool:
    """Whether one of these marks is of this base, or of one that may refer to the same."""
    return any(
        mark == damaged_name(program, epoch, generation, alone=True)
        or (
            not mark.endswith(_ALONE)
            and mark >= damaged_name(program, epoch, generation)
            and generation_and_epoch_of(mark)[1] == epoch
        )
        for mark in marks
    )


def halted_prefix(program: str) -> str:
    """What the names of all that is known of standing still begin with."""
    return f"programs/{program}/halted/"


def halted_name(program: str, epoch: int, node: str, incarnation: int) -> str:
    """Why an incarnation of a node stands still on an epoch."""
    return f"{halted_prefix(program)}{epoch:020d}-{node}-{incarnation}"


_STEP = "step/"


def all_attempts_prefix(program: str) -> str:
    """What the names of all marks of attempts begin with, of whichever node."""
    return f"programs/{program}/attempts/"


def attempts_prefix(program: str, node: str) -> str:
    """What the names of all marks of a node's attempts begin with."""
    return f"{all_attempts_prefix(program)}{node}/"


def attempt_name(program: str, node: str, epoch: int, incarnation: int, step: bool = False) -> str:
    """The mark that an incarnation of a node goes over what is behind the base of an epoch, or with `step` that it is
    in a step of the epoch itself. `generation_and_epoch_of` takes its numbers out."""
    kind = _STEP if step else ""
    return f"{attempts_prefix(program, node)}{kind}{epoch:020d}-{incarnation:020d}"


def is_attempt_at_step(name: str, program: str, node: str) -> bool:
    """Whether the name of a mark of a node's attempts is that of a step."""
    return name.startswith(attempts_prefix(program, node) + _STEP)


def voided_name(program: str, place: TransactionPlace) -> str:
    """The note that a transaction was taken out."""
    return f"programs/{program}/voided/{place.epoch:020d}-{place.index:010d}"


def records_prefix(program: str) -> str:
    """Where the records of `program` are."""
    return f"programs/{program}/log/"


def record_name(program: str, epoch: int) -> str:
    """The record of `epoch`."""
    return f"{records_prefix(program)}{epoch:020d}"


def checkpoints_prefix(program: str) -> str:
    """What the names of all checkpoints of a program begin with."""
    return f"programs/{program}/checkpoints/"


def node_checkpoints_prefix(program: str, node: str) -> str:
    """What the names of one node's checkpoints begin with; listed, they are in the order of their epochs."""
    return f"{checkpoints_prefix(program)}{node}/"


def checkpoint_name(program: str, which: CheckpointId) -> str:
    """The checkpoint's manifest, and the beginning of its parts' names."""
    return f"{node_checkpoints_prefix(program, which.node)}{which.epoch:020d}-{which.generation:010d}"


def checkpoint_part_name(program: str, which: CheckpointId, index: int) -> str:
    """Part number `index`, counted from 0, of a large checkpoint."""
    return f"{checkpoint_name(program, which)}.{index:06d}"


def copy_name(name: str, copy: int) -> str:
    """Where an object of a checkpoint is when those before are damaged: copy 0 is the object itself, 9 the last."""
    return f"{name}={copy}" if copy else name


def checkpoint_of_name(program: str, name: str) -> tuple[CheckpointId, bool] | None:
    """Which checkpoint an object belongs to, and whether it is its manifest; None for what is no checkpoint's."""
    prefix = checkpoints_prefix(program)
    match = _CHECKPOINT.match(name, len(prefix)) if name.startswith(prefix) else None
    if match is None:
        return None
    node, epoch, generation, part = match.groups()
    return CheckpointId(node, int(epoch), int(generation)), part is None


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


def generation_and_epoch_of(name: str) -> tuple[int, int]:
    """The two numbers at the end of the name of a base or of a mark on one."""
    generation, _, epoch = name.rsplit("/", 1)[1].partition("-")
    return int(generation), int(epoch)
