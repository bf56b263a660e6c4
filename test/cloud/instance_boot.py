"""Process 1 of a container that stands for an instance: python3 instance_boot.py HOST PORT

It does what an image and its hypervisor do. The address at which instances read about themselves leads to HOST:PORT;
the user data are read there and run, as root; and the machine runs until it is shut down, which ends the container. The
commands `shutdown` and `poweroff` are in `instance_off.sh`.
"""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

ADDRESS = "169.254.169.254"
SET_ADDRESS, SET_FLAGS, UP_AND_RUNNING = 0x8916, 0x8914, 0x41


def add_address() -> None:
    """Give it to the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = b"lo:0"
        address = struct.pack(
            "16sH2s4s8s", name, socket.AF_INET, b"\0\0", socket.inet_aton(ADDRESS), b"\0" * 8
        )
        fcntl.ioctl(any_socket, SET_ADDRESS, address)
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14s", name, UP_AND_RUNNING, b"\0" * 14))


def forward(target: tuple[str, int]) -> None:
    """What comes to port 80 of the address goes to the target."""
    with socket.create_server((ADDRESS, 80), backlog=64) as listening:
        while True:
            here, _ = listening.accept()
            threading.Thread(target=pass_on, args=(here, target), daemon=True).start()


def pass_on(here: socket.socket, target: tuple[str, int]) -> None:
    """Both ways, until both have ended."""
    with here, socket.create_connection(target, timeout=30) as there:
        back = threading.Thread(target=copy, args=(there, here), daemon=True)
        back.start()
        copy(here, there)
        back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source has no more."""
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def user_data() -> str:
    """The script of this instance."""
    base = f"http://{ADDRESS}/latest"
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    request = urllib.request.Request(f"{base}/api/token", method="PUT", headers=headers)
    token = urllib.request.urlopen(request, timeout=30).read().decode()
    request = urllib.request.Request(f"{base}/user-data", headers={"X-aws-ec2-metadata-token": token})
    text: str = urllib.request.urlopen(request, timeout=30).read().decode()
    return text


def main(host: str, port: int) -> None:
    """Start, and run."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    add_address()
    threading.Thread(target=forward, args=((host, port),), daemon=True).start()
    while True:
        try:
            script = user_data()
            break
        except OSError as failed:
            print(f"no user data yet: {failed}", flush=True)
            time.sleep(0.5)
    with open("/tmp/user-data", "w") as file:
        file.write(script)
    os.chmod("/tmp/user-data", 0o700)
    ran = subprocess.Popen(["/tmp/user-data"], cwd="/", start_new_session=True)
    while True:
        pid, status = os.wait()
        if pid == ran.pid:
            print(f"the user data have ended: {status}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
