"""The doctor's way, step by step, over brokers and directories that are wrong on purpose; the commands as a person
types them where there is no system; logs."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dist_zero.cli.doctor as doctor_module
from dist_zero.cli.app import CHECK_FAILED, OK, OPERATOR_ERROR, USER_ERROR
from dist_zero.cli.diagnosis import Verdict
from dist_zero.cli.doctor import (
    Report,
    address_of,
    examine_exchanges,
    examine_login,
    examine_network,
    examine_store,
    examine_system,
)
from dist_zero.cli.main import main
from dist_zero.cli.systems import SystemState, save_state
from dist_zero.system import EmbeddedSystem
from dist_zero_common.broker.base import Queue
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import ROLES, scheduler_inbox
from dist_zero_common.errors import BrokerError
from dist_zero_common.processes import process_name
from dist_zero_common.store.directory import DirectoryStore


def said(report: Report) -> list[tuple[Verdict, str]]:
    return [(finding.verdict, finding.says) for finding in report.findings]


def only_wrong(report: Report) -> str:
    """The one sentence that says what is wrong."""
    [wrong] = [finding.says for finding in report.findings if finding.verdict is Verdict.WRONG]
    assert not report.healthy
    return wrong


# ---- addresses and the network -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("amqp://me:secret@host:1234/dz", ("host", 1234, "me", "dz", False)),
        ("amqp://host", ("host", 5672, "guest", "/", False)),
        ("amqps://a%40b:x@host/", ("host", 5671, "a@b", "/", True)),
        ("amqp://me:x@[::1]:7/%2Fteam", ("::1", 7, "me", "/team", False)),
    ],
)
def test_addresses_are_taken_apart(url: str, parts: tuple[object, ...]) -> None:
    """Host, port, user, virtual host, TLS; never the password."""
    address = address_of(url)
    assert (address.host, address.port, address.user, address.vhost, address.tls) == parts
    assert "secret" not in repr(address)


@pytest.mark.parametrize("url", ["http://host", "amqp://", "amqp://me:secret@host:port/"])
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    """It may have a password in it."""
    with pytest.raises(BrokerError, match="makes no sense") as refused:
        address_of(url)
    assert "secret" not in str(refused.value)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def network(host: str, serve: Serve | None = None) -> tuple[bool, Report]:
    """What is said of a host, with a server on one of its ports, or nobody."""

    async def live() -> tuple[bool, Report]:
        server = await asyncio.start_server(serve or _silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if serve is None:
            server.close()
            await server.wait_closed()
        report = Report()
        try:
            goes_on = await examine_network(report, address_of(f"amqp://{host}:{port}"))
        finally:
            server.close()
        return goes_on, report

    return asyncio.run(live())


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_a_port_that_answers_is_right() -> None:
    """The name's address, then the port."""
    goes_on, report = network("localhost", _silent)
    assert goes_on
    assert report.healthy
    assert [says.partition(" ")[0].partition(":")[0] for _, says in said(report)] == ["localhost"] * 2


def test_a_port_where_nobody_listens_is_wrong() -> None:
    """And the way ends there."""
    goes_on, report = network("127.0.0.1")
    assert not goes_on
    assert "cannot be reached: nobody listens there; is RabbitMQ running" in only_wrong(report)


def test_a_host_without_an_address_is_wrong() -> None:
    """A misspelt name."""
    goes_on, report = network("no-such-host.invalid", _silent)
    assert not goes_on
    assert only_wrong(report).startswith("the host 'no-such-host.invalid' of the broker has no address")


