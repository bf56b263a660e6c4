"""What instances cost: a snapshot, and the user's own table, which is the authority. Pure.

The snapshot is of on-demand Linux instances in us-east-1. Amazon changes prices, other regions cost more, accounts have
discounts: whoever sets a limit that matters gives a table (`--prices`, DIST_ZERO_CLOUD_PRICES). Spot instances cost
less, by how much changes from minute to minute; limits take the on-demand price for them, which is the most that they
can cost. Disks, addresses, traffic and requests are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from dist_zero_common.errors import SettingsError

AS_OF = "2025-06"
REGION = "us-east-1"
_SIZES = {
    "t3": {
        "micro": 0.0104,
        "small": 0.0208,
        "medium": 0.0416,
        "large": 0.0832,
        "xlarge": 0.1664,
        "2xlarge": 0.3328,
    },
    "t3a": {
        "micro": 0.0094,
        "small": 0.0188,
        "medium": 0.0376,
        "large": 0.0752,
        "xlarge": 0.1504,
        "2xlarge": 0.3008,
    },
    "t4g": {
        "micro": 0.0084,
        "small": 0.0168,
        "medium": 0.0336,
        "large": 0.0672,
        "xlarge": 0.1344,
        "2xlarge": 0.2688,
    },
    "m5": {"large": 0.096, "xlarge": 0.192, "2xlarge": 0.384, "4xlarge": 0.768},
    "m6i": {"large": 0.096, "xlarge": 0.192, "2xlarge": 0.384, "4xlarge": 0.768},
    "m6a": {"large": 0.0864, "xlarge": 0.1728, "2xlarge": 0.3456, "4xlarge": 0.6912},
    "m6g": {"large": 0.077, "xlarge": 0.154, "2xlarge": 0.308, "4xlarge": 0.616},
    "m7i": {"large": 0.1008, "xlarge": 0.2016, "2xlarge": 0.4032, "4xlarge": 0.8064},
    "m7g": {"large": 0.0816, "xlarge": 0.1632, "2xlarge": 0.3264, "4xlarge": 0.6528},
    "c5": {"large": 0.085, "xlarge": 0.17, "2xlarge": 0.34, "4xlarge": 0.68},
    "c6i": {"large": 0.085, "xlarge": 0.17, "2xlarge": 0.34, "4xlarge": 0.68},
    "c6a": {"large": 0.0765, "xlarge": 0.153, "2xlarge": 0.306, "4xlarge": 0.612},
    "c6g": {"large": 0.068, "xlarge": 0.136, "2xlarge": 0.272, "4xlarge": 0.544},
    "c7i": {"large": 0.08925, "xlarge": 0.1785, "2xlarge": 0.357, "4xlarge": 0.714},
    "c7g": {"large": 0.0725, "xlarge": 0.145, "2xlarge": 0.29, "4xlarge": 0.58},
    "r5": {"large": 0.126, "xlarge": 0.252, "2xlarge": 0.504, "4xlarge": 1.008},
    "r6i": {"large": 0.126, "xlarge": 0.252, "2xlarge": 0.504, "4xlarge": 1.008},
    "r7g": {"large": 0.1071, "xlarge": 0.2142, "2xlarge": 0.4284, "4xlarge": 0.8568},
}
SNAPSHOT: Mapping[str, float] = {
    f"{family}.{size}": price for family, sizes in _SIZES.items() for size, price in sizes.items()
}
"""USD per hour, by instance type."""


def read_prices(path: Path) -> dict[str, float]:
    """The user's table: a JSON object of USD per hour by instance type. Raises `SettingsError`."""
    form = '{"m6i.large": 0.107, ...}, in USD per hour'
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the prices in {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"the prices in {path} are no JSON ({error}); they look like {form}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"the prices in {path} look like {form}")
    for kind, price in found.items():
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < 1e6:
            raise SettingsError(f"the price of {kind} in {path} is no number of USD per hour: {price!r}")
    return {kind: float(price) for kind, price in found.items()}


def prices_of(
    types: Iterable[str], own: Mapping[str, float], *, limited: bool
) -> tuple[tuple[str, float], ...]:
    """The prices of these types, sorted; the user's own come first. A type of unknown price is left out, or, where what
    may be spent is `limited`, a `SettingsError`."""
    known = {**SNAPSHOT, **own}
    wanted = sorted(frozenset(types))
    unknown = [kind for kind in wanted if kind not in known]
    if unknown and limited:
        kind = unknown[0]
        raise SettingsError(
            f"what instance type {kind} costs is not known, so that a limit of USD per hour cannot be held: put"
            f' {{"{kind}": <USD per hour>}} into a file and name it with --prices FILE or DIST_ZERO_CLOUD_PRICES'
        )
    return tuple((kind, known[kind]) for kind in wanted if kind in known)
