"""Seeds of `test_reconcile.py` that were wrong once."""

from __future__ import annotations

import random

import pytest

from test.unit.scheduler_world import check_adoption


@pytest.mark.parametrize(("machines", "seed"), [(3, 23), (2, 48), (3, 94)])
def test_what_was_adopted_just_now_is_judged_at_once(machines: int, seed: int) -> None:
    """Deciding twice was not the same as deciding once: since when there is more room for a program that is adopted was
    noted only when it was looked at again."""
    check_adoption(machines, random.Random(seed))
