"""Which columns identify a row of a result. `None` is a bag: equal rows may be there more than once.

A dataset has its own key and `Aggregate` its group's columns. Filter, top, alias, and a projection that keeps all key
columns unchanged inherit (renamed perhaps). All else but joins is a bag.

Joins. A row of an inner join is identified by the left's key and the right's together. Where the `on` pairs equate
two plain columns, one of the two is enough, and where the right's key is among the columns it is joined on, each left
row has at most one partner, so the left's key alone is enough. A left join's row is identified likewise: for one left
row there is either one unmatched row, or the matched ones, which the right's key tells apart. For a right join it is
all the other way round. Rows of an outer join are matched, left alone or right alone; missing parts are null, so both
keys together identify a row unless a left alone and a right alone could both be all null: one of the keys needs a
column that is never null by itself. Where a projection merges equated columns by `coalesce` (as string keys do), they
identify a row with what remains of both keys, if no further condition made two equal ones not match. Key columns may
therefore be null in views, though never in datasets.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.expr.ops import Call, ColumnRef, Join, Key, Relation, Scalar

Pairs = tuple[tuple[Scalar, Scalar], ...]


def project_key(source: Relation, names: Sequence[str], scalars: Sequence[Scalar]) -> Key:
    """The key of a projection: the input's, if every column of it is passed on."""
    if source.key is not None:
        kept = _passed_on([source.row_type.index(k) for k in source.key], names, scalars)
        if kept is not None:
            return kept
    return _merged_outer_key(source, names, scalars) if isinstance(source, Join) else None


def join_key(left: Relation, right: Relation, on: Pairs, how: str, names: Sequence[str]) -> Key:
    """The key of a join whose output columns are `names`."""
    if how in ("semi", "anti"):
        return left.key
    if left.key is None or right.key is None:
        return None
    equated = _equated(on)
    size = len(left.row_type)
    left_key = [left.row_type.index(k) for k in left.key]
    right_key = [right.row_type.index(k) for k in right.key]
    if how == "outer":
        certain = [not left.row_type.types[i].nullable for i in left_key]
        certain += [not right.row_type.types[i].nullable for i in right_key]
        return tuple(names[i] for i in [*left_key, *(size + i for i in right_key)]) if any(certain) else None
    if how == "right":
        to_right = dict(equated)
        if set(left_key) <= set(to_right):
            return tuple(names[size + i] for i in right_key)
        places = [size + to_right[i] if i in to_right else i for i in left_key] + [
            size + i for i in right_key
        ]
    else:
        to_left = {b: a for a, b in equated}
        if set(right_key) <= set(to_left):
            return tuple(names[i] for i in left_key)
        places = left_key + [to_left.get(i, size + i) for i in right_key]
    return tuple(names[i] for i in dict.fromkeys(places))


def _equated(on: Pairs) -> list[tuple[int, int]]:
    """The pairs of plain columns that are joined on, as places on each side."""
    return [(a.index, b.index) for a, b in on if isinstance(a, ColumnRef) and isinstance(b, ColumnRef)]


def _passed_on(places: Sequence[int], names: Sequence[str], scalars: Sequence[Scalar]) -> Key:
    """The output names of the input's columns at `places`, or None if one of them is gone."""
    found: dict[int, str] = {}
    for name, scalar in zip(names, scalars, strict=True):
        if isinstance(scalar, ColumnRef):
            found.setdefault(scalar.index, name)
    return tuple(found[i] for i in places) if all(i in found for i in places) else None


def _merged_outer_key(join: Join, names: Sequence[str], scalars: Sequence[Scalar]) -> Key:
    left, right, size = join.left, join.right, len(join.left.row_type)
    if join.how != "outer" or join.condition is not None or left.key is None or right.key is None:
        return None
    equated = _equated(join.on)
    if len(equated) != len(join.on):
        return None
    merged: list[str] = []
    for a, b in equated:
        if left.row_type.types[a].nullable or right.row_type.types[b].nullable:
            return None
        name = _coalesced(a, size + b, names, scalars)
        if name is None:
            return None
        merged.append(name)
    rest = [i for k in left.key if (i := left.row_type.index(k)) not in {a for a, _ in equated}]
    rest += [size + i for k in right.key if (i := right.row_type.index(k)) not in {b for _, b in equated}]
    remaining = _passed_on(rest, names, scalars)
    return None if remaining is None else tuple(dict.fromkeys((*merged, *remaining)))


def _coalesced(first: int, second: int, names: Sequence[str], scalars: Sequence[Scalar]) -> str | None:
    for name, scalar in zip(names, scalars, strict=True):
        if isinstance(scalar, Call) and scalar.name == "coalesce":
            places = [a.index for a in scalar.args if isinstance(a, ColumnRef)]
            if places == [first, second] and len(scalar.args) == 2:
                return name
    return None
