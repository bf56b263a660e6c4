"""Cloud mode from end to end: the command line, EC2, S3 and IAM by moto, a container for each instance, RabbitMQ."""

from __future__ import annotations

import json

import pytest

from test.cloud.cloud import Cloud

pytestmark = [pytest.mark.timeout(600)]


def test_up_show_down_cloud(cloud: Cloud) -> None:
    """A system comes up, answers, and goes, and nothing is left but its store."""
    (cloud.directory / "things.csv").write_text("k,v\n1,0.5\n2,1.5\n3,2.5\n")
    out, err = cloud.up("toy.py", machines=1)
    assert sorted(cloud.hosts()) == ["m1", "s1"], out + err
    cloud("load", "things", "things.csv")
    shown = json.loads(cloud("show", "sums", "--json")[0])
    print(shown)
    status = json.loads(cloud("status", "--json")[0])
    print(status)
    said, _ = cloud("down")
    print(said)
    assert cloud.left() == {}
    cloud.ec2.wait(lambda: not cloud.ec2.containers())
