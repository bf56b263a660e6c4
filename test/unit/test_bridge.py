"""Sources of a program: how they are declared, what becomes of a message, and what a bridge remembers."""

from __future__ import annotations

import datetime as dt
import enum
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

import msgpack
import pytest

import dist_zero as dz
from dist_zero.bridge import ledger as ledgers
from dist_zero.bridge.decoding import Undecodable, decoder, id_before_decoding, id_in_column
from dist_zero.bridge.ledger import Counts, Ledger
from dist_zero.row import from_stored_row, row_type_of
from dist_zero_common.errors import ProgramError

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


class Kind(enum.Enum):
    CASH = 1
    CARD = 2


class Payment(dz.Row):
    id: int
    at: dt.datetime
    amount: Annotated[Decimal, dz.scale(2)]
    kind: Kind
    proof: bytes | None = None
    rate: float | None = None


TYPE = row_type_of(Payment)
ROW = {"id": 1, "at": NOON, "amount": Decimal("9.90"), "kind": "CARD", "proof": None, "rate": None}


@dataclass(frozen=True)
class Sent:
    body: bytes = b""
    message_id: str | None = "m"
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    redelivered: bool = False
    tag: int = 0


def declared(**source: Any) -> dz.Program:
    app = dz.Program("till")
    payments = app.dataset("payments", Payment, key="id")
    app.source(**{"dataset": payments, "queue": "payments", **source})
    return app


# ---- the declaration ---------------------------------------------------------------------------------------


def test_a_source_is_declared_with_what_it_remembers() -> None:
    """Two collections of its own, named after the queue; a plain row type; the name of its sessions."""
    app = declared(dataset="payments", queue="Shop.Payments-v2", key="id", remember="30m")
    (source,) = app.sources
    graph = app.graph()
    assert [each.name for each in graph.datasets] == ["payments", "_shop_payments_v2_applied"]
    assert [each.name for each in graph.views] == ["_shop_payments_v2_applied_ids"]
    assert source.client_id == "bridge-shop-payments-v2"
    assert source.set_aside == "Shop.Payments-v2.set-aside"
    assert source.remember_us == 1_800_000_000
    assert re.search(r"test_bridge.py:\d+$", source.location)


def test_a_queue_of_any_name_has_collections_and_sessions() -> None:
    """Also one in whose name there is no letter that they could have."""
    (source,) = declared(queue="платежи").sources
    assert re.fullmatch(r"_[0-9a-f]{16}_applied", source.applied)
    assert declared(queue="-a.").sources[0].client_id == "bridge-a"


def other_table() -> dz.Table:
    return dz.Program("other").dataset("payments", Payment)


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: declared(dataset="payment"),
        "source: 'payment' is no dataset of program 'till'; there are payments",
    ),
    (
        lambda: declared(dataset=other_table()),
        "source: 'payments' is no dataset of program 'till'; there are payments",
    ),
    (lambda: declared(queue=""), "source: queue='' is no name of a queue: that is a text of 1 to 255 bytes"),
    (lambda: declared(queue=7), "source: queue=7 is no name of a queue: that is a text of 1 to 255 bytes"),
    (
        lambda: declared(decode="xml"),
        "source: decode='xml' is none of 'json', 'msgpack' and no function of a message",
    ),
    (
        lambda: declared(key="ids"),
        "there is no column 'ids' in dataset 'payments', for the key of its source. Did you mean 'id'? It has",
    ),
    (
        lambda: declared(key=7),
        "source: key=7; name a column, give a function of a message, or leave it out to go by",
    ),
    (
        lambda: declared(set_aside="payments"),
        "source: messages of 'payments' cannot be set aside in the same queue",
    ),
    (lambda: declared(remember="0s"), "source: remember has to be longer than nothing"),
    (lambda: declared(remember="long"), "'long' is no duration: write '500ms', '30s', '10m', '1h', '1d'"),
    (
        lambda: declared().source("payments", queue="payments"),
        "source: queue 'payments' is the queue 'payments' of",
    ),
    (
        lambda: declared().source("payments", queue="Payments"),
        "source: queue 'Payments' is too much like queue",
    ),
]


