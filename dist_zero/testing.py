"""Asking a program's run two questions from outside: is what it shows right, and would it be the same again.

`recomputed_differences` recomputes views from the log in the store with the oracle (I1). `dist-zero test`
runs a program under many seeds of weather (`run_seed`): a watcher holds every view at every epoch against the
oracle, each writer's transactions are looked for in the log (I2), and the log is played to a second system,
of another size and weather, which has to show the same (I3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dist_zero.batch import Writes
from dist_zero.client.snapshot import ViewError
from dist_zero.compiler.plan import Plan
from dist_zero.expr.ops import Graph
from dist_zero.reference.evaluate import LeftOut, Oracle
from dist_zero.reference.history import Datasets
from dist_zero.types import Row as StoredRow
from dist_zero.writes import decode_payload
from dist_zero.zset import ZSet, consolidate
from dist_zero_common.errors import StoreError
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages import LogRecord
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import records_prefix


async def log_of(store: Store, program: str) -> list[LogRecord]:
    """Every record of a program's log, in order."""
    records = []
    for name in await store.list(records_prefix(program)):
        data = await store.read(name)
        if data is None:
            raise StoreError(f"{name} was listed and is gone")
        records.append(decode(LogRecord, data))
    return records


def writes_of(plan: Plan, record: LogRecord) -> list[list[Writes]]:
    """The transactions of a record."""
    return [decode_payload(plan.datasets, transaction.payload) for transaction in record.transactions]


def recomputed_differences(
    graph: Graph,
    plan: Plan,
    log: Iterable[LogRecord],
    epoch: int,
    views: dict[str, Sequence[StoredRow]],
    errors: dict[str, Sequence[ViewError]],
) -> list[str]:
    """What of these views, as of `epoch`, differs from what the oracle makes of the log up to there; empty:
    nothing."""
    datasets = Datasets(graph)
    for record in log:
        if record.epoch <= epoch:
            for writes in writes_of(plan, record):
                datasets.apply(writes)
    oracle = Oracle(graph, datasets.contents())
    found = []
    for name, rows in views.items():
        right = oracle.view(name)
        found += view_differences(name, consolidate((row, 1) for row in rows), right.rows)
        shown = sorted((e.label, e.reason, e.example, e.count) for e in errors.get(name, ()))
        if name in errors and shown != sorted(map(_left_out, right.errors)):
            found.append(f"view {name!r} leaves out {shown}, the oracle {[str(e) for e in right.errors]}")
    return found


def view_differences(name: str, shown: ZSet, right: ZSet) -> list[str]:
    """How a view differs from what it should be, in words; nothing if it does not."""
    if shown == right:
        return []
    extra = [row for row, weight in shown.items() if right.get(row) != weight]
    missing = [row for row, weight in right.items() if shown.get(row) != weight]
    return [
        f"view {name!r} differs from its recomputation in {len(extra):,} rows it shows"
        f" (as {_example(extra)}) and {len(missing):,} it should (as {_example(missing)})"
    ]


def _left_out(entry: LeftOut) -> tuple[str, str, str, int]:
    return (entry.label, entry.reason, entry.example, entry.count)


def _example(rows: Sequence[StoredRow]) -> str:
    return repr(rows[0]) if rows else "none"
