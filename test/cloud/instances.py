"""Instances of EC2 as containers of this host: each one that moto says is running is a container that runs the real
user data of that instance, and each container that has ended is an instance that has.

The image holds what an image for instances would: DistZero in it. All else that a container is not, `instance_boot.py`
makes up for.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

from test.cloud.aws_server import AwsServer, tags_of
from test.cloud.metadata_server import MetadataServer

HERE = Path(__file__).parent
LOOK_SECONDS = 0.2
INSTANCE_LABEL = "dist-zero-test.instance"
_BOOT = "/hypervisor/boot.py"


class Ec2:
    """A network of this host, with AWS at its gateway. `with` it; afterwards no container and no network is left."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._docker = docker.from_env(timeout=120)
        self._containers: dict[str, Any] = {}
        self._addresses: dict[str, str] = {}
        self._ended: set[str] = set()
        self._stopping = threading.Event()
        self.output: dict[str, str] = {}
        """What each container has printed that has ended."""
        self.errors: list[BaseException] = []

    def __enter__(self) -> Ec2:
        labels = {LABEL_SESSION_ID: SESSION_ID}
        self._network = self._docker.networks.create(f"dzt-ec2-{uuid.uuid4().hex[:8]}", labels=labels)
        self._network.reload()
        self.gateway = str(self._network.attrs["IPAM"]["Config"][0]["Gateway"])
        self.aws = AwsServer(self.gateway)
        self.metadata = MetadataServer(self.gateway, self._instance_at)
        registered = self.aws.client("ec2").register_image(Name="dist-zero-test", RootDeviceName="/dev/xvda")
        self.image = str(registered["ImageId"])
        self._forwards: list[socket.socket] = []
        self._before = {each.id for each in self.aws.instances()}
        self._keeper = threading.Thread(target=self._keep, name="hypervisor", daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._keeper.join()
        for container in list(self._containers.values()):
            _remove(container)
        for instance in self._instances():
            instance.terminate()
        for listening in self._forwards:
            listening.close()
        self.metadata.close()
        self.aws.close()
        self._network.remove()
        self._docker.close()

    def reachable(self, port: int) -> int:
        """A port of the gateway that leads to this one of the loopback: for instances and for this process."""
        listening = socket.create_server((self.gateway, 0), backlog=128)
        self._forwards.append(listening)
        threading.Thread(target=_accept, args=(listening, port), daemon=True).start()
        here: int = listening.getsockname()[1]
        return here

    # -- what tests ask, and do ----------------------------------------------------------------------------------

    def hosts(self, system: str) -> dict[str, str]:
        """The instances of a system that run, by host: their ids."""
        return {
            tags["dist-zero:host"]: instance.id
            for instance in self._instances()
            if instance.state == "running" and (tags := tags_of(instance)).get("dist-zero:system") == system
        }

    def all_of(self, system: str) -> list[Any]:
        """All instances that a system ever had, as moto has them."""
        return [each for each in self._instances() if tags_of(each).get("dist-zero:system") == system]

    def container(self, instance: str) -> Any:
        """The container that an instance is."""
        return self._containers[instance]

    def containers(self) -> list[str]:
        """The instances that are containers now."""
        found = self._docker.containers.list(
            filters={"label": [INSTANCE_LABEL, f"{LABEL_SESSION_ID}={SESSION_ID}"]}
        )
        return sorted(each.labels[INSTANCE_LABEL] for each in found)

    def run(self, instance: str, *command: str) -> str:
        """Run a command in an instance; what it prints."""
        _, output = self._containers[instance].exec_run(list(command))
        return str(output.decode(errors="replace"))

    def image_story(self) -> str:
        """All that Docker says of the image, its layers' commands too."""
        image = self._docker.images.get(self._image)
        return json.dumps([image.attrs, image.history()])

    def wait(self, what: Any, seconds: float = 240.0) -> Any:
        """What `what` returns, as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, self.story()
            time.sleep(LOOK_SECONDS)
        return found

    def story(self) -> str:
        """What instances have printed, for when a test fails."""
        parts = [f"-- {name}\n{text}" for name, text in self.output.items()]
        for instance in list(self._containers):
            parts.append(
                f"-- {instance}\n{self.run(instance, 'sh', '-c', 'tail -n 20 /var/log/dist-zero/*.out')}"
            )
        return "\n".join(parts)

    # -- the hypervisor ------------------------------------------------------------------------------------------

    def _instances(self) -> list[Any]:
        return [each for each in self.aws.instances() if each.id not in self._before]

    def _instance_at(self, address: str) -> Any:
        instance_id = self._addresses.get(address)
        return next((each for each in self._instances() if each.id == instance_id), None)

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception as error:
                self.errors.append(error)

    def _look(self) -> None:
        for instance in self._instances():
            container = self._containers.get(instance.id)
            if instance.state == "running" and container is None and instance.id not in self._ended:
                self._start(instance)
            elif container is not None and instance.state != "running":
                self._end(instance.id, container)
            elif container is not None and not _runs(container):
                assert instance.instance_initiated_shutdown_behavior == "terminate"
                self._end(instance.id, container)
                with self.aws.lock:
                    instance.terminate()

    def _start(self, instance: Any) -> None:
        container = self._docker.containers.create(
            self._image,
            ["python3", _BOOT, self.gateway, str(self.metadata.port)],
            labels={LABEL_SESSION_ID: SESSION_ID, INSTANCE_LABEL: instance.id},
            user="root",
            cap_add=["NET_ADMIN"],
            network=self._network.name,
            entrypoint=[],
            healthcheck={"test": ["NONE"]},
            environment={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/venv/bin"
            },
            volumes={
                str(HERE / "instance_boot.py"): {"bind": _BOOT, "mode": "ro"},
                str(HERE / "instance_off.sh"): {"bind": "/usr/local/sbin/shutdown", "mode": "ro"},
            },
        )
        self._containers[instance.id] = container
        container.start()
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"][self._network.name]["IPAddress"]
        self._addresses[address] = instance.id

    def _end(self, instance: str, container: Any) -> None:
        self._ended.add(instance)
        with suppress(APIError, NotFound):
            self.output[instance] = container.logs(tail=50).decode(errors="replace")
        _remove(container)
        self._containers.pop(instance, None)


def _runs(container: Any) -> bool:
    try:
        container.reload()
    except NotFound:
        return False
    return container.status in ("created", "running")


def _remove(container: Any) -> None:
    with suppress(APIError, NotFound):
        container.remove(v=True, force=True)


def _accept(listening: socket.socket, port: int) -> None:
    while True:
        try:
            here, _ = listening.accept()
        except OSError:
            return  # closed
        threading.Thread(target=_pass_on, args=(here, port), daemon=True).start()


def _pass_on(here: socket.socket, port: int) -> None:
    try:
        with here, socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=_copy, args=(there, here), daemon=True)
            back.start()
            _copy(here, there)
            back.join()
    except OSError:
        pass


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
