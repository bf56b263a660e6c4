"""The node runner: the process that hosts nodes, and one sequencer per program."""
