"""What a client makes of the rows and keys that a user writes, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.client.writes import stored_key, stored_keys
from dist_zero.compiler import compile
from dist_zero_common.errors import DataError


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (int, [3, 1, 2**63 - 1, -(2**63)]),
        (int, [3, True]),
        (int, [3, 2**63]),
        (int, [3, "4"]),
        (int, [3, {"key": 4}, (5,)]),
        (str, ["a", "b", ""]),
        (str, ["a", "\ud800"]),
        (str, ["ä", "b"]),
        (str, ["a", None]),
        (float, [1.0, -0.0]),
        (int, []),
    ],
)
def test_keys_looked_at_together_are_stored_as_one_by_one(key: type, keys: list[Any]) -> None:
    """Also what is wrong with them is the same."""
    app = dz.Program("app")
    row = type("Kept", (dz.Row,), {"__annotations__": {"key": key, "n": int}, "__module__": __name__})
    app.view("all", app.dataset("kept", row, key="key"))
    (dataset,) = compile(app.graph()).datasets

    def said(make: Callable[[], object]) -> str:
        try:
            return repr(make())
        except DataError as error:
            return str(error)

    assert said(lambda: stored_keys(dataset, keys)) == said(lambda: [stored_key(dataset, k) for k in keys])
