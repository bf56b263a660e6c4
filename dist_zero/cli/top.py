"""`dist-zero top`: machines, programs and nodes of a system that runs, moving live in the terminal.

It asks the scheduler as `status` does, every so often, over one connection; `top_model.py` makes lines of two answers.
A scheduler that changes, or a broker that is away, is said on the screen, which then shows what was heard last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dist_zero.cli.reach import RunningSystem, status_of
from dist_zero.cli.render import console_for
from dist_zero.cli.status import STATE_STYLES, compact_table, shown_bytes
from dist_zero.cli.top_model import MachineLine, NodeLine, ProgramLine, Top, top_of
from dist_zero.client.remote import Look
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages.requests import ProgramState, SystemStatus

WINDOW_SECONDS = 3.0
"""Rates are of about so long: runners report each second, and a shorter time would jump."""
ANSWER_SECONDS = 2.0
"""A scheduler that has not answered within this time is said to be silent."""
ROWS_MIN = 3
"""So many lines of nodes are shown, however low the terminal is."""
_OTHER_LINES = 8
"""The head, what is wrong, and of each of three tables an empty line and the titles."""
Line = TypeVar("Line")
WIDE, MEDIUM = 100, 76
"""From so many columns on there is room for all, or for what is said second."""


class LookedAt(RunningSystem, Protocol):
    """A system that can be asked again and again."""

    def looking(self) -> AbstractAsyncContextManager[Look]:
        """A line for that."""
        ...


@dataclass(frozen=True, slots=True)
class TopOptions:
    """What `dist-zero top` was asked for; see its help."""

    interval: float = 1.0
    once: bool = False
    as_json: bool = False


async def show_top(system: LookedAt, options: TopOptions) -> None:
    """Show the system until somebody ends it, or once."""
    first = await status_of(system)  # says what is wrong where there is no such system
    console = console_for()
    looks = Looks(first, options.interval)
    if options.once or not (options.as_json or console.is_terminal):
        async with system.looking() as line:
            await asyncio.sleep(max(options.interval, WINDOW_SECONDS / 2))
            looks.hear(await line.status())
        if options.as_json:
            _print_json(system.name, looks.top)
        else:
            console.print(shown_top(system.name, looks.top, console.width))
        return
    asking = asyncio.create_task(_ask(system, looks, options.interval), name="top asks")
    try:
        if options.as_json:
            await _print_lines(system.name, looks, asking)
        else:
            await _show_live(system.name, looks, asking, console)
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


class Looks:
    """The answers of the last seconds, and what keeps further ones from coming."""

    def __init__(self, first: SystemStatus, interval: float) -> None:
        count = max(2, 1 + round(WINDOW_SECONDS / interval))
        self._answers = deque([first], maxlen=count)
        self.trouble = ""
        """Why nothing is heard, in words; empty while all is well."""
        self.changed = asyncio.Event()

    @property
    def top(self) -> Top:
        """What the first and the last of the answers say."""
        return top_of(self._answers[0], self._answers[-1])

    def hear(self, status: SystemStatus) -> None:
        """There is a further answer; those of another scheduler are of no use beside it."""
        if status.scheduler != self._answers[-1].scheduler:
            self._answers.clear()
        self._answers.append(status)
        self.trouble = ""
        self.changed.set()

    def miss(self, trouble: str) -> None:
        """There is none."""
        self.trouble = trouble
        self.changed.set()


async def _ask(system: LookedAt, looks: Looks, interval: float) -> None:
    """Ask again and again, whatever becomes of broker and scheduler."""
    while True:
        try:
            async with system.looking() as line:
                while True:
                    await asyncio.sleep(interval)
                    looks.hear(await _answered(line, looks))
        except OperatorError as error:
            looks.miss(str(error))
            await asyncio.sleep(interval)


async def _answered(line: Look, looks: Looks) -> SystemStatus:
    """The answer to one question, for which one waits; what keeps it from coming is told meanwhile."""
    asked = asyncio.ensure_future(line.status())
    waited = 0.0
    try:
        while True:
            done, _ = await asyncio.wait([asked], timeout=ANSWER_SECONDS)
            if done:
                return asked.result()
            waited += ANSWER_SECONDS
            looks.miss(f"{line.waiting_for or 'the scheduler does not answer'} ({waited:.0f} s)")
    finally:
        asked.cancel()


async def _show_live(name: str, looks: Looks, asking: asyncio.Task[None], console: Console) -> None:
    """Until somebody presses q, or Ctrl-C."""
    ended = asyncio.Event()
    with (
        _keys(ended.set),
        Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        while not (ended.is_set() or asking.done()):
            size = console.size
            shown = shown_top(name, looks.top, size.width, size.height, looks.trouble)
            live.update(shown, refresh=True)
            looks.changed.clear()
            waiting = [asyncio.ensure_future(each.wait()) for each in (looks.changed, ended)]
            await asyncio.wait([*waiting, asking], return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
    if asking.done():
        asking.result()


@contextmanager
def _keys(end: Callable[[], None]) -> Iterator[None]:
    """Meanwhile the key q calls `end`, without a line's end behind it, if there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def on_key() -> None:
        pressed = os.read(keyboard, 64)  # all that was typed, past the buffer of sys.stdin
        if not pressed or b"q" in pressed.lower():
            end()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, on_key)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


