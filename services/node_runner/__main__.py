"""A node runner as a process of its own: `python -m services.node_runner`."""

import sys

from services.entry import main

if __name__ == "__main__":
    sys.exit(main("node runner"))
