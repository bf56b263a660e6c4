"""Which names objects may have: what is safe as a path, a URL and a key in any store."""

from __future__ import annotations

import re

from dist_zero_common.errors import StoreError

_PART = re.compile(r"[A-Za-z0-9._=-]{1,200}\Z")
_NAME_LENGTH_MAX = 900


def checked_object_name(name: str) -> str:
    """`name` itself if an object may be called so; raises `StoreError` saying what is allowed."""
    parts = name.split("/")
    if len(name) > _NAME_LENGTH_MAX or not all(_PART.match(part) and part.strip(".") for part in parts):
        raise StoreError(
            f"{name!r} cannot be the name of an object: use parts of 1 to 200 letters, digits and . _ = -,"
            f" not of dots alone, separated by /, {_NAME_LENGTH_MAX} characters at most"
        )
    return name
