"""A next version of the schemas, made as their rules say: each struct has a field more, at its end, and there is a
message more. Processes that speak it, beside others that do not."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capnp
import pytest

import schemas
from dist_zero_common.protocol import codec
from dist_zero_common.protocol.structs import StructCodecs, Write, camel_case
from dist_zero_common.sim.processes import CURRENT, Process

ADDED, SAID = "addedInNext", "only the next version knows"
_STRUCT = re.compile(r"^struct (\w+) \{$.*?^\}$", re.MULTILINE | re.DOTALL)


class NextCodecs(StructCodecs):
    """What the next version does: it knows what the present one knows, and says something more in each struct."""

    def _fields(self, cls: type) -> list[tuple[str, Any, Any]]:
        in_schema = self.module(cls.__name__).schema.fields
        hints = typing.get_type_hints(cls)
        names = [each.name for each in dataclasses.fields(cls)]
        assert {*map(camel_case, names), ADDED} == set(in_schema)
        return [(name, hints[name], in_schema[camel_case(name)]) for name in names]

    def _compile_write(self, cls: type) -> Write:
        write = super()._compile_write(cls)
        added = self.module(cls.__name__).schema.fields[ADDED]

        def write_more(builder: Any, value: Any) -> None:
            write(builder, value)
            builder._set_by_field(added, SAID)

        return write_more


def next_codecs(folder: Path) -> NextCodecs:
    """The codecs of the next version, whose schemas are written to this folder."""
    present = Path(schemas.__file__).parent
    modules: dict[str, object] = {}
    for path in sorted(present.glob("*.capnp")):
        text = re.sub("^@0x.", "@0x9", path.read_text(), count=1)  # other ids: both are loaded here
        (folder / path.name).write_text(_STRUCT.sub(_with_a_field_more, text))
    for path in sorted(folder.glob("*.capnp")):
        loaded = vars(capnp.load(str(path), imports=[str(folder)]))
        modules |= {name: item for name, item in loaded.items() if hasattr(item, "new_message")}
    return NextCodecs(modules)


def _with_a_field_more(found: re.Match[str]) -> str:
    text = found.group()
    numbers = [int(number) for number in re.findall(r"@(\d+) :", text)]
    if "union {" in text:  # its members are all that there is; see `structs.py`
        return text
    return f"{text[:-1]}  {ADDED} @{max(numbers, default=-1) + 1} :Text;\n}}"


@dataclass
class Versions:
    """Which processes speak the next version: those that begin within these seconds. `seen`: of each kind of process,
    which versions have written something, in their order."""

    since: float
    until: float
    after: NextCodecs
    before: StructCodecs = field(default_factory=codec.codecs)
    seen: dict[str, list[str]] = field(default_factory=dict)
    _of: dict[Process, StructCodecs] = field(default_factory=dict)

    def codecs(self) -> StructCodecs:
        """Those of whoever asks."""
        process = CURRENT.get()
        if process is None:
            return self.before
        known = self._of.get(process)
        if known is None:
            is_next = self.since <= asyncio.get_running_loop().time() < self.until
            known = self._of[process] = self.after if is_next else self.before
            said = self.seen.setdefault(process.kind, [])
            name = "next" if is_next else "present"
            if said[-1:] != [name]:
                said.append(name)
        return known


def speak(patch: pytest.MonkeyPatch, versions: Versions) -> None:
    """Let each process speak its version."""
    chosen: Callable[[], StructCodecs] = versions.codecs
    patch.setattr(codec, "codecs", chosen)
