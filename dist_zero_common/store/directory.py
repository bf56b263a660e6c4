"""A store in a directory: one file per object, created once, on the disk when `create` returns.

Create: write a temporary file, sync it, link it to its name (the system refuses if the name is taken), sync
the directory. A crash before the link leaves a temporary file, which the next start removes; a crash after
it leaves the whole object. What a crashed process linked and did not sync is synced at the next start,
before anybody reads it. A sync that fails leaves it open what is on the disk, so the store then refuses
everything.

Objects are called like their names with a `+` at the end, so that an object `a` and one `a/b` can both be:
`+` is in no object's name. `delete` is not synced: after a crash of the machine a deleted object may be there
again.

One process at a time uses a directory, held by a lock file, unless all that use it say `shared=True`, as the
services of a system do. Creating is as safe among many: the link decides. Each of them writes its temporary
files in a directory of its own, which it holds a lock on, so that whoever comes later can tell what the dead
have left behind. And whoever finds an object there syncs its directory before saying so, because the one that
linked it may have died before it could. Where one of them is root and the others are not, what root makes
belongs to the owner of the store's directory.

A large object is a record of the log, which is read once, by the one that has just written it, and then not until
somebody recovers: the system is told to forget its pages, so that the next record gets those, and other files keep
theirs. (Where the machine is a virtual one, pages that nobody has used for some seconds may cost more than the disk.)

Syncing takes milliseconds, so it is done in one thread beside the loop, in the order of the calls. Where
there are no threads (in a simulation) it is done in the loop: `threads=False`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from dist_zero_common.errors import StoreError
from dist_zero_common.store.base import Created
from dist_zero_common.store.names import checked_object_name

P = ParamSpec("P")
R = TypeVar("R")

_OBJECT_SUFFIX = "+"
_LOCK_NAME = "+lock"
_TEMPORARY_NAME = "+temporary"
_SHARED_MARK = "shared"
_CREATE_ATTEMPTS = 100
_LARGE = 2**18

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, nothing was lost",
    errno.EDQUOT: "the disk quota is used up: make room, nothing was lost",
    errno.EROFS: "the file system is read-only: choose another directory",
    errno.EACCES: "permission denied: choose another directory or change its permissions",
    errno.EPERM: "not permitted (the file system may lack hard links): choose another directory",
    errno.EOPNOTSUPP: "the file system lacks hard links: choose another directory",
    errno.ENAMETOOLONG: "the path is too long: choose a directory with a shorter path",
    errno.EIO: "the disk reports an error: check it before anything else",
}


class DirectoryStore:
    """See `store.base.Store`."""

    def __init__(self, path: str | Path, *, threads: bool = True, shared: bool = False) -> None:
        """Open the directory, made if need be. Raises `StoreError` if it cannot be used or is in use by somebody who
        does not share it; `shared`: other processes may use it, too, if they say the same."""
        self.path = Path(path).absolute()
        self._broken: str | None = None
        self._shared = shared
        self._synced_directories: set[Path] = set()
        self._temporary_files = 0
        self._locks = [_locked(self.path, shared)]
        self._temporary = self.path / _TEMPORARY_NAME
        try:
            self._owner = _owner(self.path) if shared else None
            self._recover()
        except OSError as error:
            self._release()
            raise _failure(f"cannot use {self.path} as a store", error) from error
        self._worker = ThreadPoolExecutor(1, "directory-store") if threads else None

    async def create(self, name: str, data: bytes) -> Created:
        return await self._do(self._create, checked_object_name(name), data)

    async def read(self, name: str) -> bytes | None:
        return await self._do(self._read, checked_object_name(name))

    async def list(self, prefix: str) -> list[str]:
        return await self._do(_names, self.path, prefix)

    async def delete(self, name: str) -> None:
        await self._do(self._delete, checked_object_name(name))

    async def close(self) -> None:
        if not self._locks:
            return
        if self._worker is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, int)  # after all that was begun
            self._worker.shutdown()
        self._broken = "it is closed"
        if self._shared:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()

    async def _do(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._worker is None or self._broken is not None:
            await asyncio.sleep(0)  # others run meanwhile, as with any other store
            return self._attempt(operation, *args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: self._attempt(operation, *args, **kwargs))

    def _attempt(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._broken is not None:
            raise StoreError(f"the store {self.path} cannot be used any more: {self._broken}")
        try:
            return operation(*args, **kwargs)
        except OSError as error:
            raise _failure(f"the store {self.path} failed", error) from error

    def _create(self, name: str, data: bytes) -> Created:
        path = self._path_of(name)
        self._temporary_files += 1
        temporary = self._temporary / str(self._temporary_files)
        try:
            if not self._shared:
                self._make_directory(path.parent)
            _write_synced(temporary, data)
            linked = self._linked_among_others(temporary, path) if self._shared else _linked(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if linked or self._shared:
            self._sync_directory(path.parent)
        return Created.NEW if linked else Created.EXISTS

    def _linked_among_others(self, temporary: Path, path: Path) -> bool:
        """As `_linked`, where others remove directories that have become empty."""
        for _ in range(_CREATE_ATTEMPTS):
            try:
                self._make_directory(path.parent)
                return _linked(temporary, path)
            except (FileNotFoundError, FileExistsError):  # gone, or gone while `mkdir` looked what is there
                self._synced_directories.difference_update((path.parent, *path.parent.parents))
        raise FileNotFoundError(errno.ENOENT, "its directory is removed again and again", str(path))

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self._path_of(name), "rb", buffering=0) as file:
                data = file.readall()
                if len(data) >= _LARGE and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return data
        except FileNotFoundError:
            return None

    def _delete(self, name: str) -> None:
        path = self._path_of(name)
        path.unlink(missing_ok=True)
        for directory in path.parents:
            if directory == self.path:
                return
            try:
                directory.rmdir()
            except OSError:
                return  # not empty, or never there
            self._synced_directories.discard(directory)

    def _path_of(self, name: str) -> Path:
        return self.path / f"{name}{_OBJECT_SUFFIX}"

    def _make_directory(self, directory: Path) -> None:
        """Make sure that the directory is there, on the disk too."""
        if directory in self._synced_directories or directory == self.path:
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _give(directory, self._owner)
        self._sync_directory(directory.parent)
        self._synced_directories.add(directory)

    def _sync_directory(self, directory: Path) -> None:
        try:
            _sync(directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._broken = f"syncing {directory} failed ({error.strerror}), so what is on the disk is unknown"
            raise

    def _recover(self) -> None:
        """Remove what a crash left half done, and sync what it left done."""
        self._temporary.mkdir(exist_ok=True)
        for path in (self._temporary, self.path / _LOCK_NAME):
            _give(path, self._owner)
        with _held(self._temporary):
            for entry in _entries(self._temporary):
                _remove_unless_held(entry)
            if self._shared:
                # not given away: its owner alone writes there
                self._temporary = Path(tempfile.mkdtemp(dir=self._temporary))
                self._locks.append(_hold(self._temporary))
        for directory, names, _ in os.walk(self.path):
            if _TEMPORARY_NAME in names:
                names.remove(_TEMPORARY_NAME)
            try:
                self._sync_directory(Path(directory))
            except FileNotFoundError:
                continue  # it was empty, and others use the store, too
            self._synced_directories.add(Path(directory))


def _names(root: Path, prefix: str) -> list[str]:
    """The objects whose names start with `prefix`, looked for in no more directories than need be."""
    start = prefix.rpartition("/")[0]
    if start:
        checked_object_name(start)
    found: list[str] = []
    pending = [start]
    while pending:
        directory = pending.pop()
        for entry in _entries(root / directory):
            name = f"{directory}/{entry.name}" if directory else entry.name
            if not name.startswith(prefix[: len(name)]) or entry.name.startswith(_OBJECT_SUFFIX):
                continue
            if name.endswith(_OBJECT_SUFFIX):
                found.append(name.removesuffix(_OBJECT_SUFFIX))
            elif entry.is_dir():
                pending.append(name)
    return sorted(name for name in found if name.startswith(prefix))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _linked(file: Path, name: Path) -> bool:
    """Give the file a second name; false when the name is taken."""
    try:
        os.link(file, name)
    except FileExistsError:
        return False
    return True


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path, shared: bool) -> int:
    """The descriptor of the directory's lock file, held until it is closed, by us alone or by those who share."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"cannot use {path} as a store: it is a file, and a store is a directory")
    try:
        _make_durably(path)
        descriptor = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _failure(f"cannot use {path} as a store", error) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = _holder(os.pread(descriptor, 20, 0).decode())
        os.close(descriptor)
        raise StoreError(f"cannot use {path} as a store: {who}; end that or choose another one") from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (_SHARED_MARK if shared else str(os.getpid())).encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise _failure(f"cannot use {path} as a store", error) from error
    return descriptor


def _holder(mark: str) -> str:
    """Who uses a store, by what is in its lock file."""
    if mark == _SHARED_MARK:
        return "the services of a running system use it"
    if mark == str(os.getpid()):
        return "this process uses it already"
    return f"process {mark or '(unknown)'} uses it"


def _owner(path: Path) -> tuple[int, int] | None:
    """Who is to own what is made in the store, if this process can give it away and is not the owner itself."""
    status = path.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        return None
    return status.st_uid, status.st_gid


def _give(path: Path, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.chown(path, *owner)


def _hold(directory: Path) -> int:
    """A descriptor of the directory that is a lock on it, until it is closed or its process ends."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    descriptor = _hold(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_unless_held(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file, or the directory of somebody's, unless that process lives."""
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    try:
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, PermissionError):
        return  # it is being closed, or is another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(entry.path)
    finally:
        os.close(descriptor)


def _make_durably(path: Path) -> None:
    """Make the directory and those above it, as far as they are missing, and sync each into the one above."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _failure(what: str, error: OSError) -> StoreError:
    advice = _ADVICE.get(error.errno or 0, str(error))
    return StoreError(f"{what}: {advice}")
