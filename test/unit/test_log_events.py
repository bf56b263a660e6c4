"""docs/log-events.md says every event and every field that the source logs, and nothing that it does not; and nobody
logs what looks like a row or a secret."""

from __future__ import annotations

import re

import pytest

from dist_zero_common.log import RESERVED
from test.unit.log_calls import LogCall, log_calls, table

SUSPICIOUS = re.compile(
    r"(^|_)(row|rows|value|values|key|keys|column|columns|payload|body|data|content|delta|batch"
    r"|password|passwords|secret|token|credentials|url|urls|environment|settings|env|amqp|auth)($|_)"
)
HARMLESS = {"memory_bytes"}


def calls() -> list[LogCall]:
    return [call for call in log_calls() if call.event]


def test_every_event_is_described() -> None:
    """With its levels and its fields; and every event that is described is logged somewhere."""
    events: dict[str, tuple[set[str], set[str]]] = {}
    for call in calls():
        for event in call.event.split("|"):
            levels, fields = events.setdefault(event, (set(), set()))
            levels.update(call.levels)
            fields.update(call.fields)
    logged = {
        event: (", ".join(sorted(levels)), ", ".join(sorted(fields)))
        for event, (levels, fields) in events.items()
    }
    described = {event: (cells[0], cells[1]) for event, cells in table("Events").items()}
    assert described == logged
    assert all(cells[2] for cells in table("Events").values())


def test_every_field_is_described() -> None:
    """Those of events, and those that loggers are bound to."""
    logged = {field for call in log_calls() for field in call.fields} | set(RESERVED)
    described = table("Fields")
    assert sorted(described) == sorted(logged)
    assert all(len(cells) == 2 and all(cells) for cells in described.values())


def test_fields_of_lines_hide_none_of_events() -> None:
    """What shipping adds has names of its own."""
    names = {name.partition(".")[0] for name in table("Fields of shipped lines")}
    assert not names & set(table("Fields"))


def test_no_field_is_a_row_or_a_secret() -> None:
    """By its name. What is logged of rows are numbers of them."""
    found = [
        f"{call}: {field}"
        for call in log_calls()
        for field in call.fields
        if SUSPICIOUS.search(field) and field not in HARMLESS
    ]
    assert not found, found


@pytest.mark.parametrize("name", ["rows", "broker_url", "row", "primary_key", "password", "payload"])
def test_suspicious_names_are_found(name: str) -> None:
    """The check sees these."""
    assert SUSPICIOUS.search(name)
