"""What is sent is an `Envelope`: all that is ready for one inbox, of whatever kind. `Message` lists the kinds."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    Leads,
    MachineReport,
    Placement,
    PrepareNodes,
    RunnerReport,
    StandsBy,
    StartRunner,
    StopRunner,
)
from dist_zero_common.protocol.messages.epochs import (
    AskDone,
    AskRows,
    Begun,
    Done,
    EmptyRows,
    HandOut,
    ReaderLost,
    RowsGone,
    Saved,
    StageRows,
)
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.reading import (
    AskChanges,
    AwaitEpoch,
    Changes,
    ChangesGone,
    Elsewhere,
    EpochFinished,
    Get,
    Got,
    SnapshotAnswer,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
from dist_zero_common.protocol.messages.requests import (
    AskStatus,
    AutoscaleProgram,
    DrainMachine,
    Locate,
    Located,
    ProgramRemoved,
    RemoveProgram,
    ScaleProgram,
    ScaleServices,
    SubmitProgram,
    SystemStatus,
    TransactionVoided,
    VoidTransaction,
)
from dist_zero_common.protocol.messages.writing import (
    Committed,
    OpenSession,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    Transaction,
    TransactionRefused,
    Wait,
)

ENVELOPE_BYTES_MAX = 16 * 2**20
"""Largest message that any service accepts."""

Message = (
    OpenSession
    | SessionOpened
    | Transaction
    | Committed
    | ResendFrom
    | SessionUnknown
    | TransactionRefused
    | Wait
    | SnapshotRequest
    | Subscribe
    | Unsubscribe
    | AwaitEpoch
    | EpochFinished
    | RequestRefused
    | Get
    | Got
    | SnapshotAnswer
    | Changes
    | AskChanges
    | ChangesGone
    | HandOut
    | StageRows
    | EmptyRows
    | Done
    | MachineReport
    | StartRunner
    | StopRunner
    | RunnerReport
    | Placement
    | HostNode
    | HostSequencer
    | DropProgram
    | SubmitProgram
    | Locate
    | Located
    | RemoveProgram
    | ProgramRemoved
    | AskStatus
    | SystemStatus
    | AskRows
    | AskDone
    | Saved
    | Begun
    | RowsGone
    | ReaderLost
    | ScaleProgram
    | DrainMachine
    | StandsBy
    | Leads
    | VoidTransaction
    | TransactionVoided
    | AutoscaleProgram
    | PrepareNodes
    | EndGeneration
    | Elsewhere
    | ScaleServices
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """All that is ready for one inbox. `sender` names the process, for logs and for what is set aside."""

    system: str
    sender: str
    messages: tuple[Message, ...]
