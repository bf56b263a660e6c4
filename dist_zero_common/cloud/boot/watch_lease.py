"""Ends this instance when its lease is over: python3 watch_lease.py SECONDS TAG

Until when the lease is, a tag of the instance says, in seconds since 1970, read where instances read about themselves.
As long as it cannot be read, what was read last counts; before the first time, SECONDS from the start.
"""

import subprocess
import sys
import time
import urllib.request

METADATA = "http://169.254.169.254/latest"
LOOK_SECONDS = 3
ENDS = (["shutdown", "-h", "now"], ["poweroff", "-f"])


def read(tag: str) -> int:
    """Until when the lease is."""
    wants = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    request = urllib.request.Request(f"{METADATA}/api/token", method="PUT", headers=wants)
    token = urllib.request.urlopen(request, timeout=5).read().decode()
    tags = f"{METADATA}/meta-data/tags/instance/{tag}"
    request = urllib.request.Request(tags, headers={"X-aws-ec2-metadata-token": token})
    return int(urllib.request.urlopen(request, timeout=5).read())


def main(seconds: float, tag: str) -> None:
    """Look, and end."""
    until = time.time() + seconds
    while time.time() < until:
        time.sleep(LOOK_SECONDS)
        try:
            until = read(tag)
        except Exception as failed:
            print(f"the lease cannot be read: {failed}", flush=True)
    print("the lease is over", flush=True)
    while True:
        for command in ENDS:
            try:
                subprocess.run(command, check=False, timeout=60)
            except Exception as failed:
                print(f"{command[0]}: {failed}", flush=True)
            time.sleep(20)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
