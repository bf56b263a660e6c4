"""From C source to a loaded library: the machine's compiler, and a cache of what it made.

A library is found again by a hash of all that goes into it: the source, the runtime's headers, the flags, and what
the compiler says of itself. What is kept is not believed: a file of the cache ends with its name's hash and a checksum
of the rest, so one that is cut short, damaged or misnamed is built anew, and so is one that belongs to another user or
that others may write to. Several processes may build the same at once: each builds under a name of its own, and the
last one to be ready wins.

`NativeUnavailable` says that this machine cannot compile, which is nobody's bug; a source that does not compile on a
machine that can is one of ours.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_zero_common.errors import InternalError, NativeUnavailable
from dist_zero_common.settings import Settings, child_environment, load_settings

ABI = 1
"""What `DZ_ABI` in `runtime/core.h` is."""

RUNTIME = Path(__file__).parent / "runtime"
"""Where the headers are."""

FLAGS = (
    "-O2",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # the same bits on every machine
    "-fno-strict-aliasing",  # a row is words, and a struct
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unused-const-variable",
    "-Wno-clobbered",  # no exported function looks at its variables after a jump
    "-Wno-unknown-warning-option",  # clang does not know that one
)
STRICT = ("-Werror",)
"""For tests. Not for users, whose compilers may warn of something that ours do not know yet."""
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS_MAX = 300
_KEPT_MAX = 256
"""So many libraries stay in the cache."""
_SEAL = b"\0dist-zero library\0"
_TRIVIAL = """#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int64_t dz_abi(void) { return 1; }
"""


@dataclass(frozen=True, slots=True)
class Compiler:
    """How it is called, and what it says of itself."""

    command: tuple[str, ...]
    version: str


def compiled(
    source: str, *, extra_flags: Sequence[str] = (), settings: Settings | None = None
) -> ctypes.CDLL:
    """The library of this source, which may include the headers of the runtime; from the cache, if it is there.

    Raises `NativeUnavailable` on a machine that cannot compile, `InternalError` for a source that does not.
    """
    chosen = settings or _settings()
    compiler = find_compiler(chosen)
    key = library_key(source, compiler, extra_flags)
    directory = _private(cache_directory(chosen)) or _own_directory()
    path = directory / f"{key}.so"
    if (kept := _loaded(path, key)) is not None:
        return kept
    _build(source, compiler, extra_flags, path, key)
    fresh = _loaded(path, key)
    if fresh is None:
        raise InternalError(f"{path} was just built and is not what was built, or has another ABI than {ABI}")
    return fresh


def available(settings: Settings | None = None) -> str | None:
    """Why this machine cannot compile; None if it can, as far as one sees without trying."""
    try:
        find_compiler(settings or _settings())
    except NativeUnavailable as problem:
        return str(problem)
    return None


def find_compiler(settings: Settings) -> Compiler:
    """The compiler that is set, else the first one of the usual names; raises `NativeUnavailable`."""
    if sys.byteorder != "little":
        raise NativeUnavailable("this machine is big-endian, and native executors are for little-endian ones")
    if sys.maxsize < 2**32:
        raise NativeUnavailable("this machine is of 32 bits, and native executors are for those of 64")
    if settings.c_compiler:
        command = tuple(shlex.split(settings.c_compiler))
        if not command or shutil.which(command[0]) is None:
            raise NativeUnavailable(f"CC says {settings.c_compiler!r}, and there is no such program")
        return Compiler(command, _version(command))
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    if found is None:
        raise NativeUnavailable(f"there is no C compiler ({', '.join(_COMPILERS)}); install one, or set CC")
    return Compiler((found,), _version((found,)))


def library_key(source: str, compiler: Compiler, extra_flags: Sequence[str] = ()) -> str:
    """The hash of all that a library is made from."""
    parts = [
        source,
        *_headers(),
        *compiler.command,
        compiler.version,
        platform.machine(),
        *FLAGS,
        *extra_flags,
    ]
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()[:40]


def cache_directory(settings: Settings) -> Path:
    """Where libraries are kept."""
    if settings.native_cache is not None:
        return settings.native_cache
    home = settings.cache_home
    # What is not absolute is to be passed over, says the specification of XDG_CACHE_HOME.
    return (home if home is not None and home.is_absolute() else _home() / ".cache") / "dist-zero" / "native"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"dist-zero-{os.getuid()}"


@functools.cache
def _settings() -> Settings:
    return load_settings()


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    asked = _run([*command, "--version"])
    if asked.returncode:
        raise NativeUnavailable(f"{shlex.join(command)} --version says: {asked.stdout.strip()}")
    return asked.stdout


@functools.cache
def _headers() -> tuple[str, ...]:
    """Names and texts of the runtime's headers."""
    files = sorted(RUNTIME.glob("*.h"))
    return tuple(text for file in files for text in (file.name, file.read_text(encoding="utf-8")))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler; its output and its complaints are one text."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS_MAX,
            env=child_environment({"LC_ALL": "C"}),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise NativeUnavailable(f"the C compiler cannot be run: {problem}") from None


