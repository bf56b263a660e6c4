"""A section of Pipfile.lock as requirements with hashes, for pip where there is no pipenv: images and hosts.

`python3 dist_zero_common/requirements.py default < Pipfile.lock` prints them. Images run this before anything else of
ours is there, so it imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def requirements(lock: Mapping[str, Any], section: str = "default") -> str:
    """The lines that pip reads; what the lock has by its path (this project) is left out."""
    lines = []
    for name, entry in sorted(lock[section].items()):
        if "path" in entry:
            continue
        extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
        marker = f" ; {entry['markers']}" if entry.get("markers") else ""
        hashes = "".join(f" \\\n    --hash={each}" for each in entry["hashes"])
        lines.append(f"{name}{extras}{entry['version']}{marker}{hashes}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(requirements(json.load(sys.stdin), sys.argv[1]))