@pytest.mark.parametrize(
    ("mistake", "message"), MISTAKES, ids=lambda each: each[:40] if isinstance(each, str) else ""
)
def test_mistakes_name_the_users_line(mistake: Callable[[], Any], message: str) -> None:
    """Each with what is wrong, at the line that declares it."""
    with pytest.raises(ProgramError) as raised:
        mistake()
    place, _, said = str(raised.value).partition(": ")
    assert re.search(r"test_bridge\.py:\d+$", place)
    assert said.startswith(message)


# ---- decoding ----------------------------------------------------------------------------------------------

AS_JSON = {"id": 1, "at": "2024-05-01T12:00:00Z", "amount": "9.90", "kind": "CARD", "unknown": [1]}


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        ("json", json.dumps(AS_JSON).encode()),
        ("json", json.dumps(AS_JSON | {"amount": 9.9, "proof": None}).encode()),
        ("json", json.dumps([AS_JSON | {"at": "2024-05-01T14:00:00+02:00"}]).encode()),
        ("msgpack", msgpack.packb(AS_JSON)),
        ("msgpack", msgpack.packb([AS_JSON | {"at": NOON, "rate": None}], datetime=True)),
        (lambda message: AS_JSON, b""),
        (lambda message: [ROW], b""),
        (lambda message: iter([ROW]), b""),
        (lambda message: Payment(id=1, at=NOON, amount=Decimal("9.9"), kind=Kind.CARD), b""),
    ],
)
def test_messages_become_rows(decode: Any, body: bytes) -> None:
    """The same row in every form that it may come in."""
    (row,) = decoder(decode, TYPE)(Sent(body))
    assert from_stored_row(TYPE, row) == ROW


def test_json_decimals_are_exact() -> None:
    """Numbers behind a point do not pass through a float."""
    body = json.dumps(AS_JSON).replace('"9.90"', "90071992547409.93").encode()
    (row,) = decoder("json", TYPE)(Sent(body))
    assert from_stored_row(TYPE, row)["amount"] == Decimal("90071992547409.93")


def test_messages_may_stand_for_nothing_or_for_several_rows() -> None:
    """An empty list, or None; a list; bytes as they are."""
    assert decoder("json", TYPE)(Sent(b"[]")) == decoder(lambda message: None, TYPE)(Sent()) == []
    bodies = msgpack.packb([AS_JSON, AS_JSON | {"proof": b"\xff"}])
    assert [row[4] for row in decoder("msgpack", TYPE)(Sent(bodies))] == [None, b"\xff"]


def fails(message: object) -> object:  # noqa: ARG001
    raise KeyError("shop")


UNDECODABLE: list[tuple[Any, bytes, str]] = [
    ("json", b"{", "no json: Expecting property name"),
    ("json", b"\xff\xfe\xfd", "no json: "),
    ("json", b"[" * 100_000, "no json: "),
    ("json", b"7", "expected an object or a list of objects, got 7"),
    ("json", b"[7]", "row 1: expected an object with the columns"),
    ("json", b"{}", "column 'id' (int) is missing"),
    ("json", json.dumps(AS_JSON | {"kind": "CHEQUE"}).encode(), "column 'kind': 'CHEQUE' is no member of"),
    (
        "json",
        json.dumps(AS_JSON | {"amount": "9.905"}).encode(),
        "column 'amount': expected decimal(2), got '9.905'",
    ),
    (
        "json",
        json.dumps([AS_JSON, AS_JSON | {"id": 2**63}]).encode(),
        "row 2: column 'id': 9223372036854775808 does",
    ),
    ("msgpack", b"\xc1", "no msgpack: "),
    ("msgpack", msgpack.packb(AS_JSON)[:-1], "no msgpack: "),
    ("msgpack", b"\x91" * 100_000, "no msgpack: "),
    ("msgpack", msgpack.packb({1: 2}), ""),
    (fails, b"", "decode raised KeyError: 'shop' ("),
    (lambda message: "text", b"", "expected a row or rows, got str 'text'"),
    (lambda message: 7, b"", "expected a row or rows, got int 7"),
]


@pytest.mark.parametrize(("decode", "body", "reason"), UNDECODABLE)
def test_what_cannot_be_decoded_says_why(decode: Any, body: bytes, reason: str) -> None:
    """Nothing that a message holds is another error than this one."""
    with pytest.raises(Undecodable) as raised:
        decoder(decode, TYPE)(Sent(body))
    assert str(raised.value).startswith(reason)
    assert len(str(raised.value)) < 1_000


