"""A RabbitMQ made ready for a system: virtual host, exchanges, and for each class of user one with just its rights.

RabbitMQ checks three rights, each a regular expression over names of queues and exchanges: *configure* to make or
delete one, *write* to publish to an exchange or bind a queue, *read* to consume a queue or bind to an exchange. From
`topology.ROLES` follows what a class needs: all three over the queues that it reads, reading the exchanges of those
for the binding, and writing to the exchanges of the roles that it writes to. It configures no exchange, because they
are made here, and nobody may write to the default one, which reaches every queue. Publishing is checked for each
exchange and not for each queue: within one role, classes are what is told apart, not their members.

Everything goes through the HTTP interface of the management plugin, and may be done again at any time: what is there
stays, passwords and rights become what they are to be.

`python -m dist_zero_common.broker.administration [--vhost dz]` does it once, with what is set: DIST_ZERO_ADMIN_URL,
DIST_ZERO_BROKER_USERS, and DIST_ZERO_SYSTEM, which confines the users to the queues of that system.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from dist_zero_common.broker.topology import ROLES, Role, UserClass
from dist_zero_common.errors import BrokerError, ConnectionLost, OperatorError, SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.settings import load_settings

VHOST = "dz"
TIMEOUT_SECONDS = 10.0
EXIT_FAILED = 1
NOTHING = "^$"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may do in a virtual host, as RabbitMQ takes it: regular expressions over names."""

    configure: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """A user to be made; its name is that of its class."""

    user: UserClass
    password: str
    rights: Rights

    def __repr__(self) -> str:
        """Without the password."""
        return f"BrokerUser({self.user.value})"


def rights_of(user: UserClass, system: str = "") -> Rights:
    """The rights of a class of users; in one system alone, if it is named."""
    own = [role for role in ROLES.values() if role.reader is user]
    written = [role for role in ROLES.values() if user in role.writers]
    queues = [_queues(role, system) for role in own]
    return Rights(
        configure=_any_of(queues),
        write=_any_of([*queues, *(re.escape(role.exchange) for role in written)]),
        read=_any_of([*queues, *(re.escape(role.exchange) for role in own)]),
    )


def broker_users(passwords: Mapping[str, str], system: str = "") -> list[BrokerUser]:
    """The users to be made, from passwords by class. Raises `SettingsError` for a class that there is not."""
    if system:
        checked_name("system", system)
    classes = {user.value: user for user in UserClass}
    for name in passwords:
        if name not in classes:
            raise SettingsError(
                f"DIST_ZERO_BROKER_USERS names {name!r}, but the broker's users are {', '.join(classes)}"
            )
    return [
        BrokerUser(classes[name], passwords[name], rights_of(classes[name], system)) for name in passwords
    ]


def prepare(admin_url: str, vhost: str, users: Sequence[BrokerUser]) -> None:
    """Make virtual host, exchanges and users as they are to be.

    Raises `ConnectionLost` when the management interface cannot be reached, and `BrokerError` when it refuses.
    """
    management = Management(admin_url)
    management.put(f"vhosts/{_part(vhost)}", {})
    # Exchanges are made in the administrator's name, who in a new virtual host has no rights as yet.
    administrator = _part(management.whoami())
    if management.get(f"permissions/{_part(vhost)}/{administrator}") is None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put(f"permissions/{_part(vhost)}/{administrator}", everything)
    for role in ROLES.values():
        management.put(
            f"exchanges/{_part(vhost)}/{_part(role.exchange)}", {"type": "direct", "durable": True}
        )
    for user in users:
        name = _part(user.user.value)
        management.put(f"users/{name}", {"password": user.password, "tags": ""})
        rights = {"configure": user.rights.configure, "write": user.rights.write, "read": user.rights.read}
        management.put(f"permissions/{_part(vhost)}/{name}", rights)


