"""The scheduler as a process of its own: `python -m services.scheduler`."""

import sys

from services.entry import main

if __name__ == "__main__":
    sys.exit(main("scheduler"))
