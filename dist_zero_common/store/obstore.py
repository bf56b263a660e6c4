"""A store in S3 or its like: the only importer of obstore.

Create is one PUT with `If-None-Match: *`, which S3 and most of what speaks its protocol refuse when the object is
there; what accepts the header and overwrites all the same is found out by the probe at start (`probe.py`). An object is
there when the PUT is answered, for everybody who reads or lists.

A PUT is never sent again by the library. If an answer was lost after the object was made, the second PUT would be told
that there is one already, and nobody would have been told that they created it. So whatever fails is a `StoreError`
after one attempt, and the caller, who tries again anyway, reads back. Where the answer is that the object exists, it is
looked for: S3 says so (409), too, when another request for the object was under way, and that one may have failed.

Reads, lists and deletes can be repeated and are, a few times. Errors name the bucket, never a key or a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions
from obstore.store import S3Store

from dist_zero_common.errors import SettingsError, StoreError
from dist_zero_common.store.base import Created
from dist_zero_common.store.names import checked_object_name

if TYPE_CHECKING:
    from obstore.store import S3Config

Result = TypeVar("Result")
Names = list[str]

_SCHEME = "s3://"
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 60
"""What a PUT of some megabytes may take on a slow line."""
_REPEATS_MAX, _REPEAT_SECONDS_MAX = 3, 20
_ADVICE = (
    ("NoSuchBucket", "there is no such bucket: create it, or correct DIST_ZERO_STORE"),
    ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID is not known there"),
    ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
    ("ExpiredToken", "AWS_SESSION_TOKEN has expired: get a new one and start again"),
    ("AuthorizationHeaderMalformed", "the bucket is in another region: set AWS_REGION"),
    ("incorrectly configured region", "the bucket is in another region: set AWS_REGION"),
    ("RequestTimeTooSkewed", "this machine's clock is wrong: set it"),
    ("NotImplemented", "it cannot create objects only if they are not there: use another store"),
    (
        "AccessDenied",
        "not allowed: the key or role needs s3:GetObject, PutObject, DeleteObject and ListBucket",
    ),
    ("SlowDown", "it is asked too much at once; it is tried again"),
    (
        "403 Forbidden",
        "not allowed: the key or role needs s3:GetObject, PutObject, DeleteObject and ListBucket",
    ),
)


@dataclass(frozen=True, slots=True)
class S3Access:
    """How a bucket is reached. What is empty is for the library to find: keys from the role of the machine or
    container, the endpoint from the region, which is us-east-1 unless it is said."""

    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class ObjectStore:
    """See `store.base.Store`. `url` is s3://bucket or s3://bucket/prefix."""

    def __init__(self, url: str, access: S3Access) -> None:
        """Nothing is asked of the bucket yet. Raises `SettingsError` if it cannot be told which one is meant."""
        bucket, _, prefix = url.removeprefix(_SCHEME).strip("/").partition("/")
        if not url.startswith(_SCHEME) or not bucket:
            raise SettingsError(
                f"{url!r} is no store: a bucket is named as s3://bucket or s3://bucket/prefix"
            )
        if prefix:
            checked_object_name(prefix)
        self.url = f"{_SCHEME}{bucket}/{prefix}".rstrip("/")
        try:
            self._once = _client(bucket, prefix, access, repeats=0)
            self._repeating = _client(bucket, prefix, access, repeats=_REPEATS_MAX)
        except (exceptions.BaseError, ValueError) as error:
            raise SettingsError(
                f"the store {self.url} cannot be reached as it is set: {_reason(error)}"
            ) from error
        self._closed = False

    async def create(self, name: str, data: bytes) -> Created:
        checked_object_name(name)
        return await self._do(lambda: self._create(name, data))

    async def read(self, name: str) -> bytes | None:
        checked_object_name(name)
        return await self._do(lambda: self._read(name))

    async def list(self, prefix: str) -> list[str]:
        directory = prefix.rpartition("/")[0]
        if directory:
            checked_object_name(directory)
        return await self._do(lambda: self._names(directory, prefix))

    async def delete(self, name: str) -> None:
        checked_object_name(name)
        await self._do(lambda: self._delete(name))

    async def close(self) -> None:
        self._closed = True

    async def _do(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        if self._closed:
            raise StoreError(f"the store {self.url} cannot be used any more: it is closed")
        try:
            return await operation()
        except (exceptions.BaseError, OSError) as error:  # a missing bucket is a FileNotFoundError
            raise StoreError(f"the store {self.url} failed: {_reason(error)}") from error

    async def _create(self, name: str, data: bytes) -> Created:
        try:
            await obstore.put_async(self._once, name, data, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            if await self._exists(name):
                return Created.EXISTS
            raise StoreError(
                f"the store {self.url} says that {name} exists, and does not have it: whether it was created is unknown"
            ) from None
        return Created.NEW

    async def _exists(self, name: str) -> bool:
        try:
            await obstore.head_async(self._repeating, name)
        except FileNotFoundError:
            return False
        return True

    async def _read(self, name: str) -> bytes | None:
        try:
            found = await obstore.get_async(self._repeating, name)
            return bytes(await found.bytes_async())
        except FileNotFoundError as missing:
            if "NoSuchBucket" in str(missing):
                raise
            return None

    async def _names(self, directory: str, prefix: str) -> Names:
        """The library goes from page to page, and takes whole parts of names for prefixes."""
        found = obstore.list(self._repeating, directory or None, chunk_size=1000)
        return sorted(
            [item["path"] async for page in found for item in page if item["path"].startswith(prefix)]
        )

    async def _delete(self, name: str) -> None:
        try:
            await obstore.delete_async(self._repeating, name)
        except FileNotFoundError as missing:
            if "NoSuchBucket" in str(missing):
                raise


def _client(bucket: str, prefix: str, access: S3Access, *, repeats: int) -> S3Store:
    config: S3Config = {"disable_bulk_delete": True, "conditional_put": "etag"}
    if access.endpoint:
        config["endpoint"] = access.endpoint
    if access.region:
        config["region"] = access.region
    if access.key_id:
        config["access_key_id"] = access.key_id
        config["secret_access_key"] = access.secret
    if access.token:
        config["session_token"] = access.token
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": access.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "timeout": timedelta(seconds=_REQUEST_SECONDS),
        },
        retry_config={
            "max_retries": repeats,
            "retry_timeout": timedelta(seconds=_REPEAT_SECONDS_MAX),
        },
    )


def _reason(error: Exception) -> str:
    """What the library says, without the requests and structures that it adds, and what to do."""
    text = str(error)
    for sign, advice in _ADVICE:
        if sign in text:
            return advice
    first = text.partition("\n")[0].partition(": <?xml")[0]
    return f"{first[:300] or type(error).__name__} (whether what was asked for has been done is unknown)"