# ---- the login ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
            "the broker refuses user 'me': it does not know the name, or the password is another one",
        ),
        ("NOT_ALLOWED - vhost dz not found", "the broker has no virtual host 'dz'"),
        (
            "NOT_ALLOWED - access to vhost 'dz' refused for user 'me'",
            "user 'me' may not use the virtual host 'dz'",
        ),
        ("something else", "the broker refuses: something else"),
    ],
)
def test_a_refused_login_says_which_part_is_wrong(refusal: str, says: str) -> None:
    """User or password; virtual host; its rights; else the broker's own words."""
    report = Report()
    connect = MemoryBroker().connector("doctor", refusal)
    address = address_of("amqp://me:secret@localhost/dz")
    assert asyncio.run(examine_login(report, address, connect)) is None
    assert only_wrong(report).startswith(says)


def test_what_speaks_no_amqp_is_told_from_a_broker_that_starts() -> None:
    """Behind the port may be RabbitMQ's web page, or a RabbitMQ that is not ready."""

    async def web_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def starting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"\x01\x00\x00")
        writer.close()

    async def live(serve: Serve) -> Report:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            broker = MemoryBroker()
            broker.unreachable = True
            report = Report()
            await examine_login(report, address_of(f"amqp://127.0.0.1:{port}"), broker.connector("doctor"))
            return report

    assert "does not speak AMQP: RabbitMQ's port is 5672" in only_wrong(asyncio.run(live(web_page)))
    assert "is RabbitMQ still starting?" in only_wrong(asyncio.run(live(starting)))


def test_missing_exchanges_are_named() -> None:
    """They come with the services; that they are missing explains what follows."""

    async def live(missing: set[str]) -> Report:
        async def has_exchange(exchange: str) -> bool:
            return exchange not in missing

        report = Report()
        await examine_exchanges(report, has_exchange)
        return report

    everything = asyncio.run(live(set()))
    assert said(everything) == [(Verdict.RIGHT, f"the {len(ROLES)} exchanges are there")]
    no_standby = asyncio.run(live({"dz.standby"}))  # it comes with the first scheduler that stands by
    assert said(no_standby) == [(Verdict.RIGHT, f"the {len(ROLES) - 1} exchanges are there")]
    [(verdict, says)] = said(asyncio.run(live({"dz.agent"})))
    assert verdict is Verdict.REMARK
    assert says.startswith("the virtual host has no exchange dz.agent: services make them")


# ---- the scheduler -----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor who does not wait long for an answer."""
    monkeypatch.setattr(doctor_module, "ANSWER_SECONDS", 0.3)


def examined(broker: MemoryBroker, prepare: Callable[[MemoryBroker], Coroutine[Any, Any, None]]) -> Report:
    async def live() -> Report:
        await prepare(broker)
        report = Report()
        await examine_system(report, broker.connect("doctor"), "shop", seconds=0.01, sleep=asyncio.sleep)
        return report

    return asyncio.run(live())


@pytest.mark.usefixtures("impatient")
def test_a_scheduler_that_is_gone_is_told_from_one_that_hangs() -> None:
    """Its inbox is there: nobody reads it, or somebody does and says nothing."""

    async def gone(broker: MemoryBroker) -> None:
        await broker.connect("before").declare(Queue(scheduler_inbox("shop")))

    async def hangs(broker: MemoryBroker) -> None:
        await gone(broker)
        await broker.connect("hangs").consume(scheduler_inbox("shop"), lambda _: None, 1)

    says = only_wrong(examined(MemoryBroker(), gone))
    assert says.startswith("no scheduler of shop leads: it has 1 message and nobody reads")
    assert "start one; if one runs, its log says whether it reaches its store" in says
    assert only_wrong(examined(MemoryBroker(), hangs)).startswith(
        "the scheduler of shop reads its inbox and has not answered within 0.3 s: its log says why"
    )


@pytest.mark.usefixtures("impatient")
def test_a_broker_with_an_alarm_is_told() -> None:
    """It takes nothing: that is not the scheduler's fault."""

    async def alarm(broker: MemoryBroker) -> None:
        await broker.connect("before").declare(Queue(scheduler_inbox("shop")))
        broker.raise_alarm("low on disk")

    says = only_wrong(examined(MemoryBroker(), alarm))
    assert says.startswith("the broker takes no messages just now: ")
    assert "low on disk" in says
    assert "writers wait, and go on when it is over" in says


