"""A whole system of this machine's processes over a RabbitMQ in a container, and what it uses.

A scheduler, and as many node runners as there are nodes, each a process and a machine of its own; the client is the
process that measures. What goes through the broker is counted by the broker itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dist_zero.client.remote import RemoteSystem
from test.virtual.processes import Service, Services, services
from test.virtual.rabbitmq_server import PASSWORD, USER

SYSTEM = "bench"

_COUNT = """
Node = maps:get([{protocol, amqp091}], rabbit_global_counters:overview()),
Received = [N || [{recv_oct, N}] <- rabbit_networking:connection_info_all([recv_oct])],
io:format("[~b, ~b]", [maps:get(messages_received_total, Node), lists:sum(Received)]).
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """RabbitMQ in the container of this id; `url` leads to an empty virtual host, by the container's own address: what
    goes to a published port passes one process of Docker's more, each way."""

    url: str
    container: str

    def counts(self) -> tuple[int, int]:
        """Messages that were published to it, ever, and bytes that it has received over connections that are open."""
        command = ["docker", "exec", self.container, "rabbitmqctl", "-q", "eval", _COUNT]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        messages, size = json.loads(said[: said.index("]") + 1])
        return messages, size

    def pids(self) -> list[int]:
        """Its processes, as this machine numbers them."""
        command = ["docker", "top", self.container, "-eo", "pid"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(line) for line in said.split()[1:]]


@dataclass(frozen=True, slots=True)
class Used:
    """What has been used so far, or between two readings: seconds of processors, and what went through the broker."""

    client: float
    runners: float
    broker: float
    messages: int
    bytes: int

    def __sub__(self, before: Used) -> Used:
        return Used(
            self.client - before.client,
            self.runners - before.runners,
            self.broker - before.broker,
            self.messages - before.messages,
            self.bytes - before.bytes,
        )


@dataclass(frozen=True, slots=True)
class System:
    """The processes, and a way in."""

    broker: Broker
    runners: list[Service]
    remote: RemoteSystem

    def used(self) -> Used:
        """A reading. Takes a second or two, outside of what is measured."""
        messages, size = self.broker.counts()
        return Used(
            client=sum(os.times()[:2]),
            runners=sum(cpu_seconds(runner.process.pid) for runner in self.runners),
            broker=sum(cpu_seconds(pid) for pid in self.broker.pids()),
            messages=messages,
            bytes=size,
        )

    def peak_rss_mb(self) -> float:
        """The most memory that the runners have held, together."""
        return sum(peak_rss_mb_of(runner.process.pid) for runner in self.runners)


@contextmanager
def running_system(broker: Broker, nodes: int) -> Iterator[System]:
    """A system with a runner for each node, with its store in a temporary directory."""
    with TemporaryDirectory() as directory, services(Path(directory), broker.url, SYSTEM) as started:
        yield System(broker, _start(started, nodes), RemoteSystem(broker.url, SYSTEM))


def _start(started: Services, nodes: int) -> list[Service]:
    started.scheduler(machines=nodes)
    return [started.runner(f"m{number}") for number in range(nodes)]


def broker_url(virtual_host: str, container: str) -> str:
    """The URL of a virtual host of the test server in this container, by the container's own address."""
    command = ["docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", container]
    address = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"amqp://{USER}:{PASSWORD}@{address}:5672/{virtual_host}"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb_of(pid: int) -> float:
    """The most memory that a process has held, in MB of 10⁶ bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e6
