"""The commands for a running system, typed by a user: processes over a real RabbitMQ, as the system's services are.

One system serves all tests here, in the order of this file: each leaves it as it was, but for more rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.cli.app import CHECK_FAILED, OK, OPERATOR_ERROR, USER_ERROR
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.broker.topology import ROLES
from test.virtual.rabbitmq_server import RabbitServer

SYSTEM = "shop"
PATIENCE_SECONDS = 120
MACHINES = ("m1", "m2")

app = dz.Program("sales")


class Sale(dz.Row):
    number: int
    shop: str
    pieces: int | None


sales = app.dataset("sales", Sale, key="number")
lines = app.dataset("lines", Sale)
app.view("shops", sales.group_by("shop").agg(n=dz.count(), pieces=dz.sum("pieces")))
app.view("written", lines.group_by().agg(n=dz.count(), numbers=dz.sum("number")))


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as JSON."""
        assert self.code in (OK, CHECK_FAILED), self.err
        return json.loads(self.out)


@dataclass
class Site:
    """A directory in which a user types commands about a system whose services run as processes."""

    directory: Path
    url: str
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, log_directory: str = ".tmp", **more: str) -> dict[str, str]:
        """What is set for a process of this system."""
        ours = {
            "AMQP_URL": self.url,
            "DIST_ZERO_SYSTEM": SYSTEM,
            "DIST_ZERO_STORE": str(self.directory / "store"),
            "DIST_ZERO_LOG_DIR": str(self.directory / log_directory),
        }
        root = str(Path(__file__).parents[2])
        return {**os.environ, "PYTHONPATH": root, **ours, **more}

    def start(self, service: str, name: str, **more: str) -> None:
        """Start a service."""
        self.services[name] = subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"],
            cwd=self.directory,
            env=self.environment(f".tmp/{name}", **more),
        )

    def start_machine(self, name: str) -> None:
        """Start a runner that is a machine of its own."""
        self.start("node_runner", name, DIST_ZERO_MACHINE=name)

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a service."""
        process = self.services.pop(name)
        process.send_signal(number)
        process.wait(PATIENCE_SECONDS)

    def end_all(self) -> None:
        """End all services, and commands that a test that failed left behind."""
        for process in self.begun:
            if process.returncode is None:
                process.kill()
                process.communicate()
        for name in list(self.services):
            self.end(name)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Type a command, and do not wait for its end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dist_zero.cli", *words],
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun.append(process)
        return process

    def __call__(self, *words: str) -> Ran:
        """Type a command."""
        process = self.begin(*words)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert "tester:" not in out + err, "a password is shown"
        return Ran(process.returncode, out, err)

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """What `holds` returns as soon as that is something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS} s"
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A scheduler and two machines; the program runs on three nodes."""
    directory = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        site = Site(directory, rabbitmq.url(stack.enter_context(rabbitmq.virtual_host("commands"))))
        stack.callback(site.end_all)
        site.start("scheduler", "scheduler", DIST_ZERO_MACHINES=str(len(MACHINES)))
        for machine in MACHINES:
            site.start_machine(machine)
        asyncio.run(_submit(site.url))
        yield site


async def _submit(url: str) -> None:
    async with RemoteSystem(url, SYSTEM).connect(app, nodes=3):
        pass


def csv(numbers: range) -> str:
    """A file of sales."""
    rows = (f"{n},{'abc'[n % 3]},{'NA' if n % 5 == 0 else n % 7}" for n in numbers)
    return "\n".join(("number,shop,pieces", *rows, ""))


def shops(numbers: range) -> list[dict[str, object]]:
    """What the view `shops` has then."""
    found: dict[str, list[int]] = {}
    for n in numbers:
        each = found.setdefault("abc"[n % 3], [0, 0])
        each[0] += 1
        each[1] += 0 if n % 5 == 0 else n % 7
    return [{"shop": shop, "n": n, "pieces": pieces} for shop, (n, pieces) in sorted(found.items())]


def test_status_says_where_everything_is(site: Site) -> None:
    """Two machines are ready, three nodes run, and nothing is wrong."""
    found = site("status", "--json").json()
    assert [(each["machine"], each["ready"]) for each in found["machines"]] == [("m1", True), ("m2", True)]
    [program] = found["programs"]
    assert (program["program"], program["state"], len(program["nodes"])) == ("sales", "running", 3)
    assert found["wrong"] == []
    text = site("status")
    assert text.code == OK
    assert "system shop  at amqp://tester@127.0.0.1:" in text.out


def test_rows_go_in_by_load_and_out_by_show_and_get(site: Site) -> None:
    """What a file holds is what the view shows; the same file again is passed over."""
    (site.directory / "sales.csv").write_text(csv(range(2_500)))
    loaded = site("load", "sales", "sales.csv", "--null", "NA")
    assert loaded.out.startswith("2,500 rows into sales of sales in "), loaded
    again = site("load", "sales", "sales.csv", "--null", "NA", "--json").json()
    assert (again["rows"], again["rows_passed_over"]) == (0, 2_500)
    shown = site("show", "shops", "--json", "--out", "shops=shops.parquet").json()
    assert shown["views"]["shops"] == shops(range(2_500))
    there = [{"shop": row.shop, "n": row.n, "pieces": row.pieces} for row in read_shops(site)]
    assert there == shops(range(2_500))
    assert site("get", "shops", "b", "--json").json() == shops(range(2_500))[1]
    missing = site("get", "shops", "z")
    assert (missing.code, missing.out) == (CHECK_FAILED, "")
    assert "no row of shops has the key 'z'" in missing.err


class Shop(dz.Row):
    shop: str
    n: int
    pieces: int


def read_shops(site: Site) -> list[Shop]:
    return list(dz.read_rows(site.directory / "shops.parquet", Shop))


def test_a_killed_load_goes_on_where_it_stopped(site: Site) -> None:
    """Killed, not asked; twice. Then run to its end: nothing is lost and nothing is doubled, though the dataset has no
    key that would hide it."""
    count = 24_000
    wide = "x" * 4_000  # so much that a client cannot have it all under way at once
    rows = (f"{n},{wide},{n}" for n in range(count))
    (site.directory / "lines.csv").write_text("\n".join(("number,shop,pieces", *rows, "")))
    command = ("load", "lines", "lines.csv")
    for _ in range(2):
        before = log_bytes(site)
        loading = site.begin(*command)
        site.until(partial(_grown, site, before + 100_000), "the load goes on")
        loading.kill()
        loading.communicate(timeout=PATIENCE_SECONDS)
        assert loading.returncode == -signal.SIGKILL, "it had ended before it was killed: take more rows"
    last = site(*command, "--json").json()
    assert last["rows"] + last["rows_passed_over"] == count
    assert last["rows"] > 0
    assert last["rows_passed_over"] > 0
    assert site("get", "written", "--json").json() == {"n": count, "numbers": sum(range(count))}


def _grown(site: Site, size: int) -> bool:
    return log_bytes(site) > size


def log_bytes(site: Site) -> int:
    """How much is committed."""
    return sum(record.stat().st_size for record in (site.directory / "store/programs/sales/log").iterdir())


def test_watch_is_the_view_at_every_epoch(site: Site) -> None:
    """Its lines, applied one after the other, give the view; Ctrl-C ends it with exit code 0 and says where to go on,
    and another one goes on there, with what came in between."""
    (site.directory / "more.csv").write_text(csv(range(2_500, 6_000)))
    (site.directory / "rest.csv").write_text(csv(range(6_000, 6_100)))
    watching = site.begin("watch", "shops", "--json")
    assert watching.stdout is not None
    view: Counter[str] = Counter()
    first = json.loads(watching.stdout.readline())
    assert first["snapshot"]
    assert site("load", "sales", "more.csv", "--null", "NA").code == OK
    wanted = Counter(json.dumps(row) for row in shops(range(6_000)))
    for line in watching.stdout:
        apply(view, json.loads(line))
        if view == wanted:
            break
    assert view == wanted
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=PATIENCE_SECONDS)
    assert watching.returncode == OK, err
    after = err.split("--after ")[1].strip()
    assert site("load", "sales", "rest.csv", "--null", "NA").code == OK
    went_on = site("watch", "shops", "--after", after, "--count", "1", "--json")
    assert went_on.code == OK
    for line in went_on.out.splitlines():
        apply(view, json.loads(line))
    assert view == Counter(json.dumps(row) for row in shops(range(6_100)))


def apply(view: Counter[str], line: dict[str, Any]) -> None:
    """One line of a watch, to the rows known so far."""
    row = json.dumps(line["row"])
    view[row] += 1 if line["change"] == "+" else -1
    if not view[row]:
        del view[row]


def test_what_is_misspelt_is_named(site: Site) -> None:
    """Program, dataset, view, key, file: one line on standard error, nothing on standard output."""
    for words, says in (
        (("show", "--program", "sale"), "no program 'sale' runs there; there are sales"),
        (("show", "shop"), "no view 'shop' in program 'sales'; there are shops, written"),
        (("get", "shops"), "view 'shops': the key is (shop: str): give 1 value, got none"),
        (("load", "sale", "sales.csv"), "no dataset 'sale' in program 'sales'; there are sales, lines"),
        (("load", "sales", "none.csv"), "'none.csv' does not exist"),
        (("load", "sales", "sales.csv"), "sales.csv, line 2, column 'pieces': expected int | None, got 'NA'"),
    ):
        ran = site(*words)
        assert (ran.code, ran.out) == (USER_ERROR, ""), words
        assert says in ran.err
        assert len(ran.err.splitlines()) == 1
    nowhere = site("status", "--system", "shopp")
    assert nowhere.code == OPERATOR_ERROR
    assert "system 'shopp' is not running at this broker" in nowhere.err


def test_logs_are_those_of_all_processes(site: Site) -> None:
    """In order of time, with their machines; of one machine alone, if that is asked for."""
    entries = [json.loads(line) for line in site("logs", "--level", "debug", "--json").out.splitlines()]
    assert {"m1", "m2"} <= {entry.get("machine") for entry in entries}
    assert {"scheduler", "node-runner"} <= {entry["service"] for entry in entries}
    times = [entry["time"] for entry in entries]
    assert times == sorted(times)
    of_m1 = site("logs", "--machine", "m1").out.splitlines()
    assert of_m1
    assert all("[m1]" in line for line in of_m1)


def test_doctor_finds_nothing_and_lists_every_queue(site: Site) -> None:
    """All seven queues, each read by one, and empty when nothing is going on."""
    ran = site("doctor", "--json")
    found = ran.json()
    assert found["healthy"], found["findings"]
    queues = {each["queue"]: each for each in found["queues"]}
    assert len(queues) == 7
    assert {each["consumers"] for each in queues.values()} == {1}
    assert {each["waiting"] for each in queues.values()} == {0}
    says = " ".join(each["says"] for each in found["findings"])
    for part in (
        f"the {len(ROLES) - 1} exchanges are there",  # no scheduler ever stood by
        "2 machines are ready: m1, m2",
        "program sales runs",
        "the store ",
    ):
        assert part in says
    text = site("doctor")
    assert text.code == OK
    assert all(queue in text.out for queue in queues)


def test_doctor_names_what_is_wrong_with_the_login(site: Site, rabbitmq: RabbitServer) -> None:
    """Password, virtual host, a user without rights there: no password is shown."""
    rabbitmq.manage("PUT", "users/stranger", {"password": "tester:s", "tags": ""})
    try:
        for url, says in (
            (site.url.replace("tester:tester", "tester:wrong"), "the broker refuses user 'tester'"),
            (f"{site.url}-not", "the broker has no virtual host 'commands-"),
            (
                site.url.replace("tester:tester", "stranger:tester%3As"),
                "user 'stranger' may not use the virtual host",
            ),
        ):
            ran = site("doctor", "--broker", url)
            assert ran.code == CHECK_FAILED
            assert f"✗ {says}" in ran.out
            status = site("status", "--broker", url)
            assert status.code == OPERATOR_ERROR
            assert "wrong" not in status.err
    finally:
        rabbitmq.manage("DELETE", "users/stranger")
    web = site("doctor", "--broker", f"amqp://tester:tester@127.0.0.1:{rabbitmq.management_port}/")
    assert "does not speak AMQP" in web.out


def test_doctor_sees_that_the_broker_has_an_alarm(site: Site, rabbitmq: RabbitServer) -> None:
    """Blocked, and well again when it is over."""
    with rabbitmq.memory_alarm():
        ran = site("doctor")
        assert ran.code == CHECK_FAILED
        assert "✗ the broker takes no messages just now: low on memory" in ran.out
    site.until(lambda: site("doctor", "--seconds", "0.5").code == OK, "the system is healthy again")


def test_a_machine_that_is_killed_is_found_and_found_again(site: Site) -> None:
    """`status` and `doctor` name it; its nodes go to the other one, and the views are as they were."""
    site.end("m2", signal.SIGKILL)

    def finding() -> str:
        ran = site("doctor", "--seconds", "0.5")
        return next(
            (line for line in ran.out.splitlines() if line.startswith("✗ machine m2: not heard of")), ""
        )

    assert "is it running, and does it reach the broker?" in site.until(finding, "the doctor misses m2")
    status = site("status")
    assert status.code == CHECK_FAILED
    assert "not heard of for " in status.out
    shown = site("show", "shops", "--json").json()
    assert shown["views"]["shops"] == shops(range(6_100))
    site.start_machine("m2")
    site.until(lambda: site("doctor", "--seconds", "0.5").code == OK, "the system is healthy again")
    assert site("status").code == OK
