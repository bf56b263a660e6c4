"""A store by its name, as a setting or an option says it: a directory, or a bucket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from dist_zero_common.errors import SettingsError
from dist_zero_common.settings import Settings
from dist_zero_common.store.base import Store
from dist_zero_common.store.directory import DirectoryStore


def open_store(where: str | Path, settings: Settings) -> Store:
    """The store that `where` names: a directory's path, file:///path, or s3://bucket/prefix, which is reached as
    `settings` say. Others may use it, too.

    Raises `SettingsError` for a name of nothing, `StoreError` if a directory cannot be used.
    """
    directory = directory_of(where)
    if directory is not None:
        return DirectoryStore(directory, shared=True)
    # A library of 10 MB, which those who have a directory do not need.
    from dist_zero_common.store.obstore import ObjectStore, S3Access

    access = S3Access(
        settings.s3_endpoint,
        settings.aws_region,
        settings.aws_key_id,
        settings.aws_secret,
        settings.aws_token,
    )
    return ObjectStore(str(where), access)


def open_directory(where: str | Path, *, threads: bool = True) -> DirectoryStore:
    """The store in a directory, for one process alone: of a system that lives in it. Raises as `open_store` does, and
    `SettingsError` for a bucket, of which nobody could know that no other system is in it."""
    directory = directory_of(where)
    if directory is None:
        raise SettingsError(
            f"{str(where)!r} is a bucket: a system within one process keeps its log in a directory"
        )
    return DirectoryStore(directory, threads=threads)


def directory_of(where: str | Path) -> Path | None:
    """The directory that a store's name means, None if it means a bucket. Raises `SettingsError`."""
    text = str(where)
    if isinstance(where, Path) and where.parts and where.parts[0] in ("s3:", "file:"):
        raise SettingsError(
            f"{text!r} came of a URL that was taken for a path: name the store in DIST_ZERO_STORE"
        )
    if isinstance(where, Path) or "://" not in text:
        return Path(where)
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc):
        return None
    raise SettingsError(
        f"{text!r} is no store: there are a directory's path, file:///path and s3://bucket/prefix"
    )
