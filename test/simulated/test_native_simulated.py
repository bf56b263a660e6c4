"""A simulated system with native executors: what happens in it is what happens with interpreters, to the byte."""

from __future__ import annotations

import pytest

from dist_zero.native import build, choice
from dist_zero_common.sim.world import SimWorld
from test.simulated.property_world import BusyRun

pytestmark = pytest.mark.skipif(build.available() is not None, reason=str(build.available()))


@pytest.mark.parametrize("profile", ["faithful", "hostile"])
def test_native_history_is_that_of_the_interpreter(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    """The same seed gives the same history, whichever of them runs the plans: the same messages in the same order, the
    same state saved, moved and loaded again."""
    digests: dict[str, str] = {}
    for setting in ("interpreter", "native", "native"):
        monkeypatch.setattr(choice, "setting", lambda setting=setting: setting)
        world = SimWorld(3, profile)
        BusyRun(stages=3, nodes=3, machines=2, transactions=9).run(world)
        assert digests.setdefault(setting, world.history.digest()) == world.history.digest()
    assert digests["interpreter"] == digests["native"]
