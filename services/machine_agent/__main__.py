"""A machine agent as a process of its own: `python -m services.machine_agent`."""

import sys

from services.entry import main

if __name__ == "__main__":
    sys.exit(main("machine agent"))
