"""The table of queues: names are unique, can be taken apart, and refuse what could be confused."""

from __future__ import annotations

import pytest

from dist_zero_common.broker import topology
from dist_zero_common.broker.base import QueueKind
from dist_zero_common.errors import BrokerError, SettingsError

NAMES = {
    topology.scheduler_inbox("s"): ("scheduler", ()),
    topology.standby_inbox("s", "s-2"): ("standby", ("s-2",)),
    topology.agent_inbox("s", "m-1"): ("agent", ("m-1",)),
    topology.runner_inbox("s", "r", 7): ("runner", ("r", "7")),
    topology.sequencer_clients_inbox("s", "flights"): ("sequencer-clients", ("flights",)),
    topology.sequencer_nodes_inbox("s", "flights", 2): ("sequencer-nodes", ("flights", "2")),
    topology.client_replies("s", "loader-7"): ("replies", ("loader-7",)),
}


def test_every_role_has_a_function_and_a_name_of_its_own() -> None:
    """The functions cover the table, and no two of them make the same name."""
    assert len(NAMES) == len(topology.ROLES) == 7
    assert {role for role, _ in NAMES.values()} == set(topology.ROLES)


@pytest.mark.parametrize("name", NAMES)
def test_names_can_be_taken_apart(name: str) -> None:
    """Parsing gives back system, role and id."""
    address = topology.parsed(name)
    assert name.startswith("dz.s.")
    assert (address.system, address.role.name, address.id) == ("s", *NAMES[name])


def test_replies_alone_go_with_their_connection() -> None:
    """Only the queues of clients, and of schedulers that stand by, are `REPLIES`; each role has its own exchange, none
    of them the default one."""
    kinds = {name: topology.queue_of(name).kind for name in NAMES}
    assert [name for name, kind in kinds.items() if kind is QueueKind.REPLIES] == [
        "dz.s.standby.s-2",
        "dz.s.replies.loader-7",
    ]
    exchanges = {topology.exchange_of(name) for name in NAMES}
    assert len(exchanges) == 7 and all(exchange.startswith("dz.") for exchange in exchanges)


def test_incarnations_have_inboxes_of_their_own() -> None:
    """What is sent to one incarnation of a runner or sequencer never reaches the next."""
    assert topology.runner_inbox("s", "r", 1) != topology.runner_inbox("s", "r", 2)
    assert topology.sequencer_nodes_inbox("s", "p", 1) != topology.sequencer_nodes_inbox("s", "p", 2)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "dz",
        "dz.s",
        "dz.s.runner.r",
        "dz.s.runner.r.1.2",
        "dz.s.queen.x",
        "amq.s.runner.r.1",
        "dz..scheduler",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    """A name that the functions do not make is an error, not a guess."""
    with pytest.raises(BrokerError, match="not the name of a queue"):
        topology.parsed(name)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "-a", "a*", "a#"])
def test_unsafe_parts_are_refused(name: str) -> None:
    """A dot or a wildcard in a name would make one queue's name another's."""
    with pytest.raises(SettingsError, match="cannot be the name of a machine"):
        topology.agent_inbox("s", name)
