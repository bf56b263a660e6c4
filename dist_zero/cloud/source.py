"""What a host installs whose image has no DistZero in it: our own source, and the list of what that needs.

Both go into the bucket as objects that are called by what they hold, so the same again is nothing new, and a host can
check what it has got. The archive is the same bytes wherever it is made of the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dist_zero_common.errors import SettingsError
from dist_zero_common.requirements import requirements

PACKAGES = ("dist_zero", "dist_zero_common", "schemas", "services")
SUFFIXES = (".py", ".capnp", ".h", ".sh")
LOCK = "Pipfile.lock"


@dataclass(frozen=True, slots=True)
class Source:
    """`name` and `requirements_name` are those of the objects, below the directory of instances."""

    archive: bytes
    requirements: bytes

    @property
    def name(self) -> str:
        """What the archive is called."""
        return f"source/{hashlib.sha256(self.archive).hexdigest()}.tar.gz"

    @property
    def requirements_name(self) -> str:
        """What the list is called."""
        return f"source/{hashlib.sha256(self.requirements).hexdigest()}.txt"


def source_here() -> Source:
    """Of the DistZero that runs here. Raises `SettingsError` where it was installed without its lock file."""
    roots = [Path(str(resources.files(package))) for package in PACKAGES]
    lock = roots[0].parent / LOCK
    if not lock.is_file():
        raise SettingsError(
            f"there is no {LOCK} beside the DistZero that runs here, so a host could not install it: run this from a"
            " checkout of the repository, or name an image with DistZero in it (--image, with --image-has-dist-zero)"
        )
    return Source(archive(roots), requirements(json.loads(lock.read_text(encoding="utf-8"))).encode())


def archive(roots: list[Path]) -> bytes:
    """The source files of these packages, packed."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for root in roots:
            for path in sorted(root.rglob("*")):
                if path.suffix not in SUFFIXES or not path.is_file():
                    continue
                body = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(root.parent).as_posix())
                entry.size, entry.mode = len(body), 0o644
                tar.addfile(entry, io.BytesIO(body))
    return packed.getvalue()
