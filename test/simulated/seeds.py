"""The seeds of a test: some in `make test`, and all in `make test-long`."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet


def seeds(usual: int, all_of_them: int, first: int = 0) -> list[ParameterSet]:
    """So many from the first one on; those behind the usual ones are long."""
    return [
        pytest.param(first + number, marks=[pytest.mark.long] if number >= usual else [])
        for number in range(all_of_them)
    ]
