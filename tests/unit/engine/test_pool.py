from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.backend.types import GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine import pool as pool_module
from services.engine.kv.store import StateStore
from services.engine.llama import runner as runner_module
from services.engine.pool import EnginePool
from services.errors import BadModelFile, Unavailable
from tests.support.tiny import GUIDE


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
        pass
    assert not first.is_open, "one engine a file"
    assert pool.health() == "ready"
    assert pool.loaded() == [GUIDE]


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(pool: EnginePool, tmp_path: Path) -> None:
    good = LoadSettings(GUIDE, 256)
    with pool.lease(good) as engine:
        pass
    with pytest.raises(BadModelFile), pool.lease(LoadSettings(tmp_path / "none.gguf", 256)):
        pass
    with pool.lease(good) as again:
        assert again is engine


def test_as_many_stay_as_fit_and_the_least_recently_used_leaves(random_model: Path, tmp_path: Path) -> None:
    files = [Path(shutil.copy(GUIDE, tmp_path / f"{name}.gguf")) for name in "abc"]
    with EnginePool().lease(LoadSettings(files[0], 64, n_parallel=1)) as engine:
        each = engine.n_bytes
    pool = EnginePool(budget=5 * each // 2)

    def use(file: Path) -> None:
        with pool.lease(LoadSettings(file, 64, n_parallel=1)):
            pass

    for file in (files[0], files[1], files[0], files[2]):
        use(file)
    assert pool.loaded() == [files[0], files[2]]
    with pool.lease(LoadSettings(files[0], 64, n_parallel=1)), pool.lease(LoadSettings(files[2], 64, n_parallel=1)):
        use(files[1])
        assert set(pool.loaded()) == set(files), "what is in use is not freed"
    assert len(pool.loaded()) == 2
    with pool.lease(LoadSettings(random_model, 64, n_parallel=1)):
        assert pool.loaded() == [random_model]
    pool.close()


def test_room_is_made_before_a_model_is_loaded_and_what_it_computed_is_there_again(tmp_path: Path) -> None:
    """From one model to another and back: a session's state is on disk, and that of no session in RAM."""
    other = Path(shutil.copy(GUIDE, tmp_path / "other.gguf"))
    store = StateStore(tmp_path / "states", 2**26, 2**26)
    pool = EnginePool(store, budget=60 * 10**6)
    pool.start()

    def ask(file: Path, session: str, words: str) -> int:
        with pool.lease(LoadSettings(file, 1024)) as engine:
            tokens = tuple(engine.tokenize(Prompt(f"{words} " * 40)))
            generation = engine.submit(GenerationRequest(tokens, 2, Sampling(temperature=0), owner="a", session=session))
            assert list(generation.chunks(lambda: None))
            assert generation.finish
            return generation.finish.cached_tokens

    assert ask(GUIDE, "1", "The garden is long.") == ask(GUIDE, "~chat", "Another one.") == 0
    ask(other, "2", "Hello.")
    assert pool.loaded() == [other]
    assert len(list((tmp_path / "states").glob("*.state"))) == 1
    assert ask(GUIDE, "1", "The garden is long.") > 100
    assert ask(GUIDE, "~chat", "Another one.") > 100
    assert not any(b"~chat" in file.read_bytes()[:1000] for file in (tmp_path / "states").glob("*.state"))
    pool.close()


def test_a_model_that_fails_after_room_was_made_leaves_the_server_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LoadSettings) -> None:
        raise BadModelFile("no", param="model")

    pool = EnginePool(budget=10**6)
    with pool.lease(LoadSettings(GUIDE, 256)):
        pass
    other = Path(shutil.copy(GUIDE, tmp_path / "other.gguf"))
    with monkeypatch.context() as broken, pytest.raises(BadModelFile):
        broken.setattr(runner_module, "load_model", fail)
        with pool.lease(LoadSettings(other, 256)):
            pass
    assert pool.loaded() == []
    assert pool.health() == "ready"
    with pool.lease(LoadSettings(GUIDE, 256)) as engine:
        assert engine.is_open
    pool.close()


def test_what_nobody_uses_leaves_memory_and_comes_back() -> None:
    pool = EnginePool(idle_seconds=0.4)
    pool.start()
    with pool.lease(LoadSettings(GUIDE, 64, n_parallel=1)):
        time.sleep(0.8)
        assert pool.loaded() == [GUIDE]
    deadline = time.monotonic() + 10
    while pool.loaded():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    assert pool.health() == "ready"
    with pool.lease(LoadSettings(GUIDE, 64, n_parallel=1)) as engine:
        assert engine.is_open
    pool.close()
    assert pool.health() == "down"


def test_an_answer_in_flight_finishes_on_the_old_model(random_model: Path) -> None:
    pool = EnginePool(budget=0)
    with pool.lease(LoadSettings(random_model, 4096, n_threads=1)) as old:
        tokens = tuple(old.tokenize(Prompt("Go on")))
        generation = old.submit(GenerationRequest(tokens, 200, Sampling(temperature=0)))
        with pool.lease(LoadSettings(GUIDE, 256)) as new:
            assert new.is_open
            assert old.is_open
        assert old.is_open
        assert len("".join(generation.chunks(lambda: None))) > 100
        assert generation.finish
        assert generation.finish.completion_tokens == 200
    assert not old.is_open
    pool.close()


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


def test_a_faster_type_is_suggested_once(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "is_slow", lambda kind, features: kind == "Q8_0" and bool(features))
    with caplog.at_level("INFO", pool_module.log.name):
        for n_ctx in (256, 512):
            with pool.lease(LoadSettings(GUIDE, n_ctx)):
                pass
    suggested = [record.message for record in caplog.records if "tune" in record.message]
    assert len(suggested) == 1
    assert "no fast kernel for Q8_0" in suggested[0]
    assert suggested[0].endswith("python3 main.py tune guide.gguf --convert")
