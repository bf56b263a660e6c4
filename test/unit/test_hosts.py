"""Hosts that do not come, fall silent, or cannot be paid for: what is done about them, and when."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from dist_zero_common.errors import RequestError
from dist_zero_common.protocol.messages.requests import MachineLimits, ServiceCount
from services.scheduler.hosts import (
    END_SECONDS,
    REPLACED_SECONDS_MAX,
    HostOptions,
    Hosts,
    ReplaceHost,
    ReturnHost,
    SpawnHost,
)
from services.scheduler.log import recorded_machines
from services.scheduler.reconcile import reconcile_machines, wanted_hosts
from services.scheduler.scaling import with_machines, with_recalled_machines, with_services
from services.scheduler.spawners.base import Role, host_name, number_of, role_of
from services.scheduler.state import Desired, SchedulerOptions, nothing_desired

OPTIONS = HostOptions(report_seconds=600.0, lost_seconds=300.0)
Action = SpawnHost | ReturnHost | ReplaceHost


@dataclass
class World:
    """A spawner that does what it is told, as long as it does not refuse, and hosts that come up, or do not. What is
    asked of it is in `asked`, with the second."""

    desired: Desired
    hosts: Hosts = field(default_factory=lambda: Hosts(OPTIONS))
    now: float = 1000.0
    listed: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    """Hosts of which nothing is heard."""
    refuses: dict[str, str] = field(default_factory=dict)
    keeps: bool = False
    """Whether the spawner lists what it was told to stop."""
    heard: dict[str, float] = field(default_factory=dict)
    listening_since: float = 0.0
    asked: list[tuple[float, Action]] = field(default_factory=list)

    def run(self, seconds: float, step: float = 1.0) -> list[tuple[float, Action]]:
        """Let time pass; returns what was asked meanwhile."""
        before, end = len(self.asked), self.now + seconds
        while self.now < end:
            self.look()
            self.now += step
        return self.asked[before:]

    def look(self) -> None:
        """One look of the scheduler's."""
        for host in self.listed - self.quiet:
            self.heard[host] = self.now
        spawned = sorted(self.listed)
        wanted = wanted_hosts(self.desired, spawned)
        self.hosts.look(spawned, wanted, self.heard, self.listening_since, self.now)
        kept = [host for host in wanted if host != self.desired.options.host]
        for action in self.hosts.due(reconcile_machines(self.desired, spawned), kept, self.now):
            self.asked.append((self.now, action))
            if action.host in self.refuses:
                self.hosts.refused(action, self.refuses[action.host], self.now)
                continue
            if isinstance(action, SpawnHost):
                self.listed.add(action.host)
            elif not self.keeps:
                self.listed.discard(action.host)
            self.hosts.done(action, self.now)

    def notes(self) -> dict[str, str]:
        """What people are told, by host."""
        return {note.host: note.text for note in self.hosts.notes(self.now)}

    def wrong(self) -> list[str]:
        """Of which hosts something is wrong."""
        return [note.host for note in self.hosts.notes(self.now) if note.wrong]


def world(machines: int = 2, schedulers: int | None = None, host: str = "") -> World:
    """A world in which so many hosts are wanted."""
    options = SchedulerOptions(machines=machines, schedulers=schedulers, host=host)
    return World(nothing_desired("s", 1, options))


def kinds(asked: Sequence[tuple[float, Action]], host: str) -> list[tuple[float, str]]:
    """What was asked of a host, and at which second of the test."""
    return [(at - 1000.0, type(action).__name__) for at, action in asked if action.host == host]


@pytest.mark.parametrize(
    ("name", "role", "number"),
    [
        ("m1", Role.MACHINE, 1),
        ("s12", Role.SCHEDULER, 12),
        ("m0", None, 0),
        ("m", None, 0),
        ("web1", None, 0),
    ],
)
def test_a_hosts_name_says_what_it_is_for(name: str, role: Role | None, number: int) -> None:
    """m1, m2 … and s1, s2 …, and no other name is a spawner's."""
    assert (role_of(name), number_of(name)) == (role, number)
    assert role is None or host_name(role, number) == name


