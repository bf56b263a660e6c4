"""What a sample generator may yield in place of a row: changes of rows that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, init=False)
class Update:
    """`yield flights, dz.Update(key, dep_delay=0.0)`: change these columns of the row with this key."""

    key: Any
    columns: dict[str, Any]

    def __init__(self, key: Any, /, **columns: Any) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "columns", columns)


@dataclass(frozen=True, slots=True)
class Delete:
    """`yield flights, dz.Delete(key)`: remove the row with this key."""

    key: Any
