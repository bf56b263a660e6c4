"""AWS, as far as systems need it: instances, roles, security groups, objects. The only importer of boto3.

All calls block; who lives in a loop makes them in a thread. A call that was throttled, or whose connection broke, is
made again by the library a few times with growing pauses; what still fails then is an `OperatorError` in a sentence,
which names what was asked for and what to do, and never a key. `AwsError.code` is AWS's own word for it.

Credentials are those that were set, else what boto3 finds: its files, its profiles, the role of the instance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.parsers import ResponseParserError

from dist_zero_common.errors import OperatorError
from dist_zero_common.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

ATTEMPTS_MAX = 6
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
REGION = "us-east-1"
"""Where nothing else is said."""

_ADVICE = {
    "AuthFailure": "the credentials are refused: are they current, and of the right account?",
    "InvalidClientTokenId": "the credentials are refused: are they current, and of the right account?",
    "ExpiredToken": "the credentials have expired: get new ones",
    "RequestExpired": "the credentials have expired, or this machine's clock is wrong",
    "AccessDenied": "whoever the credentials belong to may not do that; docs/cloud.md has the policy that is needed",
    "UnauthorizedOperation": "whoever the credentials belong to may not do that; docs/cloud.md has the policy that is"
    " needed",
    "InvalidAMIID.NotFound": "there is no such image in this region: name one with --image or DIST_ZERO_CLOUD_IMAGE",
    "InvalidAMIID.Malformed": "an image is named as ami-0123456789abcdef0",
    "InvalidSubnetID.NotFound": "there is no such subnet in this region: correct --subnet or DIST_ZERO_CLOUD_SUBNETS",
    "VPCIdNotSpecified": "the account has no default network in this region: name a subnet with --subnet",
    "MissingInput": "the account has no default network in this region: name a subnet with --subnet",
    "VcpuLimitExceeded": "the account's limit of vCPUs is reached: end instances, or ask Amazon for more",
    "InstanceLimitExceeded": "the account's limit of instances is reached: end some, or ask Amazon for more",
    "MaxSpotInstanceCountExceeded": "the account's limit of spot instances is reached: end some, or ask for more",
    "RequestLimitExceeded": "AWS is asked too much at once; it is tried again",
    "Throttling": "AWS is asked too much at once; it is tried again",
    "NoSuchBucket": "there is no such bucket: create it, or correct DIST_ZERO_STORE",
}


class AwsError(OperatorError):
    """AWS has refused, or could not be asked. `code` is its word for it, empty if there is none."""

    def __init__(self, says: str, code: str = "") -> None:
        super().__init__(says)
        self.code = code


class Aws:
    """AWS in one region, for one account."""

    def __init__(self, settings: Settings, *, region: str = "") -> None:
        """Nothing is asked yet."""
        self.region = region or settings.aws_region or REGION
        self._settings = settings
        self._session = boto3.Session(
            aws_access_key_id=settings.aws_key_id or None,
            aws_secret_access_key=settings.aws_secret or None,
            aws_session_token=settings.aws_token or None,
            region_name=self.region,
        )

    @cached_property
    def ec2(self) -> EC2Client:
        """For instances and security groups."""
        client: EC2Client = self._client("ec2", self._settings.cloud_endpoint)
        return client

    @cached_property
    def iam(self) -> IAMClient:
        """For roles and instance profiles."""
        client: IAMClient = self._client("iam", self._settings.cloud_endpoint)
        return client

    @cached_property
    def sts(self) -> STSClient:
        """For who one is."""
        client: STSClient = self._client("sts", self._settings.cloud_endpoint)
        return client

    @cached_property
    def s3(self) -> S3Client:
        """For objects."""
        client: S3Client = self._client("s3", self._settings.s3_endpoint)
        return client

    def _client(self, service: str, endpoint: str) -> Any:
        config = Config(  # type: ignore[call-arg]
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            # AWS_ENDPOINT_URL is where buckets are; boto3 would take it for everything.
            ignore_configured_endpoint_urls=True,
            s3={"addressing_style": "path"} if endpoint else {},
        )
        session: Any = self._session  # its types say a hundred times the same
        with explained(f"reach {service} in {self.region}"):
            return session.client(service, endpoint_url=endpoint or None, config=config)

    # -- objects -------------------------------------------------------------------------------------------------

    def put_object(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object, over another one if there is one."""
        with explained(f"write s3://{bucket}/{key}"):
            self.s3.put_object(Bucket=bucket, Key=key, Body=body)

    def get_object(self, bucket: str, key: str) -> bytes | None:
        """An object's bytes, None if there is none."""
        try:
            with explained(f"read s3://{bucket}/{key}"):
                return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except AwsError as failed:
            if failed.code == "NoSuchKey":
                return None
            raise

    def has_object(self, bucket: str, key: str) -> bool:
        """Whether there is an object of exactly this name."""
        return key in self.object_keys(bucket, key)

    def object_keys(self, bucket: str, prefix: str) -> list[str]:
        """The names of objects that begin so, sorted."""
        with explained(f"list s3://{bucket}/{prefix}"):
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object; a missing one is no error."""
        with explained(f"delete s3://{bucket}/{key}"):
            self.s3.delete_object(Bucket=bucket, Key=key)

    def with_credentials(self, settings: Settings) -> Settings:
        """The settings with the credentials that were found, for what does not look where boto3 does."""
        with explained("find credentials"):
            found = self._session.get_credentials()
            if found is None:
                return settings
            keys = found.get_frozen_credentials()
        return replace(
            settings,
            aws_key_id=keys.access_key or "",
            aws_secret=keys.secret_key or "",
            aws_token=keys.token or "",
            aws_region=self.region,
        )

    # -- who one is ------------------------------------------------------------------------------------------------

    def caller(self) -> str:
        """Who asks, as a person would say it: the last part of the ARN."""
        with explained("find out whose credentials these are"):
            return self.sts.get_caller_identity()["Arn"].rpartition("/")[2]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Meanwhile what AWS or the library raises is an `AwsError` that says what was tried."""
    try:
        yield
    except ClientError as error:
        raise _explained(what, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AwsError(
            f"cannot {what}: there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env, or"
            " what else boto3 knows (AWS_PROFILE, ~/.aws)"
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise AwsError(f"cannot {what}: {str(error).partition(chr(10))[0][:300]}") from error


def _explained(what: str, error: ClientError) -> AwsError:
    found: Mapping[str, Any] = error.response.get("Error", {})
    code, says = str(found.get("Code", "")), str(found.get("Message", ""))
    advice = _ADVICE.get(code, "")
    # What one may not do comes with a long encoded message, of which the first sentence says all.
    said = says.partition(" Encoded authorization")[0][:300]
    return AwsError(f"cannot {what}: {said} ({code})" + (f": {advice}" if advice else ""), code)


Sleep = Callable[[float], None]


def pauses(seed: str, *, first: float = 0.5, most: float = 8.0, total: float = 60.0) -> Iterator[float]:
    """Growing pauses between attempts, in seconds, `total` in all; not the same for all who wait for the same."""
    rng, pause, waited = random.Random(seed), first, 0.0
    while waited < total:
        this = pause * (0.5 + rng.random() / 2)
        yield this
        waited, pause = waited + this, min(2 * pause, most)
