"""The errors of DistZero, sorted by who can act on them.

DistZeroError
├── UserError               the user's program or data: fix the program or the input
│   ├── ProgramError        an expression, dataset or view was declared wrongly (names the user's file and line)
│   ├── DataError           a row, key or file does not fit its row type
│   └── RequestError        a question that cannot be answered: unknown program, view, key of a bag
├── OperatorError           whoever runs the system: settings, stores, brokers, machines
│   ├── SettingsError       a setting is missing or makes no sense
│   ├── StoreError          the store failed or does not keep its promises
│   │   └── LogDamaged      an object of a log is damaged or missing; asking again does not help
│   │       └── BaseDamaged  a base cannot be used, and is marked: an older one may do
│   │       └── CheckpointsDiffer  two incarnations of a node saved different states of one epoch
│   ├── NativeUnavailable   this machine cannot compile C: the interpreter can do what native executors do
│   └── BrokerError         the broker failed or is gone
│       ├── ConnectionLost  the connection ended; whatever was in flight is unknown
│       └── Unroutable      no such queue: nobody took the message
├── PeerError               somebody else's message or state is wrong; it is set aside and work goes on
│   ├── MalformedMessage    bytes that are no message of ours, or break a bound
│   └── SessionExpired      the sequencer does not know this session any more
├── SimulationError         code inside the simulation reached for the real world
└── InternalError           our bug: please report it with the message
"""

from __future__ import annotations


class DistZeroError(Exception):
    """Root of every error that DistZero raises on purpose."""


class UserError(DistZeroError):
    """The user's program or data is wrong; the message says where and what exists instead."""


class ProgramError(UserError):
    """A program, dataset, view or expression was declared wrongly."""


class DataError(UserError, ValueError):
    """A value, row, key or file does not fit the row type it is meant for."""


class RequestError(UserError, LookupError):
    """A question that the system cannot answer: unknown program, unknown view, `get` on a bag."""


class OperatorError(DistZeroError):
    """The surroundings are wrong: whoever runs the system has to act."""


class SettingsError(OperatorError):
    """A setting is missing or makes no sense."""


class StoreError(OperatorError):
    """The store failed, is damaged, or does not honour create-only writes."""


class LogDamaged(StoreError):
    """An object of a program's log is damaged or missing; the message names it. Asking again does not help."""


class BaseDamaged(LogDamaged):
    """A base cannot be read, or what it refers to; it is marked, so that nobody begins there. An older one may do."""


class CheckpointsDiffer(LogDamaged):
    """Two incarnations of a node computed different states of the same epoch; the message names both objects."""


class NativeUnavailable(OperatorError):
    """This machine cannot compile and load C; the message says what is missing."""


class BrokerError(OperatorError):
    """The broker failed."""


class ConnectionLost(BrokerError):
    """The connection to the broker ended; whether in-flight publishes arrived is unknown."""


class Unroutable(BrokerError):
    """The queue does not exist: the message reached nobody."""


class PeerError(DistZeroError):
    """What somebody else sent is wrong; the receiver refuses it and goes on."""


class MalformedMessage(PeerError):
    """Bytes that are not a message of ours, or a length, offset, enum or count out of bounds."""


class SessionExpired(PeerError):
    """The sequencer does not know this session (any more); open a new one."""


class SimulationError(DistZeroError):
    """Code inside the simulation used a real clock, socket, thread or unseeded chance."""


class InternalError(DistZeroError):
    """A bug in DistZero itself."""


def first_error(error: BaseException) -> BaseException:
    """The error itself; of the groups that tasks fail in, the first one inside."""
    while isinstance(error, BaseExceptionGroup):  # which is never empty
        error = error.exceptions[0]
    return error
