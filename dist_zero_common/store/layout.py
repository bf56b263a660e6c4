"""Names every object in the store, as `broker/topology.py` names every queue.

    programs/<program>/base/<epoch>      where a program's log begins (`Base`)
    programs/<program>/log/<epoch>       the record of one epoch (`LogRecord`)
    programs/<program>/checkpoints/<node>/<epoch>-<generation>
                                         the state of a node at an epoch (`CheckpointManifest`)
    programs/<program>/checkpoints/<node>/<epoch>-<generation>.<part>
                                         a piece of a large one (`CheckpointPart`)
    ...<epoch>-<generation>=<copy>, ....<part>=<copy>
                                         the same once more, because the one before it is damaged
    scheduler/incarnations/<number>      claimed by each scheduler that starts, create-only
    scheduler/programs/<program>/<number>  whether a program shall run: what the last of these says
    aside/<process>/<hash>               a message that could not be understood, with the reason

Numbers are padded with zeros, so that names sort as numbers do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CHECKPOINT = re.compile(r"([^/]+)/(\d{20})-(\d{10})(?:\.(\d{6}))?(?:=\d)?\Z")


@dataclass(frozen=True, slots=True, order=True)
class CheckpointId:
    """Which checkpoint of a program: of which node, at which epoch, written in which generation."""

    node: str
    epoch: int
    generation: int

    def __str__(self) -> str:
        return f"{self.node} at epoch {self.epoch} in generation {self.generation}"


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
