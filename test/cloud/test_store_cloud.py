"""A store in S3, beyond what every store promises: what it says when the bucket, the key or the network is wrong, and
that gateways which break the promises are found out. The contract itself: `test/contract/test_store.py`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dist_zero_common.errors import SettingsError, StoreError
from dist_zero_common.settings import Settings, load_settings
from dist_zero_common.store.base import Created
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.obstore import ObjectStore, S3Access
from dist_zero_common.store.opening import directory_of, open_directory, open_store
from dist_zero_common.store.probe import probe_store
from test.cloud.s3_server import Fault, WsgiApp, access, new_store, refusal, s3_server


def outcome_of(operation: Callable[[ObjectStore], Awaitable[object]], fault: Fault | None = None) -> object:
    """What an operation on a new store returns, or the text of its `StoreError`."""

    async def main() -> object:
        store = new_store()
        await store.create("there", b"body")
        try:
            if fault is None:
                return await operation(store)
            with s3_server().with_fault(fault):
                return await operation(store)
        except StoreError as failed:
            return str(failed)

    return asyncio.run(main())


def test_a_race_of_twenty_has_one_winner_cloud() -> None:
    """Of twenty writers at the same time one is told that it created the object, whose bytes are there; small objects
    and large ones."""

    async def main() -> None:
        stores = [new_store()] * 10
        stores += [ObjectStore(stores[0].url, access(s3_server())) for _ in range(10)]
        for round_, size in enumerate((1, 1, 1, 100_000, 6 * 2**20)):
            bodies = [bytes([writer]) * size for writer in range(20)]
            racing = [
                store.create(f"race/{round_}", body) for store, body in zip(stores, bodies, strict=True)
            ]
            outcomes = await asyncio.gather(*racing)
            assert outcomes.count(Created.NEW) == 1
            assert await stores[0].read(f"race/{round_}") == bodies[outcomes.index(Created.NEW)]

    asyncio.run(main())


def test_the_probe_accepts_it_with_twenty_writers_cloud() -> None:
    """It finds nothing wrong, and leaves nothing behind."""

    async def main() -> None:
        store = new_store()
        await probe_store(store, "prober", writers=20)
        assert await store.list("") == []

    asyncio.run(main())


def test_the_probe_refuses_a_gateway_that_overwrites_cloud() -> None:
    """One that takes `If-None-Match` and does not look at it."""

    def overwrites(environ: dict[str, Any], start_response: Any, s3: WsgiApp) -> Iterable[bytes]:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return s3(environ, start_response)

    assert "20 of 20 writers were told that they created the same object" in str(
        outcome_of(lambda store: probe_store(store, "prober", writers=20), overwrites)
    )


def test_a_list_goes_over_pages_cloud() -> None:
    """More names than a page has, in order; a prefix may end within a part of a name."""

    async def main() -> None:
        store = new_store()
        names = [f"log/{number:05d}" for number in range(1_100)]
        for start in range(0, len(names), 50):
            await asyncio.gather(*(store.create(name, b"") for name in names[start : start + 50]))
        assert await store.list("log/") == await store.list("lo") == names
        assert await store.list("log/0109") == names[1_090:]
        assert await store.list("log/00001") == names[1:2]

    asyncio.run(main())


def test_systems_share_a_bucket_by_prefix_cloud() -> None:
    """Neither sees the other's objects, also where one prefix begins with the other."""

    async def main() -> None:
        server = s3_server()
        bucket = server.bucket()
        stores = [
            ObjectStore(f"s3://{bucket}{prefix}", access(server))
            for prefix in ("/shop", "/shop-2/", "/shop/in")
        ]
        for number, store in enumerate(stores):
            assert await store.create("a", bytes([number])) is Created.NEW
        assert [await store.read("a") for store in stores] == [b"\0", b"\1", b"\2"]
        assert [await store.list("") for store in stores] == [["a", "in/a"], ["a"], ["a"]]
        assert await ObjectStore(f"s3://{bucket}", access(server)).list("shop/i") == ["shop/in/a"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        ("404 Not Found", "NoSuchBucket", "there is no such bucket: create it"),
        ("403 Forbidden", "AccessDenied", "not allowed: the key or role needs s3:GetObject"),
        ("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID is not known"),
        ("403 Forbidden", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY does not belong"),
        ("400 Bad Request", "ExpiredToken", "AWS_SESSION_TOKEN has expired"),
        ("301 Moved", "PermanentRedirect", "another region"),
        ("501 Not Implemented", "NotImplemented", "create objects only if they are not there"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do_cloud(status: str, code: str, advice: str) -> None:
    """Each operation says which store it is, and what to do about what S3 answers; no key is in it."""
    operations: list[Callable[[ObjectStore], Awaitable[object]]] = [
        lambda store: store.create("a", b"x"),
        lambda store: store.read("there"),
        lambda store: store.delete("there"),
    ]
    for operation in operations:
        said = str(outcome_of(operation, refusal(status, code)))
        assert said.startswith("the store s3://bucket-") and advice in said and "\n" not in said


def test_a_bucket_that_is_not_there_is_told_cloud() -> None:
    """By every operation: a missing bucket is not an empty one."""

    async def main() -> None:
        store = ObjectStore("s3://never-made/x", access(s3_server()))
        for operation in (store.create("a", b""), store.read("a"), store.list(""), store.delete("a")):
            with pytest.raises(StoreError, match="s3://never-made/x failed: there is no such bucket"):
                await operation

    asyncio.run(main())


def test_a_create_is_sent_once_and_its_outcome_is_unknown_cloud() -> None:
    """A server error and an answer that is lost after the object was made are `StoreError`s, of one request each: a
    second one would be told that the object exists, and nobody would have created it."""

    def makes_and_fails(environ: dict[str, Any], start_response: Any, s3: WsgiApp) -> Iterable[bytes]:
        list(s3(environ, lambda *_: None))
        environ["wsgi.input"] = BytesIO()  # all of it was read
        return refusal("500 Internal Server Error", "InternalError")(environ, start_response, s3)

    async def create_and_look(store: ObjectStore, fault: Fault) -> tuple[str, int, bytes | None]:
        server = s3_server()
        before = len(server.requests)
        with server.with_fault(fault), pytest.raises(StoreError, match="unknown") as raised:
            await store.create("new", b"x")
        return str(raised.value), len(server.requests) - before, await store.read("new")

    _, requests, there = asyncio.run(create_and_look(new_store(), makes_and_fails))
    assert (requests, there) == (1, b"x")
    busy = refusal("503 Service Unavailable", "ServiceUnavailable")
    _, requests, there = asyncio.run(create_and_look(new_store(), busy))
    assert (requests, there) == (1, None)


def test_a_conflict_is_not_taken_for_an_object_cloud() -> None:
    """S3 answers 409 while another request for the object is under way, which may fail: only what is there exists."""

    def conflicts(environ: dict[str, Any], start_response: Any, s3: WsgiApp) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return s3(environ, start_response)
        return refusal("409 Conflict", "ConditionalRequestConflict")(environ, start_response, s3)

    assert "whether it was created is unknown" in str(
        outcome_of(lambda store: store.create("new", b"x"), conflicts)
    )
    assert outcome_of(lambda store: store.create("there", b"x"), conflicts) is Created.EXISTS


def test_a_read_is_sent_again_cloud() -> None:
    """What changes nothing outlives a server that fails now and then."""
    failed: list[str] = []

    def fails_twice(environ: dict[str, Any], start_response: Any, s3: WsgiApp) -> Iterable[bytes]:
        if len(failed) < 2:
            failed.append(environ["PATH_INFO"])
            return refusal("503 Slow Down", "SlowDown")(environ, start_response, s3)
        return s3(environ, start_response)

    assert outcome_of(lambda store: store.read("there"), fails_twice) == b"body"
    assert len(failed) == 2


def test_an_endpoint_where_nobody_listens_is_told_cloud() -> None:
    """With the store's name, in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        store = ObjectStore("s3://bucket/x", S3Access(endpoint, "us-east-1", "k", "s"))

        async def main() -> None:
            with pytest.raises(StoreError, match=r"s3://bucket/x failed: .*error sending request"):
                await asyncio.wait_for(store.create("a", b""), 60)

        asyncio.run(main())


# ---- which store is meant


def test_a_store_is_opened_by_its_name_cloud(tmp_path: Path) -> None:
    """Paths and file URLs are directories; s3 URLs are buckets, reached as settings say."""

    async def main() -> None:
        server = s3_server()
        where = f"s3://{server.bucket()}/shop"
        environ = {
            "DIST_ZERO_STORE": where,
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "hidden",
            "AWS_SESSION_TOKEN": "token",
        }
        settings = load_settings(environ, None)
        assert settings.store == where and "hidden" not in repr(settings)
        store = open_store(where, settings)
        assert isinstance(store, ObjectStore) and store.url == where
        assert await store.create("a", b"") is Created.NEW
        assert "hidden" not in repr(vars(store)) + repr(S3Access(secret="hidden", token="hidden"))
        for directory in (tmp_path / "store", str(tmp_path / "store"), f"file://{tmp_path}/store"):
            opened = open_store(directory, settings)
            assert isinstance(opened, DirectoryStore) and opened.path == tmp_path / "store"
            await opened.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "where",
    [
        "s3://",
        "s3:///x",
        "file://",
        "gs://bucket",
        "file://host/x",
        "s3://user@bucket",
        "s3://b/x?y",
        Path("s3:/b/x"),
    ],
)
def test_names_of_no_store_are_refused_cloud(where: str | Path) -> None:
    """With what there is instead."""
    with pytest.raises(SettingsError, match=r"is no store|taken for a path"):
        open_store(where, Settings())


def test_a_system_in_one_process_does_not_take_a_bucket_cloud() -> None:
    """Nobody could tell that another one is in it."""
    with pytest.raises(SettingsError, match="is a bucket: a system within one process"):
        open_directory("s3://bucket/shop")
    assert directory_of("a/b") == Path("a/b") and directory_of("file:///a%20b") == Path("/a b")


@pytest.mark.parametrize("prefix", ["a b", "a//b", "..", "a+"])
def test_a_prefix_has_the_form_of_a_name_cloud(prefix: str) -> None:
    """As all names of objects have."""
    with pytest.raises(StoreError, match="cannot be the name"):
        ObjectStore(f"s3://bucket/{prefix}/c", S3Access())
