"""`python -m services.log_copies`: copies what this host's services log into the system's store, until it is ended.

It runs beside them, on hosts that go away with their disks (`dist_zero_common/log_copies.py`).
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from dist_zero_common.clock import RealClock
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import get_logger
from dist_zero_common.log_copies import COPY_SECONDS, Copier
from dist_zero_common.log_shipping import process_log
from dist_zero_common.logs_tail import follow
from dist_zero_common.settings import Settings, load_settings
from dist_zero_common.store.opening import open_store
from services.entry import EXIT_SETTINGS, EXIT_SURROUNDINGS, missing_store


def main() -> int:
    """Copy. Returns the exit code."""
    try:
        settings = load_settings()
        if wanting := missing_store(settings):
            sys.stderr.write(f"log-copies: {wanting[0]}\n")
            return EXIT_SETTINGS
        # Its own log has another directory, or each warning would be copied, and fail, and be a warning.
        own = settings.log_directory / "copies" / "own"
        with process_log(own, "log-copies", level="warning", logstash=settings.logstash):
            copy_forever(settings)
    except (OperatorError, OSError) as wrong:
        sys.stderr.write(f"log-copies: {wrong}\n")
        return EXIT_SURROUNDINGS
    return 0


def copy_forever(settings: Settings) -> None:
    """Follow the files, and write what is new every few seconds."""
    assert settings.store is not None, "missing_store"
    log = get_logger("log-copies", RealClock(), machine=settings.machine)
    copier = Copier(
        open_store(settings.store, settings), settings.machine or "host", log, lambda: datetime.now(UTC)
    )
    copied_at = time.monotonic()

    def goes_on() -> bool:
        nonlocal copied_at
        if time.monotonic() - copied_at >= COPY_SECONDS:
            copier.copy()
            copied_at = time.monotonic()
        return True

    directory = Path(settings.log_directory)
    for entry in follow(directory, since=copier.since(), goes_on=goes_on, look_seconds=1.0):
        copier.add(entry)


if __name__ == "__main__":
    sys.exit(main())
