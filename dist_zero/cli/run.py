"""`dist-zero run`: from the input to the views, in a system that is simulated in this process, is started for it in
containers, or is there already."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from dist_zero.cli.data import load_name, print_views
from dist_zero.cli.render import (
    Stats,
    console_for,
    json_result,
    stats_line,
)
from dist_zero.client.client import Client
from dist_zero.client.loading import Loaded, file_transactions
from dist_zero.client.snapshot import Snapshot
from dist_zero.client.writes import Transaction, sampled_transaction
from dist_zero.files import RowFile, kind_of, write_rows
from dist_zero.program import Program
from dist_zero.system import SimulatedSystem
from dist_zero.testing import log_of, recomputed_differences
from dist_zero_common.errors import DataError, RequestError, first_error
from dist_zero_common.protocol.stored import (
    LogRecord,
)
from dist_zero_common.settings import load_settings
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store
from dist_zero_common.store.opening import open_store

SIMULATED, VIRTUAL = "simulated", "virtual"
MODES = (SIMULATED, VIRTUAL)
_STEPS_PER_REFRESH = 20
_LOOK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `dist-zero run` was asked for; see its help."""

    nodes: int = 1
    machines: int = 1
    seed: int = 0
    data_seed: int = 0
    weather: str = "faithful"
    loads: tuple[tuple[str, Path], ...] = ()
    nulls: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    outs: tuple[tuple[str, Path], ...] = ()
    store: Path | None = None
    rows_shown: int = 20
    as_json: bool = False
    check: bool = False
    everything: bool = False
    mode: str = SIMULATED
    system: str | None = None
    broker: str | None = None
    sources: Path | None = None
    source_broker: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Outcome:
    snapshot: Snapshot
    loaded: Loaded
    note: str
    nodes: int
    machines: int
    differences: list[str] | None
    virtual_seconds: float | None = None
    first_row_seconds: float | None = None


class _Reached(Protocol):
    """A system that has clients: one of this process, or one elsewhere."""

    def connect(
        self, program: Program | str, *, nodes: int = 1, client_id: str | None = None
    ) -> AbstractAsyncContextManager[Client]: ...


def run(program: Program, options: RunOptions) -> bool:
    """Run it and print what was asked for. Returns false when a check failed."""
    _check_names(program, options)
    files = [(dataset, _row_file(program, dataset, path, options)) for dataset, path in options.loads]
    loader = _Loader(program, options, files)
    started = time.perf_counter()
    world: SimWorld | None = None
    if options.mode == VIRTUAL:
        outcome = _run_virtual(program, options, loader, started)
    elif _is_elsewhere(options):
        outcome = _run_elsewhere(program, options, loader, started)
    else:
        world = SimWorld(options.seed, options.weather)
        with loader.progress:
            outcome = run_simulation(_live(program, options, world, loader))
    stats = _stats(options, world, outcome, time.perf_counter() - started)
    for view, path in options.outs:
        write_rows(path, outcome.snapshot.row_types[view], outcome.snapshot.stored[view])
    _print(program, options, outcome, stats)
    return not outcome.differences


def _check_names(program: Program, options: RunOptions) -> None:
    """Find out what is misspelt before anything runs."""
    graph = program.graph()
    views = {view.name for view in graph.views}
    for view in [*options.views, *(view for view, _ in options.outs)]:
        if view not in views:
            raise RequestError(f"no view {view!r} in program {program.name!r}; there are {_listed(views)}")
    datasets = {dataset.name for dataset in graph.datasets}
    for dataset, _ in options.loads:
        if dataset not in datasets:
            raise RequestError(
                f"no dataset {dataset!r} in program {program.name!r}; there are {_listed(datasets)}"
            )
    for _, path in options.outs:
        kind_of(path)
        if not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no directory {path.parent}")
    if options.everything and not program.has_sample:
        raise RequestError(
            f"program {program.name!r} has no sample generator, of which --all would be everything"
        )
    if not views:
        raise RequestError(f"program {program.name!r} has no view to show")