class Management:
    """The HTTP interface of RabbitMQ's management plugin, as an administrator."""

    def __init__(self, url: str) -> None:
        """Take `http://user:password@host:port`. Raises `SettingsError` for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.username:
            raise SettingsError(
                "the URL of the broker's management interface (DIST_ZERO_ADMIN_URL) is to be"
                " http://user:password@host:port, of an administrator"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.address = f"{parts.scheme}://{host}" + (f":{port}" if port else "") + parts.path.rstrip("/")
        self.user = unquote(parts.username)
        secret = f"{self.user}:{unquote(parts.password or '')}".encode()
        self._authorization = "Basic " + base64.b64encode(secret).decode("ascii")

    def whoami(self) -> str:
        """The name of the user that this is."""
        answer = self.get("whoami")
        if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
            raise BrokerError(f"{self.address} does not answer as RabbitMQ's management interface does")
        name: str = answer["name"]
        return name

    def get(self, path: str) -> Any:
        """What is at this path, or None when there is nothing."""
        return self._ask("GET", path, None)

    def put(self, path: str, content: Mapping[str, object]) -> None:
        """Make what is at this path as `content` says."""
        if self._ask("PUT", path, content) is None:
            raise BrokerError(f"{self.address} has no {path}: is that RabbitMQ's management interface?")

    def _ask(self, method: str, path: str, content: Mapping[str, object] | None) -> Any:
        """The answer, decoded; an empty one is a dictionary, and 404 is None."""
        request = Request(
            f"{self.address}/api/{path}",
            data=None if content is None else json.dumps(content).encode(),
            method=method,
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                body = response.read()
        except HTTPError as refused:
            with refused:
                if refused.code == http.HTTPStatus.NOT_FOUND:
                    return None
                raise self._refusal(refused, method, path) from None
        except (URLError, OSError, http.client.HTTPException) as failed:
            reason = failed.reason if isinstance(failed, URLError) else failed
            raise ConnectionLost(
                f"RabbitMQ's management interface at {self.address} cannot be reached ({reason}): is the broker"
                " running, with the management plugin, and is the address in DIST_ZERO_ADMIN_URL right?"
            ) from failed
        try:
            return json.loads(body) if body else {}
        except ValueError:
            raise BrokerError(
                f"{self.address} does not answer as RabbitMQ's management interface does"
            ) from None

    def _refusal(self, refused: HTTPError, method: str, path: str) -> BrokerError:
        where = f"RabbitMQ's management interface at {self.address}"
        if refused.code == http.HTTPStatus.UNAUTHORIZED:
            return BrokerError(
                f"{where} refuses the user {self.user!r}: the password is wrong, or it is no administrator"
                " (DIST_ZERO_ADMIN_URL)"
            )
        try:
            answer = json.loads(refused.read(10_000))
            reason = str(answer.get("reason") or answer.get("error"))
        except (ValueError, AttributeError, OSError):
            reason = str(refused.reason)
        return BrokerError(f"{where} refuses {method} {path} with {refused.code}: {reason}")


def _queues(role: Role, system: str) -> str:
    """An expression for the names of all queues of a role."""
    names = [
        re.escape(system) if system else "[^.]+",
        re.escape(role.name),
        *("[^.]+" for _ in role.id_parts),
    ]
    return r"\.".join(["dz", *names])


def _any_of(expressions: Sequence[str]) -> str:
    return f"^({'|'.join(expressions)})$" if expressions else NOTHING


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is set, once, and say so. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dist_zero_common.broker.administration",
        description="Make a RabbitMQ ready: virtual host, exchanges, a user with its rights for each class of service.",
    )
    parser.add_argument("--vhost", default=VHOST, help="the virtual host (default: %(default)s)")
    vhost: str = parser.parse_args(arguments).vhost
    try:
        settings = load_settings()
        users = broker_users(dict(settings.broker_users), settings.system)
        if not settings.admin_url or not users:
            missing = "DIST_ZERO_BROKER_USERS" if settings.admin_url else "DIST_ZERO_ADMIN_URL"
            raise SettingsError(
                f"{missing} is not set, so there is nothing to do; .env.template says what it is"
            )
        prepare(settings.admin_url, vhost, users)
    except OperatorError as wrong:
        sys.stderr.write(f"broker administration: {wrong}\n")
        return EXIT_FAILED
    names = ", ".join(user.user.value for user in users)
    sys.stdout.write(
        f"broker administration: virtual host {vhost}, its exchanges and the users {names} are there\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
