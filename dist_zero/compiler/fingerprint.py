"""The fingerprint of a plan: equal for plans whose saved states mean the same. And the *lineage* of each operator:
equal for operators of whatever plans that compute the same from the same datasets, so that what one of them keeps is
right for the other.

It is a hash of a canonical text of the plan, made from field names and values by the rules below and by
nothing that differs between processes or versions of Python: no `hash`, no `repr` of text, floats in
hexadecimal. Labels are left out, so that moving a line in the user's file changes nothing."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import fields, is_dataclass, replace
from typing import Any

from dist_zero.compiler.plan import NEXT, Gate, Operator, Plan, Sink, Source
from dist_zero_common.remembered import remembered

FINGERPRINT_BYTES = 16
_LEFT_OUT = ("label", "fingerprint", "dropped")
_PLACES = (*_LEFT_OUT, "id", "inputs", "stage", "dataset", "view", "errors_of")
"""What says where an operator stands, and not what it computes."""


def fingerprint(placed: Plan) -> Plan:
    """The plan with its fingerprint: 32 hexadecimal digits."""
    digest = hashlib.blake2b(canonical(placed).encode(), digest_size=FINGERPRINT_BYTES)
    return replace(placed, fingerprint=digest.hexdigest())


@remembered
def shown(plan: Plan) -> int:
    """64 bits that are equal for plans that show readers the same views under the same numbers; not those that are
    being filled. Never 0."""
    views = [view for view in plan.views if not view.name.startswith(NEXT)]
    texts = [
        f"{canonical(view.name)} {_fields_of(plan.operators[view.sink], (*_PLACES, 'state'))}"
        for view in views
    ]
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") or 1


@remembered
def lineages(plan: Plan) -> tuple[str, ...]:
    """By operator, a text that says what it computes, with all that is in front of it, and nothing of where it stands
    in the plan. A gate is what is behind it in the end, its source. Of several operators that are the same, the first
    one has the text for itself, and the others have a number behind it."""
    found: list[str] = []
    named: list[str] = []
    for operator in plan.operators:
        lineage = _lineage(plan, operator, found)
        found.append(lineage)
        copies = found.count(lineage)
        named.append(lineage if copies == 1 or isinstance(operator, Gate) else f"{lineage}~{copies}")
    return tuple(named)


def _lineage(plan: Plan, operator: Operator, found: list[str]) -> str:
    if isinstance(operator, Gate):
        return found[operator.inputs[0]]
    text = [_fields_of(operator, _PLACES), *(found[place] for place in operator.inputs)]
    if isinstance(operator, Source):
        text.append(canonical(plan.datasets[operator.dataset].name))
    if isinstance(operator, Sink):
        text.append(canonical(plan.views[operator.view].name.removeprefix(NEXT)))
        text += [found[place] for place in operator.errors_of]
    digest = hashlib.blake2b("\n".join(text).encode(), digest_size=FINGERPRINT_BYTES)
    return digest.hexdigest()


def _fields_of(value: Any, left_out: tuple[str, ...]) -> str:
    parts = (f"{f.name}={canonical(getattr(value, f.name))}" for f in fields(value) if f.name not in left_out)
    return f"{type(value).__name__}({','.join(parts)})"


def canonical(value: object) -> str:
    """The canonical text of a plan or of anything in it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value, _LEFT_OUT)
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
