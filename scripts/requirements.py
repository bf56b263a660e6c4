"""Prints a section of Pipfile.lock as requirements with hashes, for pip where there is no pipenv: in images.

`python3 scripts/requirements.py default < Pipfile.lock | pip install --require-hashes -r /dev/stdin`
"""

from __future__ import annotations

import json
import sys


def requirements(lock: dict[str, dict[str, dict[str, object]]], section: str) -> str:
    """The lines that pip reads; what the lock has by its path (this project) is left out."""
    lines = []
    for name, entry in sorted(lock[section].items()):
        if "path" in entry:
            continue
        extras, marker, hashes = entry.get("extras", []), entry.get("markers"), entry["hashes"]
        assert isinstance(extras, list), extras
        assert isinstance(hashes, list), hashes
        line = name + (f"[{','.join(extras)}]" if extras else "") + str(entry["version"])
        if marker:
            line += f" ; {marker}"
        lines.append(" \\\n    ".join((line, *(f"--hash={item}" for item in hashes))) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(requirements(json.load(sys.stdin), sys.argv[1]))