def _views_for_people(program: Program) -> tuple[str, ...]:
    """All views, without those that begin with _ as what `Program.source` declares; if there are others."""
    every = tuple(view.name for view in program.graph().views)
    return tuple(name for name in every if not name.startswith("_")) or every


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _row_file(program: Program, dataset: str, path: Path, options: RunOptions) -> RowFile:
    row_type = next(d.row_type for d in program.graph().datasets if d.name == dataset)
    file = RowFile(path, row_type, options.nulls)
    file.check()
    return file


# ---- the three kinds of system -----------------------------------------------------------------------------


async def _live(program: Program, options: RunOptions, world: SimWorld, loader: _Loader) -> _Outcome:
    """In a simulation."""
    from services.node_runner.sequencer_events import SequencerOptions

    collects = not (options.check or load_settings().keep_log)
    async with SimulatedSystem(
        world,
        machines=options.machines,
        store=options.store,
        sequencer=SequencerOptions(collects=collects),
    ) as system:
        outcome = await _shown(program, options, system, system.store, loader)
        return replace(outcome, machines=options.machines, virtual_seconds=system.clock.monotonic())


def _run_virtual(program: Program, options: RunOptions, loader: _Loader, started: float) -> _Outcome:
    """In a system of containers that is started for this."""
    from dist_zero.cli.keeping import Keeping, wanted_system
    from dist_zero.cli.systems import checked_url
    from dist_zero.client.remote import RemoteSystem

    if program.sources and options.store is None:
        # what it takes from a queue is gone from there, and would be gone from here
        console_for(stderr=True).print(
            Text(
                "the program's queues are not read: without --store nothing would keep what is taken",
                "yellow",
            )
        )
    wanted = wanted_system(
        load_settings(),
        system=options.system or program.name,
        machines=options.machines,
        program=program.name,
        store=options.store,
        broker=options.broker,
        sources=options.sources if program.sources and options.store is not None else None,
        source_broker=checked_url(options.source_broker, "--source-broker")
        if options.source_broker
        else None,
        keep_log=options.check,
    )

    async def work(keeping: Keeping) -> _Outcome:
        system = RemoteSystem(keeping.state.broker_url, keeping.state.system)
        timer = _FirstRow(system, started)
        outcome = await _unless(
            keeping.wait_failed(),
            _checked_elsewhere(program, options, timer, Path(keeping.state.store), loader),
        )
        return replace(outcome, machines=options.machines, first_row_seconds=timer.seconds)

    with Keeping(wanted) as keeping, loader.progress:
        return asyncio.run(work(keeping))


def _run_elsewhere(program: Program, options: RunOptions, loader: _Loader, started: float) -> _Outcome:
    """In a system that is there, which the program leaves at the end, unless it ran there before."""
    from dist_zero.cli.systems import resolve
    from dist_zero.client.remote import RemoteSystem

    settings = load_settings()
    target = resolve(options.system, options.broker, otherwise=program.name, settings=settings)
    store = options.store or settings.store
    if target.state is not None and store is None:
        store = Path(target.state.store)
    if options.check and store is None:
        raise RequestError("--check reads the log: say with --store DIR where the system's store is")

    async def work() -> _Outcome:
        system = RemoteSystem(target.broker_url, target.system)
        status = await system.status()
        runs_already = any(each.program == program.name for each in status.programs)
        timer = _FirstRow(system, started)
        try:
            outcome = await _checked_elsewhere(program, options, timer, store, loader)
        finally:
            if not runs_already:
                await system.remove(program.name)
        machines = sum(machine.ready for machine in status.machines)
        return replace(outcome, machines=machines, first_row_seconds=timer.seconds)

    with loader.progress:
        return asyncio.run(work())


async def _checked_elsewhere(
    program: Program, options: RunOptions, system: _FirstRow, store: Path | str | None, loader: _Loader
) -> _Outcome:
    opened = open_store(store, load_settings()) if options.check and store is not None else None
    try:
        return await _shown(program, options, system, opened, loader)
    finally:
        if opened is not None:
            await opened.close()


