"""How a machine agent starts a node runner."""
