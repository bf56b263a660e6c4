"""`up --mode cloud --dry-run`: the plan that a person checks, as golden text, and what is refused at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dist_zero.cloud.source import archive, source_here
from dist_zero_common.settings import load_settings
from test.unit.tidy import ROOT

PROGRAM = """
import dist_zero as dz

app = dz.Program("toy")


class Thing(dz.Row):
    k: int


app.view("count", app.dataset("things", Thing, key="k").group_by().agg(n=dz.count()))
"""
GOLDEN = Path(__file__).parent / "golden" / "cloud_plan.txt"
BROKER = "amqps://shop:hunter2@broker.example.com/shop"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """The command line in a directory of its own, with nothing set."""
    from dist_zero.cli.main import main

    (tmp_path / "toy.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_REGION", "AWS_ENDPOINT_URL", "DIST_ZERO_STORE", "DIST_ZERO_SYSTEM", "AMQP_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dist-zero", "up", "toy.py", "--mode", "cloud", *words])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert "hunter2" not in said.out + said.err
        return int(end.value.code or 0), said.out, " ".join(said.err.split())

    return run


def test_the_plan_is_as_agreed(run: object) -> None:
    """Every line; what the archive's name says of its content aside."""
    assert callable(run)
    code, out, _ = run(
        *("--machines", "3", "--store", "s3://acme/shop", "--broker", BROKER, "--dry-run", "--lease", "600"),
        *(
            "--spot",
            "--max-usd-per-hour",
            "1.5",
            "--subnet",
            "subnet-a",
            "--subnet",
            "subnet-b",
            "--owner",
            "ann",
        ),
    )
    assert code == 0
    text = "".join(
        f"{line.rstrip()}\n" for line in re.sub(r"source/[0-9a-f]{64}", "source/HASH", out).splitlines()
    )
    assert text == GOLDEN.read_text(), f"if this is meant, it is the golden text now:\n{text}"


def test_user_data_are_shown(run: object) -> None:
    """With `--verbose`: those of one host of each role."""
    assert callable(run)
    code, out, _ = run("--store", "s3://acme/shop", "--broker", BROKER, "--dry-run", "--verbose")
    assert code == 0
    assert out.count("#!/bin/bash\n# DistZero:") == 2
    assert "s1 (scheduler) of system toy" in out and "m1 (machine) of system toy" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--broker", BROKER], "no store"),
        (["--broker", BROKER, "--store", "/data"], "in the cloud the store is a bucket"),
        (["--store", "s3://b/p"], "name it with --broker amqps://user:password@host/vhost or AMQP_URL"),
        (["--store", "s3://b/p", "--broker", "http://h"], "--broker: this is no address of a broker"),
        (
            ["--store", "s3://b/p", "--broker", BROKER, "--machines", "17"],
            "17 machines are more than max-machines 16",
        ),
        (
            ["--store", "s3://b/p", "--broker", BROKER, "--machines", "17", "--max-machines", "20"],
            "toy would cost 1.674 USD per hour, more than max-usd-per-hour 1",
        ),
        (
            ["--store", "s3://b/p", "--broker", BROKER, "--machine-type", "x9.large"],
            "what instance type x9.large costs",
        ),
        (
            [
                "--store",
                "s3://b/p",
                "--broker",
                BROKER,
                "--machine-type",
                "t2.micro",
                "--max-usd-per-hour",
                "0",
            ],
            "its family is too old for leases",
        ),
        (
            ["--store", "s3://b/p", "--broker", BROKER, "--prices", "none.json"],
            "the prices in none.json cannot be read",
        ),
        (["--store", "s3://b/p", "--broker", BROKER, "--lease", "1"], "the lease has 5 to 86400 seconds"),
    ],
)
def test_what_cannot_be_is_refused_before_anybody_is_asked(run: object, words: list[str], says: str) -> None:
    """With what to do, and exit code 3 or 2, in a dry run as in a real one."""
    assert callable(run)
    code, out, err = run("--max-usd-per-hour", "1", "--dry-run", *words)
    assert says in err and code in (2, 3) and not out


def test_without_a_limit_an_unknown_price_is_said(run: object) -> None:
    """It is in the table and below it, and not in the sum."""
    assert callable(run)
    code, out, _ = run("--store", "s3://b/p", "--broker", BROKER, "--machine-type", "x9.large", "--dry-run")
    assert code == 0 and "not known       the price of x9.large" in out


# ---- what hosts install ------------------------------------------------------------------------------------------


def test_the_archive_has_what_services_need_and_is_the_same_each_time() -> None:
    """All source of ours, nothing else; its name is its content."""
    import io
    import tarfile

    source = source_here()
    assert source_here() == source
    with tarfile.open(fileobj=io.BytesIO(source.archive)) as tar:
        names = tar.getnames()
    assert {
        "services/scheduler/__main__.py",
        "schemas/messages.capnp",
        "dist_zero/native/runtime/core.h",
        "dist_zero_common/cloud/boot/serve.sh",
    } <= set(names)
    assert not [name for name in names if name.startswith(("test", ".", "/")) or name.endswith(".pyc")]
    assert archive([ROOT / "schemas"]) != source.archive
    assert len(source.archive) < 3_000_000


def test_a_dist_zero_without_its_lock_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was installed by pip cannot be uploaded."""
    monkeypatch.setattr("dist_zero.cloud.source.LOCK", "Missing.lock")
    with pytest.raises(Exception, match=r"run this from a checkout of the repository, or name an image"):
        source_here()


def test_services_are_told_what_they_need_and_machines_nothing_about_instances() -> None:
    """What goes into the objects with secrets is what the services' settings take."""
    from dist_zero.cloud.described import environment
    from dist_zero_common.cloud.fleet import MACHINE, SCHEDULER
    from dist_zero_common.settings import Settings
    from test.cloud.fleets import fleet

    settings = Settings(growth=(("up_seconds", 3.0),), logstash_host="elk", lost_seconds=60)
    told = {role: environment(settings, fleet(), role, BROKER) for role in (MACHINE, SCHEDULER)}
    read = {role: load_settings(variables, None) for role, variables in told.items()}
    for each in read.values():
        assert (each.broker_url, each.system, each.store) == (BROKER, "shop", "s3://acme/live")
        assert each.logstash_host == "elk" and not each.aws_key_id
    assert read[SCHEDULER].spawner == "ec2" and read[MACHINE].spawner == "none"
    assert (read[SCHEDULER].machines, read[SCHEDULER].cloud_schedulers) == (2, 2)
    assert read[SCHEDULER].growth == settings.growth and read[SCHEDULER].lost_seconds == 60
