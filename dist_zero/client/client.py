"""The asyncio face: one client of one program, over one broker connection.

A client asks and asks again until it is answered; every question carries a number, and a second answer is
dropped. Writes go through a `Session` (see `session.py`), which is opened with the first of them, or at once
when the caller has chosen a `client_id`. A broker connection that ends fails whatever waits, with its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dist_zero.batch import Batch
from dist_zero.client.loading import Loaded, OnProgress, load, load_file
from dist_zero.client.session import Outcome, Session
from dist_zero.client.snapshot import Snapshot, SnapshotAssembly, ViewReader, snapshot_of
from dist_zero.client.watch import Change, change_for_people
from dist_zero.client.watching import Watch
from dist_zero.client.writes import Key, RowLike, Transaction, stored_key_of
from dist_zero.compiler.plan import Plan
from dist_zero.hashing import key_hash
from dist_zero.reference.scalar import compile_tuple
from dist_zero.row import ViewRow, row_from_stored
from dist_zero.shards import owner
from dist_zero.types import Row as StoredRow
from dist_zero_common.broker.base import Broker
from dist_zero_common.broker.topology import client_replies, queue_of, scheduler_inbox
from dist_zero_common.clock import Clock
from dist_zero_common.errors import (
    DataError,
    DistZeroError,
    InternalError,
    MalformedMessage,
    OperatorError,
    RequestError,
    SessionExpired,
)
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages import (
    AwaitEpoch,
    Changes,
    ChangesGone,
    Committed,
    EpochFinished,
    Get,
    Got,
    Locate,
    Located,
    Message,
    Placement,
    ProgramState,
    RequestRefused,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    SnapshotAnswer,
    SnapshotRequest,
    SubmitProgram,
    TransactionRefused,
    Unsubscribe,
    Wait,
)

if TYPE_CHECKING:
    from dist_zero.system import System

ANSWER_SECONDS_MAX = 300.0
"""How long any question waits for its answer before it is an error."""
_ASK_AGAIN_SECONDS = 2.0
_ASK_AGAIN_SECONDS_MAX = 20.0
_STARTING_SECONDS = 0.05

Compile = Callable[[bytes], Plan]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What a client is made for: `program`, as the encoded `graph` to submit on `nodes` nodes, or only
    located when there is no graph. `client_id` names its sessions (None: the connection's own name)."""

    system: str
    connection: str
    program: str
    graph: bytes | None = None
    nodes: int = 1
    client_id: str | None = None


