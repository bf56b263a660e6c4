"""Which executor runs plans here: the native one where there is a compiler, unless the settings say otherwise."""

from __future__ import annotations

import asyncio
import functools
import warnings

from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.native import build, columns
from dist_zero.reference.interpreter import Interpreter
from dist_zero_common.errors import NativeUnavailable
from dist_zero_common.settings import load_settings


def make_executor(plan: Plan) -> Executor:
    """An executor of this plan, as `DIST_ZERO_EXECUTOR` says. Raises `NativeUnavailable` if it says native, and this
    machine cannot."""
    chosen = setting()
    if chosen == "interpreter":
        return Interpreter(plan)
    from dist_zero.native.executor import NativeExecutor  # for who uses it: there is much behind it

    if chosen == "native":
        return NativeExecutor(plan)
    problem = build.available()
    if problem is None:
        try:
            return NativeExecutor(plan)
        except NativeUnavailable as unavailable:
            problem = str(unavailable)
    _warn(problem)
    return Interpreter(plan)


def make_tested_executor(plan: Plan) -> Executor:
    """The same for the systems of `dist-zero test`: interpreted, unless the settings name native. To compile takes
    longer than a seed; and a seed has one history, also on a machine without a compiler, while executors divide the
    loading of a state into different slices, between which other things happen."""
    return make_executor(plan) if setting() == "native" else Interpreter(plan)


async def prepare(plan: Plan) -> None:
    """Let the plan be compiled beside the event loop, so that `make_executor` need not wait for the compiler. Not for a
    simulation, in which there are no threads."""
    if setting() != "interpreter" and build.available() is None:
        from dist_zero.native.library import library_of

        try:
            await asyncio.to_thread(columns.library)
            await asyncio.to_thread(library_of, plan)
        except NativeUnavailable:  # `make_executor` says so
            return


@functools.cache
def setting() -> str:
    """What runs plans, by the settings: auto, native or interpreter."""
    return load_settings().executor


@functools.cache
def _warn(problem: str) -> None:
    """Say it once."""
    warnings.warn(f"{problem}; so plans are interpreted, which is slower", RuntimeWarning, stacklevel=3)
