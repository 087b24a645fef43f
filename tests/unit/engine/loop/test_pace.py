from __future__ import annotations

from services.engine.loop.pace import BURST, LONE_CHUNK, LONE_SECONDS, MAX_DELAY, MIN_CHUNK, TILE, TILE_BESIDE, Pace


def paced(seconds_per_token: float) -> Pace:
    pace = Pace()
    pace.observe(100, 0, 100 * seconds_per_token)
    return pace


def test_before_anything_is_known_a_chunk_is_a_tile() -> None:
    assert Pace().chunk(128) == TILE_BESIDE
    assert Pace().chunk(20) == 20


def test_a_chunk_is_as_many_tiles_as_streams_may_be_held_up_for() -> None:
    assert paced(MAX_DELAY / 900).chunk(300) == 2 * TILE + 1
    assert paced(MAX_DELAY / 150).chunk(300) == 2 * TILE + 1
    assert paced(MAX_DELAY / 100).chunk(300) == TILE_BESIDE
    assert paced(MAX_DELAY / 1000).chunk(129) == 129


def test_for_a_whole_tile_it_may_take_twice_as_long() -> None:
    assert paced(MAX_DELAY / 40).chunk(129) == TILE_BESIDE
    assert paced(MAX_DELAY / 25).chunk(129) == 25


def test_a_lone_prompt_is_read_in_whole_tiles_for_as_long_as_others_may_wait() -> None:
    assert Pace().lone_chunk(512) == LONE_CHUNK
    assert Pace().lone_chunk(20) == 20
    assert paced(LONE_SECONDS / 400).lone_chunk(512) == 6 * TILE
    assert paced(LONE_SECONDS / 4000).lone_chunk(512) == 512
    assert paced(1000).lone_chunk(512) == LONE_CHUNK


def test_slow_machines_still_read() -> None:
    assert paced(1000).chunk(128) == MIN_CHUNK


def test_small_steps_say_nothing() -> None:
    pace = Pace()
    pace.observe(MIN_CHUNK - 1, 0, 1000)
    assert pace.chunk(128) == TILE_BESIDE


def test_what_decoding_takes_is_no_cost_of_reading() -> None:
    pace = Pace()
    pace.observe(0, 8, 0.3)
    pace.observe(100, 8, 0.3 + 100 * MAX_DELAY / 140)
    assert pace.chunk(129) == 129


def test_a_burst_is_what_is_read_in_its_time() -> None:
    assert Pace().burst() == 0
    assert paced(BURST / 500).burst() in (499, 500)
