"""How many nodes programs shall have, and how many machines there shall be. Pure, and the same for the same input.

A node's *load* is measured in what a node may bear: 1.0 is full. It is the largest of the share of time in which the
node computes, of the rows that it takes in per second, and of the state that it keeps, each by its target. Only
programs with limits change by themselves; machines do where they have limits.

**Up.** A node that is clearly too full, by `tolerance`, is divided into as many pieces as it has loads. That is the
formula of Kubernetes' horizontal pod autoscaler, ceil(replicas × metric / target), with its tolerance, applied to each
node by itself, because a hash space may be hot in one place. The pieces have about as many each of the keys that were
written lately, and a key that had most of them is alone. They are equal intervals where too few keys are known, or
where it is the state that is too large.

**Down.** Neighbours become one if their *peaks*, the most that they bore within `down_seconds`, together come to no
more than `merge_below`; so whoever grew for an hourly burst does not shrink between two gusts. Of all recommendations
of the window the safest counts, as in the autoscaler's stabilisation; CockroachDB once had no such memory for ranges
that it had divided by load, and had to learn it (its issue 41317). What is joined bears at most half of what it would
be divided for again, and what was divided more than would be joined again: between the two bounds nothing happens,
like between Flink's least and largest utilisation. So a constant load comes to rest.

**Help.** A division that leaves nearly all of the load in one piece has not helped: there is a hot hash in it, which no
division reaches. It is not repeated before the load has doubled. Flink's autoscaler likewise remembers changes that
were not effective.

**Rest.** After a change a program is left alone for `cooldown_seconds`, and until its new nodes have been seen for
`up_seconds`; machines are left alone as long after each change of their number.

**Machines.** One bears the load of one node: a runner computes in one thread. As many are wanted as there is work for,
that of sequencers included, and memory for the state, but no more than there are parts to run on them; and none at all
when everything sleeps.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from heapq import heapify, heapreplace
from itertools import pairwise
from math import ceil

from dist_zero.shards import interval, rescaled
from dist_zero_common.errors import SettingsError
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits
from dist_zero_common.protocol.stored import (
    RecordedSplit,
)

HEAT_MIN = 8
"""Of so many keys for each piece has to be known that they were written lately, for a division to go by them."""
LOAD_MAX = 1e6
"""Whatever a runner says: no node bears more."""
TRIED_MAX = 256
"""So many divisions of a program are remembered, the newest."""


@dataclass(frozen=True, slots=True)
class GrowthOptions:
    """`busy_share`: the part of its time in which a node may compute; `rows_per_second`: how many rows it may take in,
    0 if that does not matter; `state_bytes`: how large its state may be; `memory_share`: the part of a machine's memory
    that saved state may fill, which is several times as large when it is loaded. Loads are averages of about
    `smooth_seconds`. The rest is explained above; `pieces_max`: into so many pieces a node is divided at once."""

    busy_share: float = 0.6
    rows_per_second: float = 0.0
    state_bytes: int = 256 * 2**20
    memory_share: float = 0.15
    tolerance: float = 0.2
    merge_below: float = 0.5
    machine_fill: float = 0.7
    """Machines are given back only if those that stay then bear at most this part of what they may."""
    helps: float = 0.75
    """A division has helped if no piece has more than this part of the load."""
    pieces_max: int = 8
    smooth_seconds: float = 5.0
    up_seconds: float = 15.0
    down_seconds: float = 180.0
    cooldown_seconds: float = 45.0

    def __post_init__(self) -> None:
        shares = (self.busy_share, self.memory_share, self.merge_below, self.machine_fill, self.helps)
        if not (
            all(0 < share <= 1 for share in shares)
            and self.state_bytes >= 1
            and self.pieces_max >= 2
            and self.smooth_seconds > 0
            and self.down_seconds > 0
            and self.merge_below <= 1 + self.tolerance
        ):
            raise SettingsError(f"nothing can grow like that: {self}")


def growth_options(numbers: Iterable[tuple[str, float]]) -> GrowthOptions:
    """The usual options with these that are others, by name. Raises `SettingsError`."""
    usual = GrowthOptions()
    names = {each.name: type(getattr(usual, each.name)) for each in fields(usual)}
    for name, _ in numbers:
        if name not in names:
            raise SettingsError(f"DIST_ZERO_GROWTH: there is no {name!r}; there are {', '.join(names)}")
    return replace(usual, **{name: names[name](number) for name, number in numbers})


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What a node bears: `work` lately and `work_peak` at most within the window, in what it may bear; the bytes of its
    state; and for how many seconds it has been seen."""

    work: float
    work_peak: float
    state_bytes: int
    seconds: float


