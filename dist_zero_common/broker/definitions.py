"""A broker of a system's own, ready from its first moment: what a RabbitMQ is to read when it starts.

RabbitMQ imports a file of definitions before it takes connections. So nobody has to wait for it and then make users
over its HTTP interface, and whoever comes too early is not refused but finds nobody, and comes again.

Half of RabbitMQ's usual start is spent on what such a broker does not need: a second Erlang that does nothing but start
Erlang's port mapper (not with `-sname`, then the first one does it), schemas of all its plugins to read settings by
(not for settings in Erlang's own terms), the management plugin, and threads that spin while they wait. Its data are in
memory: what it holds is on its way, and the log is the truth. All this is so with the official image, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from dist_zero_common.broker.administration import VHOST, BrokerUser, broker_users
from dist_zero_common.broker.topology import ROLES, UserClass

DEFINITIONS_PATH = "/etc/rabbitmq/dist-zero-definitions.json"
CONFIGURATION_PATH = "/etc/rabbitmq/dist-zero.config"
PLUGINS_PATH = "/etc/rabbitmq/enabled_plugins"
PLUGINS = "[].\n"
"""None: nobody looks at a broker that lives and dies with its system, and without the management plugin it is there
sooner."""

CONFIGURATION = f"""\
[{{rabbit, [
    {{loopback_users, []}},
    {{load_definitions, "{DEFINITIONS_PATH}"}},
    {{log, [{{console, [{{enabled, true}}]}}, {{file, [{{file, false}}]}}]}}
]}}].
"""
DATA_PATH = "/var/lib/rabbitmq"
"""Of which our brokers need nothing when they have ended."""
_SALT_BYTES = 4


def environment(host: str) -> Mapping[str, str]:
    """What a broker's process is told, in a container whose host name is `host`."""
    node = f"rabbit@{host}"
    return {
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_CONFIG_FILE": CONFIGURATION_PATH,
        "RABBITMQ_CONFIG_FILES": "/etc/rabbitmq/none/*.conf",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-sname {node} +sbwt none +sbwtdcpu none +sbwtdio none",
    }


@dataclass(frozen=True, slots=True)
class Passwords:
    """One per class of user."""

    by_class: Mapping[UserClass, str]

    def __repr__(self) -> str:
        """Without them."""
        return "Passwords()"

    def url(self, user: UserClass, host: str, port: int) -> str:
        """Where a user of this class finds the broker."""
        return (
            f"amqp://{user.value}:{quote(self.by_class[user], safe='')}@{host}:{port}/{quote(VHOST, safe='')}"
        )


def definitions(passwords: Passwords, salt: bytes, system: str) -> str:
    """The file of definitions: virtual host, exchanges, and each class's user with its rights in this system."""
    users = broker_users({user.value: password for user, password in passwords.by_class.items()}, system)
    return json.dumps(
        {
            "vhosts": [{"name": VHOST}],
            "users": [_user(user, salt) for user in users],
            "permissions": _permissions(users),
            "exchanges": [
                {
                    "name": role.exchange,
                    "vhost": VHOST,
                    "type": "direct",
                    "durable": True,
                    "auto_delete": False,
                    "internal": False,
                    "arguments": {},
                }
                for role in ROLES.values()
            ],
        },
        indent=1,
    )


def _user(user: BrokerUser, salt: bytes) -> Mapping[str, object]:
    return {
        "name": user.user.value,
        "password_hash": _hashed(user.password, salt[:_SALT_BYTES]),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
    }


def _hashed(password: str, salt: bytes) -> str:
    """As RabbitMQ keeps passwords."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode("ascii")


def _permissions(users: Sequence[BrokerUser]) -> list[Mapping[str, str]]:
    return [
        {
            "user": user.user.value,
            "vhost": VHOST,
            "configure": user.rights.configure,
            "write": user.rights.write,
            "read": user.rights.read,
        }
        for user in users
    ]
