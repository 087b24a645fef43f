"""What SmolLM2 goes on from is what it would compute cold, wherever the state lay meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engine.kv.store import StateStore
from services.engine.loop.engine import Engine
from tests.support.real_models import smollm2
from tests.unit.engine.loop.test_sliding_window import MB, Model, ask


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(smollm2(), 32, 3)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[StateStore]]:
    made: list[StateStore] = []
    yield made
    for store in made:
        store.close()


@pytest.mark.parametrize("where", ["slot", "ram", "disk", "copy"])
def test_an_edit_and_what_comes_later(model: Model, stores: list[StateStore], tmp_path: Path, where: str) -> None:
    """After the slot itself, RAM, a restart, and a copy of another conversation's slot."""
    for name, prompt in (("late", model.late), ("early", model.early), ("longer", model.longer)):
        n_common = next((n for n, (a, b) in enumerate(zip(model.long, prompt, strict=False)) if a != b), len(model.long))
        stores.append(StateStore(tmp_path / name, 100 * MB, 1000 * MB).start())
        engine = Engine.open(model.settings if where != "copy" else model.settings_of(n_parallel=2), stores[-1])
        ask(engine, model.long, "1")
        if where == "ram":
            ask(engine, model.other, "2")
        if where == "disk":
            engine.close()
            stores[-1].close()
            stores.append(StateStore(tmp_path / name, 100 * MB, 1000 * MB).start())
            engine = Engine.open(model.settings, stores[-1])
        model.check(engine, prompt, "2" if where == "copy" else "1", n_common)
        engine.close()
