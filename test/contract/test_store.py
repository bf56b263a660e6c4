"""What every store promises, held against every store: `store/base.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_zero_common.errors import StoreError
from dist_zero_common.store.base import Created
from dist_zero_common.store.probe import probe_store
from test.contract.stores import STORES, OpenStore, StoreHarness

pytestmark = pytest.mark.parametrize("harness", STORES, ids=lambda harness: harness.name)


def test_the_first_create_wins_and_is_what_everybody_reads(harness: StoreHarness, tmp_path: Path) -> None:
    """Create is put-if-absent: the second is told so, and changes nothing."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            assert await store.read("log/1") is None
            assert await store.create("log/1", b"first") is Created.NEW
            assert await store.create("log/1", b"second") is Created.EXISTS
            assert await store.read("log/1") == b"first"

    harness.run(tmp_path, scenario)


def test_a_race_has_one_winner(harness: StoreHarness, tmp_path: Path) -> None:
    """Of writers at the same time exactly one is told that it created the object, and its bytes are there."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            for slot in range(5):
                bodies = [f"{slot}/{writer}".encode() for writer in range(10)]
                created = await asyncio.gather(*(store.create(f"slot/{slot}", body) for body in bodies))
                assert created.count(Created.NEW) == 1
                assert await store.read(f"slot/{slot}") == bodies[created.index(Created.NEW)]

    harness.run(tmp_path, scenario)


def test_objects_outlive_the_process_that_made_them(harness: StoreHarness, tmp_path: Path) -> None:
    """What was created is there when the store is opened anew, and cannot be created again."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            await store.create("a", b"")
            await store.create("b/c", bytes(range(256)) * 300)
        async with opened() as store:
            assert await store.list("") == ["a", "b/c"]
            assert await store.read("a") == b""
            assert await store.read("b/c") == bytes(range(256)) * 300
            assert await store.create("a", b"again") is Created.EXISTS

    harness.run(tmp_path, scenario)


def test_delete_removes_and_a_missing_object_is_no_error(harness: StoreHarness, tmp_path: Path) -> None:
    """A deleted name is neither read nor listed, and can be created again."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            await store.delete("never/there")
            await store.create("a/b", b"1")
            await store.create("a/c", b"2")
            await store.delete("a/b")
            await store.delete("a/b")
            assert await store.read("a/b") is None
            assert await store.list("") == ["a/c"]
            await store.delete("a/c")
            assert await store.create("a/b", b"3") is Created.NEW
            assert await store.read("a/b") == b"3"

    harness.run(tmp_path, scenario)


def test_a_name_may_be_the_beginning_of_others(harness: StoreHarness, tmp_path: Path) -> None:
    """An object `a` and one `a/b` are two objects; names that differ in the last character do not meet."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            names = ["a", "a/b", "a/b/c", "a.b", "a=1", "A", "a-"]
            for name in names:
                assert await store.create(name, name.encode()) is Created.NEW
            for name in names:
                assert await store.read(name) == name.encode()
            assert await store.list("a/") == ["a/b", "a/b/c"]
            await store.delete("a")
            assert await store.read("a/b") == b"a/b"

    harness.run(tmp_path, scenario)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\0", "a b", "ä", "a+", "~", "a" * 999],
)
def test_unsafe_names_are_refused(harness: StoreHarness, tmp_path: Path, name: str) -> None:
    """No name leads out of the store or means different things to different stores."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            for refused in (store.create(name, b"x"), store.read(name), store.delete(name)):
                with pytest.raises(StoreError, match="cannot be the name of an object"):
                    await refused
            assert await store.list("") == []

    harness.run(tmp_path, scenario)
    assert {path.name for path in tmp_path.iterdir()} <= {"store"}


def test_a_closed_store_says_so(harness: StoreHarness, tmp_path: Path) -> None:
    """Closing twice is closing once; afterwards every operation is refused."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            await store.create("a", b"")
            await store.close()
            for refused in (store.create("b", b""), store.read("a"), store.list(""), store.delete("a")):
                with pytest.raises(StoreError, match="closed"):
                    await refused

    harness.run(tmp_path, scenario)


def test_the_probe_accepts_it(harness: StoreHarness, tmp_path: Path) -> None:
    """A store that keeps its promises passes the probe, any number of times, and nothing is left behind."""

    async def scenario(opened: OpenStore) -> None:
        async with opened() as store:
            await probe_store(store, "scheduler-1")
            await probe_store(store, "scheduler-1")
            assert await store.list("") == []

    harness.run(tmp_path, scenario)


_names = st.sampled_from(["a", "b", "a/a", "a/b", "a/b/a", "ab/a", "a.b", "b-", "B/1"])
_steps = st.lists(
    st.tuples(st.sampled_from(["create", "create", "delete", "read", "list", "reopen"]), _names), max_size=25
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_oracle_any_sequence_of_operations_is_a_dictionary(
    harness: StoreHarness, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    """Whatever is done in whatever order, the store answers as a dictionary that is written once would."""

    async def scenario(opened: OpenStore) -> None:
        model: dict[str, bytes] = {}
        context = opened()
        store = await context.__aenter__()
        for number, (step, name) in enumerate(steps):
            body = f"{number}".encode()
            if step == "create":
                expected = Created.EXISTS if name in model else Created.NEW
                assert await store.create(name, body) is expected
                model.setdefault(name, body)
            elif step == "delete":
                await store.delete(name)
                model.pop(name, None)
            elif step == "read":
                assert await store.read(name) == model.get(name)
            elif step == "list":
                assert await store.list(name) == sorted(key for key in model if key.startswith(name))
            else:
                await context.__aexit__(None, None, None)
                context = opened()
                store = await context.__aenter__()
        assert await store.list("") == sorted(model)
        await context.__aexit__(None, None, None)

    harness.run(tmp_path_factory.mktemp("store"), scenario)
