"""While a simulation runs, nothing of ours may reach the real world.

Real clocks, threads, sockets and unseeded chance would make a run depend on more than its seed. They are
refused with a `SimulationError` that says what to use instead. Foreign code may use them: logging stamps its
records, tempfile draws names, rich refreshes a screen, Hypothesis measures itself. So what counts is who
calls: refused are DistZero's packages and whatever lies outside the standard library and site-packages, that
is the user's program, a notebook or a test. Only sockets are refused to everybody, since no bytes may leave
or enter a simulation.

How. The functions are replaced in their modules for as long as a simulation runs, and names that modules of
ours have bound with `from time import monotonic` and the like are replaced along with them. Other threads of
the process are not affected. `datetime.now`, `utcnow` and `date.today` are methods of C types and cannot be
replaced; a test (`test/unit/test_real_world.py`) keeps them out of our packages, and a user's program that
calls them is not caught.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import secrets
import socket
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from dist_zero_common.errors import SimulationError

_CLOCK = "take the time from the Clock that was passed in"
_CHANCE = "draw from the Rng that was passed in"
_SLEEP = "wait with asyncio.sleep, which costs nothing here"
_THREADS = "do the work in a task of the event loop"
_NETWORK = "talk through the Broker and the Store that were passed in"

_OUR_PACKAGES = ("dist_zero_common", "dist_zero", "services", "schemas")


@dataclass(frozen=True)
class _Ban:
    """What is refused, and what to use instead; frames of modules in `through` are not its caller."""

    owner: Any
    name: str
    title: str
    instead: str
    through: tuple[str, ...] = ()
    to_everybody: bool = False


def _bans() -> list[_Ban]:
    clocks = ["time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"]
    drawing = [name for name in random.__all__ if not isinstance(getattr(random, name), type)]
    tokens = ["token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice"]
    thread_ways = ("threading.", "concurrent.futures.", "asyncio.")
    return [
        *(_Ban(time, name, f"time.{name}", _CLOCK) for name in clocks),
        _Ban(time, "sleep", "time.sleep", _SLEEP),
        *(_Ban(random, name, f"random.{name}", _CHANCE) for name in drawing),
        _Ban(random, "SystemRandom", "random.SystemRandom", _CHANCE),
        *(_Ban(secrets, name, f"secrets.{name}", _CHANCE) for name in tokens),
        _Ban(os, "urandom", "os.urandom", _CHANCE),
        _Ban(uuid, "uuid1", "uuid.uuid1", _CHANCE),
        _Ban(uuid, "uuid4", "uuid.uuid4", _CHANCE),
        _Ban(threading.Thread, "start", "threading.Thread.start", _THREADS, through=thread_ways),
        _Ban(socket.socket, "__init__", "socket.socket", _NETWORK, ("socket.",), to_everybody=True),
        _Ban(socket, "getaddrinfo", "socket.getaddrinfo", _NETWORK, ("socket.",), to_everybody=True),
    ]


#: Threads in which a simulation runs now. Everything is installed with the first and removed with the last.
_simulating: set[int] = set()
_lock = threading.Lock()
_undo: list[Callable[[], None]] = []


def _caller(ban: _Ban) -> FrameType:
    """The frame that called the banned function, seen from a replacement's check."""
    frame = sys._getframe(3)
    while frame.f_back is not None and _module_of(frame).startswith(ban.through):
        frame = frame.f_back
    return frame


def _module_of(frame: FrameType) -> str:
    """The name of the frame's module with a dot behind it, so that a prefix means a package."""
    return f"{frame.f_globals.get('__name__', '')}."


def _check(ban: _Ban) -> None:
    if threading.get_ident() not in _simulating:
        return
    frame = _caller(ban)
    file = _file_of(frame)
    if ban.to_everybody or _is_ours(file):
        raise SimulationError(
            f"{ban.title}() was called inside the simulation, at {file}:{frame.f_lineno}: {ban.instead}"
        )


def _file_of(frame: FrameType) -> str:
    """The frame's file; for code without one, such as a dataclass's `__init__`, that of its module."""
    name = frame.f_code.co_filename
    if name.startswith("<") and not name.startswith("<frozen"):
        return str(frame.f_globals.get("__file__", name))
    return name


@functools.cache
def _is_ours(file: str) -> bool:
    if file.startswith("<frozen"):
        return False
    if file.startswith("<"):
        return True  # typed in at a prompt
    path = os.path.realpath(file)
    if path.startswith(_our_directories()):
        return True
    installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
    return not (installed or path.startswith(_foreign_directories()))


@functools.cache
def _our_directories() -> tuple[str, ...]:
    root = Path(os.path.realpath(__file__)).parents[2]
    return tuple(f"{root / name}{os.sep}" for name in _OUR_PACKAGES)


@functools.cache
def _foreign_directories() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in names)


class _RefusedFunction:
    """Stands in for a module's function, as an object: a class attribute must not become a method by it."""

    def __init__(self, ban: _Ban, original: Callable[..., Any]) -> None:
        self._ban = ban
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _check(self._ban)
        return self._original(*args, **kwargs)


def _refused_method(ban: _Ban, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        _check(ban)
        return original(*args, **kwargs)

    return method


def _refused_unseeded(original: Callable[..., None]) -> Callable[..., None]:
    """`random.Random()` without a seed asks the operating system for one."""
    ban = _Ban(random.Random, "seed", "random.Random, without a seed,", _CHANCE, through=("random.",))

    @functools.wraps(original)
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None:
            _check(ban)
        original(self, a, version)

    return seed


def _replace(owner: Any, name: str, value: Any) -> None:
    original = owner.__dict__[name]
    setattr(owner, name, value)
    _undo.append(functools.partial(setattr, owner, name, original))


def _install() -> None:
    replaced: dict[int, _RefusedFunction] = {}
    for ban in _bans():
        original = ban.owner.__dict__[ban.name]
        if isinstance(ban.owner, ModuleType):
            replaced[id(original)] = _RefusedFunction(ban, original)
            _replace(ban.owner, ban.name, replaced[id(original)])
        else:
            _replace(ban.owner, ban.name, _refused_method(ban, original))
    _replace(random.Random, "seed", _refused_unseeded(random.Random.seed))
    for module in _our_modules():
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                _replace(module, name, replaced[id(value)])


def _our_modules() -> list[ModuleType]:
    """The modules that are loaded and ours; looked for again when others are loaded."""
    global _modules_known
    loaded = list(sys.modules.values())
    if loaded != _modules_known[0]:
        ours = [
            module
            for module in loaded
            if isinstance(file := getattr(module, "__dict__", {}).get("__file__"), str)
            and module.__name__ != __name__
            and _is_ours(file)
        ]
        _modules_known = loaded, ours
    return _modules_known[1]


_modules_known: tuple[list[ModuleType], list[ModuleType]] = [], []


@contextlib.contextmanager
def real_world_refused() -> Iterator[None]:
    """Refuse real clocks, threads, sockets and unseeded chance to our code in this thread."""
    thread = threading.get_ident()
    with _lock:
        if thread in _simulating:
            raise SimulationError("a simulation runs in this thread already")
        if not _simulating:
            _install()
        _simulating.add(thread)
    try:
        yield
    finally:
        with _lock:
            _simulating.discard(thread)
            if not _simulating:
                while _undo:
                    _undo.pop()()
