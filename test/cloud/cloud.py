"""Cloud mode as a user drives it, in a test: commands of the line as processes, before an EC2 of this host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from test.cloud.aws_server import KEY_ID, REGION, SECRET, tags_of
from test.cloud.instances import Ec2
from test.virtual.rabbitmq_server import PASSWORD, USER, RabbitServer, setting

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 280.0
PROGRAM = """
import dist_zero as dz

app = dz.Program("toy")


class Thing(dz.Row):
    k: int
    v: float


things = app.dataset("things", Thing, key="k")
app.view("sums", things.group_by(big=things.v > 1).agg(n=dz.count(), sum=dz.sum("v")))
"""


def our_image() -> str:
    """The image of services, which stands for an image for instances."""
    image = setting("DIST_ZERO_IMAGE")
    there = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    if there.returncode != 0:
        missing = f"no image {image}: `make images` builds it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return image


class Cloud:
    """A bucket, a broker, a directory, and the command line."""

    def __init__(self, ec2: Ec2, rabbitmq: RabbitServer, virtual_host: str, directory: Path) -> None:
        self.ec2, self.directory = ec2, directory
        self.system = f"dzt-{uuid.uuid4().hex[:6]}"
        self.bucket = f"bucket-{self.system}"
        self.store = f"s3://{self.bucket}/shop"
        ec2.aws.client("s3").create_bucket(Bucket=self.bucket)
        port = ec2.reachable(rabbitmq.port)
        self.broker_url = f"amqp://{USER}:{PASSWORD}@{ec2.gateway}:{port}/{virtual_host}"
        self.environment = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("DIST_ZERO_", "AMQP_", "AWS_", "LOGSTASH_"))
            },
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": ec2.aws.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AMQP_URL": self.broker_url,
            "DIST_ZERO_STORE": self.store,
            "DIST_ZERO_SYSTEM": self.system,
            "DIST_ZERO_LEASE_SECONDS": "4",
            "DIST_ZERO_CLOUD_ENDPOINT": ec2.aws.endpoint,
            "DIST_ZERO_CLOUD_IMAGE": ec2.image,
            "DIST_ZERO_CLOUD_IMAGE_HAS_DIST_ZERO": "yes",
            "DIST_ZERO_CLOUD_SCHEDULERS": "1",
        }
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
                out, err = process.communicate(timeout=WAIT_SECONDS)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                raise
        assert process.returncode == code, f"{out}\n{err}\n{self.ec2.story()}"
        return out, err

    def up(self, *words: str, machines: int = 1) -> tuple[str, str]:
        """`up --mode cloud`, to its end."""
        return self("up", *(words or ("toy.py",)), "--mode", "cloud", "--machines", str(machines))

    def views(self, *words: str) -> Any:
        """What a command's `--json` says of the views."""
        return json.loads(self(*words, "--json")[0])["views"]

    def terminate(self, *hosts: str) -> None:
        """End the instances of these hosts, as Amazon may at any time."""
        here = self.hosts()
        self.client("ec2").terminate_instances(InstanceIds=[here[host] for host in hosts])

    def client(self, service: str) -> Any:
        """A client of AWS's that may do everything."""
        return self.ec2.aws.client(service)

    def hosts(self) -> dict[str, str]:
        """The hosts of the system that run, and their instances."""
        return self.ec2.hosts(self.system)

    def leases(self) -> dict[str, int]:
        """Until when the lease of each host is, in seconds since 1970."""
        running = [each for each in self.ec2.all_of(self.system) if each.state == "running"]
        return {tags["dist-zero:host"]: int(tags["dist-zero:lease-until"]) for tags in map(tags_of, running)}

    def left(self) -> dict[str, list[str]]:
        """What AWS has of the system, its store apart."""
        ec2, iam, s3 = (self.client(name) for name in ("ec2", "iam", "s3"))
        groups = ec2.describe_security_groups(
            Filters=[{"Name": "tag:dist-zero:system", "Values": [self.system]}]
        )
        listed = s3.list_objects_v2(Bucket=self.bucket, Prefix="shop/cloud/").get("Contents", [])
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

    def end(self) -> None:
        """Whatever a test has done: no instance of the system lives any more."""
        with self.ec2.aws.lock:
            for instance in self.ec2.all_of(self.system):
                instance.terminate()
        ours = {each.id for each in self.ec2.all_of(self.system)}
        self.ec2.wait(lambda: not ours.intersection(self.ec2.containers()))
