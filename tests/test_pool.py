from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.backend import GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.pool import EnginePool
from services.errors import BadModelFile, Unavailable
from tests.tiny import GUIDE


@pytest.fixture
def pool() -> Iterator[EnginePool]:
    made = EnginePool()
    yield made
    made.close()


def test_equal_settings_share_an_engine_and_the_last_one_stays(pool: EnginePool) -> None:
    small, large = LoadSettings(GUIDE, 256), LoadSettings(GUIDE, 512)
    assert pool.health() == "down"
    with pool.lease(small) as first, pool.lease(small) as second:
        assert first is second
    with pool.lease(small) as third:
        assert third is first
    with pool.lease(large):
        assert first.is_open
    assert not first.is_open
    assert pool.health() == "ready"


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(pool: EnginePool, tmp_path: Path) -> None:
    good = LoadSettings(GUIDE, 256)
    with pool.lease(good) as engine:
        pass
    with pytest.raises(BadModelFile), pool.lease(LoadSettings(tmp_path / "none.gguf", 256)):
        pass
    with pool.lease(good) as again:
        assert again is engine


def test_an_answer_in_flight_finishes_on_the_old_model(pool: EnginePool, random_model: Path) -> None:
    with pool.lease(LoadSettings(random_model, 4096)) as old:
        tokens = tuple(old.tokenize(Prompt("Go on")))
        generation = old.submit(GenerationRequest(tokens, 500, Sampling(temperature=0)))
        with pool.lease(LoadSettings(GUIDE, 256)) as new:
            assert new.is_open
            assert old.is_open
        assert old.is_open
        assert len("".join(generation.chunks(lambda: None))) > 100
        assert generation.finish
        assert generation.finish.completion_tokens == 500
    assert not old.is_open


def test_many_callers_load_once(pool: EnginePool) -> None:
    seen = []

    def use() -> None:
        with pool.lease(LoadSettings(GUIDE, 256)) as engine:
            seen.append(engine)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def test_a_broken_engine_is_loaded_anew(pool: EnginePool) -> None:
    settings = LoadSettings(GUIDE, 256)
    with pool.lease(settings) as engine:
        engine._break_down()
    with pool.lease(settings) as again:
        assert again is not engine
        assert again.is_open


def test_closing_leaves_nothing_to_lease(tmp_path: Path) -> None:
    pool = EnginePool()
    shutil.copy(GUIDE, tmp_path / "guide.gguf")
    with pool.lease(LoadSettings(tmp_path / "guide.gguf", 256)) as engine:
        pool.close()
        # Whoever still holds it may still tokenize.
        assert engine.tokenize(Prompt("Hi"))
    with pytest.raises(Unavailable), pool.lease(LoadSettings(GUIDE, 256)):
        pass
    assert pool.health() == "down"
