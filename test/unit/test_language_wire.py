"""Programs on the wire: they come back the same, say the same in every process, and hostile ones are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dist_zero as dz
from dist_zero.expr.graph import (
    decode_graph,
    encode_graph,
    fingerprint,
    graph_from_blob,
    graph_to_blob,
)
from dist_zero.expr.show import table_text
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.codec import seal, unseal
from dist_zero_common.protocol.program import (
    CallBlob,
    ColumnRefBlob,
    GraphBlob,
    LiteralBlob,
    RelationBlob,
    TypeBlob,
    TypeKind,
)
from test.unit.language import every_operation, example

BLOB = graph_to_blob(every_operation().graph())
ROOT = Path(__file__).parents[2]


def test_programs_come_back() -> None:
    """Every operation, scalar and type of constant survives the wire: same text, types, keys and bytes."""
    graph = every_operation().graph()
    data = encode_graph(graph)
    again = decode_graph(data)
    assert encode_graph(again) == data
    assert [v.name for v in again.views] == [v.name for v in graph.views]
    for before, after in zip(graph.views, again.views, strict=True):
        assert table_text(after.relation) == table_text(before.relation)
        assert (after.relation.row_type, after.relation.key) == (
            before.relation.row_type,
            before.relation.key,
        )
        assert after.relation.location == before.relation.location


def test_every_operation_is_in_the_example() -> None:
    """The program these tests turn on has each kind of operation of the schema."""
    kinds = {type(r.operation).__name__ for r in BLOB.relations}
    assert len(kinds) == 12
    assert {t.kind for t in BLOB.types} == set(TypeKind)


def test_equal_programs_have_equal_bytes_everywhere() -> None:
    """Another process with another hash seed writes the same bytes."""
    code = (
        "from test.unit.language import every_operation; from dist_zero.expr.graph import encode_graph;"
        "import hashlib; print(hashlib.sha256(encode_graph(every_operation().graph())).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_fingerprints_ignore_places_alone() -> None:
    """The fingerprint is that of the program, wherever it is written; any other change changes it."""

    def program(low: int) -> dz.Program:
        e = example()
        e.app.view("v", e.flights.where(e.flights.flight > low))
        return e.app

    one = program(1)
    other = program(1)
    blob = graph_to_blob(one.graph())
    moved = replace(blob, relations=tuple(replace(r, location="elsewhere:1") for r in blob.relations))
    assert fingerprint(one.graph()) == fingerprint(other.graph()) == fingerprint(graph_from_blob(moved))
    assert fingerprint(one.graph()) != fingerprint(program(2).graph())


def _with_scalar(scalar: CallBlob | LiteralBlob | ColumnRefBlob) -> GraphBlob:
    return replace(BLOB, scalars=(*BLOB.scalars, scalar))


def _type(kind: TypeKind, **change: Any) -> GraphBlob:
    blob = replace(TypeBlob(kind, nullable=False, scale=0, members=()), **change)
    return replace(BLOB, types=(*BLOB.types, blob))


def _place(kind: TypeKind) -> int:
    return next(i for i, t in enumerate(BLOB.types) if t.kind is kind and not t.nullable)


def _literal(kind: TypeKind, **change: Any) -> GraphBlob:
    blank = LiteralBlob(_place(kind), is_null=False, integer=0, real=0.0, text="", data=b"")
    return _with_scalar(replace(blank, **change))


def _doubling() -> GraphBlob:
    start = len(BLOB.scalars)
    place = _place(TypeKind.INT)
    doubled = tuple(CallBlob("add", (start + i, start + i), place) for i in range(40))
    first = LiteralBlob(place, is_null=False, integer=1, real=0.0, text="", data=b"")
    return replace(BLOB, scalars=(*BLOB.scalars, first, *doubled))


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (replace(BLOB, name="No name"), "cannot be the name of a program"),
        (replace(BLOB, views=(*BLOB.views, BLOB.views[0])), "two datasets or views are called"),
        (replace(BLOB, views=(replace(BLOB.views[0], relation=10_000),)), "place 10000 is none of the"),
        (
            replace(BLOB, views=(replace(BLOB.views[0], name="../x"),)),
            "cannot be the name of a dataset or view",
        ),
        (replace(BLOB, relations=BLOB.relations[:3]), "is none of the"),
        (replace(BLOB, relations=BLOB.relations * 100), "operations and"),
        (
            replace(BLOB, relations=(RelationBlob("x" * 1001, BLOB.relations[0].operation),)),
            "a location is too long",
        ),
        (_with_scalar(CallBlob("system", (0,), 0)), "there is no operation 'system'"),
        (_with_scalar(CallBlob("add", (10_000, 0), 0)), "place 10000 is none of the"),
        (_with_scalar(CallBlob("lower", (), 0)), "lower takes 1 arguments, got 0"),
        (_with_scalar(CallBlob("year", (0,), 0)), "year of str: it is for datetime"),
        (_with_scalar(CallBlob("is_null", (0,), _place(TypeKind.INT))), "is_null is bool, not int"),
        (_doubling(), "more than 10,000 operations"),
        (_literal(TypeKind.ENUM, type=10_000), "place 10000 is none of the"),
        (_literal(TypeKind.BOOL, is_null=True), "null in a column of type bool"),
        (_literal(TypeKind.DATETIME, integer=2**62), "microseconds is no datetime"),
        (_type(TypeKind.DECIMAL, scale=19), "decimal of scale 19"),
        (_type(TypeKind.INT, scale=1), "int of scale 1"),
        (_type(TypeKind.ENUM), "enum with the members ()"),
        (_type(TypeKind.ENUM, members=("A", "A")), "enum with the members ('A', 'A')"),
        (_type(TypeKind.INT, members=("A",)), "int with the members ('A',)"),
    ],
)
def test_hostile_programs_are_refused(blob: GraphBlob, reason: str) -> None:
    """Names, places, types and sizes that the rules forbid are malformed messages, with the reason."""
    with pytest.raises(MalformedMessage) as caught:
        graph_from_blob(blob)
    assert reason in str(caught.value)


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every number of a blob."""
    if is_dataclass(value):
        return [p for f in fields(value) for p in _numbers(getattr(value, f.name), (*path, f.name))]
    if isinstance(value, tuple):
        return [p for i, item in enumerate(value) for p in _numbers(item, (*path, i))]
    return [path] if type(value) is int else []


