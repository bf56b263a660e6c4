"""What other libraries call the verbs of tables and the methods of columns: whoever writes those is told ours."""

from __future__ import annotations

from collections.abc import Iterable

from dist_zero.expr.location import did_you_mean

_VERBS = {
    "agg": "group_by(...).agg",
    "aggregate": "group_by(...).agg",
    "assign": "with_columns",
    "drop_duplicates": "distinct",
    "except_": "difference",
    "filter": "where",
    "groupby": "group_by",
    "head": "top",
    "having": "where",
    "limit": "top",
    "merge": "join",
    "mutate": "with_columns",
    "order_by": "top",
    "rename": "select",
    "sort": "top",
    "union_all": "union",
    "unique": "distinct",
}

_METHODS = {
    "alias": "a keyword of the verb, as in select(name=column)",
    "astype": "cast",
    "count": "dz.count in group_by(...).agg(...)",
    "dt": "methods of the column itself, such as hour() and truncate(unit)",
    "endswith": "ends_with",
    "fill_null": "coalesce",
    "fillna": "coalesce",
    "is_not_null": "~column.is_null()",
    "isin": "is_in",
    "isna": "is_null",
    "isnull": "is_null",
    "len": "length",
    "max": "dz.max in group_by(...).agg(...)",
    "mean": "dz.mean in group_by(...).agg(...)",
    "min": "dz.min in group_by(...).agg(...)",
    "name": "a keyword of the verb, as in select(name=column)",
    "notna": "~column.is_null()",
    "startswith": "starts_with",
    "str": "methods of the column itself, such as lower() and contains(text)",
    "substr": "slice",
    "sum": "dz.sum in group_by(...).agg(...)",
}


def unknown_verb(name: str) -> str | None:
    """The message for a verb of another library, None for any other name."""
    return f"a table has no verb {name!r}; {_done_by(_VERBS[name])}" if name in _VERBS else None


def unknown_method(name: str, methods: Iterable[str]) -> str:
    """The message for a method that columns do not have; `methods` they do."""
    if name in _METHODS:
        return f"a column has no method {name!r}; {_done_by(_METHODS[name])}"
    close = did_you_mean(name, methods)
    return f"a column has no method {name!r}" + (f".{close}" if close else "")


def _done_by(ours: str) -> str:
    return f"what it is for is done by {ours}"
