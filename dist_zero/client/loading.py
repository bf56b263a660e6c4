"""Loading: many transactions in a row, as fast as they are taken, in a way that can go on after it was
killed.

A load numbers its transactions 1, 2, 3 … by their place in the input. A client with a `client_id` learns,
when it connects, the last number that is committed under its name, and passes over what comes up to there; so
the input has to be cut the same way each time. Files are cut into fixed ranges of rows for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_zero.batch import Batch
from dist_zero.client.writes import Transaction
from dist_zero.text_rows import BLOCK_ROWS
from dist_zero_common.errors import DataError

if TYPE_CHECKING:
    from dist_zero.client.client import Client

LOAD_ROWS, LOAD_BYTES = BLOCK_ROWS, 2**20
"""Rows per transaction when files are loaded; such a range of rows that is larger than this becomes several. Whoever
changes them changes the names of loads (`dist_zero/cli/data.py`), for they number the transactions."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did. What was committed by an earlier one of the same name was passed over."""

    rows: int
    transactions: int
    rows_passed_over: int


OnProgress = Callable[[Loaded], None]
"""Hears how far a load is, after each transaction that was sent."""


async def load(
    client: Client, transactions: Iterable[Transaction], on_progress: OnProgress | None = None
) -> Loaded:
    """Write all transactions, in order. When the input has an error, what came before it is committed first,
    and the error says how much that is."""
    done = await client.committed_before()
    tickets: list[Awaitable[int]] = []
    loaded = Loaded(0, 0, 0)
    number = 0
    try:
        for number, transaction in enumerate(transactions, 1):
            rows = transaction.row_count
            if number <= done:
                loaded = Loaded(loaded.rows, loaded.transactions, loaded.rows_passed_over + rows)
            else:
                tickets.append(await client.write_soon(transaction))
                loaded = Loaded(loaded.rows + rows, loaded.transactions + 1, loaded.rows_passed_over)
            if on_progress is not None:
                on_progress(loaded)
    except DataError as error:
        await _wait_all(tickets)
        there = loaded.rows + loaded.rows_passed_over
        said = f"{there:,} rows before it were written" if there else "nothing was written"
        raise DataError(f"{error}; {said}") from None
    await _wait_all(tickets)
    return loaded


def file_transactions(client: Client, dataset: str, batches: Iterable[Batch]) -> Iterator[Transaction]:
    """The rows of a file as transactions."""
    for batch in in_batches(batches, LOAD_ROWS):
        for piece in batch.split(LOAD_BYTES):
            transaction = client.new_transaction()
            transaction.write_batch(dataset, piece)
            yield transaction


async def load_file(client: Client, dataset: str, path: str | Path, nulls: Sequence[str]) -> Loaded:
    """Write the rows of a file."""
    from dist_zero.files import RowFile  # pyarrow takes a while, and not everybody needs it

    file = RowFile(path, client.new_transaction().row_type(dataset), nulls)
    return await load(client, file_transactions(client, dataset, file.batches()))


def in_batches(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in the same order, `size` at a time, the last ones fewer."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count < size:
            continue
        joined = Batch.concat(batch.types, waiting)
        whole = count // size * size
        for start in range(0, whole, size):
            yield joined.take(range(start, start + size))
        waiting, count = [joined.take(range(whole, count))], count - whole
    if count:
        yield Batch.concat(waiting[0].types, waiting)


async def _wait_all(tickets: Iterable[Awaitable[int]]) -> None:
    for ticket in tickets:
        await ticket
