"""The logs of a system in the cloud, brought here: its hosts copy them into the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_zero_common.cloud.aws import Aws
from dist_zero_common.errors import StoreError
from dist_zero_common.log_copies import COPY_SECONDS, fetch
from dist_zero_common.settings import Settings
from dist_zero_common.store.base import Store
from dist_zero_common.store.opening import open_store


@contextmanager
def fetched(where: str, region: str, directory: Path, settings: Settings, *, follow: bool) -> Iterator[None]:
    """What there is in the store is in `directory`, and with `follow` what comes meanwhile. Raises `StoreError`."""
    store = open_store(where, Aws(settings, region=region).with_credentials(settings))
    asyncio.run(fetch(store, directory))
    ended = threading.Event()
    if follow:
        arguments = (store, directory, ended)
        threading.Thread(target=_keep_fetching, args=arguments, name="logs", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _keep_fetching(store: Store, directory: Path, ended: threading.Event) -> None:
    while not ended.wait(COPY_SECONDS):
        try:
            asyncio.run(fetch(store, directory))
        except StoreError:
            continue  # the next time