class Client:
    """A program to write to and to read from; use `async with`."""

    plan: Plan
    placement: Placement
    note: str
    """What differs from what was asked for, in words, or nothing."""
    system: System
    """Of an embedded database: the system, to connect further clients to."""

    def __init__(
        self, options: ClientOptions, *, broker: Broker, clock: Clock, compile_graph: Compile, log: Logger
    ) -> None:
        """`compile_graph` makes the plan of an encoded graph."""
        self._options = options
        self._broker, self._clock, self._log = broker, clock, log
        self._compile = compile_graph
        self.replies = client_replies(options.system, options.connection)
        self._mailbox = Mailbox(
            broker,
            system=options.system,
            sender=f"client {options.connection}",
            set_aside=lambda queue, body, reason: log.warning(
                "set_aside", queue=queue, size=len(body), reason=reason
            ),
        )
        self._session = Session(options.client_id or options.connection, self.replies)
        self._opening = asyncio.Lock()
        self._requests = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._assemblies: dict[int, SnapshotAssembly] = {}
        self.watches: dict[int, Watch] = {}
        self._tickets: dict[int, asyncio.Future[int]] = {}
        self._room = asyncio.Event()
        self._submitted = asyncio.Event()
        self._seen_epoch = 0
        self._written_epoch = 0
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.readers: dict[int, ViewReader] = {}

    # -- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        try:
            await self._mailbox.listen(queue_of(self.replies), self._handle)
            self._tasks = [
                asyncio.create_task(
                    self._guarded(self._mailbox.run()), name=f"{self._options.connection} mailbox"
                ),
                asyncio.create_task(self._guarded(self._resend()), name=f"{self._options.connection} resend"),
            ]
            await self._locate()
            if self._options.client_id is not None:
                await self._open_session()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._failure is None and self._tickets:
            with suppress(DistZeroError):  # whoever holds the ticket hears of it
                await self._wait_all_answered()
        await self.close()

    async def close(self) -> None:
        """End the connection; what is unanswered fails."""
        self.fail(OperatorError(f"the connection to {self._options.program!r} was closed"))
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self._broker.close()

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more: every call that waits, and every later one, raises `error`."""
        if self._failure is not None:
            return
        self._failure = error
        for future in [*self._answers.values(), *self._tickets.values()]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # a ticket that nobody awaits is no reason to warn
        for watch in self.watches.values():
            watch.wake()
        self._room.set()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing is answered any more, if so."""
        return self._failure

    # -- writing ---------------------------------------------------------------------------------------------

    async def put(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> int:
        """Insert rows, or replace those with their keys, in one transaction. Returns its epoch once
        committed."""
        transaction = self.new_transaction()
        transaction.put(dataset, rows)
        return await self.write(transaction)

    async def append(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> int:
        """Add rows to a dataset without a key, in one transaction."""
        transaction = self.new_transaction()
        transaction.append(dataset, rows)
        return await self.write(transaction)

    async def update(self, dataset: str, key: Key, **columns: Any) -> int:
        """Change columns of the row with this key."""
        transaction = self.new_transaction()
        transaction.update(dataset, key, **columns)
        return await self.write(transaction)

    async def delete(self, dataset: str, *keys: Key) -> int:
        """Remove the rows with these keys, in one transaction."""
        transaction = self.new_transaction()
        transaction.delete(dataset, *keys)
        return await self.write(transaction)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Writes to any datasets that become visible together; committed when the block ends, unless it
        raises."""
        transaction = self.new_transaction()
        yield transaction
        await self.write(transaction)

    def new_transaction(self) -> Transaction:
        """An empty transaction, for `write` or `write_soon`."""
        return Transaction(self.plan)

    async def write(self, transaction: Transaction) -> int:
        """Write a transaction; returns its epoch once it is committed."""
        return await (await self.write_soon(transaction))

    async def write_soon(self, transaction: Transaction) -> Awaitable[int]:
        """Send a transaction and return as soon as there is room for the next one; the ticket that is
        returned is done, with the epoch, when it is committed. Transactions commit in the order in which they
        are sent."""
        payload = transaction.payload()
        await self._open_session()
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                while not self._session.has_room(len(payload)):
                    self._room.clear()
                    await self._room.wait()
                    self.check()
        except TimeoutError:
            raise self._unanswered("room for another transaction") from None
        self._check_session()
        number, messages = self._session.submit(payload, self._clock.monotonic())
        ticket = self._tickets[number] = asyncio.get_running_loop().create_future()
        self._send_transactions(messages)
        self._submitted.set()
        return ticket

    async def load(
        self, transactions: Iterable[Transaction], on_progress: OnProgress | None = None
    ) -> Loaded:
        """Write transactions as fast as they are taken. With a `client_id`, a load that was killed goes on
        where it stopped when the same transactions are offered again; a client that loads writes nothing
        else."""
        return await load(self, transactions, on_progress)

    async def load_file(self, dataset: str, path: str | Path, *, nulls: Sequence[str] = ()) -> int:
        """Write the rows of a file (CSV, JSON Lines or Parquet, by its name), 1,000 per transaction; returns
        how many.

        `nulls`: texts that stand for null, as `NA`. What was committed before an error in the file stays.
        """
        return (await load_file(self, dataset, path, nulls)).rows

    async def committed_before(self) -> int:
        """The last transaction number that earlier sessions of this client name have committed."""
        await self._open_session()
        return self._session.resumed_after

    async def flush(self) -> int:
        """Wait until all that this client has written is visible everywhere; returns an epoch of which it
        is."""
        await self._wait_all_answered()
        self.check()
        if not self._written_epoch:
            return 0
        finished = await self._ask(
            lambda request: (
                self.placement.clients_inbox,
                AwaitEpoch(request, self._written_epoch, self.replies),
            ),
            f"that epoch {self._written_epoch} is finished",
        )
        assert isinstance(finished, EpochFinished)
        return self._saw(finished.epoch)

    @property
    def committed(self) -> int:
        """The last transaction number that is committed under this client's name, also by earlier
        sessions."""
        return self._session.last_committed

    # -- reading ---------------------------------------------------------------------------------------------

    async def get(self, view: str, key: Key) -> ViewRow | None:
        """The row of a view with this key, as of an epoch that includes all this client has written or
        seen."""
        number, reader = self._reader(view)
        places = reader.sink.key
        if places is None:
            raise RequestError(
                f"view {view!r} is a bag: it has no key to get a row by; take a snapshot or group it"
            )
        key_type = reader.row_type.select(places)
        stored = stored_key_of(f"view {view!r}", key_type, key)
        shard = self._shard_of(reader, places, stored)
        blob = Batch.from_rows(key_type.types, [stored]).to_blob()
        await self._wait_all_answered()

        def question(request: int) -> tuple[str, Message]:
            version, program = self.placement.shard_map.version, self.plan.name
            at_least = self._seen_epoch
            get = Get(request, program, version, shard, number, blob, at_least, self.replies)
            return self.placement.inboxes[shard], get

        got = await self._ask(question, f"the row {key!r} of view {view!r}")
        assert isinstance(got, Got)
        self._saw(got.epoch)
        rows = Batch.from_blob(reader.row_type.types, got.row, reader.row_type.names).rows()
        return row_from_stored(reader.row_class, rows[0]) if rows else None

    async def snapshot(self, *views: str) -> Snapshot:
        """These views (none named: all) as of one epoch that includes every write committed before."""
        names = views or tuple(view.name for view in self.plan.views)
        numbers = tuple(self._reader(name)[0] for name in dict.fromkeys(names))
        request = self.next_request()
        self._assemblies[request] = SnapshotAssembly(numbers)
        message = SnapshotRequest(request, tuple(dict.fromkeys(names)), self.replies)
        try:
            answers = await self._asked(
                request,
                lambda: self._mailbox.send(self.placement.clients_inbox, message),
                f"a snapshot of {names}",
            )
        finally:
            del self._assemblies[request]
        snapshot = snapshot_of(self.plan, self.readers, numbers, answers)
        self._saw(snapshot.epoch)
        return snapshot

    async def rows(self, view: str) -> list[ViewRow]:
        """The rows of a view, in its order."""
        return (await self.snapshot(view))[view]

    def watch(self, view: str, *, after: int = 0) -> AsyncIterator[Change]:
        """Every change of a view: first its rows, then one `Change` per epoch that changed it. `after`: the
        epoch of the last change that the caller has seen, to go on from there while the changes are still
        known."""
        number, reader = self._reader(view)
        return self._changes(reader, number, after)

    def view(self, name: str) -> ViewHandle:
        """A handle on one view."""
        self._reader(name)
        return ViewHandle(self, name)

    async def _changes(self, reader: ViewReader, number: int, after: int) -> AsyncIterator[Change]:
        async with self.watch_stored((number,), after) as changes:
            async for change in changes:
                if change.snapshot or change.rows[number]:
                    self._saw(change.epoch)
                    yield change_for_people(reader, number, change)

    @asynccontextmanager
    async def watch_stored(self, views: Sequence[int], after: int = 0) -> AsyncIterator[Watch]:
        """The changes of several views, by number, in stored values: every epoch, also one without
        changes."""
        watch = Watch(self, tuple(views), after)
        try:
            watch.subscribe()
            yield watch
        finally:
            watch.unsubscribe()

    # -- questions -------------------------------------------------------------------------------------------

    async def _ask(
        self,
        question: Callable[[int], tuple[str, Message]],
        what: str,
        patience: float = _ASK_AGAIN_SECONDS,
    ) -> Message:
        """Ask until answered, first again after `patience` seconds. Raises `RequestError` when refused,
        `OperatorError` when nobody answers."""
        request = self.next_request()

        def send() -> None:
            inbox, message = question(request)
            self._mailbox.send(inbox, message)

        answer: Message = await self._asked(request, send, what, patience)
        return answer

    async def _asked(
        self, request: int, send: Callable[[], None], what: str, patience: float = _ASK_AGAIN_SECONDS
    ) -> Any:
        """Send, and send again, until `request` is answered."""
        self.check()
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        give_up_at = self._clock.monotonic() + ANSWER_SECONDS_MAX
        try:
            while self._clock.monotonic() < give_up_at:
                send()
                done, _ = await asyncio.wait([answer], timeout=patience)
                if done:
                    return answer.result()
                patience = min(patience * 2, _ASK_AGAIN_SECONDS_MAX)
        finally:
            del self._answers[request]
            answer.cancel()
        raise self._unanswered(what)

    async def _locate(self) -> None:
        """Find the program, after submitting it if we have its graph, and wait until it runs."""
        options = self._options

        def question(request: int) -> tuple[str, Message]:
            inbox = scheduler_inbox(options.system)
            if options.graph is None:
                return inbox, Locate(request, options.program, self.replies)
            return inbox, SubmitProgram(request, options.graph, options.nodes, self.replies)

        give_up_at = self._clock.monotonic() + ANSWER_SECONDS_MAX
        while self._clock.monotonic() < give_up_at:
            # The scheduler may be starting too, and what is sent before it listens is lost.
            located = await self._ask(question, f"where program {options.program!r} is", _STARTING_SECONDS)
            assert isinstance(located, Located)
            if located.state is ProgramState.HALTED:
                raise OperatorError(f"program {options.program!r} stands still: {located.note}")
            if located.state is ProgramState.RUNNING and located.placement is not None:
                self.placement, self.note = located.placement, located.note
                self.plan = self._compile(located.graph)
                self.readers = {
                    number: ViewReader(self.plan, number) for number in range(len(self.plan.views))
                }
                return
            await asyncio.sleep(_STARTING_SECONDS)
        raise OperatorError(f"program {options.program!r} was not running after {ANSWER_SECONDS_MAX:g} s")

    async def _open_session(self) -> None:
        self.check()
        self._check_session()
        async with self._opening:
            if self._session.is_open:
                return
            opened = await self._ask(
                lambda request: (self.placement.clients_inbox, self._session.open(request)),
                "a session to write in",
            )
            assert isinstance(opened, SessionOpened)
            self._session.on_opened(opened)
            self._saw(opened.epoch)

    async def _wait_all_answered(self) -> None:
        for ticket in list(self._tickets.values()):
            await asyncio.wait([ticket])
        self.check()

    def next_request(self) -> int:
        """A number for a question, given once."""
        self._requests += 1
        return self._requests

    def _unanswered(self, what: str) -> OperatorError:
        return OperatorError(
            f"nobody answered within {ANSWER_SECONDS_MAX:g} s when program {self._options.program!r} was asked"
            f" for {what}: its scheduler, sequencer or a node is down or far behind"
        )

    def check(self) -> None:
        """Raise what ended this client, if something has."""
        if self._failure is not None:
            raise self._failure

    def _check_session(self) -> None:
        if self._session.lost:
            raise SessionExpired(
                f"the session of client {self._session.client!r} has ended: {self._session.lost}. Its"
                f" transactions up to number {self._session.last_committed} are committed; connect again to go on"
            )

    def _saw(self, epoch: int) -> int:
        self._seen_epoch = max(self._seen_epoch, epoch)
        return epoch

    def _reader(self, view: str) -> tuple[int, ViewReader]:
        for number, reader in self.readers.items():
            if reader.name == view:
                return number, reader
        names = ", ".join(reader.name for reader in self.readers.values())
        raise RequestError(f"no view {view!r} in program {self._options.program!r}; there are {names}")

    def _shard_of(self, reader: ViewReader, places: tuple[int, ...], key: StoredRow) -> int:
        """The shard that has the row with this key: the view's sharding uses columns of the key alone."""
        row: list[Any] = [None] * len(reader.row_type)
        for place, value in zip(places, key, strict=True):
            row[place] = value
        sharding = reader.sink.sharding
        if not isinstance(sharding, tuple):
            raise InternalError(f"view {reader.name!r} has a key and is not sharded by it")
        types = [scalar.dtype for scalar in sharding]
        return owner(self.placement.shard_map, key_hash(types, compile_tuple(sharding)(tuple(row))))

    # -- background ------------------------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[None]) -> None:
        """A background task whose error fails the client."""
        try:
            await work
        except Exception as error:  # whatever it is, it belongs to whoever waits
            self.fail(_only_error(error))

    async def _resend(self) -> None:
        """Send what is unanswered again when it is time."""
        while True:
            due = self._session.next_due()
            self._submitted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._submitted.wait()
            self._send_transactions(self._session.on_time(self._clock.monotonic()))

    def _send_transactions(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._mailbox.send(self.placement.clients_inbox, message)

    def send(self, inbox: str, message: Message) -> None:
        """Send a message of a watch."""
        self._mailbox.send(inbox, message)

    # -- answers ---------------------------------------------------------------------------------------------

    def _handle(self, message: Message, token: Token) -> None:
        """Everything that comes; answers to forgotten questions and second answers are dropped."""
        now = self._clock.monotonic()
        match message:
            case Committed():
                self._settle(self._session.on_committed(message))
            case TransactionRefused():
                outcomes, messages = self._session.on_refused(message, now)
                self._settle(outcomes)
                self._send_transactions(messages)
            case SessionUnknown():
                self._settle(self._session.on_unknown(message))
            case ResendFrom():
                self._send_transactions(self._session.on_resend_from(message, now))
            case Wait():
                self._session.on_wait(message, now)
                self._submitted.set()
            case RequestRefused():
                self._refuse(message)
            case SnapshotAnswer() if message.subscription == 0:
                assembly = self._assemblies.get(message.request)
                answers = assembly.add(message) if assembly is not None else None
                if answers is not None:
                    self._answer(message.request, answers)
            case SnapshotAnswer() | Changes() | ChangesGone():
                self._handle_change(message)
            case SessionOpened() | EpochFinished() | Got() | Located():
                self._answer(message.request, message)
            case _:
                raise MalformedMessage(f"a {type(message).__name__} is not for clients")
        self._mailbox.settle(token)

    def _handle_change(self, message: SnapshotAnswer | Changes | ChangesGone) -> None:
        """A message of a subscription: ours, or one that ended and of which its sender has not heard."""
        watch = self.watches.get(message.request)
        if watch is None and isinstance(message, ChangesGone):
            of = message.subscription
            watch = next((each for each in self.watches.values() if each.subscription == of), None)
        if watch is not None:
            watch.handle(message)
        elif isinstance(message, Changes) and self.readers:
            self.send(self.placement.clients_inbox, Unsubscribe(message.subscription))

    def _answer(self, request: int, answer: object) -> None:
        future = self._answers.get(request)
        if future is not None and not future.done():
            future.set_result(answer)

    def _refuse(self, message: RequestRefused) -> None:
        error = RequestError(message.reason)
        future = self._answers.get(message.request)
        if future is not None and not future.done():
            future.set_exception(error)
        watch = self.watches.get(message.request)
        if watch is not None:
            watch.refuse(error)

    def _settle(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            ticket = self._tickets.pop(outcome.number)
            if outcome.epoch:
                self._written_epoch = max(self._written_epoch, outcome.epoch)
                self._saw(outcome.epoch)
            if ticket.done():
                continue
            if outcome.epoch:
                ticket.set_result(outcome.epoch)
            elif outcome.refused:
                ticket.set_exception(
                    DataError(f"transaction {outcome.number} was refused: {outcome.refused}")
                )
            else:
                ticket.set_exception(
                    SessionExpired(
                        f"the session of client {self._session.client!r} ended ({outcome.lost}) before"
                        f" transaction {outcome.number} was answered: it may or may not be committed; those up"
                        f" to number {self._session.last_committed} are"
                    )
                )
            if not outcome.epoch:
                ticket.exception()  # a ticket that nobody awaits is no reason to warn
        self._room.set()
        self._submitted.set()


@dataclass(frozen=True, slots=True)
class ViewHandle:
    """One view of a client's program."""

    client: Client
    name: str

    async def rows(self) -> list[ViewRow]:
        """Its rows, in its order."""
        return await self.client.rows(self.name)

    async def get(self, key: Key) -> ViewRow | None:
        """The row with this key."""
        return await self.client.get(self.name, key)

    def watch(self, *, after: int = 0) -> AsyncIterator[Change]:
        """Its changes; see `Client.watch`."""
        return self.client.watch(self.name, after=after)

    async def errors(self) -> list[Any]:
        """The rows that are left out of it, by reason."""
        return list((await self.client.snapshot(self.name)).errors[self.name])


def _only_error(error: BaseException) -> BaseException:
    """The one error in groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