# ---- the store ---------------------------------------------------------------------------------------------


def test_a_store_that_is_used_is_right_and_left_as_it_was(tmp_path: Path) -> None:
    """Its programs, its room; nothing of the doctor's stays in it, and messages set aside are told."""

    async def use() -> None:
        async with EmbeddedSystem(store=tmp_path / "store", name="shop"):
            pass
        store = DirectoryStore(tmp_path / "store")
        await store.create("programs/stock/log/1", b"x")
        await store.create("aside/agent-m1/abc", b"x")
        await store.close()

    asyncio.run(use())
    before = sorted((tmp_path / "store").rglob("*"))
    report = Report()
    examine_store(report, tmp_path / "store")
    (right, store), (remark, aside) = said(report)
    assert (right, remark) == (Verdict.RIGHT, Verdict.REMARK)
    assert "can be read and written: logs of stock, " in store
    assert store.endswith(" free")
    assert aside.startswith("1 message that nobody could understand: in ")
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_a_store_that_is_missing_or_full_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its own words."""
    report = Report()
    examine_store(report, tmp_path / "none")
    assert only_wrong(report).endswith("none is not there: what the system has written cannot be found")
    (tmp_path / "file").write_text("")
    report = Report()
    examine_store(report, tmp_path / "file")
    assert "file is no directory" in only_wrong(report)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 * 2**20))
    report = Report()
    examine_store(report, tmp_path)
    assert "is nearly full, with 5.0 MiB free: make room" in only_wrong(report)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    """One's own directory without the right to write."""
    tmp_path.chmod(0o500)
    report = Report()
    examine_store(report, tmp_path)
    assert "cannot be read and written by this user" in only_wrong(report)