NO_LOAD = NodeLoad(0.0, 0.0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class ProgramView:
    """A program as growth sees it. `nodes`: by shard, None for one of which nothing is known. `sequencer`: what that
    bears, measured as for a node. `heat`: the hashes of keys that were written lately, ascending. `steady`: it runs as
    it shall; `idle`: for long enough, by its limits, nobody wanted anything of it, and all of it is saved. `tried`: see
    `RecordedProgram`."""

    program: str
    shard_map: ShardMap
    nodes: Sequence[NodeLoad | None]
    limits: NodeLimits | None
    steady: bool = True
    idle: bool = False
    asleep: bool = False
    tried: tuple[RecordedSplit, ...] = ()
    sequencer: NodeLoad = NO_LOAD
    heat: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class MachinesView:
    """How many machines are wanted, and within which limits; `memory_bytes`: of the smallest one, 0 if not known."""

    wanted: int
    limits: MachineLimits | None
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProgramWish:
    """What shall become of a program. `lasts`: the last hashes of the intervals that its nodes shall have, None if they
    stay. `sleeps`: nothing of it shall run. `reason`: for people."""

    program: str
    lasts: tuple[int, ...] | None
    tried: tuple[RecordedSplit, ...]
    sleeps: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What shall change: programs, and the number of machines; `machines_reason` is empty where that stays."""

    programs: tuple[ProgramWish, ...]
    machines: int
    machines_reason: str = ""


@dataclass(frozen=True, slots=True)
class GrowthMemory:
    """When programs and the number of machines were changed last. One that is seen for the first time counts as changed
    just then, so a scheduler that begins does not begin with changes."""

    changed_at: Mapping[str, float] = field(default_factory=dict)
    machines_at: float | None = None


def decide_growth(
    programs: Sequence[ProgramView],
    machines: MachinesView,
    options: GrowthOptions,
    memory: GrowthMemory,
    now: float,
) -> tuple[Wishes, GrowthMemory]:
    """What shall change now, and what is to be remembered of it."""
    wishes, changed_at = [], {}
    for program in programs:
        at = memory.changed_at.get(program.program, now)
        wish = _program_wish(program, options, rested=now - at >= options.cooldown_seconds)
        if wish is not None:
            wishes.append(wish)
        changed_at[program.program] = now if wish is not None and wish.reason else at
    machines_at = now if memory.machines_at is None else memory.machines_at
    count, reason = _machines_wish(
        programs, wishes, machines, options, rested=now - machines_at >= options.cooldown_seconds
    )
    machines_at = now if reason else machines_at
    return Wishes(tuple(wishes), count, reason), GrowthMemory(changed_at, machines_at)


# ---- programs ----------------------------------------------------------------------------------------------


def _program_wish(program: ProgramView, options: GrowthOptions, *, rested: bool) -> ProgramWish | None:
    limits = program.limits
    if limits is None or program.asleep or not program.steady:
        return None
    if program.idle and limits.idle_seconds:
        reason = f"asleep: no input for {limits.idle_seconds} s"
        return ProgramWish(program.program, None, program.tried, sleeps=True, reason=reason)
    nodes = [node for node in program.nodes if node is not None and node.seconds >= options.up_seconds]
    if not rested or len(nodes) < len(program.nodes):
        return None
    loads = [_load(node.work, node, options) for node in nodes]
    tried = _not_shown(program, loads, options)
    lasts, splits, reason = _redrawn(program, limits, nodes, loads, tried, options)
    if lasts == program.shard_map.lasts:
        if tried == program.tried:
            return None
        return ProgramWish(program.program, None, tried)
    return ProgramWish(program.program, lasts, (*tried, *splits)[-TRIED_MAX:], reason=reason)


def _load(work: float, node: NodeLoad, options: GrowthOptions) -> float:
    return min(max(work, node.state_bytes / options.state_bytes), LOAD_MAX)


def _redrawn(
    program: ProgramView,
    limits: NodeLimits,
    nodes: Sequence[NodeLoad],
    loads: Sequence[float],
    tried: Sequence[RecordedSplit],
    options: GrowthOptions,
) -> tuple[tuple[int, ...], list[RecordedSplit], str]:
    """The last hashes of the intervals that the program shall have, the divisions in them, and why."""
    there = len(nodes)
    if there > limits.nodes_max or there < limits.nodes_min:
        count = limits.nodes_max if there > limits.nodes_max else limits.nodes_min
        reason = f"{there} to {count} nodes: its limits are {limits.nodes_min} to {limits.nodes_max}"
        return rescaled(program.shard_map, count).lasts, [], reason
    pieces = _pieces(program, limits, loads, tried, options)
    divided = [shard for shard, count in enumerate(pieces) if count > 1]
    if divided:
        hottest = max(divided, key=lambda shard: (loads[shard], -shard))
        reason = (
            f"{there} to {sum(pieces)} nodes: {program.shard_map.nodes[hottest]} bears"
            f" {loads[hottest]:.1f} times what a node may"
        )
        splits = [
            RecordedSplit(*interval(program.shard_map, shard), round(1000 * loads[shard]))
            for shard in divided
        ]
        heat = [program.heat if node.work >= node.state_bytes / options.state_bytes else () for node in nodes]
        return _divided(program.shard_map, pieces, heat), splits, reason
    if any(node.seconds < options.down_seconds for node in nodes):
        return program.shard_map.lasts, [], ""
    peaks = [_load(node.work_peak, node, options) for node in nodes]
    lasts = _joined(program.shard_map, peaks, there - limits.nodes_min, options.merge_below)
    reason = f"{there} to {len(lasts)} nodes: all together bore at most {sum(peaks):.2f} of what one may"
    return lasts, [], reason


def _pieces(
    program: ProgramView,
    limits: NodeLimits,
    loads: Sequence[float],
    tried: Sequence[RecordedSplit],
    options: GrowthOptions,
) -> list[int]:
    """Into how many pieces each node shall be divided. Where there may not be as many, those get them that are
    fullest."""
    pieces = [1] * len(loads)
    room = limits.nodes_max - len(loads)
    if room <= 0:
        return pieces
    wanted: dict[int, int] = {}
    for shard, load in enumerate(loads):
        first, last = interval(program.shard_map, shard)
        if load > 1.0 + options.tolerance and not _is_hot(first, last, load, tried):
            count = min(ceil(load), options.pieces_max, last - first + 1)
            if count > 1:
                wanted[shard] = count
    if sum(wanted.values()) - len(wanted) <= room:
        for shard, count in wanted.items():
            pieces[shard] = count
        return pieces
    heap = [(-loads[shard], shard) for shard in wanted]
    heapify(heap)
    while room and heap[0][0] < 0.0:
        _, shard = heap[0]
        pieces[shard] += 1
        room -= 1
        full = pieces[shard] == wanted[shard]
        heapreplace(heap, (0.0 if full else -loads[shard] / pieces[shard], shard))
    return pieces


def _divided(shard_map: ShardMap, pieces: Sequence[int], heat: Sequence[Sequence[int]]) -> tuple[int, ...]:
    lasts: list[int] = []
    for shard, count in enumerate(pieces):
        lasts += _cut(*interval(shard_map, shard), count, heat[shard])
    return tuple(lasts)


def _cut(first: int, last: int, count: int, heat: Sequence[int]) -> list[int]:
    """The last hashes of so many pieces of an interval. `heat` ascends."""
    inside = heat[bisect_left(heat, first) : bisect_right(heat, last)]
    if len(inside) < HEAT_MIN * count:
        return [first + (last - first + 1) * (piece + 1) // count - 1 for piece in range(count)]
    cuts: dict[int, None] = {}
    for piece in range(1, count):
        middle = inside[len(inside) * piece // count]
        # In front of that key; or behind it, if a piece in front of this one has begun there.
        free = [at for at in (middle - 1, middle) if first <= at < last and at not in cuts]
        cuts.update(dict.fromkeys(free[:1]))
    while len(cuts) < count - 1:  # what is left is divided where there is room
        bounds = [first - 1, *sorted(cuts), last]
        before, behind = max(pairwise(bounds), key=lambda pair: pair[1] - pair[0])
        cuts[(before + behind) // 2] = None
    return [*sorted(cuts), last]


def _joined(shard_map: ShardMap, peaks: Sequence[float], joins: int, most: float) -> tuple[int, ...]:
    """The last hashes of the intervals after at most so many joins of neighbours, none of which bears more than `most`.
    From the left, each takes its next neighbours as long as they fit; no other way needs fewer intervals."""
    lasts: list[int] = []
    bears = 0.0
    for last, peak in zip(shard_map.lasts, peaks, strict=True):
        if lasts and joins > 0 and bears + peak <= most:
            lasts[-1] = last
            bears += peak
            joins -= 1
        else:
            lasts.append(last)
            bears = peak
    return tuple(lasts)


def _not_shown(
    program: ProgramView, loads: Sequence[float], options: GrowthOptions
) -> tuple[RecordedSplit, ...]:
    """The divisions that were tried and of which it has not shown that they helped; those that were undone meanwhile
    are forgotten."""
    if not program.tried:
        return ()
    intervals = [interval(program.shard_map, shard) for shard in range(len(loads))]
    kept = []
    for split in program.tried:
        inside = [
            (first <= split.first and split.last <= last, load)
            for (first, last), load in zip(intervals, loads, strict=True)
            if first <= split.last and split.first <= last
        ]
        borne = sum(load for _, load in inside)
        helped = max(load for _, load in inside) < options.helps * borne
        if not any(whole for whole, _ in inside) and not helped:
            kept.append(split)
    return tuple(kept)


def _is_hot(first: int, last: int, load: float, tried: Sequence[RecordedSplit]) -> bool:
    """Whether a division did not help that left a node with this interval, and its load is not twice what it was."""
    return any(
        split.first <= first and last <= split.last and load < 2 * split.load_milli / 1000 for split in tried
    )


# ---- machines ----------------------------------------------------------------------------------------------


def _machines_wish(
    programs: Sequence[ProgramView],
    wishes: Sequence[ProgramWish],
    machines: MachinesView,
    options: GrowthOptions,
    *,
    rested: bool,
) -> tuple[int, str]:
    """How many machines there shall be, and why if that is another number."""
    limits, there = machines.limits, machines.wanted
    if limits is None:
        return there, ""
    by_program = {wish.program: wish for wish in wishes}
    work = peak = 0.0
    stored = parts = 0
    seen = True
    for program in programs:
        wish = by_program.get(program.program)
        if program.asleep or (wish is not None and wish.sleeps):
            continue
        parts += 1 + max(len(program.nodes), len(wish.lasts) if wish is not None and wish.lasts else 0)
        work += min(program.sequencer.work, LOAD_MAX)
        peak += min(program.sequencer.work_peak, LOAD_MAX)
        for node in program.nodes:
            work += min(node.work, LOAD_MAX) if node is not None else 0.0
            peak += min(node.work_peak, LOAD_MAX) if node is not None else 1.0
            stored += node.state_bytes if node is not None else 0
            seen = seen and node is not None and node.seconds >= options.down_seconds
    least = min(max(limits.machines_min, 1 if parts else 0), limits.machines_max)
    most = max(least, min(limits.machines_max, parts))
    if not parts:
        return _changed(there, least, "nothing runs")
    if there < limits.machines_min or there > limits.machines_max:
        count = min(max(there, least), limits.machines_max)
        return count, f"{there} to {count}: the limits are {limits.machines_min} to {limits.machines_max}"
    if there < least:
        return least, f"{there} to {least}: something is to run"
    room = machines.memory_bytes * options.memory_share
    filled = stored / room if room else 0.0
    needed = max(work, filled)
    if rested and needed > there * (1.0 + options.tolerance):
        count = min(ceil(needed), most)
        if count > there:
            return count, f"{there} to {count}: there is work for {work:.1f}, and state for {filled:.1f}"
    if rested and seen:
        count = max(least, min(ceil(max(peak, filled) / options.machine_fill), most))
        if count < there:
            return count, f"{there} to {count}: there was work for {peak:.1f} at most, with {parts} parts"
    return there, ""


def _changed(there: int, count: int, why: str) -> tuple[int, str]:
    return (count, f"{there} to {count}: {why}") if count != there else (there, "")
