"""Makes Pipfile.lock anew, naming no package index: whoever installs uses the one that pip is configured with.

Run by `make lock`. pipenv itself writes the index that it asked into the lock; `pipenv sync`, `install` and
`verify` accept a lock without one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def without_index(lock: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The lock, less its sources and less each package's mention of one."""
    sections = {name: section for name, section in lock.items() if name != "_meta"}
    packages = {
        section: {name: _less_index(entry) for name, entry in entries.items()}
        for section, entries in sections.items()
    }
    return {"_meta": {**lock["_meta"], "sources": []}, **packages}


def _less_index(entry: object) -> object:
    assert isinstance(entry, dict), entry
    return {key: value for key, value in entry.items() if key != "index"}


def main() -> int:
    """Lock with the pipenv that is named on the command line; returns its exit code."""
    locked = subprocess.run([sys.argv[1], "lock"], cwd=ROOT, check=False).returncode
    path = ROOT / "Pipfile.lock"
    if path.exists():  # even after a failure: what pipenv wrote must not stay as it is
        lock = without_index(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(lock, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return locked


if __name__ == "__main__":
    sys.exit(main())