async def _print_lines(name: str, looks: Looks, asking: asyncio.Task[None]) -> None:
    """An object per answer, until Ctrl-C."""
    while True:
        waiting = asyncio.ensure_future(looks.changed.wait())
        await asyncio.wait([waiting, asking], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if asking.done():
            asking.result()
        looks.changed.clear()
        _print_json(name, looks.top, looks.trouble)


def _print_json(name: str, top: Top, trouble: str = "") -> None:
    sys.stdout.write(json.dumps(top_json(name, top, trouble), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def top_json(name: str, top: Top, trouble: str = "") -> dict[str, Any]:
    """What `--json` prints of two answers; a rate that is not known is null."""
    fields = asdict(top)
    for program in fields["programs"]:
        program["state"] = program["state"].value
    return {"system": name, "trouble": trouble, **fields}


# ---- what is seen ---------------------------------------------------------------------------------------------------


def shown_top(
    name: str, top: Top, width: int, height: int | None = None, trouble: str = ""
) -> RenderableType:
    """Everything, in so many columns, and so many lines if that is bounded: nodes give way first, then the rest is cut
    at its end."""
    head = Text.assemble(("system ", "bold"), name, (f"  {_leader_line(top)}", "dim"))
    head.no_wrap, head.overflow = height is not None, "ellipsis"
    parts: list[RenderableType] = [head]
    if trouble:
        parts.append(Text(f"no news: {trouble}", "bold red", no_wrap=height is not None, overflow="ellipsis"))
    machines_max, programs_max = _room(height, len(top.programs))
    if top.machines:
        machines = _first(top.machines, machines_max)
        parts += ["", _machines_table(machines, width), *_more(machines, top.machines)]
    else:
        parts += ["", Text("no machine has announced itself yet", "yellow")]
    if top.programs:
        programs = _first(top.programs, programs_max)
        notes = [Text(f"{each.program}: {each.note}", "yellow") for each in programs if each.note]
        parts += ["", _programs_table(programs, width), *_more(programs, top.programs), *notes]
    else:
        parts += ["", Text("no program runs here yet", "dim")]
    if top.nodes:
        used = sum(each.row_count + 1 if isinstance(each, Table) else 1 for each in parts)
        nodes = _first(top.nodes, None if height is None else max(ROWS_MIN, height - used - 3))
        parts += ["", _nodes_table(nodes, width), *_more(nodes, top.nodes)]
    return Group(*parts)


def _room(height: int | None, programs: int) -> tuple[int | None, int | None]:
    """How many lines there are for machines and for programs, so that a few nodes are seen as well."""
    if height is None:
        return None, None
    free = height - _OTHER_LINES - ROWS_MIN
    for_programs = max(ROWS_MIN, min(programs, free // 2))
    return max(ROWS_MIN, min(free - for_programs, height // 3)), for_programs


def _first(lines: tuple[Line, ...], room: int | None) -> tuple[Line, ...]:
    """Those that there is room for, with the one that says how many more there are."""
    return lines if room is None or len(lines) <= room else lines[: room - 1]


def _more(shown: tuple[Line, ...], there: tuple[Line, ...]) -> list[Text]:
    left = len(there) - len(shown)
    return [Text(f"and {left:,} more", "dim")] if left else []


def _leader_line(top: Top) -> str:
    others = f", {len(top.standbys)} standing by" if top.standbys else ", none standing by"
    return f"scheduler {top.scheduler} leads{others}"


def _machines_table(machines: tuple[MachineLine, ...], width: int) -> Table:
    table = compact_table("machine", *_right("cores busy", "memory", "nodes", "rows/s"), "state")
    for each in machines:
        state = each.note or ("ready" if each.ready else "not ready")
        style = "green" if each.ready and not each.note else "yellow" if each.ready else "bold red"
        memory = shown_bytes(each.memory_used_bytes) if each.memory_used_bytes else "–"
        table.add_row(
            each.machine,
            f"{_number(each.cpu, 2)} of {each.cores}",
            f"{memory} of {shown_bytes(each.memory_bytes)}" if width >= MEDIUM else memory,
            str(each.nodes),
            _rate(each.rows),
            Text(state, style),
        )
    return table


def _programs_table(programs: tuple[ProgramLine, ...], width: int) -> Table:
    columns = _right("nodes", "rows/s", "epochs/s", "lag")
    if width >= MEDIUM:
        columns += _right("epoch", "unsaved")
    table = compact_table(
        "program", "state", *columns, *(["since this scheduler leads"] if width >= WIDE else [])
    )
    for each in programs:
        running = each.state is ProgramState.RUNNING
        cells = [
            str(each.nodes),
            _rate(each.rows),
            _number(each.epochs, 1),
            f"{each.lag:,}" if running else "–",
        ]
        if width >= MEDIUM:
            cells += [f"{each.epoch:,}", _seconds(each.unsaved_seconds)]
        state = Text(each.state.value, STATE_STYLES[each.state])
        table.add_row(each.program, state, *cells, *([_happened(each)] if width >= WIDE else []))
    return table


def _nodes_table(nodes: tuple[NodeLine, ...], width: int) -> Table:
    columns = _right("busy", "rows/s", "lag")
    if width >= MEDIUM:
        columns += _right("saved", "unsaved")
    table = compact_table("node", "machine", *columns, *([""] if any(node.note for node in nodes) else []))
    for each in nodes:
        cells = [_share(each.busy), _rate(each.rows), f"{each.lag:,}"]
        if width >= MEDIUM:
            cells += [shown_bytes(each.state_bytes), _seconds(each.unsaved_seconds)]
        note = [Text(each.note, "yellow")] if any(node.note for node in nodes) else []
        table.add_row(f"{each.program} {each.node}", each.machine, *cells, *note)
    return table


def _right(*titles: str) -> list[tuple[str, str]]:
    return [(title, "right") for title in titles]


def _happened(program: ProgramLine) -> str:
    counts = (
        (program.recoveries, "recovered"),
        (program.moves, "moved"),
        (program.splits, "split"),
        (program.merges, "merged"),
        (program.rewinds, "begun again"),
    )
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or "–"


def _rate(rate: float | None) -> str:
    """Rows per second, as people say them."""
    if rate is None:
        return "–"
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if rate >= size:
            return f"{rate / (1e6 if unit == 'M' else 1e3):,.1f}{unit}"
    return f"{rate:,.0f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{min(share, 1.0):.0%}"


def _seconds(seconds: float) -> str:
    """Since when: nothing where there is nothing to say."""
    if seconds < 1:
        return "–"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