def _changed(value: Any, path: tuple[Any, ...], number: int) -> Any:
    if not path:
        return number
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        return replace(value, **{step: _changed(getattr(value, step), rest, number)})
    return (*value[:step], _changed(value[step], rest, number), *value[step + 1 :])


PATHS = _numbers(BLOB)


@given(
    st.lists(
        st.tuples(st.sampled_from(PATHS), st.integers(0, 200) | st.integers(0, 2**31)), min_size=1, max_size=3
    )
)
def test_changed_numbers_are_refused_or_make_another_program(
    changes: list[tuple[tuple[Any, ...], int]],
) -> None:
    """Whatever places, scales and counts say: either it is refused, or it is a program that encodes again."""
    blob = BLOB
    for path, number in changes:
        blob = _changed(blob, path, number)
    try:
        graph = graph_from_blob(blob)
    except MalformedMessage:
        return
    data = encode_graph(graph)
    assert encode_graph(decode_graph(data)) == data
    for view in graph.views:
        assert table_text(view.relation)


BODY = bytes(unseal(encode_graph(every_operation().graph())))


@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_refused_or_make_another_program(changes: list[tuple[int, int]]) -> None:
    """A hostile sender, who gets the checksum right, can cause a refusal or say another program: nothing else."""
    body = bytearray(BODY)
    for place, byte in changes:
        body[place] = byte
    try:
        graph = decode_graph(seal(bytes(body)))
    except MalformedMessage:
        return
    assert encode_graph(decode_graph(encode_graph(graph))) == encode_graph(graph)
