"""A failed run as a story: what went wrong, who did what about it, and what became of the rows involved, in order.

Rows are involved when they share a value with the key of a row that is wrong; when nothing is known to be wrong with
any one row, all are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dist_zero.batch import Writes
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.row import from_stored_row
from dist_zero.testing.checks import Failure, Seen
from dist_zero.testing.running import Recorded
from dist_zero.types import Row as StoredRow
from dist_zero.types import RowType
from dist_zero.writes import decode_payload
from dist_zero_common.sim.world import START_US

LINES_MAX = 60
ROWS_MAX = 4
"""Rows of one change or transaction that are shown."""

_SAID = {
    "agent_started": "machine {machine} is there",
    "machine_ended": "machine {machine} has ended",
    "runner_died": "the agent of {machine} finds that runner {runner} has died",
    "node_started": "runner {runner} hosts node {node}",
    "scheduler_started": "a scheduler starts",
    "program_placed": "the scheduler places all of the program, as generation {generation}, on {runners}",
    "program_adopted": "the scheduler finds the program running, in generation {generation}",
    "program_scaled": "the scheduler wants the program on {nodes} nodes",
    "generation_opened": "generation {opened} is opened at base {base}, on {nodes} nodes",
    "sequencer_started": "a sequencer starts behind epoch {epoch}",
    "sequencer_deposed": "a sequencer is deposed: {reason}",
    "sequencer_failed": "a sequencer could not start: {reason}",
    "node_halted": "node {node} halts behind epoch {epoch}: {reason}",
    "log_damaged": "the log is damaged: {reason}",
    "silent": "nothing was heard of {name} for {seconds} s",
    "heard_again": "{name} is heard of again",
    "store_failed": "the store failed: {reason}",
}
"""What services log, in words; other events are left out."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a story. `weight` says how much it matters: those that matter least go when there are too many."""

    seconds: float
    who: str
    text: str
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.seconds:9.3f} s  {self.who:<10} {self.text}"


def story_of(recorded: Recorded, lines_max: int = LINES_MAX) -> list[str]:
    """The lines of the story of a failed run, up to where it failed."""
    failure = recorded.result.failures[0]
    lines = [Line(seconds, "fault", text, 3) for seconds, text in recorded.faults]
    lines += _logged(recorded.events)
    if recorded.seen is not None:
        lines += _told(recorded.seen, failure)
    lines = sorted(lines, key=lambda line: line.seconds)
    end = _end(recorded.seen, failure)
    lines = [line for line in lines if end is None or line.seconds <= end]
    return _cut(lines, lines_max)


def _end(seen: Seen | None, failure: Failure) -> float | None:
    """When the failing epoch was seen; None if it is not about one."""
    for change, seconds in zip(seen.changes, seen.changed_at, strict=True) if seen and failure.epoch else ():
        if change.epoch == failure.epoch:
            return seconds
    return None


def _cut(lines: list[Line], lines_max: int) -> list[str]:
    """At most so many lines: the least of them go first, and of those the oldest."""
    gone = len(lines) - lines_max
    if gone <= 0:
        return [str(line) for line in lines]
    out = sorted(range(len(lines)), key=lambda number: (lines[number].weight, number))[:gone]
    kept = [str(line) for number, line in enumerate(lines) if number not in set(out)]
    return [*kept, f"({gone:,} lines of less weight are left out)"]


def _logged(events: Sequence[dict[str, object]]) -> Iterator[Line]:
    for event in events:
        said = _SAID.get(str(event["event"]))
        if said is not None:
            at = datetime.fromisoformat(str(event["time"])).timestamp() - START_US / 1_000_000
            yield Line(at, str(event["service"]).rpartition("-")[2], said.format_map(event), 2)


def _told(seen: Seen, failure: Failure) -> Iterator[Line]:
    involved = _Involved(seen.plan, failure)
    for written in seen.written:
        for place, seconds in written.sent_at.items():
            rows = _shown_writes(
                seen.plan, decode_payload(seen.plan.datasets, written.payloads[place]), involved
            )
            if rows:
                yield Line(seconds, written.client, f"sends transaction {place + 1}: {rows}", 2)
        for place, seconds in written.heard_at.items():
            epoch = written.acknowledged[place]
            yield Line(seconds, written.client, f"hears that transaction {place + 1} is in epoch {epoch}", 0)
    for change, seconds in zip(seen.changes, seen.changed_at, strict=True):
        shown = [
            f"{view.name} {_shown_changes(view.row_type, change.rows[number], involved)}"
            for number, view in enumerate(seen.plan.views)
            if any(involved.row(row) for row, _ in change.rows[number])
        ]
        if shown or change.epoch == failure.epoch:
            what = "; ".join(shown) or "nothing"
            begins = "begins anew at" if change.snapshot else "sees"
            yield Line(seconds, "watch", f"{begins} epoch {change.epoch}: {what}", 2)
    if failure.epoch:
        yield from _record(seen, failure)


def _record(seen: Seen, failure: Failure) -> Iterator[Line]:
    """What the log says of the failing epoch."""
    for record in seen.log:
        if record.epoch == failure.epoch:
            seconds = _end(seen, failure) or 0.0
            what = ", ".join(
                f"number {each.number} of session {each.session}" for each in record.transactions
            )
            text = f"epoch {record.epoch} is, by generation {record.generation}: {what or 'no transactions'}"
            yield Line(seconds, "log", text, 3)


class _Involved:
    """Which rows a failure is about."""

    def __init__(self, plan: Plan, failure: Failure) -> None:
        self._values: list[object] = []
        views = {view.name: view for view in plan.views}
        for name, row in failure.rows if failure.check != "invariant" else ():
            sink = plan.operators[views[name].sink]
            assert isinstance(sink, Sink)
            for place in sink.key if sink.key else range(len(row)):
                if isinstance(row[place], str | int | bytes) and row[place] not in self._values:
                    self._values.append(row[place])

    def row(self, row: StoredRow) -> bool:
        """Whether this row is one of them."""
        return not self._values or any(value in self._values for value in row)


def _shown_writes(plan: Plan, transaction: Sequence[Writes], involved: _Involved) -> str:
    shown = []
    for writes in transaction:
        dataset = plan.datasets[writes.dataset]
        row_type = dataset.row_type.select(writes.columns)
        verb = writes.kind.name.lower() if dataset.key is not None else "append"
        for row in writes.batch.rows():
            if involved.row(row):
                shown.append(f"{verb} {dataset.name} {_shown_row(row_type, row)}")
    more = f" … {len(shown) - ROWS_MAX} more" if len(shown) > ROWS_MAX else ""
    return "; ".join(shown[:ROWS_MAX]) + more


def _shown_changes(row_type: RowType, rows: Sequence[tuple[StoredRow, int]], involved: _Involved) -> str:
    mine = [(row, weight) for row, weight in rows if involved.row(row)]
    shown = [
        f"{'+' if weight > 0 else '−'}{_times(weight)}{_shown_row(row_type, row)}" for row, weight in mine
    ]
    more = f" … {len(shown) - ROWS_MAX} more" if len(shown) > ROWS_MAX else ""
    return " ".join(shown[:ROWS_MAX]) + more


def _times(weight: int) -> str:
    return f"{abs(weight)}×" if abs(weight) != 1 else ""


def _shown_row(row_type: RowType, row: StoredRow) -> str:
    columns = from_stored_row(row_type, row)
    return (
        "("
        + ", ".join(f"{name}={value if value is not None else 'null'}" for name, value in columns.items())
        + ")"
    )