def test_packed_bodies_are_left_to_a_function() -> None:
    """An encoding that is not plain is refused by its name."""
    with pytest.raises(Undecodable, match="content-encoding is 'gzip'"):
        decoder("json", TYPE)(Sent(b"{}", content_encoding="gzip"))


# ---- ids ---------------------------------------------------------------------------------------------------


def test_ids_come_from_where_the_source_says() -> None:
    """The property, a function, a column."""
    by_property, by_function, by_column = (
        declared(key=key).sources[0] for key in (None, lambda message: message.headers["id"], "at")
    )
    message = Sent(headers={"id": 12})
    assert id_before_decoding(by_property, message) == "m"
    assert id_before_decoding(by_function, message) == "12"
    assert id_before_decoding(by_column, message) is None
    rows = decoder("json", TYPE)(Sent(json.dumps([AS_JSON, AS_JSON]).encode()))
    assert id_in_column("at", TYPE, rows) == "2024-05-01T12:00:00Z"


def test_a_message_without_an_id_is_not_applied() -> None:
    """Missing, empty, too long, of a wrong type, null, or different from row to row."""
    source = declared().sources[0]
    for message_id in (None, "", "x" * 1_001, "\ud800"):
        with pytest.raises(Undecodable, match="message-id"):
            id_before_decoding(source, Sent(message_id=message_id))
    for key in (fails, lambda message: None, lambda message: True, lambda message: ""):
        with pytest.raises(Undecodable, match="key"):
            id_before_decoding(declared(key=key).sources[0], Sent())
    rows = decoder("json", TYPE)(Sent(json.dumps([AS_JSON, AS_JSON | {"id": 2}]).encode()))
    with pytest.raises(Undecodable, match="differ in the column 'id'"):
        id_in_column("id", TYPE, rows)
    with pytest.raises(Undecodable, match="'rate', which is its key, is null"):
        id_in_column("rate", TYPE, rows)


# ---- the ledger --------------------------------------------------------------------------------------------


def ledger(applied: dict[str, int] | None = None, remember_us: int = 100) -> Ledger[int]:
    return Ledger.of((applied or {}).items(), remember_us=remember_us, opened_us=0, counts=Counts())


def test_copies_are_acked_with_the_message() -> None:
    """While it waits, while it is on its way, and behind it."""
    book = ledger({"old": 5})
    assert book.is_applied("old")
    assert not book.is_applied("m")
    assert not book.joins_pending("m", 1)
    book.take("m", [(1,)], 10, 1)
    assert book.joins_pending("m", 2)
    part = book.next_part(7)
    assert book.joins_pending("m", 3)
    assert book.committed(part) == [1, 2, 3]
    assert book.is_applied("m")
    assert not book.joins_pending("m", 4)
    assert (book.counts.applied, book.counts.rows, book.counts.repeated) == (1, 1, 4)


def test_transactions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In messages and in bytes; a large message goes alone."""
    monkeypatch.setattr(ledgers, "PART_MESSAGES", 3)
    monkeypatch.setattr(ledgers, "PART_BYTES", 100)
    book = ledger()
    for number, size in enumerate([1, 1, 1, 1, 60, 50, 500, 1]):
        book.take(str(number), [], size, number)
    assert book.has_whole_part()
    parts = []
    while book.waiting:
        parts.append([entry.id for entry in book.next_part(0).entries])
    assert parts == [["0", "1", "2"], ["3", "4"], ["5"], ["6"], ["7"]]
    assert not book.has_whole_part()


def test_ids_are_forgotten_oldest_first_and_never_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the time of grace, not before their time, and not too many at once."""
    monkeypatch.setattr(ledgers, "GRACE_US", 1_000)
    monkeypatch.setattr(ledgers, "FORGET_MAX", 2)
    book = ledger({"c": 30, "a": 10, "b": 20, "d": 950})
    assert book.next_part(999).forget == []
    assert book.next_part(1_000).forget == ["a", "b"]
    assert book.next_part(1_000).forget == ["c"]
    assert book.next_part(1_049).forget == []
    assert book.is_applied("d")
    assert book.next_part(1_050).forget == ["d"]
    assert not book.is_applied("d")
