"""The broker's administration: rights as they follow from the topology, and what is asked of the HTTP interface."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dist_zero_common.broker import administration, topology
from dist_zero_common.broker.administration import (
    Management,
    Rights,
    broker_users,
    prepare,
    rights_of,
)
from dist_zero_common.broker.topology import ROLES, Role, UserClass
from dist_zero_common.errors import BrokerError, ConnectionLost, SettingsError

PASSWORDS = {user.value: f"secret-of-{user.value}" for user in UserClass}

QUEUES = {
    topology.SCHEDULER: topology.scheduler_inbox("shop"),
    topology.STANDBY: topology.standby_inbox("shop", "s-1"),
    topology.AGENT: topology.agent_inbox("shop", "m-1"),
    topology.RUNNER: topology.runner_inbox("shop", "r-1", 7),
    topology.SEQUENCER_CLIENTS: topology.sequencer_clients_inbox("shop", "flights"),
    topology.SEQUENCER_NODES: topology.sequencer_nodes_inbox("shop", "flights", 3),
    topology.CLIENT_REPLIES: topology.client_replies("shop", "c-1"),
}
FOREIGN = (
    "",
    "amq.default",
    "amq.direct",
    "payments",
    "dz",
    "dz.shop",
    "dz.shop.runner",
    "xdz.runner",
    "dz.runnerx",
)


def allows(right: str, name: str) -> bool:
    """Whether RabbitMQ, which searches names for the expression, lets this one through."""
    return re.search(right, name) is not None


def test_every_role_is_in_this_test() -> None:
    """A new role gets its queue above, or the tests below would say nothing of it."""
    assert set(QUEUES) == set(ROLES.values())


@pytest.mark.parametrize("system", ["shop", ""])
@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_rights_are_those_of_the_topology(user: UserClass, role: Role, system: str) -> None:
    """Of a role's queues a class has all rights or none, and of its exchange those of its readers and writers."""
    rights, queue, reads = rights_of(user, system), QUEUES[role], role.reader is user
    for right in (rights.configure, rights.write, rights.read):
        assert allows(right, queue) is reads
    assert not allows(rights.configure, role.exchange)
    assert allows(rights.write, role.exchange) is (user in role.writers)
    assert allows(rights.read, role.exchange) is reads


@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_nobody_has_rights_over_what_is_not_ours(user: UserClass) -> None:
    """The default exchange and other people's queues are out of reach, and of every class; names that only look
    like ours, too."""
    rights = rights_of(user)
    for name in (
        *FOREIGN,
        *(f"{queue}.x" for queue in QUEUES.values()),
        *(f"x.{queue}" for queue in QUEUES.values()),
    ):
        for right in (rights.configure, rights.write, rights.read):
            assert not allows(right, name), name


@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_rights_end_with_the_system(user: UserClass) -> None:
    """In a system that is named, the queues of another one are other people's."""
    rights = rights_of(user, "other")
    for queue in QUEUES.values():
        for right in (rights.configure, rights.write, rights.read):
            assert not allows(right, queue)


