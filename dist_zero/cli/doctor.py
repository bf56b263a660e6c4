"""`dist-zero doctor`: goes the way a message goes, step by step, and says at each what is right or wrong.

The broker's host, its port, the login, the exchanges, the scheduler, and then machines, programs and queues, looked at
twice (`diagnosis.py` has the conclusions); beside that what this machine has: the store's directory, Docker, images,
what earlier systems left behind. A step that fails ends its way, because what is behind it would only fail for the
same reason. The doctor changes nothing: it asks the scheduler one question, and tries one file in the store.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.text import Text

from dist_zero.cli.diagnosis import Finding, Look, Verdict, counted, diagnose, queues_of, remark, right, wrong
from dist_zero.cli.render import console_for
from dist_zero.cli.status import compact_table, shown_bytes
from dist_zero.cli.systems import Target
from dist_zero_common.broker.base import Broker, Connect, ConnectionState, Delivery, QueueDepth
from dist_zero_common.broker.topology import ROLES, STANDBY, client_replies, queue_of, scheduler_inbox
from dist_zero_common.errors import BrokerError, ConnectionLost, MalformedMessage, OperatorError, Unroutable
from dist_zero_common.mailbox import envelope_of
from dist_zero_common.processes import is_running
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.envelope import Envelope
from dist_zero_common.protocol.messages.requests import AskStatus, SystemStatus
from dist_zero_common.settings import Settings
from dist_zero_common.store.opening import directory_of, open_store
from dist_zero_common.store.probe import probe_store

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FREE_BYTES_MIN = 2**30
_MARKS = {Verdict.RIGHT: ("✓", "green"), Verdict.REMARK: ("·", "yellow"), Verdict.WRONG: ("✗", "bold red")}
_GREETING = b"AMQP\x00\x00\x09\x01"

HasExchange = Callable[[str], Awaitable[bool]]


@dataclass(slots=True)
class Report:
    """What has been found so far. `on_finding` hears of each when it comes."""

    on_finding: Callable[[Finding], None] = lambda _: None
    findings: list[Finding] = field(default_factory=list)
    queues: dict[str, tuple[str, QueueDepth | None, QueueDepth | None]] = field(default_factory=dict)
    """By name: whose it is, and its depth at both looks."""

    def add(self, *findings: Finding) -> None:
        """Take these in."""
        for finding in findings:
            self.findings.append(finding)
            self.on_finding(finding)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.verdict is Verdict.WRONG for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the doctor was asked to look at. Without a `target`, `trouble` says why there is none; `broker` is the
    address that was given, if one was."""

    target: Target | None
    trouble: str
    broker: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's URL taken apart, but for the password."""

    host: str
    port: int
    user: str
    vhost: str
    tls: bool


def address_of(url: str) -> Address:
    """The parts of a broker's URL. Raises `BrokerError` when it is none."""
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "amqps"
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ValueError
        port = parts.port or (5671 if tls else 5672)
    except ValueError:
        raise BrokerError(
            "the broker's address makes no sense: it looks like amqp://user:password@host:5672/vhost"
        ) from None
    vhost = unquote(parts.path[1:]) or "/"
    return Address(parts.hostname, port, unquote(parts.username or "guest"), vhost, tls)


# ---- all of it ---------------------------------------------------------------------------------------------


async def examine(report: Report, settings: Settings, asked: Asked) -> None:
    """Everything, in order. A part that cannot be looked at says so, and the others are looked at all the same."""
    target, trouble = asked.target, asked.trouble
    if target is not None:
        report.add(right(f"system {target.system}, its broker from {target.origin}"))
    broker_url = target.broker_url if target is not None else asked.broker or settings.broker_url
    state = target.state if target is not None else None
    if state is not None and not state.alive():
        report.add(
            wrong(
                f"system {state.system} was started here, and the process that held it up is gone:"
                " `dist-zero orphans --remove` clears away what is left of it"
            )
        )
    if broker_url:
        await _examine_broker(
            report, broker_url, target.system if target is not None else None, asked.seconds
        )
    if target is None:
        report.add(wrong(trouble) if broker_url else remark(trouble))
    store: Path | str | None = settings.store
    if state is not None and state.store:
        store = state.store if "://" in state.store else Path(state.store)
    directory = None if store is None else directory_of(store)
    if directory is not None:
        await asyncio.to_thread(examine_store, report, directory)
    elif store is not None:
        await examine_bucket(report, str(store), settings)
    needed = state is not None and state.mode == "virtual"
    await examine_docker(report, (settings.image, settings.rabbitmq_image), needed=needed)


