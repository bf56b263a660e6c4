"""Moves bytes and knows time: settings, protocol, broker, store, simulation. Knows nothing of what the bytes mean."""
