"""The asyncio face: one client of one program.

A client asks and asks again until it is answered; every question carries a number, and a second answer is
dropped. Writes go through a `Session` (see `session.py`), which is opened with the first of them, or at once
when the caller has chosen a `client_id`.

It outlives its connections to the broker and the places of its program. At each new connection all open
questions are asked again, under the new queue of replies, unanswered transactions are sent again in order, and
watches go on behind the last epoch they have seen. Nodes move when machines come and go: an inbox that is gone,
or something that waits for long, is the reason to ask the scheduler where the program is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dist_zero.batch import Batch
from dist_zero.client.changed import Change
from dist_zero.client.line import CONNECT_SECONDS_MAX, Line
from dist_zero.client.loading import Loaded, OnProgress, load, load_file
from dist_zero.client.questions import ANSWER_SECONDS_MAX
from dist_zero.client.session import Session
from dist_zero.client.snapshot import PartsByEpoch, Snapshot, ViewReader, snapshot_of
from dist_zero.client.view_handle import ViewHandle
from dist_zero.client.watch import change_for_people
from dist_zero.client.watching import Watch
from dist_zero.client.writer import Writer
from dist_zero.client.writes import Key, RowLike, Transaction, ended, stored_key_of
from dist_zero.compiler.fingerprint import shown
from dist_zero.compiler.plan import Plan
from dist_zero.hashing import key_hash
from dist_zero.reference.scalar import compile_tuple
from dist_zero.row import ViewRow, row_from_stored
from dist_zero.shards import owner
from dist_zero.types import Row as StoredRow
from dist_zero_common.broker.base import Connect
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.clock import Clock
from dist_zero_common.errors import (
    InternalError,
    MalformedMessage,
    OperatorError,
    RequestError,
    first_error,
)
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.control import Placement
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.reading import (
    AwaitEpoch,
    Changes,
    ChangesGone,
    Elsewhere,
    EpochFinished,
    Get,
    Got,
    SnapshotAnswer,
    SnapshotRequest,
    Unsubscribe,
)
from dist_zero_common.protocol.messages.requests import (
    Locate,
    Located,
    ProgramState,
    SubmitProgram,
    SystemStatus,
)
from dist_zero_common.protocol.messages.writing import (
    Committed,
    OpenSession,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    TransactionRefused,
    Wait,
)

if TYPE_CHECKING:
    from dist_zero.system import System

_STARTING_SECONDS = 0.05
_SLOW_SECONDS = 5.0
"""When something waits for so long, there may be a reason to hear of."""
_AGAIN_SECONDS = 0.2
"""How long until a scheduler that said that the program is starting is asked again."""

Compile = Callable[[bytes], Plan]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What a client is made for: `program`, as the encoded `graph` to submit on `nodes` nodes, or only
    located when there is no graph. `client_id` names its sessions (None: the connection's own name).
    `connect_seconds`: how long the first connection may take."""

    system: str
    connection: str
    program: str
    graph: bytes | None = None
    nodes: int = 1
    client_id: str | None = None
    connect_seconds: float = CONNECT_SECONDS_MAX


