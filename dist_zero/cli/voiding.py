"""`dist-zero void`: takes a transaction out of a program that stands still on it."""

from __future__ import annotations

import asyncio
import json
import re
import sys

from rich.text import Text

from dist_zero.cli.reach import status_of
from dist_zero.cli.render import console_for
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.errors import DataError, OperatorError
from dist_zero_common.protocol.messages.pieces import TransactionPlace

VOID_SECONDS = 60.0
_PLACE = re.compile(r"(\d{1,18})/(\d{1,7})\Z")


def place_of(text: str) -> TransactionPlace:
    """The transaction that a person means with `EPOCH/TRANSACTION`. Raises `DataError`."""
    match = _PLACE.match(text)
    if match is None or int(match[1]) == 0:
        raise DataError(
            f"{text!r} is no transaction: give its epoch and its place there, as 812/0; `dist-zero status` names those"
            " that a program stands still on"
        )
    return TransactionPlace(int(match[1]), int(match[2]))


async def void_transaction(system: RemoteSystem, program: str, text: str, *, as_json: bool) -> None:
    """Do it, wait for the log to say so, and say so."""
    place = place_of(text)
    await status_of(system)  # says at once when there is no such system
    try:
        async with asyncio.timeout(VOID_SECONDS):
            await system.void(program, place)
    except TimeoutError:
        raise OperatorError(
            f"the log of {program!r} does not say within {VOID_SECONDS:g} s that {place} is void: `dist-zero status`"
            " says what it waits for; run the same command again, it may be repeated"
        ) from None
    if as_json:
        json.dump({"program": program, "void": str(place)}, sys.stdout)
        sys.stdout.write("\n")
    else:
        console_for().print(
            Text(
                f"transaction {place} of {program} is void; the program goes on without what it said", "green"
            )
        )
