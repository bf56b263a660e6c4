"""A part of the flights, through a system in the cloud that loses instances: the same wherever that cloud is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from examples.flights import data_directory
from test.cloud.command_line import ROOT, CommandLine

FLIGHTS = str(ROOT / "examples" / "flights.py")


def fly(cloud: CommandLine) -> None:
    """A system with two machines and two schedulers is up, with the program on four nodes and no rows in it. It shows
    the bits of a simulation, also after instances of a scheduler and a machine were terminated, and with more rows.
    A second `up` changes nothing; logs come without ssh; `down` leaves the store and nothing else."""
    files = flights_files(cloud.directory)

    def simulated(flights: int) -> object:
        chosen = {**files, "flights": files["flights"][:flights]}
        loads = [
            word for name, each in chosen.items() for file in each for word in ("--load", f"{name}={file}")
        ]
        return cloud.views("run", FLIGHTS, *loads, "--null", "NA")

    before = cloud.hosts()
    assert sorted(before) == ["m1", "m2", "s1", "s2"]
    for name in ("airlines", "planes", "weather"):
        cloud("load", name, *map(str, files[name]), "--null", "NA")
    cloud("load", "flights", str(files["flights"][0]), "--null", "NA")
    first = simulated(1)
    assert cloud.views("show") == first

    out, _ = cloud.up(FLIGHTS, "--nodes", "4", machines=2)
    assert cloud.hosts() == before and "fills" not in out

    cloud.terminate("s1", "m1")

    def replaced() -> bool:
        now = cloud.hosts()
        return now.keys() == before.keys() and all(now[host] != before[host] for host in ("s1", "m1"))

    cloud.wait(replaced)
    assert cloud.views("show") == first
    cloud("load", "flights", str(files["flights"][1]), "--null", "NA")
    assert cloud.views("show") == simulated(2)

    said = [json.loads(line) for line in cloud("logs", "--json")[0].splitlines()]
    hosts = {entry["source"].partition("/")[0] for entry in said}
    assert hosts >= {"m1", "m2"} and hosts & {"s1", "s2"}, hosts
    assert {"agent_started", "instance_launched"} <= {entry["event"] for entry in said}
    assert cloud.environment["AMQP_URL"] not in json.dumps(said)

    out, _ = cloud("down")
    assert out.count("removed instance i-") == 4 and "AWS has nothing of it but its store" in out
    assert cloud.left() == {}
    kept = cloud.client("s3").list_objects_v2(Bucket=cloud.bucket, Prefix=f"{cloud.prefix}/programs/")
    assert kept["KeyCount"] > 0


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
