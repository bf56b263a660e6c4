"""The probe finds stores that do not keep their promises."""

from __future__ import annotations

import asyncio

import pytest

from dist_zero_common.errors import StoreError
from dist_zero_common.store.base import Created
from dist_zero_common.store.memory import MemoryStore
from dist_zero_common.store.probe import probe_store


class Overwrites(MemoryStore):
    """Accepts "create only" and overwrites, as some S3 look-alikes do."""

    async def create(self, name: str, data: bytes) -> Created:
        self.objects.data[name] = data
        await asyncio.sleep(0)
        return Created.NEW


class TellsNobody(MemoryStore):
    """Answers every create with EXISTS."""

    async def create(self, name: str, data: bytes) -> Created:
        await super().create(name, data)
        return Created.EXISTS


class ReadsLate(MemoryStore):
    """A new object reads as absent."""

    async def read(self, name: str) -> bytes | None:  # noqa: ARG002
        return None


class ListsLate(MemoryStore):
    """A new object is not listed."""

    async def list(self, prefix: str) -> list[str]:  # noqa: ARG002
        return []


class DeletesLate(MemoryStore):
    """A deleted object stays."""

    async def delete(self, name: str) -> None:
        pass


class Tears(MemoryStore):
    """Stores less than it was given."""

    async def create(self, name: str, data: bytes) -> Created:
        return await super().create(name, data[:-1])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Overwrites, "8 of 8 writers were told"),
        (TellsNobody, "0 of 8 writers were told"),
        (ReadsLate, "does not read as its creator wrote it"),
        (ListsLate, "not listed right after"),
        (DeletesLate, "still there right after it was deleted"),
        (Tears, "does not read as its creator wrote it"),
    ],
)
def test_a_store_that_breaks_a_promise_is_refused(kind: type[MemoryStore], words: str) -> None:
    """Each broken promise is found and named."""
    with pytest.raises(StoreError, match=f"does not keep its promises.*{words}"):
        asyncio.run(probe_store(kind(), "test"))


def test_what_an_interrupted_probe_left_is_no_hindrance() -> None:
    """A process that died while probing does not keep the next one from starting."""

    async def main() -> None:
        store = MemoryStore()
        await store.create("probe/test/race", b"left")
        await store.create("probe/other/race", b"somebody else's")
        await probe_store(store, "test")
        assert await store.list("") == ["probe/other/race"]

    asyncio.run(main())
