"""Dispatch: the table of routes is total, and nothing reaches a role it is not for."""

from __future__ import annotations

import inspect
import typing

import pytest

from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol import dispatch
from dist_zero_common.protocol.dispatch import ROUTES, Role
from dist_zero_common.protocol.messages import control, epochs, reading
from dist_zero_common.protocol.messages.envelope import Message

MESSAGES = set(typing.get_args(Message))


def test_every_message_has_a_receiver_and_nothing_else_has() -> None:
    """Proves that the table covers the union, so that no message can be added and forgotten."""
    assert set(ROUTES) == MESSAGES
    assert all(ROUTES.values())
    assert {role for roles in ROUTES.values() for role in roles} == set(Role)


def test_every_reply_address_has_an_answer_for_clients() -> None:
    """Proves that what names a `reply_to` goes to a service or node, and that answers never ask for answers."""
    for cls in MESSAGES:
        if "reply_to" in inspect.signature(cls).parameters:
            assert Role.CLIENT not in ROUTES[cls]


def test_message_reaches_its_handler_alone() -> None:
    """Proves that dispatch calls the handler of the class and returns what it returns."""
    handlers = {epochs.Done: lambda message: ("done", message), reading.Get: lambda message: ("get", message)}
    done = epochs.Done("p", 1, 1, 0, 5)
    assert dispatch.dispatch((Role.SEQUENCER_NODES,), handlers, done) == ("done", done)


def test_message_for_somebody_else_is_malformed() -> None:
    """Proves that a message in the wrong inbox is refused, naming the message and the role."""
    with pytest.raises(MalformedMessage, match="StopRunner is not for a node runner and node"):
        dispatch.dispatch((Role.RUNNER, Role.NODE), {}, control.StopRunner(1, "r", 1))


def test_forgotten_and_superfluous_handlers_are_noticed() -> None:
    """Proves that a service that lacks a handler, or has one too many, does not start."""
    right = dict.fromkeys(dispatch.received_by((Role.AGENT,)), print)
    dispatch.check_handlers((Role.AGENT,), right)
    with pytest.raises(InternalError, match="StopRunner"):
        dispatch.check_handlers((Role.AGENT,), {control.StartRunner: print})
    with pytest.raises(InternalError, match="Done"):
        dispatch.check_handlers((Role.AGENT,), right | {epochs.Done: print})
