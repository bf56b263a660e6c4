"""Logs of hosts in the store: piece by piece there, and back into files that the tail reads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dist_zero_common.clock import RealClock
from dist_zero_common.errors import StoreError
from dist_zero_common.log import get_logger
from dist_zero_common.log_copies import KEPT, PREFIX, Copier, fetch, piece_name, piece_time
from dist_zero_common.logs_tail import Entry, follow
from dist_zero_common.store.directory import DirectoryStore

LOG = get_logger("test", RealClock())
BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def entry(seconds: float, event: str = "agent_started", machine: str = "m1") -> Entry:
    at = (BEGIN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = {"system": "shop", "machine": machine, "cores": 2}
    return Entry(at, "info", "machine-agent", event, "shop", machine, "here/machine-agent", fields)


class Host:
    """One that logs, and whoever copies it."""

    def __init__(self, path: Path, name: str = "m1") -> None:
        self.now = BEGIN
        self.store = DirectoryStore(path, shared=True)
        self.copier = Copier(self.store, name, LOG, lambda: self.now)

    def names(self) -> list[str]:
        return asyncio.run(self.store.list(PREFIX))


def test_what_was_copied_is_what_was_logged(tmp_path: Path) -> None:
    """Of several hosts, in pieces; fetched again, only what is new."""
    m1, s1 = Host(tmp_path / "store"), Host(tmp_path / "store", "s1")
    m1.copier.add(entry(2, "second"))
    m1.copier.add(entry(1, "first"))
    m1.copier.copy()
    s1.copier.add(entry(1.5, "between", "s1"))
    s1.copier.copy()
    here = tmp_path / "here"
    assert asyncio.run(fetch(m1.store, here)) == 2
    m1.copier.add(entry(3, "third"))
    m1.copier.copy()
    m1.copier.copy()
    assert asyncio.run(fetch(m1.store, here)) == 1
    assert asyncio.run(fetch(m1.store, here)) == 0
    found = list(follow(here, forever=False))
    assert [each.event for each in found] == ["first", "between", "second", "third"]
    assert found[0].machine == "m1" and found[0].fields["cores"] == 2
    assert found[0].as_json()["source"] == "m1/m1"


def test_whoever_starts_again_goes_on_behind_the_last_piece(tmp_path: Path) -> None:
    """The name of a piece says where."""
    host = Host(tmp_path)
    assert host.copier.since() is None
    host.copier.add(entry(7.25))
    host.copier.copy()
    assert piece_time(host.names()[0]) == BEGIN + timedelta(seconds=7.25)
    assert Host(tmp_path).copier.since() == BEGIN + timedelta(seconds=7.25, microseconds=1)


def test_lines_that_are_no_events_are_left_alone(tmp_path: Path) -> None:
    """What a process printed has no time of its own."""
    host = Host(tmp_path)
    host.copier.add(Entry("2026", "info", "x", "", "", "", "here/x", text="Traceback"))
    host.copier.copy()
    host.copier.add(Entry("yesterday", "info", "x", "event", "", "", "here/x"))
    host.copier.copy()
    assert host.names() == []


def test_old_pieces_are_removed_by_their_host(tmp_path: Path) -> None:
    """Not those of others, and no more than once a day."""
    host, other = Host(tmp_path), Host(tmp_path, "m2")
    for each in (host, other):
        each.copier.add(entry(0))
        each.copier.copy()
    host.now += KEPT + timedelta(seconds=1)
    host.copier.add(entry(5))
    host.copier.copy()
    assert host.names() == [piece_name("m1", entry(5).time), piece_name("m2", entry(0).time)]


def test_a_store_that_fails_loses_nothing(tmp_path: Path) -> None:
    """What could not be written goes with the next piece."""
    host = Host(tmp_path)
    create, answers = host.store.create, iter([False, True])

    async def fails(name: str, data: bytes) -> object:
        if not next(answers):
            raise StoreError("no answer")
        return await create(name, data)

    host.store.create = fails  # type: ignore[method-assign, assignment]
    host.copier.add(entry(1, "first"))
    host.copier.copy()
    assert host.names() == []
    host.copier.add(entry(2, "second"))
    host.copier.copy()
    assert asyncio.run(fetch(host.store, tmp_path / "here")) == 1
    assert [each.event for each in follow(tmp_path / "here", forever=False)] == ["first", "second"]
