"""The machine agent: one per machine; starts, watches and stops the node runners on it."""
