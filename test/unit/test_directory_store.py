"""The directory store on a bad day: crashes, full disks, wrong directories, two processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dist_zero_common.errors import StoreError
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.store.base import Created
from dist_zero_common.store.directory import DirectoryStore

ROOT = Path(__file__).parents[2]


def in_store(path: Path, scenario: Callable[[DirectoryStore], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in the store at `path`, opened and closed around it."""

    async def main() -> None:
        store = DirectoryStore(path, threads=False)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


class Killed(BaseException):
    """Stands for the end of the process at this very instruction."""


#: The system calls of a create. `link` is what makes an object be.
CALLS = ["open", "write", "fsync", "link", "unlink"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("occurrence", range(4))
def test_a_crash_in_the_middle_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, occurrence: int, after: bool
) -> None:
    """Die before or after any system call of a create: at the next start the object is whole or absent, the others
    are there, and no temporary file is left."""
    real, countdown = getattr(os, call), [occurrence]
    body = bytes(range(256)) * 100

    def dying(*args: Any, **kwargs: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] >= 0:
            return real(*args, **kwargs)
        monkeypatch.undo()
        if after:
            real(*args, **kwargs)
        raise Killed

    async def first(store: DirectoryStore) -> None:
        await store.create("log/1", b"older")
        monkeypatch.setattr(os, call, dying)
        with contextlib.suppress(Killed):
            await store.create("log/new/2", body)
        monkeypatch.undo()

    async def second(store: DirectoryStore) -> None:
        assert await store.read("log/1") == b"older"
        there = await store.read("log/new/2")
        assert there in (None, body)
        assert await store.list("") == (["log/1"] if there is None else ["log/1", "log/new/2"])
        assert await store.create("log/new/2", body) is (Created.NEW if there is None else Created.EXISTS)
        assert not list((tmp_path / "+temporary").iterdir())

    in_store(tmp_path, first)
    in_store(tmp_path, second)


def test_torn_temporary_files_are_removed_at_the_next_start(tmp_path: Path) -> None:
    """What a killed process was writing is neither an object nor left lying about."""
    (tmp_path / "+temporary").mkdir()
    (tmp_path / "+temporary" / "1").write_bytes(b"half of")

    async def scenario(store: DirectoryStore) -> None:
        assert await store.list("") == []
        assert not (tmp_path / "+temporary" / "1").exists()
        assert await store.create("a", b"whole") is Created.NEW

    in_store(tmp_path, scenario)


def test_objects_are_synced_before_create_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are synced before the name is there, and the name's directories before `create` returns."""
    events: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        events.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        events.append(f"link {str(target).removeprefix(str(tmp_path))}")
        real_link(source, target)

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "link", link)
        await store.create("a/b/c", b"x")

    in_store(tmp_path, scenario)
    assert events == ["sync ", "sync /a", "sync /+temporary/1", "link /a/b/c+", "sync /a/b"]


def fails_with(code: int) -> Callable[..., Any]:
    def fail(*_args: object, **_kwargs: object) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_is_said_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`create` raises with advice, nothing is stored, and when there is room again the store goes on."""

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "write", fails_with(errno.ENOSPC))
        with pytest.raises(StoreError, match="the disk is full: make room"):
            await store.create("a", b"x")
        assert await store.read("a") is None
        monkeypatch.undo()
        assert await store.create("a", b"x") is Created.NEW
        assert not list((tmp_path / "+temporary").iterdir())

    in_store(tmp_path, scenario)


def test_a_failed_sync_stops_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a directory could not be synced nothing the store says could be relied on, so it says nothing."""

    async def scenario(store: DirectoryStore) -> None:
        real = os.fsync
        synced: list[int] = []

        def fsync(descriptor: int) -> None:
            synced.append(descriptor)
            if len(synced) == 2:  # the first is the temporary file's
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="the disk reports an error"):
            await store.create("a", b"x")
        for refused in (store.read("a"), store.create("b", b""), store.list("")):
            with pytest.raises(StoreError, match="what is on the disk is unknown"):
                await refused

    in_store(tmp_path, scenario)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "permission denied: choose another directory"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOSPC, "the disk is full"),
    ],
)
def test_a_directory_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    """Opening says which directory, what is wrong with it and what to do."""
    monkeypatch.setattr(os, "open", fails_with(code))
    with pytest.raises(StoreError, match=words) as caught:
        DirectoryStore(tmp_path / "store")
    assert str(tmp_path / "store") in str(caught.value)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """A path that is a file, or lies below one, is refused as what it is."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="it is a file"):
        DirectoryStore(tmp_path / "file")
    with pytest.raises(StoreError, match=r"cannot use .*file/store"):
        DirectoryStore(tmp_path / "file" / "store")


def test_links_that_the_file_system_lacks_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links there is no create-only write, and the error says so."""

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
        with pytest.raises(StoreError, match="hard links"):
            await store.create("a", b"x")

    in_store(tmp_path, scenario)


