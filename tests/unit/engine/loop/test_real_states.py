"""What SmolLM2 goes on from is what it would compute cold, wherever the state lay meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.engine.kv.store import StateStore
from services.engine.loop.engine import Engine
from tests.support.real_models import smollm2
from tests.unit.engine.loop.test_sliding_window import MB, Model, ask


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(smollm2(), 16, 3)


@pytest.fixture
def start(model: Model, tmp_path: Path) -> Iterator[Callable[[int], Engine]]:
    """Starts an engine over the states that the one before left on disk; loading the model takes half a second."""
    made: list[tuple[Engine, StateStore]] = []

    def close() -> None:
        engine, store = made.pop()
        engine.close()
        store.close()

    def start_one(n_parallel: int) -> Engine:
        if made:
            close()
        store = StateStore(tmp_path, 100 * MB, 1000 * MB).start()
        made.append((Engine.open(model.settings_of(n_parallel=n_parallel), store), store))
        return made[-1][0]

    yield start_one
    close()


def prompts(model: Model) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield edits of the conversation and what comes later, each with what it has in common with the conversation."""
    for name, prompt in (("late", model.late), ("early", model.early), ("longer", model.longer)):
        differ = (n for n, (a, b) in enumerate(zip(model.long, prompt, strict=False)) if a != b)
        yield name, prompt, next(differ, len(model.long))


@pytest.mark.parametrize("where", ["slot", "ram", "copy"])
def test_an_edit_and_what_comes_later(model: Model, start: Callable[[int], Engine], where: str) -> None:
    """After the slot itself, RAM, and a copy of another conversation's slot."""
    engine = start(2 if where == "copy" else 1)
    for _, prompt, n_common in prompts(model):
        _, finish = ask(engine, model.long, "1")
        assert finish.cached_tokens == 0
        if where == "ram":
            ask(engine, model.other, "2")
        model.check(engine, prompt, "2" if where == "copy" else "1", n_common)
        for session in ("1", "2"):
            engine.forget("a", session)


def test_an_edit_and_what_comes_later_after_a_restart(model: Model, start: Callable[[int], Engine]) -> None:
    engine = start(1)
    for name, _, _ in prompts(model):
        ask(engine, model.long, name)
    engine = start(1)
    for name, prompt, n_common in prompts(model):
        model.check(engine, prompt, name, n_common)
        # So that the next one cannot go on from this one's slot.
        engine.forget("a", name)
