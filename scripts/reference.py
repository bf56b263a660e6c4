"""Writes the pages of the reference that follow from the code: docs/settings.md and docs/messages.md.

Run by `python -m scripts.reference`, after a setting or a message has changed; a test compares the pages with what
this would write. What a setting means stands in `dist_zero_common/settings.py`, and what a message means in the comment
below its name in `schemas/messages.capnp`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from dist_zero_common.settings import Settings
from dist_zero_common.variables import Variable

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "schemas" / "messages.capnp"

_SECTION = re.compile(r"# ---- (.+?) -+$")
_BLOCK = re.compile(r"(struct|enum) (\w+) \{$")
_FIELD = re.compile(r"(\w+) @(\d+)(?: :([\w()]+))?")

_MESSAGES = """\
# Messages

What services, nodes and clients say to each other, and what is in the store, as `schemas/messages.capnp` has it. The
[protocol](protocol.md) says when each is said, the [broker](broker.md) in which queue it arrives. This page follows
from the schema (`python -m scripts.reference`).

An `Envelope` carries any number of messages to one inbox; there are {kinds} kinds of them, marked **message** below.
The others are parts of messages, or objects in the store. Times are microseconds since 1970-01-01 UTC; epochs, sessions
and versions count from 1, places from 0. A receiver that does not know a field leaves it alone, and a field that a
sender did not know is zero or empty.
"""
_SETTINGS = """\
# Settings

What can be set from outside. A variable comes from the environment, else from the file `.env` in the working directory,
else it has its default; one that is set to nothing counts as not set. A value that is not allowed ends the command or
service with a sentence and exit code 2, and so does a variable that begins with `DIST_ZERO_` and is not in this list: a
misspelt setting is an error. `.env.template` is this list as a file to copy. This page follows from
`dist_zero_common/settings.py` (`python -m scripts.reference`). What only docker-compose reads is on
[its page](compose.md#what-can-be-set).

"""


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct or enum of the schema: its section, what its comment says, and its fields with their types (of an enum:
    no types), in the order of their numbers."""

    section: str
    name: str
    says: str
    fields: tuple[tuple[str, str], ...]


def structs_of(schema: str) -> list[Struct]:
    """The structs and enums of a schema, in its order. Raises `ValueError` for a line that is none of those this tree
    uses."""
    found: list[Struct] = []
    section, lines = "", iter(schema.splitlines())
    for line in lines:
        heading, block = _SECTION.match(line), _BLOCK.match(line)
        if heading:
            section = heading[1]
        elif block:
            found.append(_struct(section, block[2], lines))
        elif line.strip() and not line.startswith(("#", "@", "using", "annotation", "const")):
            raise ValueError(f"neither a struct nor a comment: {line}")
    return found


def _struct(section: str, name: str, lines: Iterator[str]) -> Struct:
    says: list[str] = []
    numbered: dict[int, tuple[str, str]] = {}
    depth = 1
    for line in lines:
        stripped = line.strip()
        depth += stripped.count("{") - stripped.count("}")
        if depth == 0:
            break
        if stripped.startswith("#"):
            says.append(stripped.lstrip("# "))
        for field in _FIELD.finditer(stripped.partition("#")[0]):
            numbered[int(field[2])] = (field[1], field[3] or "")
    return Struct(section, name, " ".join(says), tuple(numbered[number] for number in sorted(numbered)))


def messages_page() -> str:
    """docs/messages.md."""
    structs = structs_of(SCHEMA.read_text(encoding="utf-8"))
    envelope = next(struct for struct in structs if struct.name == "Message")
    sent = {kind for _, kind in envelope.fields}
    parts = [_MESSAGES.format(kinds=len(sent))]
    section = ""
    for struct in structs:
        if struct.section != section:
            section = struct.section
            parts.append(f"\n## {section[0].upper()}{section[1:]}\n")
        if struct is envelope:
            continue
        mark = " **message**" if struct.name in sent else ""
        parts.append(f"\n### {struct.name}\n")
        says = _escaped(struct.says)
        if says or mark:
            parts.append(f"\n{says}{mark}\n".replace("\n ", "\n"))
        if struct.fields:
            named = " · ".join(f"`{name}` {_escaped(kind)}".strip() for name, kind in struct.fields)
            parts.append(f"\n{named}\n")
    return "".join(parts)


def settings_page() -> str:
    """docs/settings.md."""
    rows = []
    for item in fields(Settings):
        variable = item.metadata["variable"]
        assert isinstance(variable, Variable)
        default = f"`{variable.default}`" if variable.default else "nothing"
        secret = " Is never shown." if variable.secret else ""
        rows.append(
            f"## `{variable.name}`\n\n{_escaped(variable.meaning)}{secret}\n\n"
            f"Allowed: {_escaped(variable.allowed)}. Default: {default}.\n"
        )
    return _SETTINGS + "\n".join(rows)


def _escaped(says: str) -> str:
    """As Markdown that shows what stands there."""
    return re.sub(r"([*_<>\[\]|~])", r"\\\1", says)


PAGES = {"settings.md": settings_page, "messages.md": messages_page}


def main() -> int:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
