"""`dist-zero load`, `show` and `get`: rows into a program that runs, and out of its views."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from dist_zero.cli.reach import RunningSystem, chosen_program
from dist_zero.cli.render import console_for, error_lines, view_table, view_title
from dist_zero.client.client import Client
from dist_zero.client.loading import LOAD_BYTES, LOAD_ROWS, Loaded, file_transactions
from dist_zero.client.snapshot import Snapshot, ViewReader
from dist_zero.client.writes import Transaction
from dist_zero.files import RowFile, kind_of, write_rows
from dist_zero.row import to_stored_row
from dist_zero.text_values import json_row, value_from_text
from dist_zero.types import from_stored
from dist_zero_common.checksum import xxh64
from dist_zero_common.errors import DataError, RequestError

_STEPS_PER_REFRESH = 20


# ---- load --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What `dist-zero load` was asked for; see its help."""

    dataset: str
    files: tuple[Path, ...]
    nulls: tuple[str, ...] = ()
    again: bool = False
    program: str | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class FileLoaded:
    """What became of one file."""

    file: str
    rows: int
    rows_passed_over: int
    transactions: int
    seconds: float


async def load(system: RunningSystem, options: LoadOptions) -> None:
    """Write the rows of the files, in their order.

    A file is written under a name that comes of its content, so that a load that was killed goes on where it
    stopped, and one that is whole already writes nothing; `again` takes no name.
    """
    for path in options.files:
        kind_of(path)
        if not path.is_file():
            raise DataError(
                f"the file {str(path)!r} {'is a directory' if path.is_dir() else 'does not exist'}"
            )
    program = await chosen_program(system, options.program)
    async with system.connect(program) as client:
        row_type = client.new_transaction().row_type(options.dataset)
    files = [RowFile(path, row_type, options.nulls) for path in options.files]
    for file in files:
        file.check()
    loader = _Loader(system, program, options)
    with loader.progress:
        for file in files:
            await loader.load(file)
    _print_loaded(program, options, loader.done)


