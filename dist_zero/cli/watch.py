"""`dist-zero watch`: a line for each row that a view gains or loses, epoch by epoch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from dist_zero.cli.data import reader_of
from dist_zero.cli.reach import RunningSystem, chosen_program
from dist_zero.cli.render import console_for
from dist_zero.client.snapshot import ViewReader
from dist_zero.client.watch import StoredChange
from dist_zero.text_values import json_row
from dist_zero.types import Row as StoredRow

_STYLES = {"+": "green", "-": "red"}


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What `dist-zero watch` was asked for; see its help."""

    view: str
    after: int = 0
    count: int | None = None
    program: str | None = None
    as_json: bool = False


async def watch(system: RunningSystem, options: WatchOptions) -> None:
    """Print the changes of a view until `count` epochs have changed it, or for ever."""
    program = await chosen_program(system, options.program)
    async with system.connect(program) as client:
        reader = reader_of(client, options.view)
        number = next(number for number, each in client.readers.items() if each is reader)
        printer = _Printer(reader, options)
        try:
            with client.watch_stored((number,), options.after) as changes:
                async for change in changes:
                    if change.snapshot or change.rows[number]:
                        printer.print(change, change.rows[number])
                        if printer.count == options.count:
                            break
        finally:
            printer.say_how_to_go_on()


class _Printer:
    """Writes changes as lines, each epoch's at once, so that a reader of a pipe sees them when they come."""

    def __init__(self, reader: ViewReader, options: WatchOptions) -> None:
        self.count = 0
        self._reader, self._options = reader, options
        self._epoch = options.after
        self._console = console_for()

    def print(self, change: StoredChange, rows: Sequence[tuple[StoredRow, int]]) -> None:
        """One epoch's change: what goes, then what comes, each in the view's order."""
        self.count += 1
        self._epoch = change.epoch
        count = sum(weight for _, weight in rows)
        if self._options.as_json:
            lines = [json.dumps({"epoch": change.epoch, "snapshot": True, "rows": count})]
            lines = lines if change.snapshot else []
            for sign, row in self._signed(rows):
                line = {"epoch": change.epoch, "change": sign, "row": json_row(self._reader.row_type, row)}
                lines.append(json.dumps(line, ensure_ascii=False))
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()
            return
        if change.snapshot:
            what = "1 row" if count == 1 else f"{count:,} rows"
            self._console.print(Text(f"{change.epoch}   the view as of here: {what}", "dim"))
        for sign, row in self._signed(rows):
            text = f"{change.epoch} {sign} {shown_row(self._reader, row)}"
            self._console.print(Text(text, _STYLES[sign]), soft_wrap=True)

    def _signed(self, rows: Sequence[tuple[StoredRow, int]]) -> Iterator[tuple[str, StoredRow]]:
        for sign, of in (("-", -1), ("+", 1)):
            changed = [row for row, weight in rows for _ in range(of * weight)]
            for row in self._reader.sorted(changed):
                yield sign, row

    def say_how_to_go_on(self) -> None:
        """To standard error: where the next watch goes on, if anything was seen."""
        if self.count:
            console_for(stderr=True).print(Text(f"to go on from here: --after {self._epoch}", "dim"))


def shown_row(reader: ViewReader, row: StoredRow) -> str:
    """A row on one line, every value exactly."""
    values = json_row(reader.row_type, row)
    return " ".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    """Bare where that is unmistakable, else as JSON: a row stays one line, whatever is in it."""
    if value is None:
        return "–"
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=False)