async def _examine_broker(report: Report, url: str, system: str | None, seconds: float) -> None:
    from dist_zero_common.broker.rabbitmq import RabbitBroker, connector

    try:
        address = address_of(url)
    except BrokerError as error:
        report.add(wrong(str(error)))
        return
    if not await examine_network(report, address):
        return
    broker = await examine_login(report, address, connector(url, "doctor", connect_seconds=CONNECT_SECONDS))
    if broker is None:
        return
    try:
        assert isinstance(broker, RabbitBroker)
        await examine_exchanges(report, broker.has_exchange)
        if system is not None:
            await examine_system(report, broker, system, seconds=seconds, sleep=asyncio.sleep)
    finally:
        await broker.close()


# ---- the broker --------------------------------------------------------------------------------------------


async def examine_network(report: Report, address: Address) -> bool:
    """Does the host have a name, and does its port answer? Returns whether to go on."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        report.add(
            wrong(
                f"the host {address.host!r} of the broker has no address: {error.strerror or error}; is it misspelt?"
            )
        )
        return False
    numbers = ", ".join(dict.fromkeys(str(each[4][0]) for each in found))
    where = f"{address.host}:{address.port}"
    if numbers != address.host:
        report.add(right(f"{address.host} is {numbers}"))
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        report.add(
            wrong(
                f"{where} does not answer within {CONNECT_SECONDS:g} s: is a firewall in between, or the host down?"
            )
        )
        return False
    except OSError as error:
        why = (
            "nobody listens there"
            if isinstance(error, ConnectionRefusedError)
            else str(error.strerror or error)
        )
        report.add(wrong(f"{where} cannot be reached: {why}; is RabbitMQ running, and is it that port?"))
        return False
    await _close(writer)
    report.add(right(f"{where} answers"))
    return True


async def examine_login(report: Report, address: Address, connect: Connect) -> Broker | None:
    """May this user in, and is the virtual host there? Returns the connection."""
    try:
        broker = await connect()
    except ConnectionLost as error:
        if not address.tls and not await _speaks_amqp(address):
            report.add(
                wrong(
                    f"what answers at {address.host}:{address.port} does not speak AMQP: RabbitMQ's port is 5672 (5671"
                    " with TLS), 15672 is its web page"
                )
            )
        else:
            report.add(wrong(f"{error}; is RabbitMQ still starting? Its own log says more"))
        return None
    except BrokerError as error:
        report.add(wrong(_refusal(address, str(error))))
        return None
    report.add(right(f"user {address.user!r} may use the virtual host {address.vhost!r}"))
    return broker


def _refusal(address: Address, error: str) -> str:
    if "vhost" in error and "not found" in error:
        return f"the broker has no virtual host {address.vhost!r}: it stands behind the port in the address"
    if "vhost" in error:
        return f"user {address.user!r} may not use the virtual host {address.vhost!r}: grant it, or take another user"
    if "ACCESS_REFUSED" in error:
        return f"the broker refuses user {address.user!r}: it does not know the name, or the password is another one"
    return error


async def _speaks_amqp(address: Address) -> bool:
    """Whether a greeting is answered by a frame of AMQP 0-9-1."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(_GREETING)
            first = await reader.read(1)
            await _close(writer)
    except (OSError, TimeoutError):
        return False
    return first in (b"\x01", b"A")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def examine_exchanges(report: Report, has_exchange: HasExchange) -> None:
    """Are the exchanges there, through which everything goes? A scheduler that stands by makes the one that it needs,
    so that one may be missing where none ever did."""
    missing, there = [], 0
    for role in ROLES.values():
        try:
            if await has_exchange(role.exchange):
                there += 1
            elif role is not STANDBY:
                missing.append(role.exchange)
        except BrokerError as error:
            report.add(wrong(str(error)))
            return
    if missing:
        report.add(
            remark(
                f"the virtual host has no exchange {', '.join(missing)}: services make them when they start, if their"
                " user may; else `python -m dist_zero_common.broker.administration` does"
            )
        )
    else:
        report.add(right(f"the {there} exchanges are there"))


# ---- the system --------------------------------------------------------------------------------------------


