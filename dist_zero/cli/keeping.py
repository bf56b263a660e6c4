"""Starting and ending the process that holds a virtual system up (`keeper.py`), from the side of who wants it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from dist_zero.cli.keeper import STAY, Wanted
from dist_zero.cli.render import console_for
from dist_zero.cli.systems import SystemState, checked_url, remove_state
from dist_zero_common.errors import OperatorError, SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.processes import is_running, pid_of, process_name
from dist_zero_common.settings import Settings

LOOK_SECONDS = 0.1
END_SECONDS_MAX = 60.0
NEW_BROKER = "new"
"""In place of a broker's address: one is to be started, even if AMQP_URL names one that is there."""


def wanted_system(
    settings: Settings,
    *,
    system: str,
    machines: int,
    program: str,
    store: Path | None,
    broker: str | None,
    sources: Path | None = None,
    source_broker: str | None = None,
    keep_log: bool = False,
) -> Wanted:
    """What to ask a keeper for. `broker` is an address, or `NEW_BROKER`, or None for what AMQP_URL says; `sources` is
    the program's file, if it has sources to be bridged.

    Raises `SettingsError` if nothing says where the queues are.
    """
    given = "" if broker == NEW_BROKER else checked_url(broker) if broker else settings.broker_url
    queues_at = source_broker or settings.broker_url or given
    if sources is not None and not queues_at:
        raise SettingsError(
            f"program {program!r} has sources (app.source): say with --source-broker URL, or AMQP_URL, at which broker"
            " their queues are"
        )
    return Wanted(
        system=checked_name("system", system),  # it is part of files' names
        machines=machines,
        program=program,
        log_dir=str(settings.log_directory.absolute()),
        log_level=settings.log_level,
        keep_log=keep_log or settings.keep_log,
        store=str(store.absolute()) if store is not None else "",
        image=settings.image,
        rabbitmq_image=settings.rabbitmq_image,
        broker_url=given,
        bridge_file=str(sources.absolute()) if sources is not None else "",
        source_broker=queues_at if sources is not None else "",
        growth=settings.growth,
        logstash_host=settings.logstash_host,
        logstash_port=settings.logstash_port,
        report_seconds=settings.report_seconds,
        lost_seconds=settings.lost_seconds,
    )


class Keeping:
    """A keeper that was started here. Inside the `with` block its system is up; after it, it is down, unless `stay` was
    called."""

    def __init__(self, wanted: Wanted) -> None:
        self.state: SystemState
        self.seconds: dict[str, float] = {}
        """How long it took from the start until the broker answered, and until all machines were ready."""
        self._wanted = wanted
        self._error = ""
        self._ended = threading.Event()
        self._on_end: Callable[[], None] = lambda: None
        self._stays = False
        self._listener: threading.Thread | None = None
        self._errors_file = Path(wanted.log_dir) / f"keeper-{wanted.system}.stderr"

    def __enter__(self) -> Keeping:
        self._errors_file.parent.mkdir(parents=True, exist_ok=True)
        self._started = time.perf_counter()
        with self._errors_file.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dist_zero.cli.keeper"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._name = process_name(self._process.pid)
        try:
            self._write(json.dumps(asdict(self._wanted)))
            self._wait_up()
        except BaseException:
            self._end()
            raise
        self._listener = threading.Thread(target=self._listen, name="keeper's output", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stays:
            self._let_go()
        else:
            self._end()

    def stay(self) -> None:
        """Let the system be when this process ends."""
        self._write(STAY)
        self._stays = True

    async def wait_failed(self) -> None:
        """Wait until the keeper ends by itself; raises what it said."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def on_end() -> None:
            loop.call_soon_threadsafe(ended.set)

        self._on_end = on_end
        if not self._ended.is_set():
            await ended.wait()
        raise OperatorError(self._error or self._died())

    # -- inside ----------------------------------------------------------------------------------------------

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise OperatorError(self._died()) from None

    def _wait_up(self) -> None:
        from rich.text import Text

        console = console_for(stderr=True)
        status = console.status("starting", spinner="dots") if console.is_terminal else None
        if status is not None:
            status.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                said = json.loads(line)
                if "error" in said:
                    raise OperatorError(said["error"])
                if "state" in said:
                    self.state = SystemState(**said["state"])
                    return
                what, count, of = said["told"], said["count"], said["of"]
                text = what if of == 1 else f"{what} {count}/{of}"
                if count == of:
                    self.seconds[what] = time.perf_counter() - self._started
                    console.print(Text(f"{text} ({self.seconds[what]:.1f} s)", "dim"))
                elif status is not None:
                    status.update(text)
        finally:
            if status is not None:
                status.stop()
        raise OperatorError(self._died())

    def _listen(self) -> None:
        from rich.text import Text

        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                if "bridge" in said:
                    console_for(stderr=True).print(Text(said["bridge"], "yellow"))
                else:
                    self._error = said.get("error", "")
        except ValueError:
            pass  # it was closed
        self._ended.set()
        self._on_end()

    def _end(self) -> None:
        """Have it taken down. Interrupted while waiting, the keeper goes on by itself."""
        self._on_end = lambda: None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        if code < 0 or code > 1:  # killed, or a bug: what it left is taken down from here
            take_down(self._wanted.system, self._name, Path(self._wanted.log_dir))
        if self._listener is not None:
            self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._errors_file.exists() and not self._errors_file.stat().st_size:
            self._errors_file.unlink()

    def _let_go(self) -> None:
        """The other pipe ends with this process: a thread is reading it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.returncode = 0  # it goes on, and is nobody's child then: no warning

    def _died(self) -> str:
        self._process.wait()
        said = self._errors_file.read_text(errors="replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        code = self._process.returncode
        return f"the process that held the system up has ended ({code}): {last}; see {self._errors_file}"


def end_keeper(state: SystemState) -> None:
    """Tell a keeper to take its system down, and wait until it has ended. Raises `OperatorError` if it does not."""
    pid = pid_of(state.keeper)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise OperatorError(f"process {pid}, which holds the system up, is another user's") from None
    deadline = time.monotonic() + END_SECONDS_MAX
    while is_running(state.keeper):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"process {pid} has not taken the system down after {END_SECONDS_MAX:.0f} s: kill it, and then"
                " `dist-zero orphans --remove` takes away what it leaves"
            )
        time.sleep(LOOK_SECONDS)


def take_down(system: str, keeper: str, log_dir: Path) -> list[str]:
    """Remove what a keeper that is gone left of a system, and say what that was; of no keeper, its queues alone."""
    from dist_zero.cli.systems import DIRECTORY
    from dist_zero.virtual import delete_queues, remove_system, used_queues_file
    from dist_zero_common.containers import Docker

    directory = log_dir / DIRECTORY / system
    queues = used_queues_file(directory)

    async def remove() -> list[str]:
        removed = []
        if keeper:
            async with Docker() as docker:
                removed += await remove_system(docker, system, keeper)
        if queues.exists():
            url, *names = queues.read_text().splitlines()
            await delete_queues(url, names)
            removed += [f"queue {name}" for name in names]
            queues.unlink()
        return removed

    removed = asyncio.run(remove())
    remove_state(log_dir, system)
    return removed
