from __future__ import annotations

from services.engine.pace import HOLD_UP, LEAST, Pace


def test_a_chunk_takes_as_long_as_streams_may_be_held_up() -> None:
    pace = Pace()
    assert pace.chunk(128) == LEAST
    pace.observe(100, 100 * HOLD_UP / 50)
    assert pace.chunk(128) == 50
    assert pace.chunk(20) == 20


def test_slow_machines_still_read_and_quick_ones_read_all() -> None:
    pace = Pace()
    pace.observe(100, 1000)
    assert pace.chunk(128) == LEAST
    for _ in range(100):
        pace.observe(100, 0.001)
    assert pace.chunk(128) == 128


def test_small_steps_say_nothing() -> None:
    pace = Pace()
    pace.observe(LEAST - 1, 1000)
    assert pace.chunk(128) == LEAST
    pace.observe(100, 0.001)
    assert pace.chunk(128) == 128
