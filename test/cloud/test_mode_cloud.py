"""Cloud mode from end to end: the command line, EC2, S3 and IAM by moto, a container for each instance, RabbitMQ."""

from __future__ import annotations

import json
import signal
import time

import pytest

from test.cloud.aws_server import Parameters, tags_of
from test.cloud.cloud import Cloud
from test.cloud.flights import FLIGHTS, fly
from test.virtual.rabbitmq_server import PASSWORD, USER

pytestmark = [pytest.mark.timeout(900)]
LEASE_SECONDS = 18


def test_flights_survive_the_loss_of_instances_cloud(cloud: Cloud) -> None:
    """A part of the flights, in a system that comes up while AWS throttles every third call and has no room for the
    first type: the bits of a simulation. The same after a scheduler's and a machine's instance were terminated, with
    more rows. A second `up` changes nothing; no secret is where it does not belong; logs come without ssh; `down`
    leaves the store and nothing else."""
    calls = 0

    def unkind(action: str, parameters: Parameters) -> str | None:
        nonlocal calls
        calls += 1
        if action == "RunInstances" and parameters["InstanceType"] == "m6i.large":
            return "InsufficientInstanceCapacity"
        return None if calls % 3 else "RequestLimitExceeded"

    cloud.environment["DIST_ZERO_CLOUD_SCHEDULERS"] = "2"
    with cloud.ec2.aws.with_fault(unkind):
        cloud.up(FLIGHTS, "--nodes", "4", machines=2)
    no_secrets(cloud)
    fly(cloud)
    cloud.wait(lambda: not cloud.ec2.containers())
    assert cloud("status", code=3)[1]


def no_secrets(cloud: Cloud) -> None:
    """The broker's password and the role's keys are in no user data, tag, argument, log, or layer of the image."""
    secrets = (f"{USER}:{PASSWORD}", "secret-of-the-role", cloud.broker_url)
    looked_at = []
    for instance in cloud.ec2.all_of(cloud.system):
        looked_at.append(instance.user_data.decode() + json.dumps(tags_of(instance)))
        if instance.state == "running":
            script = "cat /var/log/dist-zero/* /var/log/dist-zero/*/*/*; cat /proc/[0-9]*/cmdline; "
            looked_at.append(cloud.ec2.run(instance.id, "sh", "-c", script + "cat /var/lib/dist-zero/boot/*"))
    assert "agent_started" in "".join(looked_at) and "services.machine_agent" in "".join(looked_at)
    looked_at.append(cloud.ec2.image_story())
    for text in looked_at:
        assert not [secret for secret in secrets if secret in text]


def test_nothing_outlives_its_lease_cloud(cloud: Cloud) -> None:
    """`up` is killed when instances are there: all end themselves within a lease. `up` again brings the system up, and
    its leases go on without this machine. Then the last scheduler is ended for good: all end themselves. `down` clears
    the rest away."""
    cloud.environment["DIST_ZERO_CLOUD_LEASE_SECONDS"] = str(LEASE_SECONDS)
    killed = cloud.start("up", "toy.py", "--mode", "cloud")
    cloud.wait(lambda: "m1" in cloud.hosts() or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    died_at = time.time()
    assert max(cloud.leases().values()) <= died_at + LEASE_SECONDS + 1
    cloud.wait(lambda: not cloud.hosts())

    cloud.up()
    first = cloud.leases()
    cloud.wait(lambda: min(cloud.leases().values(), default=0) > max(first.values()) + LEASE_SECONDS)
    assert sorted(cloud.hosts()) == ["m1", "s1"] and cloud.hosts().keys() == cloud.leases().keys()
    assert len(cloud.instances()) == 2

    # Whatever starts the scheduler again is gone; the watch of the lease is not.
    ended = (
        "rm /var/lib/dist-zero/boot/serve.sh;"
        " for process in $(grep -al [s]ervices.scheduler /proc/[0-9]*/cmdline | cut -d/ -f3); do kill -9 $process; done"
    )
    cloud.ec2.run(cloud.hosts()["s1"], "bash", "-c", ended)
    cloud.wait(lambda: not cloud.hosts())
    out, _ = cloud("down")
    assert "removed instance i-" not in out and "removed security group" in out
    assert cloud.left() == {}


def test_a_dry_run_creates_nothing_cloud(cloud: Cloud) -> None:
    """It does not even ask; nor does what a limit forbids."""
    calls = cloud.ec2.aws.calls
    calls.clear()
    out, _ = cloud("up", "toy.py", "--mode", "cloud", "--machines", "3", "--dry-run")
    assert "total" in out
    _, err = cloud("up", "toy.py", "--mode", "cloud", "--machines", "3", "--max-usd-per-hour", "0.1", code=3)
    assert "would cost 0.3088 USD per hour, more than max-usd-per-hour 0.1" in " ".join(err.split())
    assert not calls and cloud.left() == {}
    assert not list(cloud.directory.glob(".tmp/systems/*"))
