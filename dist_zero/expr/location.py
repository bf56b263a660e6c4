"""Where the user is: errors and operations carry the `file:line` of the first frame outside this package.

Rules of types raise `Refused`, which knows no place. The functions and methods that users call are wrapped in
`located`, which turns it into a `ProgramError` at the user's line; the decoder of programs turns it into a
`MalformedMessage` instead.
"""

from __future__ import annotations

import difflib
import functools
import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from dist_zero_common.errors import ProgramError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Refused(Exception):
    """A rule of the language is broken; the message says which, without a place."""


class NoAttribute(ProgramError, AttributeError):
    """`t.name` of what is not there; also an `AttributeError`, so that `hasattr` works."""


def user_frame() -> types.FrameType:
    """The innermost frame outside this package; the outermost one if all are inside."""
    frame = sys._getframe(1)
    while _is_ours(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_ours(path: str) -> bool:
    # what is typed at a prompt has a name like <stdin>, whatever the working directory is
    return not path.startswith("<") and os.path.abspath(path).startswith(_PACKAGE)


def user_location() -> str:
    """`file:line` of the user's current line; the path is relative if it is below the working directory."""
    frame = user_frame()
    return f"{shown_path(frame.f_code.co_filename)}:{frame.f_lineno}"


def program_error(message: str) -> ProgramError:
    """The error for the user's current line."""
    return ProgramError(f"{user_location()}: {message}")


def located(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function`, with every `Refused` raised as a `ProgramError` at the user's line."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except Refused as refused:
            raise program_error(str(refused)) from None

    return wrapper


def did_you_mean(name: object, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?` if one of `candidates` is close to `name`, or nothing."""
    close = difflib.get_close_matches(str(name), list(candidates), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown_path(path: str) -> str:
    """The path of a file of the user's: relative if it is below the working directory."""
    if path.startswith("<"):
        return path
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):
        return path
    return path if relative.startswith(os.pardir) else relative