def test_hosts_that_come_are_let_alone() -> None:
    """Each is asked for once, and nothing is said of any."""
    there = world(machines=2, schedulers=1)
    asked = there.run(5000.0)
    assert [action for _, action in asked] == [SpawnHost("m1"), SpawnHost("m2"), SpawnHost("s1")]
    assert there.notes() == {}


def test_a_host_that_never_reports_is_replaced_with_growing_pauses() -> None:
    """It is ended ten minutes after it was asked for, and asked for again at once; the next time in a row after a
    minute, then two … at most an hour; and people are told from the second time on that it does not help."""
    there = world(machines=1)
    there.quiet.add("m1")
    assert kinds(there.run(601.0), "m1") == [(0.0, "SpawnHost"), (600.0, "ReplaceHost")]
    assert "had not reported 600 s" in there.notes()["m1"] and there.wrong() == []
    assert kinds(there.run(602.0), "m1") == [(601.0, "SpawnHost"), (1201.0, "ReplaceHost")]
    assert "for the 2nd time in a row, because it had not reported" in there.notes()[
        "m1"
    ] and there.wrong() == ["m1"]
    spawns = [at for at, kind in kinds(there.run(100_000.0, 5.0), "m1") if kind == "SpawnHost"]
    pauses = [after - before - 600.0 for before, after in pairwise(spawns)]
    assert pauses[:3] == pytest.approx([120.0, 240.0, 480.0], abs=10.0)
    assert max(pauses) <= REPLACED_SECONDS_MAX + 10.0
    there.quiet.clear()
    there.run(5000.0)
    assert there.notes() == {}


def test_a_silent_host_is_replaced_and_its_history_forgotten() -> None:
    """After five minutes of silence; once the new one is well for as long, it is as if nothing had been."""
    there = world(machines=2)
    there.run(100.0)
    there.quiet.add("m2")
    asked = kinds(there.run(310.0), "m2")
    assert [kind for _, kind in asked] == ["ReplaceHost", "SpawnHost"]
    assert asked[0][0] == pytest.approx(400.0, abs=2.0)
    assert "the one before it was ended, because it was silent for 300 s" in there.notes()["m2"]
    there.quiet.clear()
    there.run(400.0)
    there.quiet.add("m2")
    asked = kinds(there.run(310.0), "m2")
    assert [kind for _, kind in asked] == ["ReplaceHost", "SpawnHost"], "a pause was made without a reason"


def test_a_host_that_falls_silent_again_and_again_is_waited_for() -> None:
    """Each new one reports, and falls silent before it was well for long: pauses grow."""
    there = world(machines=1)
    spawns: list[float] = []
    for _ in range(4):
        there.quiet.clear()
        while not (there.listed and there.heard.get("m1", 0.0) >= there.now - 1.0):
            spawns += [at for at, kind in kinds(there.run(1.0), "m1") if kind == "SpawnHost"]
        there.quiet.add("m1")
        there.run(302.0)
    ended = [at for at, kind in kinds(there.asked, "m1") if kind == "ReplaceHost"]
    begun = [at for at, kind in kinds(there.asked, "m1") if kind == "SpawnHost"][1:]
    assert len(ended) == 4
    assert [after - before for before, after in zip(ended, begun, strict=False)][1:3] == [60.0, 120.0]


def test_silent_hosts_are_replaced_one_after_the_other() -> None:
    """When all are silent at once it is not the hosts: one is replaced, and the next only when that one has reported,
    or has not in its time."""
    there = world(machines=4)
    there.run(10.0)
    there.quiet |= {"m1", "m2", "m3", "m4"}
    asked = there.run(800.0)
    assert [action for _, action in asked if isinstance(action, ReplaceHost)] == [
        ReplaceHost("m1", "it was silent for 300 s")
    ]
    there.quiet -= {"m1", "m2"}
    asked = there.run(3.0)
    assert [action.host for _, action in asked if isinstance(action, ReplaceHost)] == ["m3"]
    asked = there.run(602.0)
    assert [action.host for _, action in asked if isinstance(action, ReplaceHost)] == ["m3", "m4"]