async def examine_system(
    report: Report, broker: Broker, system: str, *, seconds: float, sleep: Callable[[float], Awaitable[Any]]
) -> None:
    """Does the scheduler answer, and how are machines, programs and queues? They are looked at twice, `seconds`
    apart."""
    asker = _Asker(broker, system)
    try:
        started = time.monotonic()
        status = await asker.ask()
        if status is None:
            await _say_why_nobody_answers(report, broker, system)
            return
        took = time.monotonic() - started
        standbys = f"{len(status.standbys) or 'none'} stand{'' if len(status.standbys) > 1 else 's'} by"
        report.add(
            right(
                f"scheduler {status.scheduler} of {system} leads and answers, in {1000 * took:,.0f} ms; {standbys}"
            )
        )
        first = await _look(broker, system, status)
        await sleep(seconds)
        status = await asker.ask()
        if status is None:
            report.add(
                wrong(f"the scheduler of {system} answered once, and {ANSWER_SECONDS:g} s long not again")
            )
            return
        second = await _look(broker, system, status)
    except Unroutable:
        report.add(
            wrong(
                f"no system {system!r} is at this broker: it has no queue {scheduler_inbox(system)}; is the name right,"
                " and was the scheduler started?"
            )
        )
        return
    except (BrokerError, MalformedMessage) as error:
        report.add(wrong(f"{error}"))
        return
    for queue, whose in queues_of(system, status).items():
        report.queues[queue] = whose, first.depths.get(queue), second.depths.get(queue)
    report.add(*diagnose(system, first, second, seconds))


async def _say_why_nobody_answers(report: Report, broker: Broker, system: str) -> None:
    if broker.state is ConnectionState.BLOCKED:
        report.add(
            wrong(
                f"the broker takes no messages just now: {broker.reason or 'it has an alarm'}; it is short of memory or"
                " disk (`rabbitmqctl status` says which); writers wait, and go on when it is over"
            )
        )
        return
    inbox = scheduler_inbox(system)
    depth = await broker.depth(inbox)
    report.queues[inbox] = "the scheduler's inbox", depth, depth
    if depth is None or not depth.consumers:
        waiting = f"it has {counted(depth.waiting, 'message')} and " if depth and depth.waiting else ""
        report.add(
            wrong(
                f"no scheduler of {system} leads: {waiting}nobody reads {inbox}; start one; if one runs, its log says"
                " whether it reaches its store"
            )
        )
    else:
        report.add(
            wrong(
                f"the scheduler of {system} reads its inbox and has not answered within {ANSWER_SECONDS:g} s: its log"
                " says why (`dist-zero logs`); it does not lead before its store answers"
            )
        )


async def _look(broker: Broker, system: str, status: SystemStatus) -> Look:
    depths = {queue: await broker.depth(queue) for queue in queues_of(system, status)}
    return Look(status, depths)


class _Asker:
    """Asks the scheduler over a bare connection: whatever goes wrong in between is what the doctor looks for."""

    def __init__(self, broker: Broker, system: str) -> None:
        self._broker, self._system = broker, system
        self._name = f"doctor-{os.getpid()}-{time.time_ns()}"
        self._replies = client_replies(system, self._name)
        self._request = 0
        self._answer: asyncio.Future[SystemStatus] | None = None

    async def ask(self) -> SystemStatus | None:
        """What the scheduler says, or None if it says nothing. Raises `Unroutable` when it has no inbox."""
        if self._request == 0:
            await self._broker.declare(queue_of(self._replies))
            await self._broker.consume(self._replies, self._on_delivery, 0)
        self._request += 1
        self._answer = asyncio.get_running_loop().create_future()
        question = Envelope(self._system, f"client {self._name}", (AskStatus(self._request, self._replies),))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._broker.publish(scheduler_inbox(self._system), encode(question))
                return await self._answer
        except TimeoutError:
            return None

    def _on_delivery(self, delivery: Delivery) -> None:
        """Not acked: the queue goes with the connection."""
        try:
            messages = envelope_of(delivery).messages
        except MalformedMessage:
            return
        for message in messages:
            if isinstance(message, SystemStatus) and message.request == self._request:
                assert self._answer is not None
                if not self._answer.done():
                    self._answer.set_result(message)


# ---- this machine ------------------------------------------------------------------------------------------


