"""The names of things, in one place, so that no two files spell them differently.

Systems, programs, machines, runners, nodes and clients are named by people or by the scheduler; a name is
1 to 100 characters of `[a-z0-9-]`, because it becomes part of queue names, store paths and container names.
"""

from __future__ import annotations

import re

from dist_zero_common.errors import DistZeroError, SettingsError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?\Z")


def checked_name(what: str, name: str, error: type[DistZeroError] = SettingsError) -> str:
    """`name` itself if it may be the name of a `what`; raises `error` saying what is allowed. Where a name comes in a
    message, that is `MalformedMessage`."""
    if _NAME.match(name) is None:
        raise error(
            f"{name!r} cannot be the name of a {what}: use 1 to 100 lower-case letters, digits and hyphens,"
            " beginning and ending with a letter or digit"
        )
    return name