async def _unless(failure: Coroutine[Any, Any, None], work: Coroutine[Any, Any, _Outcome]) -> _Outcome:
    """What `work` comes to, unless `failure` raises before."""
    try:
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(failure)
            try:
                return await work
            finally:
                watch.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None


class _FirstRow:
    """A system that is watched for its first row: `seconds` from the start until one was committed."""

    def __init__(self, system: _Reached, started: float) -> None:
        self.seconds: float | None = None
        self._system, self._started = system, started

    @asynccontextmanager
    async def connect(
        self, program: Program | str, *, nodes: int = 1, client_id: str | None = None
    ) -> AsyncIterator[Client]:
        """As the system's."""
        async with self._system.connect(program, nodes=nodes, client_id=client_id) as client:
            watch = asyncio.create_task(self._watch(client), name="first row")
            try:
                yield client
            finally:
                watch.cancel()

    async def _watch(self, client: Client) -> None:
        while self.seconds is None:
            if client.committed:
                self.seconds = time.perf_counter() - self._started
            await asyncio.sleep(_LOOK_SECONDS)


async def _shown(
    program: Program, options: RunOptions, system: _Reached, store: Store | None, loader: _Loader
) -> _Outcome:
    """Load, and take the views that are wanted."""
    await loader.load(system)
    async with system.connect(program, nodes=options.nodes) as client:
        snapshot = await client.snapshot(*_wanted(program, options))
        differences = None
        if options.check and store is not None:
            log = await _whole_log(store, program)
            differences = recomputed_differences(
                program.graph(),
                client.plan,
                log,
                snapshot.epoch,
                dict(snapshot.stored),
                dict(snapshot.errors),
            )
        nodes = len(client.placement.shard_map.nodes)
        return _Outcome(snapshot, loader.loaded, client.note, nodes, options.machines, differences)


async def _whole_log(store: Store, program: Program) -> list[LogRecord]:
    """The program's log, if it is there from its beginning: what no base reaches may have been deleted."""
    log = await log_of(store, program.name)
    if log and log[0].epoch > 1:
        raise RequestError(
            f"--check recomputes views from the log, and the store keeps that of {program.name!r} from epoch"
            f" {log[0].epoch:,} on: what was before is in its bases. It is kept whole where DIST_ZERO_KEEP_LOG=yes"
        )
    return log


def _wanted(program: Program, options: RunOptions) -> tuple[str, ...]:
    """The views to show, and those to write; all of them if neither is said."""
    named = [*options.views, *(view for view, _ in options.outs)]
    return tuple(dict.fromkeys(named)) or _views_for_people(program)