class Client:
    """A program to write to and to read from; use `async with`."""

    plan: Plan
    placement: Placement
    note: str
    """What differs from what was asked for, in words, or nothing."""
    system: System
    """Of an embedded database: the system, to connect further clients to."""

    def __init__(
        self, options: ClientOptions, *, connect: Connect, clock: Clock, compile_graph: Compile, log: Logger
    ) -> None:
        """`compile_graph` makes the plan of an encoded graph."""
        self._options = options
        self._clock, self._log = clock, log
        self._compile = compile_graph
        self._line = Line(
            connect,
            system=options.system,
            name=options.connection,
            subject=f"program {options.program!r}",
            clock=clock,
            log=log,
            on_message=self._handle,
            on_connected=self._on_connected,
            on_unroutable=self._on_unroutable,
            connect_seconds=options.connect_seconds,
        )
        self.questions = self._line.questions
        self.questions.on_again = self.look_now
        self._writer = Writer(
            Session(options.client_id or options.connection, self._line.replies),
            clock,
            ask_open=self._ask_open,
            send=lambda message: self._line.send(self.placement.clients_inbox, message),
            may_send=lambda: self._line.connected,
            waiting_for=lambda: self.waiting_for,
            on_epoch=self._saw,
        )
        self._assemblies: dict[int, PartsByEpoch] = {}
        self.watches: dict[int, Watch] = {}
        self._seen_epoch = 0
        self._look_now = asyncio.Event()
        self._program_waits = ""
        self._hears_of_others = False
        """Something has come by views that are not those that are known here."""
        self._tasks: list[asyncio.Task[None]] = []
        self.readers: dict[int, ViewReader] = {}
        self._graph, self._shown = b"", 0

    # -- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        try:
            self._tasks = [
                self._start(self._line.run, "line"),
                self._start(self._writer.run, "writer"),
            ]
            await self._line.listen()
            await self._locate()
            self._tasks.append(self._start(self._look_after, "look after"))  # before, it may be unknown
            if self._options.client_id is not None:
                await self._writer.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self.questions.failure is None:
            await self._writer.wait_all_answered()
        await self.close()

    @property
    def replies(self) -> str:
        """Where answers come to, on the connection that there is now."""
        return self._line.replies

    @property
    def waiting_for(self) -> str:
        """What keeps writes and questions waiting just now, in words, as far as it is known; empty: nothing."""
        return self._line.waiting_for or self._program_waits

    def on_waiting(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the words whenever the broker begins to keep this client waiting, and with none when
        it goes on."""
        self._line.on_waiting = callback

    def __repr__(self) -> str:
        views = ", ".join(reader.name for reader in self.readers.values())
        return f"<client of program {self._options.program}: views {views}>"

    async def close(self) -> None:
        """End the connection; what is unanswered fails."""
        self.fail(OperatorError(f"the connection to {self._options.program!r} was closed"))
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more: every call that waits, and every later one, raises `error`."""
        if self.questions.failure is not None:
            return
        self.questions.fail(error)
        for watch in self.watches.values():
            watch.wake()
        self._writer.fail(error)

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
        with ended(self.new_transaction()) as transaction:
            yield transaction
        await self.write(transaction)

    def new_transaction(self) -> Transaction:
        """An empty transaction, for `write` or `write_soon`."""
        return Transaction(self.plan)

    async def write(self, transaction: Transaction) -> int:
        """Write a transaction; returns its epoch once it is committed."""
        return await self._writer.wait(await self._writer.submit(transaction.payload()))

    async def write_soon(self, transaction: Transaction) -> Awaitable[int]:
        """Send a transaction and return as soon as there is room for the next one; the ticket that is
        returned is done, with the epoch, when it is committed. Transactions commit in the order in which they
        are sent."""
        return await self._writer.submit(transaction.payload())

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
        await self._writer.open()
        return self._writer.session.resumed_after

    async def flush(self) -> int:
        """Wait until all that this client has written is visible everywhere; returns an epoch of which it
        is."""
        await self._writer.wait_all_answered()
        self.questions.check()
        if not self._writer.newest_epoch:
            return 0
        finished = await self.questions.ask(
            lambda request: (
                self.placement.clients_inbox,
                AwaitEpoch(request, self._writer.newest_epoch, self.replies),
            ),
            f"the end of epoch {self._writer.newest_epoch}",
        )
        assert isinstance(finished, EpochFinished)
        return self._saw(finished.epoch)

    @property
    def committed(self) -> int:
        """The last transaction number that is committed under this client's name, also by earlier
        sessions."""
        return self._writer.session.last_committed

    # -- reading ---------------------------------------------------------------------------------------------

    async def get(self, view: str, key: Key) -> ViewRow | None:
        """The row of a view with this key, as of an epoch that includes all this client has written or
        seen."""
        self._get_question(0, view, key)  # what is wrong with it is said before anything is waited for
        await self._writer.wait_all_answered()

        def question(request: int) -> tuple[str, Message]:
            try:
                return self._get_question(request, view, key)
            except RequestError as gone:  # the program was changed meanwhile
                self.questions.refuse(request, gone)
                return self._locate_question(request)

        got = await self.questions.ask(question, f"the row {key!r} of view {view!r}")
        assert isinstance(got, Got)
        self._saw(got.epoch)
        _, reader = self._reader(view)
        rows = Batch.from_blob(reader.row_type.types, got.row, reader.row_type.names).rows()
        return row_from_stored(reader.row_class, rows[0]) if rows else None

    def _get_question(self, request: int, view: str, key: Key) -> tuple[str, Message]:
        number, reader = self._reader(view)
        places = reader.sink.key
        if places is None:
            raise RequestError(
                f"view {view!r} is a bag: it has no key to get a row by; take a snapshot or group it"
            )
        key_type = reader.row_type.select(places)
        stored = stored_key_of(f"view {view!r}", key_type, key)
        blob = Batch.from_rows(key_type.types, [stored]).to_blob()
        version, program = self.placement.shard_map.version, self.plan.name
        shard = self._shard_of(reader, places, stored)
        get = Get(request, program, version, shard, number, blob, self._seen_epoch, self.replies)
        return self.placement.inboxes[shard], get

    async def snapshot(self, *views: str) -> Snapshot:
        """These views (none named: all) as of one epoch that includes every write committed before."""
        names = views or tuple(view.name for view in self.plan.views)
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            self._reader(name)
        request = self.questions.next_number()
        self._assemblies[request] = PartsByEpoch()
        try:
            answers = await self.questions.ask(
                lambda _: (self.placement.clients_inbox, SnapshotRequest(request, wanted, self.replies)),
                f"a snapshot of {', '.join(names)}",
                number=request,
            )
        finally:
            del self._assemblies[request]
        numbers = tuple(self._reader(name)[0] for name in wanted)
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
        number, _ = self._reader(view)
        if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 2**64:
            raise RequestError(
                f"watch(after={after!r:.80}): give the epoch of a change, as after=change.epoch"
            )
        return self._changes(view, number, after)

    def view(self, name: str) -> ViewHandle:
        """A handle on one view."""
        self._reader(name)
        return ViewHandle(self, name)

    async def _changes(self, view: str, number: int, after: int) -> AsyncIterator[Change]:
        with self.watch_stored((number,), after) as changes:
            async for change in changes:
                if change.snapshot or change.rows[number]:
                    self._saw(change.epoch)
                    yield change_for_people(self._reader(view)[1], number, change)

    @contextmanager
    def watch_stored(self, views: Sequence[int], after: int = 0) -> Iterator[Watch]:
        """The changes of several views, by number, in stored values: every epoch, also one without
        changes."""
        watch = Watch(self, tuple(views), after)
        try:
            watch.subscribe()
            yield watch
        finally:
            watch.unsubscribe()

    # -- questions -------------------------------------------------------------------------------------------

    async def _locate(self) -> None:
        """Find the program, after submitting it if we have its graph, and wait until it runs."""
        options = self._options

        def question(request: int) -> tuple[str, Message]:
            if options.graph is None:
                return self._locate_question(request)
            submit = SubmitProgram(request, options.graph, options.nodes, self.replies)
            return scheduler_inbox(options.system), submit

        give_up_at = self._clock.monotonic() + ANSWER_SECONDS_MAX
        while self._clock.monotonic() < give_up_at:
            # The scheduler may be starting too, and what is sent before it listens is lost.
            located = await self.questions.ask(question, "its place", patience=_STARTING_SECONDS)
            assert isinstance(located, Located)
            if located.state is ProgramState.HALTED:
                raise OperatorError(f"program {options.program!r} stands still: {located.note}")
            if located.state is ProgramState.RUNNING and located.placement is not None:
                self.placement, self.note = located.placement, located.note
                self._adopt(located.graph)
                return
            await asyncio.sleep(_STARTING_SECONDS)
        raise OperatorError(f"program {options.program!r} was not running after {ANSWER_SECONDS_MAX:g} s")

    def _adopt(self, graph: bytes) -> None:
        """The program is this one, now or from now on."""
        self._graph, self.plan = graph, self._compile(graph)
        self._shown = shown(self.plan)
        self.readers = {number: ViewReader(self.plan, number) for number in range(len(self.plan.views))}

    async def _look_after(self) -> None:
        """While something waits for long, and when an inbox is gone, ask where the program is now and whether
        it stands still: then nothing will be answered."""
        while True:
            waited = self._waits()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SLOW_SECONDS):
                    await self._look_now.wait()
                waited = True
            self._look_now.clear()
            if waited and (self._waits() or self._hears_of_others):
                self._learn(await self.questions.ask(self._locate_question, "its place"))
                await asyncio.sleep(_STARTING_SECONDS)

    def _waits(self) -> bool:
        quiet = any(watch.is_quiet for watch in self.watches.values())
        return bool(self.questions.waiting or self._writer.session.unanswered or quiet)

    def _learn(self, located: Located) -> None:
        """What the scheduler says of the program: whatever waits is sent there if it is somewhere else now."""
        name = self._options.program
        self._program_waits = ""
        if located.state is ProgramState.HALTED:
            self.fail(OperatorError(f"program {name!r} stands still: {located.note}"))
            return
        if located.placement is None or located.state is not ProgramState.RUNNING:
            self._program_waits = f"program {name!r} is starting: {located.note or 'on other machines'}"
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._look_now.set)
            return
        self._hears_of_others = False
        if located.placement.version > self.placement.version:
            self.placement = located.placement
            if located.graph != self._graph:
                self._follow_change(located.graph)
            self._log.info(
                "program_moved", generation=located.placement.generation, version=located.placement.version
            )
            self._on_connected()
            self.questions.ask_all_again()

    def _follow_change(self, graph: bytes) -> None:
        """The program was changed: its views have other numbers, or are others."""
        self._adopt(graph)
        self._assemblies = {request: PartsByEpoch() for request in self._assemblies}
        for watch in list(self.watches.values()):
            watch.follow_change()
        self._log.info("program_changed", views=[view.name for view in self.plan.views])

    def _locate_question(self, request: int) -> tuple[str, Message]:
        return scheduler_inbox(self._options.system), Locate(request, self._options.program, self.replies)

    async def _ask_open(self, question: Callable[[int], OpenSession]) -> SessionOpened:
        opened = await self.questions.ask(
            lambda request: (self.placement.clients_inbox, question(request)), "a session to write in"
        )
        assert isinstance(opened, SessionOpened)
        return opened

    def _saw(self, epoch: int) -> int:
        self._seen_epoch = max(self._seen_epoch, epoch)
        return epoch

    def _reader(self, view: str) -> tuple[int, ViewReader]:
        for number, reader in self.readers.items():
            if reader.name == view:
                return number, reader
        names = ", ".join(reader.name for reader in self.readers.values())
        hint = ""
        if any(dataset.name == view for dataset in self.plan.datasets):
            hint = f". {view!r} is a dataset: what is to be read is declared as a view, app.view(name, table)"
        raise RequestError(f"no view {view!r} in program {self._options.program!r}; there are {names}{hint}")

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

    def _start(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._guarded(work), name=f"{self._options.connection} {name}")

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """A background task whose error fails the client."""
        try:
            await work()
        except Exception as error:  # whatever it is, it belongs to whoever waits
            self.fail(first_error(error))

    def send(self, inbox: str, message: Message) -> None:
        """Send a message of a watch, which sends again what was not answered: without a connection it does not
        go."""
        if self._line.connected:
            self._line.send(inbox, message)

    def look_now(self) -> None:
        """Something waits, perhaps because the program is elsewhere: ask where it is."""
        self._look_now.set()

    def _on_connected(self) -> None:
        """A new connection, the end of an alarm, or the program elsewhere: send again what was not answered."""
        self._writer.send_all_again(self.replies)
        for watch in list(self.watches.values()):
            watch.go_on()

    def _on_unroutable(self, inbox: str) -> None:
        """An inbox is gone: perhaps the program is elsewhere."""
        self._log.info("inbox_gone", inbox=inbox)
        if inbox != scheduler_inbox(self._options.system):
            self._look_now.set()

    # -- answers ---------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        """Everything that comes; answers to forgotten questions and second answers are dropped."""
        match message:
            case Committed() | TransactionRefused() | SessionUnknown() | ResendFrom() | Wait():
                self._writer.handle(message)
            case RequestRefused():
                self._refuse(message)
            case SnapshotAnswer() | Changes() if message.shown not in (0, self._shown):
                self._hears_of_others = True
                self._look_now.set()
            case Elsewhere():
                if message.program == self._options.program:
                    self._hears_of_others = True
                    self._look_now.set()
            case SnapshotAnswer() if message.subscription == 0:
                assembly = self._assemblies.get(message.request)
                answers = assembly.add(message) if assembly is not None else None
                if answers is not None:
                    self.questions.answer(message.request, answers)
            case SnapshotAnswer() | Changes() | ChangesGone():
                self._handle_change(message)
            case SessionOpened() | EpochFinished() | Got() | Located() | SystemStatus():
                self.questions.answer(message.request, message)
            case _:
                raise MalformedMessage(f"a {type(message).__name__} is not for clients")

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

    def _refuse(self, message: RequestRefused) -> None:
        error = RequestError(message.reason)
        self.questions.refuse(message.request, error)
        watch = self.watches.get(message.request)
        if watch is not None:
            watch.refuse(error)
