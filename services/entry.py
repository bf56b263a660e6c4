"""What all entry points (`python -m services.<name>`) have in common.

A service that is a process of its own meets the others at a broker that is one, too. There is none for it yet: the
in-memory broker lives and dies with one process, in which the whole system then runs. So an entry point checks its
settings, says so, and ends.
"""

from __future__ import annotations

import sys

from dist_zero_common.errors import SettingsError
from dist_zero_common.settings import Settings, load_settings

EXIT_SETTINGS = 2


def main(service: str) -> int:
    """Run the service of this name as a process. Returns the exit code; 2 for settings that it cannot run with."""
    try:
        raise no_broker(service, load_settings())
    except SettingsError as wrong:
        print(f"{service}: {wrong}", file=sys.stderr)
        return EXIT_SETTINGS


def no_broker(service: str, settings: Settings) -> SettingsError:
    """What keeps a service from running as a process of its own."""
    given = "AMQP_URL is set, but" if settings.broker_url else "AMQP_URL is not set, and"
    return SettingsError(
        f"{given} this version has the in-memory broker only, which does not reach beyond one process, so a "
        f"{service} cannot run as a process of its own; `dist-zero run app.py` runs the whole system in one"
    )
