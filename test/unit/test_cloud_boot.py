"""What hosts run before there is any DistZero on them: the watch of the lease, and reading the bucket."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dist_zero_common.cloud.boot import fetch, watch_lease

# ---- the watch of the lease --------------------------------------------------------------------------------------


class Machine:
    """Time, the tag, and the power switch. `tags` says what is read at each look; an error is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tags: list[int | Exception], ends: int = 1) -> None:
        self.now, self.tags, self.commands = 1_000.0, tags, list[str]()
        self._ends = ends
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(watch_lease, "read", self._read)
        monkeypatch.setattr(subprocess, "run", self._run)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _read(self, tag: str) -> int:
        assert tag == "dist-zero:lease-until"
        found = self.tags.pop(0) if len(self.tags) > 1 else self.tags[0]
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, command: list[str], **_: Any) -> None:
        self.commands.append(command[0])
        if len(self.commands) == self._ends:
            raise SystemExit
        raise FileNotFoundError(command[0])

    def ended_at(self, seconds: float) -> float:
        """When the machine is switched off, with this time at the start."""
        with pytest.raises(SystemExit):
            watch_lease.main(seconds, "dist-zero:lease-until")
        return self.now


def test_the_machine_ends_when_its_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first look after the time of the tag, which may have moved meanwhile."""
    machine = Machine(monkeypatch, [1_060, 1_060, 1_120])
    assert 1_120 <= machine.ended_at(30) <= 1_120 + watch_lease.LOOK_SECONDS


def test_a_tag_that_cannot_be_read_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an error nor nonsense ends the machine early, or keeps it."""
    machine = Machine(monkeypatch, [1_060, OSError("no route"), ValueError("''")])
    assert 1_060 <= machine.ended_at(30) <= 1_060 + watch_lease.LOOK_SECONDS


def test_a_tag_that_was_never_read_counts_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that cannot read about itself lives for one lease."""
    machine = Machine(monkeypatch, [OSError("no route")])
    assert 1_900 <= machine.ended_at(900) <= 1_900 + watch_lease.LOOK_SECONDS


def test_a_switch_that_does_not_work_is_not_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command after the other, again and again."""
    machine = Machine(monkeypatch, [0], ends=3)
    machine.ended_at(0)
    assert machine.commands == ["shutdown", "poweroff", "shutdown"]


# ---- reading the bucket ------------------------------------------------------------------------------------------

KEYS = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret/of+role", "Token": "token//of=role"}
Ask = Callable[..., io.BytesIO]


def answering(asked: list[urllib.request.Request], body: bytes = b"body") -> Ask:
    """In place of the network: metadata of an instance, and a bucket."""

    def answer(request: urllib.request.Request, timeout: float = 0) -> io.BytesIO:
        assert timeout > 0
        if request.host != "169.254.169.254":
            asked.append(request)
            return io.BytesIO(body)
        if request.get_method() == "PUT":
            return io.BytesIO(b"metadata-token")
        assert request.get_header("X-aws-ec2-metadata-token") == "metadata-token"
        role = request.full_url.endswith("/security-credentials/")
        return io.BytesIO(b"the-role\n" if role else json.dumps(KEYS).encode())

    return answer


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ("", "shop/cloud/machine/environment.json"),
        ("http://minio:9000", "it's here/a+b=c~d/é.json"),
    ],
)
def test_requests_are_signed_as_amazons_library_signs_them(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, key: str
) -> None:
    """The same signature, for Amazon's own S3 and for another one, whatever is in a key."""
    asked: list[urllib.request.Request] = []
    monkeypatch.setattr(urllib.request, "urlopen", answering(asked))
    assert fetch.read("eu-west-1", "acme", endpoint, key) == b"body"
    (mine,) = asked
    assert mine.full_url.startswith(f"{endpoint or 'https://s3.eu-west-1.amazonaws.com'}/acme/")
    at = datetime.strptime(str(mine.get_header("X-amz-date")), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda **_: at.replace(tzinfo=None), raising=False
    )
    theirs = AWSRequest(
        "GET", mine.full_url, headers={"X-Amz-Content-SHA256": mine.get_header("X-amz-content-sha256")}
    )
    theirs.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    signer = S3SigV4Auth(
        Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"]), "s3", "eu-west-1"
    )
    theirs.headers["X-Amz-Date"] = theirs.context["timestamp"]
    theirs.headers["X-Amz-Security-Token"] = KEYS["Token"]
    string = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    signature = signer.signature(string, theirs)
    assert str(mine.get_header("Authorization")).endswith(f"Signature={signature}")


def test_objects_become_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`get`: the bytes as they are."""
    monkeypatch.setattr(urllib.request, "urlopen", answering([], b"\x00archive"))
    fetch.main("us-east-1", "acme", "", "get", "shop/cloud/source/a.tar.gz", str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"\x00archive"


def test_a_command_gets_what_the_object_says_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """`run`: as the user, without our own environment; what the host adds comes last."""
    started: list[Any] = []
    body = json.dumps({"AMQP_URL": "amqp://u:p@h", "DIST_ZERO_MACHINE": "wrong"}).encode()
    monkeypatch.setattr(urllib.request, "urlopen", answering([], body))
    for name in ("setuid", "setgid", "initgroups", "chdir"):
        monkeypatch.setattr(os, name, lambda *words, name=name: started.append((name, *words)))
    monkeypatch.setattr(os, "execve", lambda *words: started.append(words))
    words = ("root", str(tmp_path), "/usr/bin/python3 -m services.machine_agent", "DIST_ZERO_MACHINE=m1")
    fetch.main("us-east-1", "acme", "", "run", "key", *words)
    assert started == [
        ("chdir", str(tmp_path)),
        ("initgroups", "root", 0),
        ("setgid", 0),
        ("setuid", 0),
        (
            "/usr/bin/python3",
            ["/usr/bin/python3", "-m", "services.machine_agent"],
            {"AMQP_URL": "amqp://u:p@h", "DIST_ZERO_MACHINE": "m1"},
        ),
    ]


def test_what_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which object, and why; no key."""

    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError("HTTP Error 403: Forbidden")

    monkeypatch.setattr(urllib.request, "urlopen", refuses)
    with pytest.raises(SystemExit) as end:
        fetch.main("us-east-1", "acme", "", "get", "k", "file")
    assert end.value.code == "s3://acme/k cannot be read: HTTP Error 403: Forbidden"


def test_they_run_on_an_old_python() -> None:
    """Nothing in them is newer than the Python of an image that is some years old."""
    import ast

    for module in (fetch, watch_lease):
        with open(str(module.__file__)) as file:
            ast.parse(file.read(), feature_version=(3, 9))
    assert sys.version_info >= (3, 11)  # ours; theirs may be older
