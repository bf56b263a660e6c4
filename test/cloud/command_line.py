"""Cloud mode as a user drives it, in a test: commands of the line as processes; what they have made is asked of AWS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = """
import dist_zero as dz

app = dz.Program("toy")


class Thing(dz.Row):
    k: int
    v: float


things = app.dataset("things", Thing, key="k")
app.view("sums", things.group_by(big=things.v > 1).agg(n=dz.count(), sum=dz.sum("v")))
"""


class CommandLine:
    """The command line, in a directory with `toy.py`. `environment` is all that it is told; `bucket` and `prefix` are
    its store's."""

    wait_seconds = 280.0

    def __init__(self, directory: Path, system: str, bucket: str, prefix: str) -> None:
        self.directory, self.system, self.bucket, self.prefix = directory, system, bucket, prefix
        self.environment: dict[str, str] = {}
        (directory / "toy.py").write_text(PROGRAM)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "dist_zero.cli", *words],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end; what it printed, and its errors."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=self.wait_seconds)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                raise
        assert process.returncode == code, f"{out}\n{err}\n{self.story()}"
        return out, err

    def up(self, *words: str, machines: int = 1) -> tuple[str, str]:
        """`up --mode cloud`, to its end."""
        return self("up", *(words or ("toy.py",)), "--mode", "cloud", "--machines", str(machines))

    def views(self, *words: str) -> Any:
        """What a command's `--json` says of the views."""
        return json.loads(self(*words, "--json")[0])["views"]

    def wait(self, what: Callable[[], object]) -> None:
        """Return when it holds."""
        deadline = time.monotonic() + self.wait_seconds
        while not what():
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.5)

    # -- what AWS says -------------------------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        """A client of AWS's that may do all that `up` and `down` do."""
        raise NotImplementedError

    def story(self) -> str:
        """What is known of the instances, for when a test fails."""
        return str(self.instances())

    def instances(self) -> list[dict[str, Any]]:
        """The instances of the system that have not ended: their tags, with `id` beside them."""
        filters = [
            {"Name": "tag:dist-zero:system", "Values": [self.system]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [
            {"id": each["InstanceId"], **{tag["Key"]: tag["Value"] for tag in each["Tags"]}}
            for reservation in found
            for each in reservation["Instances"]
        ]

    def hosts(self) -> dict[str, str]:
        """The ids of the instances, by host."""
        return {each["dist-zero:host"]: each["id"] for each in self.instances()}

    def leases(self) -> dict[str, int]:
        """Until when the lease of each host is, in seconds since 1970."""
        return {each["dist-zero:host"]: int(each["dist-zero:lease-until"]) for each in self.instances()}

    def terminate(self, *hosts: str) -> None:
        """End the instances of these hosts, as Amazon may at any time."""
        here = self.hosts()
        self.client("ec2").terminate_instances(InstanceIds=[here[host] for host in hosts])

    def left(self) -> dict[str, list[str]]:
        """What AWS has of the system, its store apart."""
        ec2, iam, s3 = (self.client(name) for name in ("ec2", "iam", "s3"))
        groups = ec2.describe_security_groups(
            Filters=[{"Name": "tag:dist-zero:system", "Values": [self.system]}]
        )
        listed = s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/cloud/").get("Contents", [])
        return {
            kind: found
            for kind, found in {
                "instances": list(self.hosts().values()),
                "groups": [each["GroupId"] for each in groups["SecurityGroups"]],
                "roles": [
                    each["RoleName"] for each in iam.list_roles()["Roles"] if self.system in each["RoleName"]
                ],
                "profiles": [
                    each["InstanceProfileName"]
                    for each in iam.list_instance_profiles()["InstanceProfiles"]
                    if self.system in each["InstanceProfileName"]
                ],
                "objects": [each["Key"] for each in listed],
            }.items()
            if found
        }
