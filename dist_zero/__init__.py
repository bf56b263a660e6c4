"""DistZero: keyed datasets, and views over them that stay right while the data change.

    import dist_zero as dz

`dz.Program` and `dz.Row` declare what there is; `dz.count`, `dz.when` and the like write expressions; `dz.connect`
and `dz.embedded` reach a system that keeps the views.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dist_zero.expr.aggregates import asc, count, desc, max, mean, min, sum
from dist_zero.expr.columns import Column, coalesce, concat, lit, when
from dist_zero.expr.tables import Table
from dist_zero.program import Program
from dist_zero.row import Row, scale
from dist_zero.sample import Delete, Update
from dist_zero_common.errors import (
    DataError,
    DistZeroError,
    OperatorError,
    ProgramError,
    RequestError,
    UserError,
)

if TYPE_CHECKING:
    from dist_zero.client import connect
    from dist_zero.client.change import MayChange
    from dist_zero.files import read_rows
    from dist_zero.system import embedded

__all__ = [
    "Column",
    "DataError",
    "Delete",
    "DistZeroError",
    "MayChange",
    "OperatorError",
    "Program",
    "ProgramError",
    "RequestError",
    "Row",
    "Table",
    "Update",
    "UserError",
    "asc",
    "coalesce",
    "concat",
    "connect",
    "count",
    "desc",
    "embedded",
    "lit",
    "max",
    "mean",
    "min",
    "read_rows",
    "scale",
    "sum",
    "when",
]

_LAZY = {
    "MayChange": "dist_zero.client.change",
    "connect": "dist_zero.client",
    "embedded": "dist_zero.system",
    "read_rows": "dist_zero.files",
}
"""Names whose modules bring in the runtime, which a program that is only declared does not need."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
