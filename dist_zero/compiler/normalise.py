"""Rewrites of programs that change neither results nor errors.

An operator counts the rows that one of its expressions fails on. So the rows that reach an expression that
may fail have to stay the same rows, its own line has to stay its own, and it has to be computed even where
nobody asks for its value. Every rule below moves or drops only what cannot fail, past what cannot fail. With
that understood, each is a law of relations, written beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dist_zero.compiler.walk import all_columns, map_scalars, rewrite, scalars, use_counts, with_inputs
from dist_zero.expr import ops
from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import Call, ColumnRef, Graph, Literal, Relation, Scalar
from dist_zero.expr.scalars import columns_of, conjuncts, shift, substitute
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import compile_scalar
from dist_zero.types import BOOL


def erase_aliases(graph: Graph) -> Graph:
    """alias(r) = r: an alias is a name for the builder of expressions, which by now has done with it."""
    return rewrite(graph, lambda r: r.input if isinstance(r, ops.Alias) else r)


# ---- constants ---------------------------------------------------------------------------------------------


def fold_constants(graph: Graph) -> Graph:
    """f(c₁ … cₙ) = its value, where it has one; true and x = x; where(true, r) = r."""

    def rule(relation: Relation) -> Relation:
        folded = map_scalars(relation, fold)
        if isinstance(folded, ops.Filter) and _is_true(folded.predicate):
            return folded.input
        return folded

    return rewrite(graph, rule)


def fold(scalar: Scalar) -> Scalar:
    """`scalar` with constant parts computed; a part that fails stays, and fails for each row."""
    if not isinstance(scalar, Call):
        return scalar
    folded = replace(scalar, args=tuple(map(fold, scalar.args)))
    if folded.name == "and":
        for true, other in (folded.args, folded.args[::-1]):
            if _is_true(true) and other.dtype == folded.dtype:  # what is around it counts on its type
                return other
    if all(isinstance(arg, Literal) for arg in folded.args):
        try:
            return Literal(compile_scalar(folded)(()), folded.dtype)
        except ScalarFailure:
            pass
    return folded


def _is_true(scalar: Scalar) -> bool:
    return isinstance(scalar, Literal) and scalar.value is True


# ---- filters -----------------------------------------------------------------------------------------------


def push_filters(graph: Graph) -> Graph:
    """Filters go down to where the rows come from, so that fewer rows are sent and kept.

    where(p, where(q, r)) = where(q, where(p, r)), where(p and q, r) = where(q, where(p, r)), and where(p, f(r)) =
    f(where(p, r)) if p looks only at columns that f passes on. Nothing goes below a relation that somebody else uses
    too: that would have to be computed twice. A window may fail for rows near the ends of time, so nothing goes
    below it either.
    """
    while True:
        users = use_counts(graph)
        pushed = rewrite(graph, lambda r, users=users: _push(r, users))  # type: ignore[misc]
        if pushed is graph:
            return graph
        graph = pushed


def _push(relation: Relation, users: dict[int, int]) -> Relation:
    """One step down for whatever part of a filter can go, past the filters that it stands on. A relation made in this
    round, of which the users are not known, waits for the next."""
    if not isinstance(relation, ops.Filter) or may_fail(relation.predicate):
        return relation
    passed: list[ops.Filter] = []
    below = relation.input
    while isinstance(below, ops.Filter) and _may_pass(below, users):
        passed.append(below)
        below = below.input
    if not _may_pass(below, users):
        return relation
    stay: list[Scalar] = []
    went: dict[int, list[Scalar]] = {}
    for part in conjuncts(relation.predicate):
        target = _target(part, below)
        if target is None:
            stay.append(part)
        else:
            went.setdefault(target[0], []).append(target[1])
    if not went:
        return relation
    lowered = _with_filters(below, went, relation.location)
    for between in reversed(passed):
        lowered = replace(between, input=lowered)
    return replace(relation, input=lowered, predicate=conjunction(stay)) if stay else lowered


def _may_pass(below: Relation, users: dict[int, int]) -> bool:
    return users.get(id(below)) == 1 and not any(map(may_fail, scalars(below)))


def _with_filters(relation: Relation, went: dict[int, list[Scalar]], location: str) -> Relation:
    sources = list(_inputs_of(relation))
    for i, parts in went.items():
        source = sources[i]
        sources[i] = ops.Filter(source.row_type, source.key, source, conjunction(parts), location=location)
    return with_inputs(relation, tuple(sources))


def _inputs_of(relation: Relation) -> tuple[Relation, ...]:
    if isinstance(relation, ops.Join):
        return (relation.left, relation.right)
    assert isinstance(relation, ops.Project | ops.FlatMap)
    return (relation.input,)


def _target(part: Scalar, below: Relation) -> tuple[int, Scalar] | None:
    """Into which input of `below` this condition on its output may go, and what it is there."""
    used = columns_of((part,))
    if isinstance(below, ops.Project):
        if all(isinstance(below.columns[i], ColumnRef) for i in used):
            return 0, substitute(part, lambda ref: below.columns[ref.index])
    elif isinstance(below, ops.FlatMap):
        if all(i < len(below.input.row_type) for i in used):
            return 0, part
    elif isinstance(below, ops.Join):
        width = len(below.left.row_type)
        if below.how in ("inner", "left", "semi", "anti") and all(i < width for i in used):
            return 0, part
        if below.how in ("inner", "right") and all(i >= width for i in used):
            return 1, shift(part, -width)
    return None


def conjunction(parts: Iterable[Scalar]) -> Scalar:
    """All of `parts`, at least one."""
    first, *rest = parts
    for part in rest:
        nullable = first.dtype.nullable or part.dtype.nullable
        first = Call("and", (first, part), BOOL.optional() if nullable else BOOL)
    return first


# ---- identities --------------------------------------------------------------------------------------------


def drop_identities(graph: Graph) -> Graph:
    """select(all columns, r) = r, where neither names nor key change."""

    def rule(relation: Relation) -> Relation:
        return relation.input if isinstance(relation, ops.Project) and _is_identity(relation) else relation

    return rewrite(graph, rule)


def _is_identity(project: ops.Project) -> bool:
    source = project.input
    same_shape = project.row_type == source.row_type and project.key == source.key
    return same_shape and project.columns == all_columns(source.row_type)