def test_two_users_of_one_directory_are_refused(tmp_path: Path) -> None:
    """The second to open it, in this process or another, is told who holds it; closing lets the next one in."""
    program = (
        "import sys; from dist_zero_common.store.directory import DirectoryStore\n"
        "try:\n    DirectoryStore(sys.argv[1])\nexcept Exception as error:\n    print(error)\n"
    )

    async def scenario(store: DirectoryStore) -> None:
        with pytest.raises(StoreError, match="this process uses it already"):
            DirectoryStore(tmp_path)
        command = [sys.executable, "-c", program, str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        assert f"process {os.getpid()} uses it" in run.stdout
        await store.create("a", b"")

    in_store(tmp_path, scenario)
    in_store(tmp_path, scenario)


def test_a_killed_process_leaves_no_lock_and_all_it_created(tmp_path: Path) -> None:
    """After kill -9 in the middle of creating, the directory opens, and every create that returned is there."""
    program = (
        "import asyncio, sys; from dist_zero_common.store.directory import DirectoryStore\n"
        "async def main():\n"
        "    store = DirectoryStore(sys.argv[1])\n"
        "    for n in range(10**9):\n"
        "        await store.create(f'log/{n:09}', b'x' * 1000)\n"
        "        print(n, flush=True)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 20:
                process.kill()
        acknowledged = int(line)

    async def scenario(store: DirectoryStore) -> None:
        names = await store.list("log/")
        assert len(names) in (acknowledged + 1, acknowledged + 2)
        for name in names:
            assert await store.read(name) == b"x" * 1000

    in_store(tmp_path, scenario)


def test_empty_directories_do_not_pile_up(tmp_path: Path) -> None:
    """When the last object of a directory is deleted the directory goes too, and can come back."""

    async def scenario(store: DirectoryStore) -> None:
        for _ in range(2):
            await store.create("saved/1/a/x", b"")
            await store.create("saved/1/b", b"")
            await store.delete("saved/1/a/x")
            assert not (tmp_path / "saved/1/a").exists() and (tmp_path / "saved/1").exists()
            await store.delete("saved/1/b")
            assert not (tmp_path / "saved").exists()

    in_store(tmp_path, scenario)


@pytest.mark.parametrize("can_forget", [True, False])
def test_pages_of_large_objects_are_forgotten_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_forget: bool
) -> None:
    """A record's pages are given back when it was read; small objects, which are read often, keep theirs."""
    forgotten: list[int] = []

    def forget(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        forgotten.append(os.fstat(descriptor).st_size)

    if can_forget:
        monkeypatch.setattr(os, "posix_fadvise", forget)
    else:
        monkeypatch.delattr(os, "posix_fadvise")

    async def scenario(store: DirectoryStore) -> None:
        for size in (0, 1_000, 2**20):
            await store.create(f"log/{size}", bytes(size))
            assert await store.read(f"log/{size}") == bytes(size)
        assert await store.read("log/none") is None

    in_store(tmp_path, scenario)
    assert forgotten == ([2**20] if can_forget else [])


def test_the_loop_stays_live_while_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thread, other tasks run while a create waits for its sync; operations keep their order."""

    async def main() -> None:
        store = DirectoryStore(tmp_path)
        entered, release = threading.Event(), threading.Event()
        real = os.fsync

        def fsync(descriptor: int) -> None:
            entered.set()
            release.wait(10)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        creating = asyncio.create_task(store.create("a", b"first"))
        reading = asyncio.create_task(store.read("a"))
        while not entered.is_set():
            await asyncio.sleep(0)
        assert not creating.done() and not reading.done()
        release.set()
        assert await creating is Created.NEW and await reading == b"first"
        await store.close()

    asyncio.run(main())


def test_simulated_runs_use_it_without_threads(tmp_path: Path) -> None:
    """`threads=False` works inside a simulation; a store with threads is refused there and says what to use."""

    async def inline() -> None:
        store = DirectoryStore(tmp_path / "a", threads=False)
        assert await store.create("a", b"x") is Created.NEW
        await store.close()

    async def threaded() -> None:
        store = DirectoryStore(tmp_path / "b")
        await store.create("a", b"x")

    run_simulation(inline())
    with pytest.raises(Exception, match=r"DirectoryStore takes threads=False"):
        run_simulation(threaded())


SHARING = """
import asyncio, os, sys
from dist_zero_common.store.base import Created
from dist_zero_common.store.directory import DirectoryStore

async def main():
    store = DirectoryStore(sys.argv[1], shared=True)
    me = str(os.getpid())
    for n in range(150):
        if await store.create(f"log/{n:03}", me.encode()) is Created.NEW:
            print(n, flush=True)
        # directories come and go beside the others' feet
        await store.create(f"passing/{n % 3}/{me}", b"")
        await store.delete(f"passing/{n % 3}/{me}")
    await store.close()

asyncio.run(main())
"""


def test_processes_that_share_a_store_agree(tmp_path: Path) -> None:
    """Three processes race for each object: each one has one creator, which it names, and nothing is left over, while
    directories that they use are removed as soon as they are empty."""
    command = [sys.executable, "-c", SHARING, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.pid: process.communicate(timeout=120)[0].split() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    won = {int(number): str(pid) for pid, numbers in printed.items() for number in numbers}
    assert sum(map(len, printed.values())) == len(won) == 150

    async def scenario(store: DirectoryStore) -> None:
        for number, pid in won.items():
            assert await store.read(f"log/{number:03}") == pid.encode()
        assert len(await store.list("")) == 150

    in_store(tmp_path, scenario)
    assert not list((tmp_path / "+temporary").iterdir())


def test_a_store_is_shared_by_those_who_say_so(tmp_path: Path) -> None:
    """One that wants a store for itself is refused while others share it, and the other way round."""

    async def shared() -> None:
        store = DirectoryStore(tmp_path, shared=True)
        with pytest.raises(StoreError, match="the services of a running system use it"):
            DirectoryStore(tmp_path)
        await store.close()

    async def alone(store: DirectoryStore) -> None:
        with pytest.raises(StoreError, match="this process uses it already"):
            DirectoryStore(tmp_path, shared=True)
        await store.create("a", b"")

    asyncio.run(shared())
    in_store(tmp_path, alone)


def test_what_a_dead_sharer_left_is_removed_and_a_living_ones_stays(tmp_path: Path) -> None:
    """Temporary files of processes that ended go with the next start, those of one that lives do not."""

    async def main() -> None:
        living = DirectoryStore(tmp_path, shared=True)
        (theirs,) = (tmp_path / "+temporary").iterdir()
        (theirs / "7").write_bytes(b"half of")
        dead = tmp_path / "+temporary" / "dead"
        dead.mkdir()
        (dead / "1").write_bytes(b"half of")
        later = DirectoryStore(tmp_path, shared=True)
        assert not dead.exists() and (theirs / "7").exists()
        await later.close()
        await living.close()
        assert not list((tmp_path / "+temporary").iterdir())

    asyncio.run(main())


def test_an_object_that_another_one_linked_is_synced_before_it_is_said_to_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever linked it may have died before the sync, so the one that finds it does that."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))
        real(descriptor)

    async def main() -> None:
        store = DirectoryStore(tmp_path, shared=True, threads=False)
        await store.create("log/1", b"")
        (tmp_path / "log" / "2+").write_bytes(b"of one that died")
        monkeypatch.setattr(os, "fsync", fsync)
        assert await store.create("log/2", b"mine") is Created.EXISTS
        monkeypatch.undo()
        await store.close()

    asyncio.run(main())
    assert synced[-1] == "/log"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
def test_what_root_makes_in_a_shared_store_belongs_to_its_owner(tmp_path: Path) -> None:
    """A scheduler of root's does not lock out runners that are not root."""
    os.chown(tmp_path, 4321, 4321)

    async def main() -> None:
        store = DirectoryStore(tmp_path, shared=True)
        await store.create("programs/p/base/0", b"")
        await store.close()

    asyncio.run(main())
    for name in ("programs", "programs/p/base", "+temporary", "+lock"):
        assert (tmp_path / name).stat().st_uid == 4321, name
