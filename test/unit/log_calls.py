"""The log calls of the product, as its source says them, and the tables of docs/log-events.md, which describe them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from test.unit.tidy import parsed, python_files, text

PRODUCT = ("dist_zero_common", "dist_zero", "services")
LEVELS = ("debug", "info", "warning", "error")
DOCUMENT = Path("docs/log-events.md")


@dataclass(frozen=True)
class LogCall:
    """One place that logs: the event (empty: it binds fields), at which levels it may be, and its fields."""

    path: Path
    line: int
    event: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.event}"


@cache
def log_calls() -> tuple[LogCall, ...]:
    """Every one there is."""
    return tuple(call for path in python_files(*PRODUCT) for call in _in_module(path))


def _in_module(path: Path) -> Iterator[LogCall]:
    if (path.name == "log.py" and path.parts[0] == "dist_zero_common") or "log" not in text(path):
        return
    tree = parsed(path)
    chosen = {
        target.id: _levels(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _levels(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        names = [word.arg for word in node.keywords if word.arg is not None]
        if isinstance(node.func, ast.Name) and node.func.id in chosen:
            yield _call(path, node, chosen[node.func.id], names)
        elif isinstance(node.func, ast.Name) and node.func.id == "get_logger":
            yield LogCall(path, node.lineno, "", (), tuple(names))
        elif isinstance(node.func, ast.Attribute) and _is_log(node.func.value):
            if node.func.attr == "bind":
                yield LogCall(path, node.lineno, "", (), tuple(names))
            elif node.func.attr == "exception":
                yield _call(path, node, ("error",), [*names, "traceback"])
            elif node.func.attr in LEVELS:
                yield _call(path, node, (node.func.attr,), names)


def _call(path: Path, node: ast.Call, levels: tuple[str, ...], names: list[str]) -> LogCall:
    """Raises `AssertionError` for an event that is not constant, and for fields that cannot be seen."""
    where = f"{path}:{node.lineno}"
    assert all(word.arg is not None for word in node.keywords), f"{where}: fields are named one by one"
    given = node.args[0]
    choices = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
    events = [choice.value for choice in choices if isinstance(choice, ast.Constant)]
    assert len(events) == len(choices), f"{where}: an event is a constant that one can search for"
    return LogCall(path, node.lineno, "|".join(map(str, events)), levels, tuple(names))


def _is_log(node: ast.expr) -> bool:
    """Whether this expression is one of our loggers: they are called `log`, `_log`, or made by `log_of`."""
    while isinstance(node, ast.Call):
        node = node.func
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("log", "_log", "log_of", "node_log")


def _levels(node: ast.expr) -> tuple[str, ...]:
    """The levels that `log.warning if ... else log.info` chooses among."""
    if not isinstance(node, ast.IfExp):
        return ()
    sides = (node.body, node.orelse)
    if not all(isinstance(side, ast.Attribute) and _is_log(side.value) for side in sides):
        return ()
    return tuple(sorted({side.attr for side in sides if isinstance(side, ast.Attribute)}))


def table(heading: str) -> dict[str, tuple[str, ...]]:
    """A table of the document: the other cells of each row, by its first one (without backticks)."""
    part = text(DOCUMENT).split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in row) for row in rows[2:]]
    return {row[0].strip("`"): row[1:] for row in cells}
