"""What instances are to be: names, tags, tokens, limits, prices, user data; nothing is asked of anybody."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dist_zero_common.cloud import fleet as fleets
from dist_zero_common.cloud.fleet import (
    MACHINE,
    SCHEDULER,
    Kind,
    checked_fleet,
    client_token,
    decoded,
    encoded,
)
from dist_zero_common.cloud.instances import (
    by_host,
    check_limits,
    launch_request,
    next_generation,
    surplus,
)
from dist_zero_common.cloud.prices import SNAPSHOT, prices_of, read_prices
from dist_zero_common.cloud.user_data import BYTES_MAX, user_data
from dist_zero_common.errors import OperatorError, SettingsError
from test.cloud.fleets import FLEET, fleet, instance

# ---- the description ---------------------------------------------------------------------------------------------


def test_a_fleet_is_what_was_written_down() -> None:
    """Through the bucket and back; what a later version has added is passed over."""
    described = fleet(subnets=("subnet-a", "subnet-b"), spot=True, max_usd_per_hour=1.5)
    assert decoded(encoded(described)) == described
    later = json.loads(encoded(FLEET)) | {"colour": "blue"}
    assert decoded(json.dumps(later).encode()) == FLEET


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"system": "shop", "machine": 3}'])
def test_a_fleet_that_makes_no_sense_is_refused(data: bytes) -> None:
    """With what writes it anew."""
    with pytest.raises(SettingsError, match=r"dist-zero up --mode cloud"):
        decoded(data)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"store": "/data"}, "in the cloud the store is a bucket"),
        ({"store": ""}, "no store"),
        ({"system": "x" * 41}, "40 characters at most"),
        ({"system": "Shop"}, "lower-case"),
        ({"lease_seconds": 4}, "the lease has 5 to 86400 seconds"),
        ({"machines": 5}, "5 machines are more than max-machines 4"),
        ({"machine": Kind(("t2.micro",), "p")}, "t2.micro: its family is too old"),
        ({"machine": Kind((), "p")}, "at least one instance type"),
        ({"schedulers": 0}, "at least one scheduler"),
    ],
)
def test_fleets_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(SettingsError, match=says):
        checked_fleet(fleet(**changes))


def test_objects_are_below_the_store() -> None:
    """In a directory of their own, with and without a prefix."""
    assert fleets.fleet_object("s3://acme/live/") == "live/cloud/fleet.json"
    assert fleets.environment_object("s3://acme", SCHEDULER) == "cloud/scheduler/environment.json"


# ---- tokens, generations, doubles ----------------------------------------------------------------------------------


def test_a_token_is_the_same_for_the_same_launch_alone() -> None:
    """Another one for another system, store, host, generation, type and subnet; EC2 takes 64 characters."""
    token = client_token(FLEET, "m1", 1, "m5.large", "")
    assert token == client_token(fleet(owner="bob", image="ami-2"), "m1", 1, "m5.large", "")
    others = {
        client_token(fleet(system="other"), "m1", 1, "m5.large", ""),
        client_token(fleet(store="s3://acme/dev"), "m1", 1, "m5.large", ""),
        client_token(FLEET, "m2", 1, "m5.large", ""),
        client_token(FLEET, "m1", 2, "m5.large", ""),
        client_token(FLEET, "m1", 1, "m6i.large", ""),
        client_token(FLEET, "m1", 1, "m5.large", "subnet-1"),
    }
    assert len(others | {token}) == 7 and len(token) <= 64


def test_the_next_generation_is_behind_all_that_are_listed() -> None:
    """Ended instances count, other hosts do not."""
    listed = [
        instance(number=1, generation=3, state="terminated"),
        instance(number=2, generation=2),
        instance("m2", 3, generation=9),
    ]
    assert next_generation(listed, "m1") == 4
    assert next_generation([], "m1") == 1


def test_of_two_live_instances_the_younger_one_is_too_many() -> None:
    """The same one whoever looks, also where both began in the same second; ended ones do not count."""
    listed = [
        instance(number=3, launched_at=105.0),
        instance(number=2, launched_at=101.0),
        instance(number=1, launched_at=101.0),
        instance(number=4, launched_at=90.0, state="shutting-down"),
        instance("m2", 5, state="pending"),
    ]
    assert [each.id for each in surplus(listed)] == ["i-2", "i-3"]
    assert [each.id for each in surplus(reversed(listed))] == ["i-2", "i-3"]
    assert {host: each[0].id for host, each in by_host(listed).items()} == {"m1": "i-1", "m2": "i-5"}


# ---- limits and prices ---------------------------------------------------------------------------------------------


def test_no_machine_beyond_the_limit() -> None:
    """Hosts of schedulers are no machines."""
    live = [instance(f"m{number}", number) for number in range(1, 4)] + [instance("s1", 9)]
    check_limits(FLEET, live, "m4", MACHINE, "m6i.large")
    check_limits(FLEET, [*live, instance("m4", 4)], "s2", SCHEDULER, "t3.small")
    with pytest.raises(OperatorError, match=r"m5 would be one machine more than max-machines 4"):
        check_limits(FLEET, [*live, instance("m4", 4)], "m5", MACHINE, "m6i.large")


def test_no_instance_beyond_what_may_be_spent() -> None:
    """The limit itself may be reached; a type without a price is taken for the dearest."""
    live = [instance("m1", 1), instance("s1", 2)]
    check_limits(fleet(max_usd_per_hour=0.22), live, "m2", MACHINE, "m5.large")
    with pytest.raises(
        OperatorError, match=r"would cost 0\.22 USD per hour with m2 \(m5\.large\), more than"
    ):
        check_limits(fleet(max_usd_per_hour=0.21), live, "m2", MACHINE, "m5.large")
    with pytest.raises(OperatorError, match=r"0\.22 USD per hour"):
        check_limits(fleet(max_usd_per_hour=0.21), live, "m2", MACHINE, "x9.large")


def test_ones_own_prices_come_first(tmp_path: Path) -> None:
    """Before the snapshot; a type without a price is an error only where there is a limit."""
    path = tmp_path / "prices.json"
    path.write_text('{"m5.large": 0.5, "x9.large": 3}')
    own = read_prices(path)
    wanted = ["x9.large", "m5.large", "t3.small"]
    expected = (("m5.large", 0.5), ("t3.small", SNAPSHOT["t3.small"]), ("x9.large", 3.0))
    assert prices_of(wanted, own, limited=True) == expected
    assert prices_of(wanted, {}, limited=False) == (
        ("m5.large", SNAPSHOT["m5.large"]),
        ("t3.small", SNAPSHOT["t3.small"]),
    )
    with pytest.raises(SettingsError, match=r'x9\.large costs is not known.*"x9\.large".*--prices FILE'):
        prices_of(wanted, {}, limited=True)


@pytest.mark.parametrize("text", ["", "[]", '{"m5.large": "1"}', '{"m5.large": -1}', '{"m5.large": true}'])
def test_prices_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    """With the file's name."""
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"prices\.json"):
        read_prices(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_prices(tmp_path / "missing.json")


# ---- what is asked for, and what hosts do --------------------------------------------------------------------------


def test_instances_end_themselves_and_tell_only_who_has_a_token() -> None:
    """What keeps an instance from outliving its lease, and its disk from outliving the instance."""
    request = launch_request(
        fleet(spot=True),
        "m1",
        MACHINE,
        generation=2,
        instance_type="m5.large",
        subnet="subnet-1",
        lease_until=77,
    )
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    assert request["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
    assert request["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert request["SubnetId"] == "subnet-1" and request["SecurityGroupIds"] == ["sg-1"]
    assert request["IamInstanceProfile"] == {"Name": "dist-zero-shop-machine"}
    tags = {tag["Key"]: tag["Value"] for tag in request["TagSpecifications"][0]["Tags"]}
    assert tags == {
        "Name": "dist-zero shop m1",
        "dist-zero:system": "shop",
        "dist-zero:host": "m1",
        "dist-zero:role": "machine",
        "dist-zero:owner": "ann",
        "dist-zero:lease-until": "77",
        "dist-zero:started-by": "laptop",
        "dist-zero:generation": "2",
    }
    plain = launch_request(
        FLEET, "s1", SCHEDULER, generation=1, instance_type="t3.small", subnet="", lease_until=77
    )
    assert "SubnetId" not in plain and "InstanceMarketOptions" not in plain


@pytest.mark.parametrize(("host", "role"), [("m1", MACHINE), ("s1", SCHEDULER)])
def test_user_data_are_a_script_that_watches_the_lease_first(host: str, role: str, tmp_path: Path) -> None:
    """Bash understands it, EC2 takes it, and nothing is started before the watch of the lease."""
    script = user_data(fleet(source="source/abc.tar.gz", requirements="source/def.txt"), host, role)
    starts = [line for line in script.splitlines() if line.startswith("start ")]
    assert [line.split()[1] for line in starts] == ["lease", "host", "logs"]
    before_lease = script.partition("\nstart lease")[0]
    assert "fetch" not in before_lease and "apt-get" not in before_lease
    assert len(script.encode()) < BYTES_MAX * 3 / 4
    path = tmp_path / "user-data"
    path.write_text(script)
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", path], check=True)
    assert f"HOST={host}\n" in script
    service = "services.scheduler" if role == SCHEDULER else "services.machine_agent"
    assert f'"$boot/serve.sh" {service}\n' in script
    assert "REGION=us-east-1\nBUCKET=acme\n" in script


def test_names_that_a_shell_would_take_apart_are_quoted() -> None:
    """Nothing of a store's name is run."""
    script = user_data(fleet(store="s3://acme/it's $(here)"), "m1", MACHINE)
    line = next(line for line in script.splitlines() if line.startswith("ENVIRONMENT="))
    said = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$ENVIRONMENT"'], capture_output=True, text=True, check=True
    )
    assert said.stdout == "it's $(here)/cloud/machine/environment.json"


def test_user_data_that_are_too_long_are_refused() -> None:
    """Before EC2 does it, with what to do."""
    with pytest.raises(SettingsError, match="shorten the names"):
        user_data(fleet(store="s3://acme/" + "x" * 9_000), "m1", MACHINE)