def test_nobody_is_replaced_for_what_a_deaf_scheduler_did_not_hear() -> None:
    """Who could not be heard because the scheduler had no connection has all his time anew."""
    there = world(machines=2)
    there.run(10.0)
    there.quiet |= {"m1", "m2"}
    there.run(290.0)
    there.listening_since = there.now
    assert there.run(299.0) == []
    assert len(there.run(3.0)) == 2


def test_what_the_spawner_refuses_is_said_and_tried_again() -> None:
    """Host by host, with pauses up to a minute: what cannot be paid for keeps nothing from being given back. The line
    goes when it works."""
    there = world(machines=2)
    there.listed |= {"m3"}
    there.refuses = {"m2": "would cost 1.92 USD per hour, more than max_usd_per_hour 1.50"}
    asked = there.run(300.0)
    assert [action for _, action in asked if action.host != "m2"] == [SpawnHost("m1"), ReturnHost("m3")]
    tries = [at for at, _ in kinds(asked, "m2")]
    assert tries[:6] == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0] and 8 <= len(tries) <= 10
    assert there.wrong() == ["m2"]
    assert there.notes()["m2"].startswith("cannot be obtained: would cost 1.92 USD per hour, more than")
    there.refuses = {}
    there.run(62.0)
    assert there.notes() == {}


def test_a_host_that_ends_before_it_reports_is_not_asked_for_all_the_time() -> None:
    """A machine whose agent cannot start ends at once, each time; one that was well, and ends, comes again at once."""
    there = world(machines=1)
    there.quiet.add("m1")
    for _ in range(1000):
        there.run(1.0)
        there.listed.discard("m1")
    assert len(there.asked) < 30
    assert "times, and is not there; asked for again in" in there.notes()["m1"] and there.wrong() == ["m1"]
    there.quiet.clear()
    there.run(400.0)
    there.listed.discard("m1")
    assert [action for _, action in there.run(2.0)] == [SpawnHost("m1")]


def test_a_host_that_stays_after_it_was_ended_is_ended_again() -> None:
    """A spawner that lists it still is asked again after a while, and no second one is asked for meanwhile."""
    there = world(machines=1)
    there.run(3.0)
    there.quiet.add("m1")
    there.keeps = True
    asked = kinds(there.run(400.0 + 3 * END_SECONDS), "m1")
    assert {kind for _, kind in asked} == {"ReplaceHost"} and 3 <= len(asked) <= 6
    there.keeps = False
    there.quiet.clear()
    assert [kind for _, kind in kinds(there.run(2 * END_SECONDS), "m1")] == ["ReplaceHost", "SpawnHost"]


def test_hosts_of_an_earlier_scheduler_have_all_their_time() -> None:
    """Who begins to lead does not know since when they are there."""
    there = world(machines=1)
    there.listed, there.quiet = {"m1"}, {"m1"}
    there.heard["m1"] = 10.0
    assert there.run(600.0) == []
    assert kinds(there.run(2.0), "m1") == [(600.0, "ReplaceHost"), (601.0, "SpawnHost")]


# -- schedulers -----------------------------------------------------------------------------------------------------


def actions(desired: Desired, spawned: Collection[str]) -> list[SpawnHost | ReturnHost]:
    """What is outstanding."""
    return reconcile_machines(desired, spawned)


def test_schedulers_hosts_are_nobodys_business_by_default() -> None:
    """They are neither asked for nor given back; hosts of names that no spawner is asked for stay, too."""
    desired = nothing_desired("s", 1, SchedulerOptions(machines=1))
    assert actions(desired, ["m1", "s1", "s2", "web1"]) == []