def examine_store(report: Report, store: Path) -> None:
    """Can the store's directory be read and written, and is there room?"""
    if not store.is_dir():
        what = "is no directory" if store.exists() else "is not there"
        report.add(wrong(f"the store {store} {what}: what the system has written cannot be found"))
        return
    try:
        programs = sorted(path.name for path in store.glob("programs/*") if path.is_dir())
        aside = [path for path in store.glob("aside/*/*") if path.is_file()]
        probe = store / f"+doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(store).free
    except OSError as error:
        mine = store.stat().st_uid == os.getuid()
        says = f"the store {store} cannot be read and written by this user: {error.strerror}"
        report.add(
            wrong(says) if mine else remark(f"{says}; it belongs to somebody else, as its services do")
        )
        return
    room = f"{shown_bytes(free)} free"
    logs = f"logs of {', '.join(programs)}" if programs else "no program's log yet"
    if free < FREE_BYTES_MIN:
        report.add(
            wrong(f"the store {store} is nearly full, with {room}: make room before writers have to wait")
        )
    else:
        report.add(right(f"the store {store} can be read and written: {logs}, {room}"))
    if aside:
        report.add(
            remark(
                f"{counted(len(aside), 'message')} that nobody could understand: in {store / 'aside'}, each with the"
                " reason; work went on"
            )
        )


async def examine_bucket(report: Report, url: str, settings: Settings) -> None:
    """Can the bucket be read and written, and does it keep the promises of a store?"""
    try:
        store = open_store(url, settings)
        await probe_store(store, f"doctor-{os.getpid()}-{time.time_ns()}", writers=20)
        aside = len(await store.list("aside/"))
    except OperatorError as error:
        report.add(wrong(str(error)))
        return
    report.add(right(f"the store {url} can be read and written, and creates objects once only"))
    if aside:
        report.add(
            remark(f"{counted(aside, 'message')} that nobody could understand: in {url}/aside; work went on")
        )


async def examine_docker(report: Report, images: tuple[str, ...], *, needed: bool) -> None:
    """Is Docker there, are the images, and is something left over? `needed`: the system runs in containers."""
    from dist_zero_common.containers import KEEPER_LABEL, SYSTEM_LABEL, Docker

    try:
        async with Docker() as docker:
            missing = [image for image in images if not await docker.has_image(image)]
            seen = await docker.containers({KEEPER_LABEL: ""})
    except OperatorError as error:
        says = f"{error}; without it there is no virtual mode here, all else works"
        report.add(wrong(str(error)) if needed else remark(says))
        return
    if missing:
        report.add(
            remark(
                f"Docker is there; the image {', '.join(missing)} is not yet: virtual mode, or `make images`, makes it"
            )
        )
    else:
        report.add(right("Docker is there, and so are the images"))
    orphans = [each for each in seen if not is_running(each.labels.get(KEEPER_LABEL, ""))]
    if orphans:
        # Others may work with this Docker too: what they left takes up room, and does this system no harm.
        systems = ", ".join(sorted({each.labels.get(SYSTEM_LABEL, "?") for each in orphans}))
        report.add(
            remark(
                f"{counted(len(orphans), 'container')} left over from systems that are gone ({systems}):"
                " `dist-zero orphans --remove` clears them away"
            )
        )


# ---- what is printed ---------------------------------------------------------------------------------------


def print_finding(finding: Finding) -> None:
    """One line, as soon as it is known."""
    mark, style = _MARKS[finding.verdict]
    console_for().print(Text.assemble((f"{mark} ", style), finding.says), soft_wrap=True)


def print_report(report: Report) -> None:
    """The queues in a table, and a last line."""
    console = console_for()
    if report.queues:
        console.print()
        table = compact_table("queue", "", ("waiting", "right"), ("before", "right"), ("readers", "right"))
        for queue, (whose, before, now) in report.queues.items():
            table.add_row(
                queue,
                Text(whose, "dim"),
                "missing" if now is None else f"{now.waiting:,}",
                "–" if before is None else f"{before.waiting:,}",
                "–" if now is None else f"{now.consumers}",
            )
        console.print(table)
    console.print()
    count = sum(finding.verdict is Verdict.WRONG for finding in report.findings)
    if count:
        console.print(Text(f"{count} finding{'' if count == 1 else 's'}", "bold red"))
    else:
        console.print(Text("nothing is wrong", "green"))


def print_report_json(report: Report, system: str, broker: str) -> None:
    """One object."""
    result = {
        "system": system,
        "broker": broker,
        "healthy": report.healthy,
        "findings": [{"verdict": each.verdict.value, "says": each.says} for each in report.findings],
        "queues": [
            {
                "queue": queue,
                "whose": whose,
                "waiting": None if now is None else now.waiting,
                "waiting_before": None if before is None else before.waiting,
                "consumers": None if now is None else now.consumers,
            }
            for queue, (whose, before, now) in report.queues.items()
        ],
    }
    json.dump(result, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
