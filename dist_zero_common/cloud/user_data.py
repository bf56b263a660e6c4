"""What an instance does when it starts for the first time. Pure.

A script in bash, which every image that knows user data runs as root. It first of all starts the watch of the lease, so
that whatever goes wrong later the instance ends itself; then the service, which is started again whenever it ends.
Where systemd runs both are units of it, and start again with the machine; elsewhere, as in containers, they are loops.

Nothing in it is secret, because who may describe an instance may read it: it says which objects of the bucket are to be
read with the instance's role (`boot/fetch.py`).
"""

from __future__ import annotations

import shlex
from functools import cache
from importlib import resources

from dist_zero_common.cloud.fleet import LEASE_TAG, MACHINE, SCHEDULER, Fleet, environment_object, object_key
from dist_zero_common.errors import SettingsError

BYTES_MAX = 16_384
"""Of user data, before it is encoded."""
SERVICES = {MACHINE: "services.machine_agent", SCHEDULER: "services.scheduler"}
LOGS_SERVICE = "services.log_copies"

_START = r"""set -u
umask 022
boot=/var/lib/dist-zero/boot
mkdir -p "$boot" /var/log/dist-zero

# Start NAME WHAT COMMAND...: now, whenever it ends, and with the machine.
start() {
    local name=dist-zero-$1 what=$2
    shift 2
    if [ -d /run/systemd/system ]; then
        printf '%s\n' '[Unit]' "Description=DistZero: $what" 'StartLimitIntervalSec=0' '[Service]' "ExecStart=$*" \
            'Restart=always' 'RestartSec=2' '[Install]' 'WantedBy=multi-user.target' \
            >"/etc/systemd/system/$name.service"
        systemctl daemon-reload
        systemctl enable --now --no-block "$name.service"
    else
        # shellcheck disable=SC2016
        setsid bash -c 'while :; do "$@"; sleep 2; done' "$name" "$@" \
            </dev/null >>"/var/log/dist-zero/$name.out" 2>&1 &
    fi
}
"""


def user_data(fleet: Fleet, host: str, role: str) -> str:
    """The script of this host. Raises `SettingsError` if EC2 would not take it."""
    settings = {
        "HOST": host,
        "REGION": fleet.region,
        "BUCKET": fleet.bucket,
        "ENDPOINT": fleet.s3_endpoint,
        "ENVIRONMENT": environment_object(fleet.store, role),
        "SOURCE": object_key(fleet.store, fleet.source) if fleet.source else "",
        "REQUIREMENTS": object_key(fleet.store, fleet.requirements) if fleet.requirements else "",
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    script = "".join(
        (
            "#!/bin/bash\n",
            f"# DistZero: {host} ({role}) of system {fleet.system}. Nothing in here is secret.\n",
            _START,
            _file("watch_lease.py", _boot_file("watch_lease.py")),
            'start lease "ends this instance when its lease is over" /usr/bin/env python3 "$boot/watch_lease.py"'
            f" {fleet.lease_seconds} {LEASE_TAG}\n",
            _file("settings", lines),
            _file("fetch.py", _boot_file("fetch.py")),
            _file("serve.sh", _boot_file("serve.sh")),
            f'start host "{host}" /bin/bash "$boot/serve.sh" {SERVICES[role]}\n',
            f'start logs "copies of the logs" /bin/bash "$boot/serve.sh" {LOGS_SERVICE}\n',
        )
    )
    if len(script.encode()) > BYTES_MAX:
        raise SettingsError(
            f"the user data of {host} has {len(script.encode()):,} bytes, and EC2 takes {BYTES_MAX:,}: shorten the"
            " names of bucket and prefix"
        )
    return script


@cache
def _boot_file(name: str) -> str:
    return (resources.files("dist_zero_common.cloud") / "boot" / name).read_text(encoding="utf-8")


def _file(name: str, text: str) -> str:
    """The lines that write a file."""
    end = "END_OF_FILE"
    assert end not in text
    return f"\ncat >\"$boot/{name}\" <<'{end}'\n{text}{end}\n"