# ---- building ----------------------------------------------------------------------------------------------


def _build(source: str, compiler: Compiler, extra_flags: Sequence[str], path: Path, key: str) -> None:
    """Put the library and, for people, its source into the cache."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as name:
        place = Path(name)
        made = _compile(source, compiler, extra_flags, place)
        if made.returncode:
            _raise_for(source, compiler, extra_flags, place, made.stdout)
        library = place / "library.so"
        data = library.read_bytes()
        sealed = place / "sealed.so"
        sealed.write_bytes(data + _seal(data, key))
        sealed.chmod(0o700)
        os.replace(place / "library.c", path.with_suffix(".c"))
        os.replace(sealed, path)
    _forget_old(path.parent)


def _compile(
    source: str, compiler: Compiler, extra_flags: Sequence[str], place: Path
) -> subprocess.CompletedProcess[str]:
    """Compile in this directory, with the headers that the key was made of: those of the tree may be others by now, and
    what came of them would be taken for what the key says, by every process of this machine."""
    (place / "library.c").write_text(source, encoding="utf-8")
    names = iter(_headers())
    for header, text in zip(names, names, strict=True):
        (place / header).write_text(text, encoding="utf-8")
    files = ["-I", str(place), "-o", str(place / "library.so"), str(place / "library.c"), "-lm"]
    return _run([*compiler.command, *FLAGS, *extra_flags, *files])


def _raise_for(source: str, compiler: Compiler, extra_flags: Sequence[str], place: Path, output: str) -> None:
    """Say whose fault it is that a source did not compile."""
    trivial = _compile(_TRIVIAL, compiler, extra_flags, place)
    command = shlex.join(compiler.command)
    if trivial.returncode:
        raise NativeUnavailable(f"the C compiler {command} does not work here: {trivial.stdout.strip()}")
    lines = len(source.splitlines())
    raise InternalError(f"{command} refuses generated C of {lines} lines:\n{output.strip()}")


def _forget_old(directory: Path) -> None:
    """Keep the libraries that were used last. Others may be at it as well."""
    used: list[tuple[float, Path]] = []
    for path in directory.glob("*.so"):
        try:
            used.append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    for _, path in sorted(used, reverse=True)[_KEPT_MAX:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".c").unlink(missing_ok=True)


# ---- loading -----------------------------------------------------------------------------------------------


def _loaded(path: Path, key: str) -> ctypes.CDLL | None:
    """The library in this file; None if there is none, or none that may be believed."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
            return None
        data = path.read_bytes()
    except OSError:
        return None
    length = len(data) - len(_seal(b"", key))
    if length <= 0 or data[length:] != _seal(data[:length], key):
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError as problem:
        if not path.exists():  # another process has just forgotten it
            return None
        raise NativeUnavailable(f"a compiled library cannot be loaded: {problem}") from None
    try:
        library.dz_abi.restype = ctypes.c_int64
        if library.dz_abi() != ABI:
            return None
    except AttributeError:
        return None
    _mark_used(path)
    return library


def _mark_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # somebody else may just have replaced or forgotten it
        return


def _seal(data: bytes, key: str) -> bytes:
    """What stands behind a library in its file; a loader does not look at it."""
    return _SEAL + key.encode() + hashlib.sha256(data).digest()


def _private(directory: Path) -> Path | None:
    """The directory, made if need be, that nobody else may write to; None if that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid():
            return None
        if status.st_mode & 0o077:
            directory.chmod(0o700)
        return directory.absolute() if os.access(directory, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@functools.cache
def _own_directory() -> Path:
    """Instead of a cache that cannot be used: a directory for this process alone."""
    directory = tempfile.TemporaryDirectory(prefix="dist-zero-native-")
    _own.append(directory)
    return Path(directory.name)


_own: list[tempfile.TemporaryDirectory[str]] = []
"""Goes with the process."""
