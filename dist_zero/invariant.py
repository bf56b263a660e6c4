"""What a user says must always hold between views, in a function that is called with their rows."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_zero.expr.location import Refused, shown_path

Check = Callable[..., bool | None]
"""Called with one list of rows per view; says no by raising, as `assert` does, or by returning False."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One invariant of a program: its name, the views whose rows it is called with, in order, and where it stands."""

    name: str
    views: tuple[str, ...]
    check: Check
    location: str

    def broken_by(self, rows: Mapping[str, Sequence[Any]]) -> str | None:
        """Why it does not hold of these rows, by view; None if it does."""
        try:
            held = self.check(*(list(rows[view]) for view in self.views))
        except Exception as error:  # an assertion, or a mistake in the user's function: either way it said no
            return self._said(error)
        if held is None or held is True:
            return None
        return f"it returned {held!r:.80} ({self.location})"

    def _said(self, error: Exception) -> str:
        file = inspect.unwrap(self.check).__code__.co_filename if inspect.isfunction(self.check) else ""
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename == file] or frames
        place = f"{shown_path(mine[-1].filename)}:{mine[-1].lineno}"
        first = str(error).partition("\n")[0]
        said = f"{type(error).__name__}: {first}" if first else (mine[-1].line or type(error).__name__)
        return f"{said} ({place})"


def checked_invariant(
    check: object, named: Sequence[str], views: Sequence[str], taken: Sequence[str], location: str
) -> Invariant:
    """The invariant of a function. Without names, its parameters are names of views. Raises `Refused`."""
    if not inspect.isroutine(check):
        raise Refused(
            "invariant decorates a function: @app.invariant, then def holds(view): ..., with a view's name as parameter"
        )
    name = getattr(check, "__name__", "invariant")
    if inspect.iscoroutinefunction(check) or inspect.isgeneratorfunction(check):
        raise Refused(f"invariant {name!r} is async or a generator; a plain function of rows is wanted")
    if name in taken:
        raise Refused(f"there is an invariant {name!r} already")
    parameters = list(inspect.signature(check).parameters.values())
    wanted = tuple(named) or tuple(parameter.name for parameter in parameters)
    if not wanted:
        raise Refused(f"invariant {name!r} is about no view: give it a parameter with a view's name")
    for view in wanted:
        if view not in views:
            raise Refused(
                f"invariant {name!r} is about {view!r}, which is no view; there are {', '.join(views)}"
            )
    try:
        inspect.signature(check).bind(*wanted)
    except TypeError as error:
        raise Refused(
            f"invariant {name!r} cannot be called with the rows of {len(wanted)} views: {error}"
        ) from None
    return Invariant(name, wanted, check, location)
