"""A program as the scheduler sees it: its graph, checked, and base 0 of its log, which says what it is for
ever.

The store decides. Whoever creates base 0 of a name first has named the program; everybody after him, this
scheduler at its next start included, finds that base and goes by it. Which programs shall run is in the
schedulers' log (`log.py`); what else is in the store waits until somebody submits the same program again,
which then goes on from its log.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dist_zero.compiler import compile
from dist_zero.expr.graph import decode_graph, fingerprint
from dist_zero.shards import SHARDS_MAX, even_map, validate
from dist_zero_common.errors import DistZeroError, MalformedMessage, RequestError
from dist_zero_common.ids import checked_name
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.stored import (
    Base,
    RecordedProgram,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    base_name,
    bases_prefix,
    number_of,
    scheduler_incarnations_prefix,
    wanted_programs_prefix,
)
from services.scheduler.log import LogState


async def known_before_the_log(store: Store) -> LogState:
    """What the schedulers' log begins with where it has no record: nothing, or what schedulers wrote down before there
    was a log, which numbered themselves and kept for each program a series of objects of which the last one counts.
    Raises `StoreError`."""
    claims = await store.list(scheduler_incarnations_prefix())
    newest: dict[str, str] = {}
    for name in await store.list(wanted_programs_prefix()):
        newest[name.split("/")[-2]] = name
    wanted = [program for program, name in newest.items() if await store.read(name) == b"runs"]
    programs = {program: RecordedProgram(program, True, (), None, None) for program in wanted}
    return LogState(number=number_of(claims[-1]) if claims else 0, programs=programs)


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked program: `fingerprint` is the same for graphs that mean the same, wherever their lines
    are."""

    program: str
    fingerprint: str
    graph: bytes
    nodes: int


def checked_submission(graph: bytes, nodes: int) -> Submission:
    """The program in these bytes, which anybody may have sent. Raises `RequestError` with what is wrong with
    it."""
    if not 1 <= nodes <= SHARDS_MAX:
        raise RequestError(f"a program runs on 1 to {SHARDS_MAX} nodes, not on {nodes}")
    return Submission(*_compiled(graph), graph, nodes)


@lru_cache(maxsize=16)
def _compiled(graph: bytes) -> tuple[str, str]:
    """The name and the fingerprint; kept, because clients submit again and again until their program runs."""
    try:
        decoded = decode_graph(graph)
        if decoded.before is not None or any(dataset.dropped for dataset in decoded.datasets):
            raise RequestError("only the scheduler says what takes the place of what, and what is dropped")
        compile(decoded)
        return checked_name("program", decoded.name), fingerprint(decoded)
    except DistZeroError as wrong:
        raise RequestError(f"this is no program that can run: {wrong}") from wrong
    except RecursionError as deep:
        raise RequestError("this is no program that can run: its expressions are nested too deeply") from deep


async def stored_base(store: Store, submission: Submission, now_us: int) -> Base:
    """The newest base of the program; if there is none, base 0, which is made from the submission.

    Raises `StoreError` when the store does not answer, and then it is not known whether there is a base; and
    `RequestError` when there is one that cannot be used.
    """
    base = await _newest_base(store, submission.program)
    if base is None:
        shard_map = even_map(1, [f"n{number}" for number in range(1, submission.nodes + 1)])
        first = Base(epoch=0, generation=0, time_us=now_us, shard_map=shard_map, graph=submission.graph)
        await store.create(base_name(submission.program, 0), encode(first))
        base = await _newest_base(store, submission.program)
    if base is None:
        name = base_name(submission.program, 0)
        raise RequestError(f"the store took {name} and does not have it: it loses what it confirms")
    return base


async def known_base(store: Store, program: str) -> Base:
    """The newest base of a program that was run before. Raises `StoreError`, and `RequestError` when there is none that
    can be used."""
    base = await _newest_base(store, program)
    if base is None:
        raise RequestError(f"the program {program!r} shall run, and the store has no base of it")
    return base


async def _newest_base(store: Store, program: str) -> Base | None:
    """The newest base that can be read: all of them say what the program is. None if there is no base."""
    names = await store.list(bases_prefix(program))
    wrong: RequestError | None = None
    for name in reversed(names):
        data = await store.read(name)
        if data is None:
            continue  # collected meanwhile
        try:
            return _checked_base(name, data)
        except RequestError as damaged:
            wrong = wrong or damaged
    if wrong is not None:
        raise wrong
    return None


def _checked_base(name: str, data: bytes) -> Base:
    try:
        base = decode(Base, data)
        validate(base.shard_map)
    except MalformedMessage as damaged:
        raise RequestError(f"the object {name} in the store is damaged: {damaged}") from damaged
    return base


def note_on(asked_nodes: int, nodes: int) -> str:
    """What a person is told whose program runs on another number of nodes than asked for, or the empty
    text."""
    if asked_nodes == nodes:
        return ""
    return (
        f"it has {nodes} node{'s' if nodes > 1 else ''} since it began, and not the {asked_nodes} asked for: that is"
        " changed by dist-zero scale"
    )
