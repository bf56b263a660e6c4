"""Cloud mode from end to end: the command line, EC2, S3 and IAM by moto, a container for each instance, RabbitMQ."""

from __future__ import annotations

import json
import signal
import time
import zipfile
from pathlib import Path

import pytest

from examples.flights import data_directory
from test.cloud.aws_server import Parameters, tags_of
from test.cloud.cloud import ROOT, Cloud
from test.virtual.rabbitmq_server import PASSWORD, USER

pytestmark = [pytest.mark.timeout(900)]
LEASE_SECONDS = 24


def flights_files(directory: Path) -> dict[str, list[Path]]:
    """The first lines of the example's tables; the flights in two files."""
    data = data_directory()
    with zipfile.ZipFile(data / "flights.csv.zip") as packed:
        head, *lines = packed.read(packed.namelist()[0]).decode().splitlines(keepends=True)
    weather = (data / "weather.csv").read_text().splitlines(keepends=True)
    (directory / "weather.csv").write_text("".join(weather[:301]))
    flights = []
    for name, part in (("early", lines[:800]), ("late", lines[800:1_200])):
        flights.append(directory / f"{name}.csv")
        flights[-1].write_text(head + "".join(part))
    return {
        "airlines": [data / "airlines.csv"],
        "planes": [data / "planes.csv"],
        "weather": [directory / "weather.csv"],
        "flights": flights,
    }


def test_flights_survive_the_loss_of_instances_cloud(cloud: Cloud) -> None:
    """A part of the flights, in a system that comes up while AWS throttles every third call and has no room for the
    first type: the bits of a simulation. The same after a scheduler's and a machine's instance were terminated, with
    more rows. A second `up` changes nothing; no secret is where it does not belong; logs come without ssh; `down`
    leaves the store and nothing else."""
    program = str(ROOT / "examples" / "flights.py")
    files = flights_files(cloud.directory)

    def simulated(flights: int) -> object:
        chosen = {**files, "flights": files["flights"][:flights]}
        loads = [
            word for name, each in chosen.items() for file in each for word in ("--load", f"{name}={file}")
        ]
        return cloud.views("run", program, *loads, "--null", "NA")

    calls = 0

    def unkind(action: str, parameters: Parameters) -> str | None:
        nonlocal calls
        calls += 1
        if action == "RunInstances" and parameters["InstanceType"] == "m6i.large":
            return "InsufficientInstanceCapacity"
        return None if calls % 3 else "RequestLimitExceeded"

    cloud.environment["DIST_ZERO_CLOUD_SCHEDULERS"] = "2"
    with cloud.ec2.aws.with_fault(unkind):
        cloud.up(program, "--nodes", "4", machines=2)
    before = cloud.hosts()
    assert sorted(before) == ["m1", "m2", "s1", "s2"]
    for name in ("airlines", "planes", "weather"):
        cloud("load", name, *map(str, files[name]), "--null", "NA")
    cloud("load", "flights", str(files["flights"][0]), "--null", "NA")
    assert cloud.views("show") == simulated(1)

    out, _ = cloud.up(program, "--nodes", "4", machines=2)
    assert cloud.hosts() == before and "fills" not in out
    no_secrets(cloud)

    cloud.terminate("s1", "m1")
    cloud.ec2.wait(
        lambda: (
            (now := cloud.hosts()).keys() == before.keys()
            and now["m1"] != before["m1"]
            and now["s1"] != before["s1"]
        )
    )
    assert cloud.views("show") == simulated(1)
    cloud("load", "flights", str(files["flights"][1]), "--null", "NA")
    assert cloud.views("show") == simulated(2)

    said = [json.loads(line) for line in cloud("logs", "--json")[0].splitlines()]
    hosts = {entry["source"].partition("/")[0] for entry in said}
    assert hosts >= {"m1", "m2"} and hosts & {"s1", "s2"}, hosts
    assert {"agent_started", "instance_launched"} <= {entry["event"] for entry in said}
    assert f"{USER}:{PASSWORD}" not in json.dumps(said)

    out, _ = cloud("down")
    assert out.count("removed instance i-") == 4 and "AWS has nothing of it but its store" in out
    assert cloud.left() == {}
    cloud.ec2.wait(lambda: not cloud.ec2.containers())
    assert cloud("status", code=3)[1]
    assert cloud.client("s3").list_objects_v2(Bucket=cloud.bucket, Prefix="shop/programs/")["KeyCount"] > 0


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
    cloud.ec2.wait(lambda: "m1" in cloud.hosts() or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    died_at = time.time()
    assert max(cloud.leases().values()) <= died_at + LEASE_SECONDS + 1
    cloud.ec2.wait(lambda: not cloud.hosts())

    cloud.up()
    first = cloud.leases()
    cloud.ec2.wait(lambda: min(cloud.leases().values(), default=0) > max(first.values()) + LEASE_SECONDS)
    assert sorted(cloud.hosts()) == ["m1", "s1"] and cloud.hosts().keys() == cloud.leases().keys()
    assert {each.id for each in cloud.ec2.all_of(cloud.system) if each.state == "running"} == set(
        cloud.hosts().values()
    )

    # Whatever starts the scheduler again is gone; the watch of the lease is not.
    ended = (
        "rm /var/lib/dist-zero/boot/serve.sh;"
        " for process in $(grep -al services.scheduler /proc/[0-9]*/cmdline | cut -d/ -f3); do kill -9 $process; done"
    )
    cloud.ec2.run(cloud.hosts()["s1"], "bash", "-c", ended)
    cloud.ec2.wait(lambda: not cloud.hosts())
    out, _ = cloud("down")
    assert "removed instance i-" not in out and "removed security group" in out
    assert cloud.left() == {}


def test_a_dry_run_creates_nothing_cloud(cloud: Cloud) -> None:
    """It does not even ask."""
    cloud.ec2.aws.calls.clear()
    out, _ = cloud("up", "toy.py", "--mode", "cloud", "--machines", "3", "--dry-run")
    assert "total" in out and not cloud.ec2.aws.calls and cloud.left() == {}
    _, err = cloud("up", "toy.py", "--mode", "cloud", "--machines", "3", "--max-usd-per-hour", "0.1", code=3)
    assert "would cost 0.3088 USD per hour, more than max-usd-per-hour 0.1" in err
    assert not cloud.ec2.aws.calls and cloud.left() == {}