@pytest.mark.parametrize(
    ("own", "spawned", "wanted", "expected"),
    [
        ("", [], 2, [SpawnHost("s1"), SpawnHost("s2")]),
        ("s1", ["s1"], 2, [SpawnHost("s2")]),
        ("s2", ["s2"], 2, [SpawnHost("s1")]),
        ("s3", ["s1", "s2", "s3"], 1, [ReturnHost("s1"), ReturnHost("s2")]),
        ("s3", ["s3"], 1, []),
        ("s3", [], 1, []),
        ("s1", ["s1", "s3"], 2, []),
        ("s1", ["s1", "s3"], 3, [SpawnHost("s2")]),
        ("", ["s1", "s2", "s3"], 2, [ReturnHost("s3")]),
        ("m7", ["s1", "m7"], 1, []),
    ],
)
def test_schedulers_hosts_are_counted(
    own: str, spawned: list[str], wanted: int, expected: list[SpawnHost | ReturnHost]
) -> None:
    """Those that are there stay, whatever their numbers, and the one of the leading scheduler before all: it is never
    given back, and when another one leads, nothing has to move."""
    desired = nothing_desired("s", 1, SchedulerOptions(machines=0, schedulers=wanted, host=own))
    assert actions(desired, spawned) == expected


def test_a_dead_standby_is_replaced_and_the_leader_never() -> None:
    """Of the host on which the leading scheduler runs nothing is heard from outside."""
    there = world(machines=0, schedulers=2, host="s1")
    there.listed.add("s1")
    there.run(100.0)
    there.quiet |= {"s1", "s2"}
    asked = there.run(310.0)
    assert {action.host for _, action in asked} == {"s2"}
    assert [kind for _, kind in kinds(asked, "s2")] == ["ReplaceHost", "SpawnHost"]


# -- wishes ---------------------------------------------------------------------------------------------------------


def scaled(desired: Desired, **counts: int) -> Desired:
    """As `dist-zero scale --service` makes it."""
    return with_services(desired, [ServiceCount(name.replace("_", "-"), n) for name, n in counts.items()])


def test_a_wish_for_hosts_outlives_the_scheduler() -> None:
    """What somebody asked for is in the log, and counts for the next scheduler more than its options; what nobody asked
    for is not, and the next one's options count."""
    options = SchedulerOptions(machines=1, schedulers=1)
    desired = nothing_desired("s", 1, options)
    assert (recorded_machines(desired).wanted, recorded_machines(desired).schedulers) == (0, 0)
    desired = scaled(desired, node_runner=8, scheduler=2)
    assert scaled(desired, node_runner=8, scheduler=2) is desired
    later = nothing_desired("s", 9, replace(options, machines=3, schedulers=5))
    recalled = with_recalled_machines(later, recorded_machines(desired))
    assert (recalled.machines, recalled.schedulers) == (8, 2)
    assert recorded_machines(recalled) == recorded_machines(desired)
    without = nothing_desired("s", 9, replace(options, schedulers=None))
    assert with_recalled_machines(without, recorded_machines(desired)).schedulers is None


def test_fewer_machines_are_to_be_given_back() -> None:
    """The last ones run nothing any more, as when the number follows the load; and it does not follow it any more."""
    desired = with_machines(nothing_desired("s", 1, SchedulerOptions(machines=4)), 4)
    desired = replace(desired, machine_limits=MachineLimits(1, 9))
    fewer = scaled(desired, node_runner=2)
    assert (fewer.machines, fewer.machine_limits, fewer.leaving) == (2, None, frozenset(("m3", "m4")))
    assert scaled(fewer, node_runner=3).leaving == {"m4"}


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"scheduler": 2}, "is not the scheduler's to change: docker-compose up --scale scheduler=2"),
        ({"node_runner": 0}, "1 to 10000 hosts with a node-runner, and not 0"),
        ({"broker": 2}, "no service 'broker' can be scaled: there are node-runner, scheduler"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(counts: Mapping[str, int], says: str) -> None:
    """Nothing of such a wish is granted."""
    instead = {Role.SCHEDULER: "docker-compose up --scale scheduler=2"}
    desired = nothing_desired("s", 1, SchedulerOptions(machines=1, unobtainable=instead))
    with pytest.raises(RequestError, match=says):
        scaled(desired, **counts)
