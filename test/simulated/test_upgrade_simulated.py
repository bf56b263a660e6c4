"""A rolling upgrade and back: processes of the next version of the schemas beside those of this one, and all that both
have written is read by both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dist_zero.testing import run_seed, running
from dist_zero.testing.checks import Failure, Seen, commit_failures
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol import codec
from dist_zero_common.protocol.messages.envelope import Envelope
from dist_zero_common.protocol.messages.pieces import Payload, RequestRefused
from dist_zero_common.protocol.messages.requests import AskStatus
from dist_zero_common.sim.plan import Fault, FaultPlan
from test.simulated.next_version import ADDED, SAID, NextCodecs, Versions, next_codecs, speak
from test.simulated.property_world import PROGRAMS
from test.simulated.test_scenarios_simulated import Planned

UP, DOWN, END = 4.0, 30.0, 60.0
MACHINES = 3


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> NextCodecs:
    """The next version."""
    return next_codecs(tmp_path_factory.mktemp("next"))


def test_each_version_reads_what_the_other_says(after: NextCodecs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more is left out; what is missing is nothing."""
    value = RequestRefused(7, "no such view")
    present = codec.encode(value)
    with monkeypatch.context() as patch:
        patch.setattr(codec, "codecs", lambda: after)
        later = codec.encode(value)
        assert codec.decode(RequestRefused, present) == value
        with after.module("RequestRefused").from_bytes(codec.unseal(later)) as reader:
            assert getattr(reader, ADDED) == SAID
        with after.module("RequestRefused").from_bytes(codec.unseal(present)) as reader:
            assert getattr(reader, ADDED) == ""
    assert len(later) > len(present)
    assert codec.decode(RequestRefused, later) == value


def replaced_one_after_the_other(since: float) -> list[Fault]:
    """Every process is told to end, and its successor starts; the last ones are clients'."""
    servers = [("machine", number) for number in range(MACHINES)] + [("scheduler", 0)]
    clients = [("writer", number) for number in range(3)]
    faults = [
        Fault("restart", since + 4.0 * place, target, index)
        for place, (target, index) in enumerate(servers + clients)
    ]
    return [*faults, Fault("crash", since + 2.0, "watcher")]


def commit_failures_of_both(seen: Seen) -> list[Failure]:
    """As `commit_failures`, which holds payloads against what this version makes of the same writes."""
    log = [
        replace(
            record,
            transactions=tuple(
                replace(each, payload=codec.encode(codec.decode(Payload, each.payload)))
                for each in record.transactions
            ),
        )
        for record in seen.log
    ]
    return commit_failures(replace(seen, log=log))


def upgraded(seed: int, after: NextCodecs) -> Versions:
    """A program that is written to and watched while all its processes are replaced, by those of the next version and
    then by those of this one. Returns which versions spoke."""
    faults = sorted(
        replaced_one_after_the_other(UP) + replaced_one_after_the_other(DOWN),
        key=lambda fault: fault.at_seconds,
    )
    options = Planned(machines=MACHINES, transactions=60, planned=FaultPlan(END, tuple(faults)))
    versions = Versions(UP, DOWN, after)
    with pytest.MonkeyPatch.context() as patch:
        speak(patch, versions)
        patch.setattr(running, "commit_failures", commit_failures_of_both)
        result = run_seed(PROGRAMS[3], seed, options)
    assert [failure.text for failure in result.failures] == []
    return versions


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_oracle_a_rolling_upgrade_and_back_simulated(after: NextCodecs, seed: int) -> None:
    """Views at every epoch and the log are exactly right, and so they are when the log of both versions is played to a
    system of this one."""
    versions = upgraded(seed, after)
    for kind in ("agent", "runner", "scheduler", "writer", "watcher"):
        assert versions.seen[kind] == ["present", "next", "present"], (kind, versions.seen[kind])


def test_a_message_that_only_the_next_version_has_is_set_aside() -> None:
    """As every message that nobody knows: refused with a reason."""
    known = list(codec.codecs().module("Message").schema.fields)
    said = codec.unseal(codec.encode(Envelope("t", "a sender", (AskStatus(1, "dz.t.replies.c"),))))
    number = known.index("askStatus").to_bytes(8, "little")
    assert bytes(said).count(number) == 1, "where the member's number stands is not plain"
    later = codec.seal(bytes(said).replace(number, len(known).to_bytes(8, "little")))
    with pytest.raises(MalformedMessage, match="no Envelope"):
        codec.decode(Envelope, later)
