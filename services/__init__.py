"""The processes: scheduler, machine agent, node runner. Each is a shell (`service.py`) around a pure part."""