# ---- as it is typed ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs commands in an empty directory, with nothing set."""
    monkeypatch.chdir(tmp_path)
    for name in ("AMQP_URL", "DIST_ZERO_SYSTEM", "DIST_ZERO_STORE", "DIST_ZERO_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dist-zero", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ran(end.value.code, out, err)

    return run


NOWHERE = "amqp://me:secret@no-such-host.invalid:5672/dz"
COMMANDS = [
    ("status",),
    ("show",),
    ("get", "view", "1"),
    ("watch", "view"),
    ("load", "dataset", "file.csv"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_a_system_commands_say_how_to_start_one(
    shell: Callable[..., Ran], command: tuple[str, ...]
) -> None:
    """Nothing was started here, and nothing is named."""
    Path("file.csv").write_text("a\n1\n")
    ran = shell(*command)
    assert (ran.code, ran.out) == (OPERATOR_ERROR, "")
    assert ran.err.startswith(
        "error: no system was started from this directory: `dist-zero up app.py` starts one"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_broker_that_cannot_be_reached_is_named_without_its_password(
    shell: Callable[..., Ran], command: tuple[str, ...]
) -> None:
    """One sentence, exit code 3."""
    Path("file.csv").write_text("a\n1\n")
    ran = shell(*command, "--broker", NOWHERE, "--system", "shop")
    assert (ran.code, ran.out) == (OPERATOR_ERROR, "")
    assert "no-such-host.invalid" in ran.err
    assert "secret" not in ran.err
    assert len(ran.err.splitlines()) == 1


def test_wrong_options_are_refused(shell: Callable[..., Ran]) -> None:
    """A level that there is not, a time that is none, a file that is not NAME=FILE, an address that is none."""
    assert "'loud' is none of debug, info" in shell("logs", "--level", "loud").err
    assert shell("show", "--out", "view").code == USER_ERROR
    assert shell("status", "--broker", "localhost:secret", "--system", "a").code == OPERATOR_ERROR
    assert "secret" not in shell("status", "--broker", "localhost:secret", "--system", "a").err
    assert "cannot be the name of a system" in shell("status", "--broker", NOWHERE, "--system", "A B").err


def test_doctor_looks_at_the_machine_where_there_is_no_system(
    shell: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there is none is a remark; Docker, or that it is missing, is told all the same."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    ran = shell("doctor")
    assert ran.code == OK
    assert "· no system was started from this directory" in ran.out
    assert "Docker does not answer" in ran.out
    assert ran.out.rstrip().endswith("nothing is wrong")


def test_doctor_as_json(shell: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """One object, with the same sentences; exit code 1 when one of them is a finding."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    ran = shell("doctor", "--broker", NOWHERE, "--system", "shop", "--json")
    assert ran.code == CHECK_FAILED
    result = json.loads(ran.out)
    assert (result["system"], result["healthy"], result["queues"]) == ("shop", False, [])
    assert result["broker"] == "amqp://me@no-such-host.invalid:5672/dz"
    assert [each["verdict"] for each in result["findings"]].count("wrong") == 1
    assert "secret" not in ran.out


def test_doctor_finds_a_system_whose_keeper_is_gone(
    shell: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is there, the process is not."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    log_dir = Path(".tmp")
    state = SystemState(
        "shop", "virtual", NOWHERE, f"999999999-1@{platform.node()}", "none", str(log_dir), "shop"
    )
    save_state(log_dir, state)
    ran = shell("doctor")
    assert ran.code == CHECK_FAILED
    assert "system shop was started here, and the process that held it up is gone" in ran.out
    assert "the store none is not there" in ran.out
    assert "✗ cannot reach Docker: Docker does not answer" in ran.out
    assert "secret" not in ran.out


# ---- logs --------------------------------------------------------------------------------------------------


def written(directory: Path, *entries: dict[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "service.jsonl").open("a") as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")


def entry(second: int, machine: str, level: str = "info", system: str = "shop") -> dict[str, object]:
    return {
        "time": f"2013-01-01T00:00:{second:02}.000000Z",
        "level": level,
        "service": "machine-agent",
        "event": f"event_{second}",
        "system": system,
        "machine": machine,
    }


def test_logs_are_one_stream_of_one_system(shell: Callable[..., Ran]) -> None:
    """In order of time over all containers; by machine, level and time; the other system's are not among them."""
    log_dir = Path(".tmp")
    for name in ("shop", "other"):
        state = SystemState(name, "virtual", NOWHERE, process_name(), "", str(log_dir), name)
        save_state(log_dir, state)
    written(log_dir / "dist-zero.shop.m1", entry(1, "m1"), entry(3, "m1", "warning"), entry(5, "m1", "debug"))
    written(log_dir / "dist-zero.shop.m2", entry(2, "m2"))
    written(log_dir / "dist-zero.other.m1", entry(4, "m1", "error", "other"))

    def events(*arguments: str) -> list[str]:
        ran = shell("logs", "--system", "shop", *arguments, "--json")
        assert ran.code == OK
        return [str(json.loads(line)["event"]) for line in ran.out.splitlines()]

    assert events() == ["event_1", "event_2", "event_3"]
    assert events("--level", "debug") == ["event_1", "event_2", "event_3", "event_5"]
    assert events("--level", "warning") == ["event_3"]
    assert events("--machine", "m2") == ["event_2"]
    assert events("--since", "2013-01-01T00:00:02") == ["event_2", "event_3"]
    plain = shell("logs", "--system", "shop", "--machine", "m1").out.splitlines()
    assert [line.split("[m1] ")[1] for line in plain] == ["machine-agent: event_1", "machine-agent: event_3"]
    nothing = shell("logs", "--system", "shop", "--machine", "m9")
    assert (nothing.code, nothing.out) == (OK, "")
    assert nothing.err.startswith("nothing of machine m9 of level info and above is in the logs in .tmp")
