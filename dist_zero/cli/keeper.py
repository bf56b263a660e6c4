"""The process that holds a virtual system up: `python -m dist_zero.cli.keeper`.

Whoever starts it (`run --mode virtual`, `up`) writes one line to its standard input, a JSON object with what the system
is to be, and then holds that pipe: when it ends, because its holder is done, was interrupted or was killed, the keeper
takes everything down. A line that says `stay` makes the keeper stay when the pipe ends; then SIGTERM ends it, as SIGINT
does at any time. It is in a session of its own, so that Ctrl-C reaches its holder alone.

It answers in lines of JSON: `{"told": "machines", "count": 2, "of": 3}` while it starts, then `{"state": {...}}` or
`{"error": "..."}`, and later `{"bridge": "..."}` when the bridge of the program's sources has something to say. There
are no passwords in its arguments or its environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dist_zero.cli.systems import DIRECTORY, SystemState, remove_state, save_state
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import DistZeroError, OperatorError
from dist_zero_common.log import get_logger
from dist_zero_common.log_shipping import process_log
from dist_zero_common.processes import process_name
from dist_zero_common.settings import load_settings

if TYPE_CHECKING:
    from dist_zero.virtual import VirtualSystem
    from dist_zero_common.metrics import Readings
    from services.progress import Watched

STAY = "stay"
MODE = "virtual"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a keeper is asked for. Paths are absolute; `store` may be empty: one that goes with the system."""

    system: str
    machines: int
    program: str
    log_dir: str
    log_level: str
    keep_log: bool
    store: str
    image: str
    rabbitmq_image: str
    broker_url: str = field(repr=False)
    cores: float | None = None
    memory_bytes: int | None = None
    bridge_file: str = ""
    source_broker: str = field(default="", repr=False)
    growth: tuple[tuple[str, float], ...] = ()
    logstash_host: str = ""
    logstash_port: int = 0
    report_seconds: float = 600.0
    lost_seconds: float = 300.0


def main() -> int:
    """Hold up the system that standard input asks for. Returns the exit code: 0 if it came down as it was told to."""
    given = json.loads(sys.stdin.buffer.readline())
    wanted = Wanted(**{item.name: given[item.name] for item in fields(Wanted)})
    logs = Path(wanted.log_dir)
    try:
        with (
            process_log(
                logs,
                f"keeper-{wanted.system}",
                level=wanted.log_level,
                logstash=(wanted.logstash_host, wanted.logstash_port) if wanted.logstash_host else None,
            ),
            _only_one(logs, wanted.system),
        ):
            asyncio.run(_Keeper(wanted).run())
    except (DistZeroError, OSError) as error:
        _say({"error": str(error)})
        return 1
    return 0


class _Keeper:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._name = process_name()
        self._log = get_logger("keeper", RealClock(), system=wanted.system)
        self._stop = asyncio.Event()
        self._stays = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        holder = asyncio.create_task(self._heed_holder())
        holding = asyncio.create_task(self._hold())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([holding, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (holder, stopped, holding):
                task.cancel()
            await asyncio.wait([holder, stopped, holding])
        if not holding.cancelled():
            holding.result()

    async def _heed_holder(self) -> None:
        """Read what the holder says, until the pipe ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if line.strip() == STAY.encode():
                self._stays = True
        if not self._stays:
            self._stop.set()

    async def _hold(self) -> None:
        from dist_zero.virtual import VirtualOptions, VirtualSystem
        from dist_zero_common.containers import Docker
        from services.measuring import Measured, metrics_of_child, serving_metrics

        wanted = self._wanted
        logs = Path(wanted.log_dir)
        settings = replace(load_settings(), log_directory=logs)
        directory = logs / DIRECTORY / wanted.system
        store = Path(wanted.store) if wanted.store else directory / f"store-{os.getpid()}"
        options = VirtualOptions(
            system=wanted.system,
            machines=wanted.machines,
            keeper=self._name,
            directory=directory,
            store=store,
            logs=logs,
            image=wanted.image,
            rabbitmq_image=wanted.rabbitmq_image,
            broker_url=wanted.broker_url,
            log_level=wanted.log_level,
            keep_log=wanted.keep_log,
            cores=wanted.cores,
            memory_bytes=wanted.memory_bytes,
            growth=tuple((name, number) for name, number in wanted.growth),
            logstash=(wanted.logstash_host, wanted.logstash_port) if wanted.logstash_host else None,
            report_seconds=wanted.report_seconds,
            lost_seconds=wanted.lost_seconds,
            metrics=settings.metrics_port is not None,
        )
        measured = Measured("scheduler", wanted.system, "", self._log)
        try:
            async with Docker() as docker, VirtualSystem(options, docker, self._log, _tell) as system:
                state = SystemState(
                    system=wanted.system,
                    mode=MODE,
                    broker_url=system.broker_url,
                    keeper=self._name,
                    store=str(store),
                    log_dir=str(logs),
                    program=wanted.program,
                    agent_url=system.agent_url,
                    runner_url=system.runner_url,
                )
                save_state(logs, state)
                _say({"state": asdict(state)})
                self._log.info("system_up", machines=wanted.machines)
                name = f"keeper-{wanted.system}"
                with (
                    measured.measuring(partial(_measure, system)),
                    measured.measuring_posts(partial(_posts, system)),
                ):
                    async with (
                        serving_metrics(settings, measured, name),
                        self._bridged(state, metrics_of_child(settings)),
                    ):
                        await system.wait_failed()
        except Exception as error:
            self._log.exception("system_failed", error)
            raise
        finally:
            remove_state(logs, wanted.system)
            if not wanted.store:
                _remove_tree(store)
            self._log.info("system_down")

    @asynccontextmanager
    async def _bridged(self, state: SystemState, settings_of_bridge: dict[str, str]) -> AsyncIterator[None]:
        """Meanwhile the program's sources are bridged, if that is wanted."""
        wanted = self._wanted
        if not wanted.bridge_file:
            yield
            return
        from dist_zero.cli.bridging import BridgeWanted, keep_bridge

        logs = Path(wanted.log_dir)

        def tell(trouble: str) -> None:
            save_state(logs, replace(state, bridge=trouble))
            if trouble:
                _say({"bridge": trouble})

        bridge = BridgeWanted(
            wanted.bridge_file,
            wanted.program,
            wanted.system,
            wanted.source_broker,
            logs / f"bridge-{wanted.system}.stderr",
            settings_of_bridge,
        )
        keeping = asyncio.create_task(keep_bridge(bridge, self._log, tell), name="bridge")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


def _measure(system: VirtualSystem, readings: Readings) -> None:
    from services.scheduler.measured import measure_scheduler

    measure_scheduler(readings, system.scheduler)


def _posts(system: VirtualSystem) -> Iterator[tuple[Watched, str]]:
    from services.progress import Watched

    post = system.scheduler.post_now
    if post is not None:
        yield Watched(post, scheduler_inbox(system.scheduler.system)), ""


@contextmanager
def _only_one(logs: Path, system: str) -> Iterator[None]:
    """One keeper per system and directory."""
    path = logs / DIRECTORY / f"{system}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(
                f"a system {system!r} is up already: end it with `dist-zero down --system {system}`, or name this one"
                " otherwise with --system"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _remove_tree(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.parent.rmdir()  # the system's own directory, if nothing else is in it


def _tell(what: str, count: int, of: int) -> None:
    _say({"told": what, "count": count, "of": of})


def _say(line: dict[str, object]) -> None:
    """Tell the holder, if it is still there."""
    with suppress(OSError):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    code = main()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # a closed pipe is no error of ours, and nobody is left to hear of it
