"""Measurements: `make bench` runs all of them, `python -m benchmarks NAME` some. Nothing here is asserted in tests."""
