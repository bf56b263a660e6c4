"""The Celery application that counts: `celery -A benchmarks.celery_app worker`, started by `celery_counts.py`.

The totals are in the memory of the one worker process. `report` writes them to a file, behind all that was sent before.
"""

from __future__ import annotations

import json
from pathlib import Path

from celery import Celery

app = Celery("counts")
totals: dict[int, list[int]] = {}


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def add(events: list[tuple[int, int]]) -> None:
    """Count these events and sum their amounts, by key."""
    for key, amount in events:
        total = totals.setdefault(key, [0, 0])
        total[0] += 1
        total[1] += amount


@app.task(ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator]
def add_late(events: list[tuple[int, int]]) -> None:
    """The same, acked when it is done."""
    add(events)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def report(path: str) -> None:
    """Write the totals to a file, whole or not at all."""
    Path(f"{path}.new").write_text(json.dumps(totals))
    Path(f"{path}.new").rename(path)
