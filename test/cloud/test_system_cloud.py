"""What rests on a store, in a bucket: a system that is started again, checkpoints, and what doctor says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dist_zero.cli.diagnosis import Verdict
from dist_zero.cli.doctor import Report, examine_bucket
from dist_zero.cli.main import main
from dist_zero.system import System
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import StoreError
from dist_zero_common.protocol.stored import (
    CheckpointId,
)
from dist_zero_common.settings import Settings
from dist_zero_common.store.base import Store
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.obstore import ObjectStore
from services.entry import Process, opened_store
from services.node_runner.checkpoints import read_checkpoint
from test.cloud.s3_server import WsgiApp, access, new_store, s3_server
from test.simulated.property_world import PROGRAMS
from test.unit.saved_states import LOG, restored, saved, small_parts, state_at, write


def test_a_system_goes_on_from_a_bucket_cloud() -> None:
    """All services of a system, on the real clock, keep their log in a bucket; others that are started later go on from
    what is there, and show the same."""

    async def run(store: ObjectStore, ids: range) -> dict[str | None, int]:
        connector = MemoryBroker().connector
        system = System("shop", connector=connector, store=store, clock=RealClock(), machines=2)
        async with system, system.connect(PROGRAMS[2], nodes=2) as client:
            for number in ids:
                await client.put("sales", {"id": number, "shop": f"s{number % 3}", "amount": 1.0})
            return {row.shop: row.n for row in await client.rows("per_shop")}

    def live(main: Coroutine[Any, Any, dict[str | None, int]]) -> dict[str | None, int]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as services do
            return runner.run(main)

    first = new_store()
    assert live(run(first, range(20))) == {"s0": 7, "s1": 7, "s2": 6}
    again = ObjectStore(first.url, access(s3_server()))
    assert live(run(again, range(20, 23))) == {"s0": 8, "s1": 8, "s2": 7}


def test_a_service_opens_and_probes_the_bucket_of_its_settings_cloud() -> None:
    """What the services' entry hands out is the bucket; one that overwrites is refused before anything is served."""

    async def main(url: str) -> list[str]:
        settings = Settings(store=url, s3_endpoint=s3_server().endpoint, aws_key_id="test", aws_secret="test")
        process = Process(settings, RealClock(), LOG)
        async with opened_store(process, "scheduler-1") as store:
            await store.create("a", b"")
            return await store.list("")

    def overwrites(environ: dict[str, Any], start_response: Any, s3: WsgiApp) -> Iterable[bytes]:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return s3(environ, start_response)

    assert asyncio.run(main(new_store().url)) == ["a"]
    with s3_server().with_fault(overwrites), pytest.raises(StoreError, match="does not keep its promises"):
        asyncio.run(main(new_store().url))


def test_checkpoints_are_kept_in_a_bucket_cloud() -> None:
    """Written in parts by two incarnations at once, read back along the links."""
    first, second = CheckpointId("n1", 9, 0), CheckpointId("n1", 20, 0)
    chain = [saved(first, None, 1), saved(second, first, 2)]

    async def main() -> None:
        store = new_store()
        await asyncio.gather(write(store, *chain), write(store, *chain))
        assert restored(await read_checkpoint(store, "p", second, "plan", LOG)) == state_at("n1", 20)

    with small_parts():
        asyncio.run(main())


def test_doctor_examines_a_bucket_cloud() -> None:
    """What is right and what is wrong with it is a sentence each; nothing of the doctor's stays there."""
    server = s3_server()
    settings = Settings(s3_endpoint=server.endpoint, aws_key_id="test", aws_secret="test")

    def said(url: str) -> list[tuple[Verdict, str]]:
        report = Report()
        asyncio.run(examine_bucket(report, url, settings))
        return [(finding.verdict, finding.says) for finding in report.findings]

    store = new_store()
    asyncio.run(store.create("aside/agent-m1/abc", b"x"))
    (right, promises), (remark, aside) = said(store.url)
    assert (right, remark) == (Verdict.RIGHT, Verdict.REMARK)
    assert promises == f"the store {store.url} can be read and written, and creates objects once only"
    assert aside.startswith("1 message that nobody could understand: in s3://")
    assert asyncio.run(store.list("")) == ["aside/agent-m1/abc"]
    assert said("s3://never-made/x") == [
        (
            Verdict.WRONG,
            "the store s3://never-made/x failed: there is no such bucket: create it, or correct DIST_ZERO_STORE",
        )
    ]


def test_a_system_moves_from_a_directory_to_a_bucket_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`copy-store`, there and back: a system goes on from the bucket, and another one from the directory again."""

    async def live(store: Store, ids: range) -> dict[str | None, int]:
        system = System(
            "shop", connector=MemoryBroker().connector, store=store, clock=RealClock(), machines=2
        )
        async with system, system.connect(PROGRAMS[2], nodes=2, client_id="loader") as client:
            assert await client.committed_before() == ids.start
            for number in ids:
                await client.put("sales", {"id": number, "shop": f"s{number % 3}", "amount": 1.0})
            return {row.shop: row.n for row in await client.rows("per_shop")}

    def copy(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["dist-zero", "copy-store", *words, "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 0, said.err
        return said.out

    server = s3_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket = new_store()
    assert asyncio.run(live(DirectoryStore("first"), range(20))) == {"s0": 7, "s1": 7, "s2": 6}
    first = json.loads(copy("first", bucket.url))
    assert first["objects"] == first["new_objects"] > 20
    assert asyncio.run(live(ObjectStore(bucket.url, access(server)), range(20, 23)))["s0"] == 8
    copy(bucket.url, "second")
    assert asyncio.run(live(DirectoryStore("second"), range(23, 26))) == {"s0": 9, "s1": 9, "s2": 8}