class _Loader:
    """Writes one file after the other, and says how far it is."""

    def __init__(self, system: RunningSystem, program: str, options: LoadOptions) -> None:
        self.done: list[FileLoaded] = []
        self.console = console_for(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            TextColumn("{task.fields[rate]:,.0f} rows/s"),
            console=self.console,
            auto_refresh=False,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._system, self._program, self._options = system, program, options
        self._sent = Loaded(0, 0, 0)
        self._steps = 0

    async def load(self, file: RowFile) -> None:
        """Write a file."""
        options = self._options
        name = None if options.again else load_name(options.dataset, file.path, options.nulls)
        self._sent = Loaded(0, 0, 0)
        task = self.progress.add_task(f"loading {file.path.name}", total=file.size, rows=0, rate=0)
        started = time.perf_counter()
        try:
            async with self._system.connect(self._program, client_id=name) as client:
                started = time.perf_counter()
                transactions = self._followed(task, file, client, started)
                loaded = await client.load(transactions, self._heard)
                await client.flush()  # whoever asks next, from wherever, is to find the rows
        except asyncio.CancelledError:
            self._say_how_far(file)
            raise
        seconds = time.perf_counter() - started
        self.progress.remove_task(task)
        self.done.append(
            FileLoaded(
                str(file.path), loaded.rows, loaded.rows_passed_over, loaded.transactions, round(seconds, 3)
            )
        )

    def _followed(self, task: TaskID, file: RowFile, client: Client, started: float) -> Iterator[Transaction]:
        """The file's transactions; the progress bar moves with them."""
        for transaction in file_transactions(client, self._options.dataset, file.batches()):
            yield transaction
            self._steps += 1
            if self._steps % _STEPS_PER_REFRESH == 0:
                sent = self._sent
                rate = sent.rows / max(1e-9, time.perf_counter() - started)
                rows = sent.rows + sent.rows_passed_over
                self.progress.update(task, completed=file.position, rows=rows, rate=rate)
                self.progress.refresh()

    def _heard(self, sent: Loaded) -> None:
        self._sent = sent

    def _say_how_far(self, file: RowFile) -> None:
        there = self._sent.rows + self._sent.rows_passed_over
        how = "is lost to this load" if self._options.again else "goes on where it stopped"
        again = "the same command" if not self._options.again else "what was not committed"
        self.console.print(
            Text(f"{file.path}: interrupted after about {there:,} rows; {again} {how}", "yellow")
        )


def load_name(dataset: str, path: Path, nulls: Sequence[str]) -> str:
    """The name a load goes by: the same rows for the same dataset, cut into the same transactions, are the same load,
    wherever the file is."""
    digest = xxh64("\0".join((dataset, *nulls, f"{LOAD_ROWS}/{LOAD_BYTES}")).encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest = xxh64(digest.to_bytes(8, "little") + block)
    return f"load-{digest:016x}"


def _print_loaded(program: str, options: LoadOptions, files: Sequence[FileLoaded]) -> None:
    rows, seconds = sum(file.rows for file in files), sum(file.seconds for file in files)
    passed_over = sum(file.rows_passed_over for file in files)
    rate = rows / max(seconds, 1e-3)
    if options.as_json:
        result = {
            "program": program,
            "dataset": options.dataset,
            "rows": rows,
            "rows_passed_over": passed_over,
            "transactions": sum(file.transactions for file in files),
            "seconds": round(seconds, 3),
            "rows_per_second": round(rate, 1),
            "files": [
                {
                    "file": file.file,
                    "rows": file.rows,
                    "rows_passed_over": file.rows_passed_over,
                    "transactions": file.transactions,
                    "seconds": file.seconds,
                }
                for file in files
            ],
        }
        _print_json(result)
        return
    console = console_for()
    for file in files if len(files) > 1 else ():
        console.print(Text(f"{file.file}: {file.rows:,} rows in {file.seconds:,.1f} s", "dim"))
    if rows or not passed_over:
        what = "1 row" if rows == 1 else f"{rows:,} rows"
        console.print(
            Text(f"{what} into {options.dataset} of {program} in {seconds:,.1f} s: {rate:,.0f} rows/s")
        )
    if passed_over:
        what = "1 row" if passed_over == 1 else f"{passed_over:,} rows"
        console.print(
            Text(
                f"{what} of the same input had been written before, and {'was' if passed_over == 1 else 'were'} passed"
                " over; with --again it is written once more",
                "dim",
            )
        )


# ---- show --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """What `dist-zero show` was asked for; see its help."""

    views: tuple[str, ...] = ()
    outs: tuple[tuple[str, Path], ...] = ()
    rows: int = 20
    program: str | None = None
    as_json: bool = False


async def show(system: RunningSystem, options: ShowOptions) -> None:
    """Print views as of one epoch, and write those that were asked for to files."""
    for _, path in options.outs:
        kind_of(path)
        if not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no directory {path.parent}")
    program = await chosen_program(system, options.program)
    async with system.connect(program) as client:
        named = dict.fromkeys([*options.views, *(view for view, _ in options.outs)])
        if not (named or client.plan.views):
            raise RequestError(f"program {program!r} has no view to show")
        snapshot = await client.snapshot(*named)
    for view, path in options.outs:
        write_rows(path, snapshot.row_types[view], snapshot.stored[view])
    if options.as_json:
        _print_json(_snapshot_json(program, snapshot))
    else:
        print_views(console_for(), snapshot, options.views or tuple(snapshot), options.rows)
        console_for().print(Text(f"as of epoch {snapshot.epoch:,}", "dim"))


def print_views(console: Console, snapshot: Snapshot, views: Iterable[str], limit: int) -> None:
    """Tables of the views, at most `limit` rows each, with what is left out of them."""
    for name in views:
        rows = snapshot.stored[name]
        console.print(view_title(name, len(rows)))
        console.print(view_table(snapshot.row_types[name], rows[:limit]))
        if len(rows) > limit:
            console.print(Text(f"… {len(rows) - limit:,} more", "dim"))
        for line in error_lines(snapshot.errors[name]):
            console.print(line)
        console.print()
    for dataset, missed in snapshot.missed.items():
        if missed:
            console.print(
                Text(f"! {missed:,} updates or deletes of {dataset} named a key that was not there", "yellow")
            )


def _snapshot_json(program: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "program": program,
        "views": {
            name: [json_row(snapshot.row_types[name], row) for row in rows]
            for name, rows in snapshot.stored.items()
        },
        "errors": {
            name: [
                {"label": e.label, "reason": e.reason, "example": e.example, "count": e.count} for e in errors
            ]
            for name, errors in snapshot.errors.items()
            if errors
        },
        "stats": {"epoch": snapshot.epoch},
    }


# ---- get ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetOptions:
    """What `dist-zero get` was asked for; see its help."""

    view: str
    key: tuple[str, ...]
    nulls: tuple[str, ...] = ()
    program: str | None = None
    as_json: bool = False


async def get(system: RunningSystem, options: GetOptions) -> bool:
    """Print the row of a view with this key. Returns whether there is one."""
    program = await chosen_program(system, options.program)
    async with system.connect(program) as client:
        reader = reader_of(client, options.view)
        key = parsed_key(reader, options.key, options.nulls)
        row = await client.get(options.view, key)
    if options.as_json:
        _print_json(None if row is None else json_row(reader.row_type, to_stored_row(reader.row_type, row)))
    elif row is None:
        console_for(stderr=True).print(Text(f"no row of {options.view} has the key {shown_key(options.key)}"))
    else:
        console_for().print(view_table(reader.row_type, [to_stored_row(reader.row_type, row)]))
    return row is not None


def reader_of(client: Client, view: str) -> ViewReader:
    """How this view is read. Raises `RequestError` naming the views there are."""
    client.view(view)
    return next(reader for reader in client.readers.values() if reader.name == view)


def parsed_key(reader: ViewReader, texts: Sequence[str], nulls: Sequence[str]) -> tuple[Any, ...]:
    """The key that these texts stand for, one per key column, by the columns' types."""
    if reader.sink.key is None:
        raise RequestError(
            f"view {reader.name!r} is a bag: it has no key to get a row by; `dist-zero show {reader.name}` has its rows"
        )
    columns = reader.row_type.select(reader.sink.key)
    if len(texts) != len(columns):
        wanted = f"{len(columns)} value{'' if len(columns) == 1 else 's'}"
        raise DataError(
            f"view {reader.name!r}: the key is {columns}: give {wanted}, got {shown_key(texts) or 'none'}"
        )
    values = []
    for name, dtype, text in zip(columns.names, columns.types, texts, strict=True):
        try:
            stored = None if dtype.nullable and text in nulls else value_from_text(dtype, text)
        except DataError as error:
            raise DataError(
                f"view {reader.name!r}, key column {name!r}: {error}; the key is {columns}"
            ) from None
        values.append(from_stored(dtype, stored))
    return tuple(values)


def shown_key(texts: Sequence[str]) -> str:
    """A key as it was typed."""
    return " ".join(repr(text) for text in texts)


def _print_json(result: object) -> None:
    json.dump(result, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
