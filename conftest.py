"""Hypothesis profiles: `short` in `make test`, the same examples each time; `long` searches, in `make test-long`.

A test that says how many examples it wants itself has that many in both.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from dist_zero.native import choice

pytest_plugins = ("test.virtual.fixtures",)  # Docker and RabbitMQ, for whoever asks

# No deadline: how long an example takes says something about this machine only. No database: a search that found
# something prints how to run it again, and the next run must not depend on this one.
settings.register_profile(
    "short",
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)


def pytest_configure() -> None:
    """Systems in this process interpret their plans, because there are thousands of plans, and to compile one takes a
    second; tests of native executors say so.

    A script that runs tests in its background has Ctrl-C ignored, by them and by all that they start; but it is
    sent on purpose here."""
    choice.setting = lambda: "interpreter"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A search has twenty times the time of an ordinary test, not to be cut off in the middle."""
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.timeout(6_000))


@pytest.fixture(scope="module", params=["in C", "in Python"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Batches as on a machine that has a C compiler, and as on one that has none."""
    from dist_zero.native import columns

    if request.param == "in C" and columns.library() is None:
        pytest.skip("there is no C compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "in Python":
            patch.setattr(columns, "library", lambda: None)
        yield