def test_an_unknown_class_is_refused() -> None:
    """The error names it, the setting and the classes that there are, and no password."""
    with pytest.raises(
        SettingsError, match=r"DIST_ZERO_BROKER_USERS names 'root'.*scheduler, agent, runner, client"
    ) as caught:
        broker_users({"root": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "secret" not in repr(broker_users(PASSWORDS))


# -- against an interface ------------------------------------------------------------------------------------


class FakeManagement:
    """The part of RabbitMQ's HTTP interface that the administration uses, as far as it shows mistakes of ours."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, object]] = {"users/root": {"password": "pass/word"}}
        self.puts: list[str] = []
        self.refusal: tuple[int, bytes] | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.answer(self, None)

            def do_PUT(self) -> None:
                fake.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://root:pass%2Fword@127.0.0.1:{self.port}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        status, content = self._answer(request, body)
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes | None) -> tuple[int, bytes]:
        if self.refusal:
            return self.refusal
        secret = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        if secret != f"root:{self.kept['users/root']['password']}":
            return 401, b'{"error":"not_authorized"}'
        assert request.path.startswith("/api/")
        if request.path == "/api/whoami":
            return 200, b'{"name":"root"}'
        path = request.path.removeprefix("/api/")
        if body is None:
            return (200, json.dumps(self.kept[path]).encode()) if path in self.kept else (404, b"{}")
        kind, *names = path.split("/")
        if kind in ("exchanges", "permissions") and f"vhosts/{names[0]}" not in self.kept:
            return 404, b'{"error":"Object Not Found"}'
        if kind == "exchanges" and f"permissions/{names[0]}/root" not in self.kept:
            return 403, b'{"error":"forbidden","reason":"access to vhost refused"}'
        self.puts.append(path)
        before, self.kept[path] = self.kept.get(path), json.loads(body)
        return (201 if before is None else 204), b""


@pytest.fixture
def fake() -> Iterator[FakeManagement]:
    made = FakeManagement()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def rights_kept(fake: FakeManagement, vhost: str, user: UserClass) -> Rights:
    kept = fake.kept[f"permissions/{vhost}/{user.value}"]
    return Rights(configure=str(kept["configure"]), write=str(kept["write"]), read=str(kept["read"]))


def test_everything_is_made(fake: FakeManagement) -> None:
    """Virtual host, one durable direct exchange per role, one user per class with its password and rights, none of
    them with a tag, and the administrator may make exchanges in the new virtual host."""
    prepare(fake.url, "dz", broker_users(PASSWORDS, "shop"))
    assert "vhosts/dz" in fake.kept
    for role in ROLES.values():
        assert fake.kept[f"exchanges/dz/{role.exchange}"] == {"type": "direct", "durable": True}
    for user in UserClass:
        assert fake.kept[f"users/{user.value}"] == {"password": PASSWORDS[user.value], "tags": ""}
        assert rights_kept(fake, "dz", user) == rights_of(user, "shop")
    assert {path for path in fake.kept if path.startswith("permissions/")} == {
        f"permissions/dz/{name}" for name in ("root", *PASSWORDS)
    }


def test_doing_it_again_changes_nothing_but_what_is_asked(fake: FakeManagement) -> None:
    """Twice is once; another password or system takes the place of the old one."""
    prepare(fake.url, "dz", broker_users(PASSWORDS))
    first = dict(fake.kept)
    prepare(fake.url, "dz", broker_users(PASSWORDS))
    assert fake.kept == first
    prepare(fake.url, "dz", broker_users({"agent": "another"}, "shop"))
    changed = {path for path, content in fake.kept.items() if first.get(path) != content}
    assert changed == {"users/agent", "permissions/dz/agent"}


def test_an_administrator_keeps_the_rights_it_has(fake: FakeManagement) -> None:
    """Rights that the administrator has in the virtual host already are not ours to widen."""
    fake.kept |= {"vhosts/dz": {}, "permissions/dz/root": {"configure": "^dz", "write": "^dz", "read": "^dz"}}
    prepare(fake.url, "dz", broker_users(PASSWORDS))
    assert fake.kept["permissions/dz/root"] == {"configure": "^dz", "write": "^dz", "read": "^dz"}


def test_names_are_parts_of_a_path(fake: FakeManagement) -> None:
    """A virtual host called `/` is one part of the path, not two."""
    prepare(fake.url, "/", [])
    assert "exchanges/%2F/dz.scheduler" in fake.kept


def test_errors_say_what_to_do(fake: FakeManagement) -> None:
    """Refused, refused with a reason, not RabbitMQ, not there: each says so, names the address, hides the password."""

    def failure(url: str) -> str:
        with pytest.raises(BrokerError) as caught:
            prepare(url, "dz", broker_users(PASSWORDS))
        text = str(caught.value)
        assert f"http://127.0.0.1:{fake.port}" in text
        assert "word" not in text.replace("password is wrong", "")
        assert "secret-of" not in text
        return text

    assert "refuses the user 'root': the password is wrong" in failure(fake.url.replace("pass%2F", "other-"))
    fake.refusal = (400, b'{"error":"bad_request","reason":"no such thing"}')
    assert "refuses PUT vhosts/dz with 400: no such thing" in failure(fake.url)
    fake.refusal = (502, b"<html>")
    assert "with 502: Bad Gateway" in failure(fake.url)
    fake.refusal = (404, b"")
    assert "has no vhosts/dz: is that RabbitMQ" in failure(fake.url)
    fake.refusal = (200, b"<html>")
    assert "does not answer as RabbitMQ's management interface" in failure(fake.url)
    fake.refusal = (200, b"[]")
    assert "does not answer as RabbitMQ's management interface" in failure(fake.url)


def test_a_broker_that_is_not_there(fake: FakeManagement) -> None:
    """It may come, so trying again may help: the error is of that kind."""
    fake.server.server_close()
    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:\d+ cannot be reached .*is the broker running"):
        prepare(fake.url, "dz", [])


@pytest.mark.parametrize("url", ["", "amqp://u:p@h", "http://host:15672", "http://u:p@", "http://u:p@h:port"])
def test_a_url_that_makes_no_sense(url: str) -> None:
    """It is refused with what it is to be, and without itself: it has a password in it."""
    with pytest.raises(SettingsError, match="http://user:password@host:port") as caught:
        Management(url)
    assert not url or url not in str(caught.value)


def test_the_command(
    fake: FakeManagement, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It does what is set, says what is missing, and shows no password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIST_ZERO_SYSTEM", "shop")
    monkeypatch.setenv("DIST_ZERO_ADMIN_URL", "")
    assert administration.main([]) == 1
    assert "DIST_ZERO_ADMIN_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("DIST_ZERO_ADMIN_URL", fake.url)
    monkeypatch.setenv("DIST_ZERO_BROKER_USERS", "")
    assert administration.main([]) == 1
    assert "DIST_ZERO_BROKER_USERS is not set" in capsys.readouterr().err
    monkeypatch.setenv(
        "DIST_ZERO_BROKER_USERS", ",".join(f"{name}={secret}" for name, secret in PASSWORDS.items())
    )
    assert administration.main(["--vhost", "shops"]) == 0
    said = capsys.readouterr()
    assert (
        "virtual host shops, its exchanges and the users scheduler, agent, runner, client are there"
        in said.out
    )
    assert "secret" not in said.out + said.err
    assert rights_kept(fake, "shops", UserClass.CLIENT) == rights_of(UserClass.CLIENT, "shop")
