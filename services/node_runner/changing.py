"""What becomes of a base when a generation runs another program than the one before. Pure.

A change of a program takes two generations. In the first one the program before goes on, and what is new is filled
beside it (`dist_zero/compiler/change.py`); its graph says both, and its bases say how many slices are filled. The
second one runs the new program alone, and begins at a base at which all are. What a node keeps is saved by tables whose
names mean the same in every program, so it takes what it finds again, and drops the rest.

Which program a generation runs is the scheduler's to want; whether it can, at the base at which it has to begin, is
decided here. It may be that it cannot, because a base had to be taken that is older than the change, or because the
filling is through already. Then `needed` says what could run there, and the scheduler wants that.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from dist_zero.compiler import compile
from dist_zero.compiler.change import slices_of
from dist_zero.expr.changes import behind, live
from dist_zero.expr.graph import decode_graph, encode_graph, fingerprint
from dist_zero.expr.ops import Graph
from dist_zero_common.protocol.stored import Base

_KEPT = 8
"""So many programs are remembered: whoever prepares a change looks at each base."""


def begun(base: Base, wanted: bytes) -> Base | None:
    """The base as a generation that runs the program `wanted` begins with it; None if none can. Its own generation is
    in it already."""
    if wanted == base.graph:
        return base
    before, after = _decoded(base.graph), _decoded(wanted)
    if _same(before, after):
        return base
    if not _may_begin(base, before, after):
        return None
    changed = replace(
        base,
        graph=wanted,
        filled=0,
        filled_since=base.generation,
        saved_fingerprint=base.saved_fingerprint or _compiled_fingerprint(base.graph),
        changed_bytes=(),
        state_bytes=(),
    )
    return replace(changed, subscriptions=()) if ends_reading(base.graph, wanted) else changed


def ends_reading(before: bytes, after: bytes) -> bool:
    """Whether readers have to begin again when the one program takes the place of the other: other views are shown, or
    under other numbers."""
    return before != after and not _same(live(decode_graph(before)), live(decode_graph(after)))


def needed(base: Base, wanted: bytes) -> bytes:
    """The program to run at this base so that it becomes `wanted` in the end."""
    before, target = decode_graph(base.graph), behind(decode_graph(wanted))
    if _same(behind(before), target):
        return base.graph
    taking = encode_graph(replace(target, before=live(before)))
    return taking if _slices(taking) else encode_graph(target)


def is_filled(base: Base) -> bool:
    """Whether nothing is left to be filled: the program behind the change can begin here."""
    return base.filled >= _slices(base.graph)


def _may_begin(base: Base, before: Graph, after: Graph) -> bool:
    stays = after.before if after.before is not None else after
    if _same(stays, live(before)):
        return True
    if before.before is not None and _same(stays, behind(before)):
        return is_filled(base)
    return after.before is None and not _slices(encode_graph(replace(after, before=live(before))))


def _same(one: Graph, other: Graph) -> bool:
    return one is other or fingerprint(one) == fingerprint(other)


@lru_cache(_KEPT)
def _decoded(graph: bytes) -> Graph:
    return decode_graph(graph)


@lru_cache(_KEPT)
def _slices(graph: bytes) -> int:
    return slices_of(compile(decode_graph(graph)))


@lru_cache(_KEPT)
def _compiled_fingerprint(graph: bytes) -> str:
    return compile(decode_graph(graph)).fingerprint