class _Loader:
    """Brings the input in: the files, or where there is none the sample."""

    def __init__(self, program: Program, options: RunOptions, files: list[tuple[str, RowFile]]) -> None:
        self.loaded = Loaded(0, 0, 0)
        self.console = console_for(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn() if not files else TextColumn("{task.fields[rows]:,} rows"),
            console=self.console,
            auto_refresh=False,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._program, self._options, self._files = program, options, files
        # a log that was there before, and is afterwards: what is in it is not loaded again
        self._keeps = options.store is not None or (options.mode != VIRTUAL and _is_elsewhere(options))
        self._steps = 0

    async def load(self, system: _Reached) -> None:
        """Write all input."""
        for dataset, file in self._files:
            name = load_name(dataset, file.path, self._options.nulls) if self._keeps else None
            task = self.progress.add_task(f"loading {dataset}", total=file.size, rows=0)
            async with self._client(system, name) as client:
                transactions = self._followed(task, file_transactions(client, dataset, file.batches()), file)
                self._add(await client.load(transactions))
            self.progress.remove_task(task)
        if not self._files and self._program.has_sample:
            await self._load_sample(system)

    async def _load_sample(self, system: _Reached) -> None:
        options = self._options
        size = "-all" if options.everything else ""
        name = f"sample-{options.data_seed}{size}" if self._keeps else None
        task = self.progress.add_task("loading the sample", total=None, rows=0)
        async with self._client(system, name) as client:
            self._add(await client.load(self._followed(task, self._sampled(client), None)))
        self.progress.remove_task(task)

    def _sampled(self, client: Client) -> Iterator[Transaction]:
        options = self._options
        for pairs in self._program.generate(options.data_seed, everything=options.everything):
            if isinstance(pairs, str):
                self.console.print(Text(pairs, "dim"))
            else:
                yield sampled_transaction(client.plan, pairs)

    def _followed(
        self, task: TaskID, transactions: Iterable[Transaction], file: RowFile | None
    ) -> Iterator[Transaction]:
        """The same transactions; the progress bar moves with them."""
        rows = 0
        for transaction in transactions:
            yield transaction
            rows += transaction.row_count
            self._steps += 1
            if self._steps % _STEPS_PER_REFRESH == 0:
                self.progress.update(task, completed=file.position if file else rows, rows=rows)
                self.progress.refresh()

    @asynccontextmanager
    async def _client(self, system: _Reached, name: str | None) -> AsyncIterator[Client]:
        async with system.connect(self._program, nodes=self._options.nodes, client_id=name) as client:
            yield client

    def _add(self, loaded: Loaded) -> None:
        before = self.loaded
        self.loaded = Loaded(
            before.rows + loaded.rows,
            before.transactions + loaded.transactions,
            before.rows_passed_over + loaded.rows_passed_over,
        )


def _is_elsewhere(options: RunOptions) -> bool:
    return options.broker is not None or options.system is not None


# ---- what is printed ---------------------------------------------------------------------------------------


def _stats(options: RunOptions, world: SimWorld | None, outcome: _Outcome, real_seconds: float) -> Stats:
    published = world.history.counters.get("publish") if world is not None else None
    first = outcome.first_row_seconds
    return Stats(
        nodes=outcome.nodes,
        machines=outcome.machines,
        seed=options.seed if world is not None else None,
        rows=outcome.loaded.rows,
        rows_passed_over=outcome.loaded.rows_passed_over,
        transactions=outcome.loaded.transactions,
        epochs=outcome.snapshot.epoch,
        messages=_count(published.records if published else 0, world),
        message_bytes=_count(published.bytes if published else 0, world),
        virtual_seconds=round(outcome.virtual_seconds, 6) if outcome.virtual_seconds is not None else None,
        first_row_seconds=round(first, 3) if first is not None else None,
        real_seconds=round(real_seconds, 3),
        history=world.history.digest() if world is not None else None,
    )


def _count(count: int, world: SimWorld | None) -> int | None:
    return count if world is not None else None


def _print(program: Program, options: RunOptions, outcome: _Outcome, stats: Stats) -> None:
    aside = console_for(stderr=True)
    if outcome.note:
        aside.print(Text(outcome.note, "yellow"))
    if options.as_json:
        checked = None if outcome.differences is None else not outcome.differences
        json.dump(json_result(program.name, outcome.snapshot, stats, checked), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        snapshot = outcome.snapshot
        print_views(console_for(), snapshot, options.views or tuple(snapshot), options.rows_shown)
        if not (options.loads or program.has_sample or outcome.snapshot.epoch > 1):
            aside.print(
                Text("there was no input: name files with --load, or write a generator under @app.sample")
            )
        _print_stats(console_for(), stats)
    for line in outcome.differences or ():
        aside.print(Text(line, "bold red"))
    if outcome.differences == [] and not options.as_json:
        console_for().print(Text("the views equal their recomputation from the log", "green"))


def _print_stats(console: Console, stats: Stats) -> None:
    if stats.rows_passed_over:
        console.print(
            Text(f"{stats.rows_passed_over:,} rows of the same input were in the store already", "dim")
        )
    console.print(Text(stats_line(stats), "dim"))
