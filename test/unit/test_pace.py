"""How records grow with the load: `services/node_runner/pace.py`."""

from __future__ import annotations

import random

from services.node_runner.pace import BUSY_EPOCHS, EPOCH_SECONDS, LINGER_SECONDS, Pace

MOST = 32 * 2**20


def _run(pace: Pace, epochs: int, bytes_per_second: float, waits: bool = True) -> float:
    """Record and finish epochs, each full if there is enough (`waits`); returns how long the last one took."""
    now = took = 0.0
    for epoch in range(1, epochs + 1):
        size = pace.record_bytes // 2 if waits else 100
        pace.on_record(epoch, size)
        pace.on_handed_out(epoch, size, now)
        took = size / bytes_per_second
        now += took
        pace.on_finished(epoch, now)
    return took


def test_fast_nodes_get_more_at_a_time_up_to_the_limit() -> None:
    pace = Pace(2**20, MOST)
    _run(pace, 20, bytes_per_second=1e9)
    assert pace.record_bytes == MOST


def test_slow_nodes_get_less_until_an_epoch_takes_not_too_long() -> None:
    """Whatever the speed, epochs end up between a fraction of a second and a few, or at the least size."""
    for speed in (2e4, 1e5, 1e6, 1e7):
        pace = Pace(2**20, MOST)
        took = _run(pace, 40, speed)
        assert took <= 4 * EPOCH_SECONDS or pace.record_bytes == 2**16, speed
        again = Pace(2**20, MOST)
        _run(again, 41, speed)
        assert again.record_bytes == pace.record_bytes, "it has settled"


def test_small_epochs_say_nothing_of_how_large_ones_may_be() -> None:
    pace = Pace(2**20, MOST)
    _run(pace, 100, bytes_per_second=1e9, waits=False)
    assert pace.record_bytes == 2**20


def test_a_tiny_record_that_was_asked_for_is_never_made_larger_than_its_limit() -> None:
    pace = Pace(600, 600)
    _run(pace, 50, bytes_per_second=1e9)
    assert pace.record_bytes == 600


def test_nothing_waits_longer_than_the_linger_time() -> None:
    """Over random histories: whoever asks again when it was told to is let through, at the latest after that time, also
    where nothing is ever finished; and while few epochs are unfinished, at once."""
    for seed in range(200):
        rng = random.Random(seed)
        pace, now, finished = Pace(2**20, MOST), 0.0, 0
        for epoch in range(50):
            since, waiting = now, rng.randrange(1, 2**21)
            while (rest := pace.rest(waiting, now)) > 0:
                assert epoch - finished >= BUSY_EPOCHS and waiting < pace.record_bytes
                now += rest * rng.choice((0.5, 1.0, 1.5))
                if rng.random() < 0.2 and finished < epoch:
                    finished += 1
                    pace.on_finished(finished, now)
                waiting += rng.randrange(2**16)
            assert now - since <= 1.6 * LINGER_SECONDS, "asked half as late again at most"
            pace.on_proposed()
            pace.on_record(epoch + 1, waiting)
            pace.on_handed_out(epoch + 1, waiting, now)
