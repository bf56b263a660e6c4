"""The fingerprint of a plan: equal for plans whose saved states mean the same.

It is a hash of a canonical text of the plan, made from field names and values by the rules below and by
nothing that differs between processes or versions of Python: no `hash`, no `repr` of text, floats in
hexadecimal. Labels are left out, so that moving a line in the user's file changes nothing."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import fields, is_dataclass, replace

from dist_zero.compiler.plan import Plan

FINGERPRINT_BYTES = 16
_LEFT_OUT = ("label", "fingerprint")


def fingerprint(placed: Plan) -> Plan:
    """The plan with its fingerprint: 32 hexadecimal digits."""
    digest = hashlib.blake2b(canonical(placed).encode(), digest_size=FINGERPRINT_BYTES)
    return replace(placed, fingerprint=digest.hexdigest())


def canonical(value: object) -> str:
    """The canonical text of a plan or of anything in it."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = (
            f"{f.name}={canonical(getattr(value, f.name))}" for f in fields(value) if f.name not in _LEFT_OUT
        )
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, tuple):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None or isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, str):
        return f"s{value.encode().hex()}"
    if isinstance(value, bytes):
        return f"b{value.hex()}"
    raise TypeError(f"a plan holds a {type(value).__name__}: {value!r}")
