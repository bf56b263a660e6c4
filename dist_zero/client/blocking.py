"""The plain face of the client: the same methods, which return when it is done.

An event loop runs in a thread of its own; every call hands its work there and waits. It may be used from
several threads, and from a notebook, where a loop runs already.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dist_zero.client.changed import Change
from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot, ViewError
from dist_zero.client.writes import Key, RowLike, Transaction, ended
from dist_zero.row import ViewRow
from dist_zero_common.errors import OperatorError, SettingsError

Result = TypeVar("Result")


class BlockingClient:
    """A program to write to and to read from, without asyncio; use `with`. `Client` says what each method
    does."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Client]]) -> None:
        """`connect` makes what is entered, in the thread of the loop, to get the client."""
        self._connect = connect
        self._client: Client
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="dist-zero client", daemon=True)
        self._entered = threading.Event()
        self._leave: asyncio.Event
        self._error: BaseException | None = None

    def __enter__(self) -> BlockingClient:
        self._thread.start()
        self._entered.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_open:  # else it was closed in its block, or has failed
            self._loop.call_soon_threadsafe(self._leave.set)
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def __repr__(self) -> str:
        return repr(self._client) if self._is_open else "<closed database>"

    def close(self) -> None:
        """End it, as leaving the `with` block does; for a client that was made by `open`."""
        if self._is_open:
            self.__exit__(None, None, None)

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> int:
        """Insert rows, or replace those with their keys, in one transaction. Returns its epoch once
        committed."""
        return self._wait(self._client.put(dataset, rows))

    def append(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> int:
        """Add rows to a dataset without a key, in one transaction."""
        return self._wait(self._client.append(dataset, rows))

    def update(self, dataset: str, key: Key, **columns: Any) -> int:
        """Change columns of the row with this key."""
        return self._wait(self._client.update(dataset, key, **columns))

    def delete(self, dataset: str, *keys: Key) -> int:
        """Remove the rows with these keys, in one transaction."""
        return self._wait(self._client.delete(dataset, *keys))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Writes to any datasets that become visible together; committed when the block ends, unless it
        raises."""
        with ended(self._client.new_transaction()) as transaction:
            yield transaction
        self._wait(self._client.write(transaction))

    def load_file(self, dataset: str, path: str | Path, *, nulls: Sequence[str] = ()) -> int:
        """Write the rows of a file; returns how many."""
        return self._wait(self._client.load_file(dataset, path, nulls=nulls))

    def flush(self) -> int:
        """Wait until all that this client has written is visible everywhere."""
        return self._wait(self._client.flush())

    # -- reading ---------------------------------------------------------------------------------------------

    def __getitem__(self, view: str) -> list[ViewRow]:
        """The rows of a view, in its order, with every write committed before."""
        return self._wait(self._client.rows(view))

    def get(self, view: str, key: Key) -> ViewRow | None:
        """The row of a view with this key."""
        return self._wait(self._client.get(view, key))

    def snapshot(self, *views: str) -> Snapshot:
        """These views (none named: all) as of one epoch."""
        return self._wait(self._client.snapshot(*views))

    def watch(self, view: str, *, after: int = 0) -> Iterator[Change]:
        """Every change of a view: first its rows, then one `Change` per epoch that changed it."""
        changes = self._wait(self._started(view, after))
        try:
            while True:
                try:
                    yield self._wait(_next(changes))
                except StopAsyncIteration:
                    return
        finally:
            if self._is_open:  # a watch that nobody finished may end after its database
                self._wait(_close(changes))

    def view(self, name: str) -> BlockingView:
        """A handle on one view."""
        self._client.view(name)
        return BlockingView(self, name)

    @property
    def waiting_for(self) -> str:
        """What keeps writes and questions waiting just now, in words, as far as it is known; empty: nothing."""
        return self._client.waiting_for

    @property
    def note(self) -> str:
        """What differs from what was asked for, in words, or nothing."""
        return self._client.note

    @property
    def committed(self) -> int:
        """The last transaction number that is committed under this client's name."""
        return self._client.committed

    # -- the thread ------------------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        finally:
            self._entered.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._leave = asyncio.Event()
        async with self._connect() as self._client:
            self._entered.set()
            await self._leave.wait()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        if not self._is_open:
            work.close()
            raise OperatorError("this database is closed: use it inside its with block, or before close()")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def _started(self, view: str, after: int) -> AsyncIterator[Change]:
        return self._client.watch(view, after=after)


class BlockingView:
    """One view of a client's program."""

    def __init__(self, client: BlockingClient, name: str) -> None:
        self.name = name
        self._client = client

    def rows(self) -> list[ViewRow]:
        """Its rows, in its order."""
        return self._client[self.name]

    def get(self, key: Key) -> ViewRow | None:
        """The row with this key."""
        return self._client.get(self.name, key)

    def watch(self, *, after: int = 0) -> Iterator[Change]:
        """Its changes; see `Client.watch`."""
        return self._client.watch(self.name, after=after)

    @property
    def errors(self) -> list[ViewError]:
        """The rows that are left out of it, by reason."""
        return list(self._client.snapshot(self.name).errors[self.name])


class EitherWay:
    """A client to be: `async with` it for a `Client`, `with` it for a `BlockingClient`, or `open` it."""

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[Client]], only_async: bool = False
    ) -> None:
        """`opened` makes what is entered to get the client. `only_async`: what it belongs to lives in the caller's
        event loop."""
        self._opened, self._only_async = opened, only_async
        self._entered: AbstractAsyncContextManager[Client]
        self._blocking: BlockingClient

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(self._too_early(name))

        def __getitem__(self, view):
            raise TypeError(self._too_early(view))

    def _too_early(self, what: object) -> str:
        return f"no {what!r} before it runs: write `with ... as db:`, or db = ... .open()".replace(
            "...", self._written()
        )

    def _written(self) -> str:
        """How people write it, for errors."""
        return "dz.connect(app, to=url)"

    async def __aenter__(self) -> Client:
        self._entered = self._opened()
        return await self._entered.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._entered.__aexit__(kind, error, traceback)

    def __enter__(self) -> BlockingClient:
        if self._only_async:
            raise SettingsError("this system runs in an event loop of its own: use `async with` there")
        self._blocking = BlockingClient(self._opened)
        return self._blocking.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._blocking.__exit__(kind, error, traceback)

    def open(self) -> BlockingClient:
        """The `BlockingClient` without a `with` block, for the cells of a notebook; its `close` ends it."""
        return self.__enter__()


async def _next(changes: AsyncIterator[Change]) -> Change:
    return await anext(changes)


async def _close(changes: AsyncIterator[Change]) -> None:
    close = getattr(changes, "aclose", None)
    if close is not None:
        await close()
