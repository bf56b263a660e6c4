"""Hosts whose image has no DistZero in it: what their user data install, and their units where systemd runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dist_zero.cloud.source import source_here
from dist_zero_common.cloud.fleet import MACHINE, object_key
from dist_zero_common.cloud.user_data import user_data
from test.cloud.fleets import fleet
from test.virtual.rabbitmq_server import have_base_images, setting

pytestmark = pytest.mark.usefixtures("docker_or_skip")

# In place of the bucket: what is got is copied, and what would be run is said and tried to be imported.
BUCKET = """
import shutil, subprocess, sys
what, words = sys.argv[4], sys.argv[5:]
if what == "get":
    shutil.copy(f"/objects/{words[0]}", words[1])
else:
    python, _, service = words[3].split()
    print("becomes", words[1], service, flush=True)
    needed = f"import {service}.__main__, dist_zero_common.cloud.aws, dist_zero.native"
    sys.exit(subprocess.call([python, "-c", needed]))
"""
SYSTEMCTL = '#!/bin/sh\necho "$@" >>/tmp/systemctl\n'


def in_container(image: str, script: str, mounts: Mapping[Path, str], *words: str) -> str:
    """Run a script as root in a container of this image; what it says."""
    volumes = [word for path, target in mounts.items() for word in ("-v", f"{path}:{target}:ro")]
    command = ["docker", "run", "--rm", "-u", "root", *words, *volumes, image, "bash", "-euc", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_where_systemd_runs_there_are_units_cloud(tmp_path: Path) -> None:
    """One for the watch of the lease, and first of all; they start again whenever they end, and with the machine."""
    have_base_images()
    (tmp_path / "user-data").write_text(user_data(fleet(), "m1", MACHINE))
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    said = in_container(
        setting("DIST_ZERO_BASE_IMAGE"),
        "mkdir -p /run/systemd/system /etc/systemd/system; install -m 755 /here/systemctl /usr/local/bin/systemctl;"
        " bash /here/user-data; cat /tmp/systemctl; tail -n +1 /etc/systemd/system/dist-zero-*",
        {tmp_path: "/here"},
    )
    enabled = [line.split()[-1] for line in said.splitlines() if line.startswith("enable --now")]
    assert enabled == ["dist-zero-lease.service", "dist-zero-host.service", "dist-zero-logs.service"]
    starts = [line.removeprefix("ExecStart=") for line in said.splitlines() if line.startswith("ExecStart=")]
    boot = "/var/lib/dist-zero/boot"
    assert sorted(starts) == [
        f"/bin/bash {boot}/serve.sh services.log_copies",
        f"/bin/bash {boot}/serve.sh services.machine_agent",
        f"/usr/bin/env python3 {boot}/watch_lease.py 900 dist-zero:lease-until",
    ]
    assert said.count("Restart=always") == said.count("WantedBy=multi-user.target") == 3


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_bare_image_installs_what_was_uploaded_cloud(tmp_path: Path) -> None:
    """Debian with Python alone: afterwards DistZero and all that it needs is there, each package checked against its
    hash; a second service finds it. An archive that was changed on the way is refused."""
    have_base_images()
    source = source_here()
    described = fleet(source=source.name, requirements=source.requirements_name)
    script = user_data(described, "m1", MACHINE)
    for name, body in ((source.name, source.archive), (source.requirements_name, source.requirements)):
        path = tmp_path / "objects" / object_key(described.store, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "user-data").write_text(
        "".join(f"{line}\n" for line in script.splitlines() if not line.startswith("start "))
    )
    (tmp_path / "bucket.py").write_text(BUCKET)
    boot = "/var/lib/dist-zero/boot"
    said = in_container(
        setting("DIST_ZERO_BASE_IMAGE"),
        "apt-get update -qq >&2; apt-get install -y -qq --no-install-recommends ca-certificates python3 >&2;"
        f" bash /here/user-data; cp /here/bucket.py {boot}/fetch.py;"
        f" bash {boot}/serve.sh services.machine_agent >&2; echo installed;"
        f" bash {boot}/serve.sh services.scheduler;"
        f' rm -r /opt/dist-zero;  sed -i \'s/shutil.copy(.*/open(words[1], "w").write("changed")/\' {boot}/fetch.py;'
        f" bash {boot}/serve.sh services.scheduler >&2 || echo refused",
        {tmp_path: "/here", tmp_path / "objects": "/objects"},
        *("--network", "host", *package_index()),
    )
    lines = said.splitlines()
    assert lines == ["installed", "becomes dist-zero services.scheduler", "refused"]


def package_index() -> list[str]:
    """Where this machine's pip looks for packages, and through what, as options of docker."""
    words = []
    for name in ("index-url", "extra-index-url", "trusted-host"):
        for where in (f":env:.{name}", f"global.{name}"):
            command = [sys.executable, "-m", "pip", "config", "get", where]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                words += ["-e", f"PIP_{name.upper().replace('-', '_')}={done.stdout.strip()}"]
                break
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        if os.environ.get(name):
            words += ["-e", name]
    return words
