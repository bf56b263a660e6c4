"""What every spawner promises: it obtains hosts by name, and a host, once up, announces itself.

A host is one of two things, and its name says which (`role_of`): `m1`, `m2` … are machines, on which a machine agent
starts; `s1`, `s2` … run a scheduler. How a host comes to do either is the spawner's business.

A spawner is asked again and again until what it lists is what is wanted, so each call may be repeated, and a
call whose outcome is unknown is simply made again. What a spawner cannot do is an `OperatorError`, which is
logged, shown by `dist-zero status`, and tried again later: so its sentence says what a person can do.
"""

from __future__ import annotations

import enum
import re
from typing import Protocol

_NAME = re.compile(r"([ms])([1-9][0-9]{0,5})")


class Role(enum.Enum):
    """What a host is for."""

    MACHINE = "machine"
    SCHEDULER = "scheduler"


_LETTERS = {"m": Role.MACHINE, "s": Role.SCHEDULER}


def role_of(host: str) -> Role | None:
    """What a spawner's host of this name is for; None for a name that no spawner is ever asked for, as those are of
    machines that somebody else has brought."""
    found = _NAME.fullmatch(host)
    return _LETTERS[found[1]] if found is not None else None


def host_name(role: Role, number: int) -> str:
    """The name of the host of this role with this number, from 1."""
    return f"{role.value[0]}{number}"


def number_of(host: str) -> int:
    """The number of a spawner's host, for hosts to be sorted by; 0 for other names."""
    found = _NAME.fullmatch(host)
    return int(found[2]) if found is not None else 0


class Spawner(Protocol):
    """Obtains and returns hosts."""

    async def spawn(self, host: str) -> None:
        """Obtain a host of this name, which will do what its role says; one that is there stays as it is."""
        ...

    async def stop(self, host: str) -> None:
        """Give the host back with all that runs on it; a missing one is no error."""
        ...

    async def list(self) -> list[str]:
        """The hosts that are there or on their way, of both roles, sorted by name."""
        ...
