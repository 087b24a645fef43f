"""Models whose layers have a sliding window: what is gone on with is what would be computed cold, wherever it lay.

llama.cpp leaves out of a state what is older than the window, and cuts what is left as if all were there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.backend.types import Finish, GenerationRequest, LoadSettings, PrefetchRequest, Prompt, Sampling
from services.engine.kv.checkpoints import STEP
from services.engine.kv.store import StateStore
from services.engine.llama.vocabulary_file import load_vocabulary
from services.engine.loop.engine import Engine
from tests.support.real_models import gemma3
from tests.support.serving import ROOT
from tests.support.tiny import write_window_model

MB = 10**6
Open = Callable[..., Engine]
Logprobs = dict[bytes, float]


class Model:
    """A model's file, a conversation of `n_windows` windows, others and edits of it, and what is computed cold."""

    def __init__(self, file: Path, window: int, n_windows: int) -> None:
        # A second thread would mostly wait for the first one.
        self.settings = LoadSettings(file, 2048, n_parallel=1, n_threads=1, swa_full=True)
        words = iter(load_vocabulary(file).tokenize(Prompt((ROOT / "LICENSE").read_text(encoding="utf-8"), bos=False)))

        def tokens(n: int) -> tuple[int, ...]:
            return tuple(itertools.islice(words, n))

        self.long, self.other = tokens(n_windows * window), tokens(window)
        # Within the last window, and before it: the answer of either hangs on cells that a state leaves out.
        self.late = self.long[:-20] + tokens(5)
        self.early = self.long[: len(self.long) // 2] + tokens(5)
        self.longer = self.long + tokens(20)
        # A batch that takes all of each prompt is one shape, however large.
        shapes = [self._alone(n_batch) for n_batch in (128, 96, 17) if n_batch < len(self.longer) or n_batch == 128]
        self.cold = shapes[0]
        self.noise = max(distance(self.cold[prompt], other[prompt]) for other in shapes[1:] for prompt in self.cold)

    def _alone(self, n_batch: int) -> dict[tuple[int, ...], Logprobs]:
        """Return the answer to each prompt when nothing is computed before."""
        engine, said = Engine.open(replace(self.settings, n_batch=n_batch)), {}
        for prompt in (self.late, self.early, self.longer):
            said[prompt], finish = ask(engine, prompt, "1")
            assert finish.cached_tokens == 0
            engine.forget("a", "1")
        engine.close()
        return said

    def settings_of(self, **changes: object) -> LoadSettings:
        return replace(self.settings, **changes)  # type: ignore[arg-type]

    def last_step(self, prompt: tuple[int, ...]) -> int:
        """Where the last checkpoint is before a prompt forks from the long one, in texts without ends of messages."""
        return next(n for n, (a, b) in enumerate(zip(prompt, self.long, strict=False)) if a != b) // STEP * STEP

    def check(self, engine: Engine, prompt: tuple[int, ...], session: str, n_cached: int) -> None:
        said, finish = ask(engine, prompt, session)
        assert finish.cached_tokens == n_cached
        assert distance(said, self.cold[prompt]) <= 2 * self.noise


def ask(
    engine: Engine, prompt: tuple[int, ...], session: str = "", borders: tuple[int, ...] = ()
) -> tuple[Logprobs, Finish]:
    """The logarithms of probability of the likeliest next tokens, each known by its bytes."""
    sampling = Sampling(temperature=0, n_top=50)
    generation = engine.submit(GenerationRequest(prompt, 1, sampling, owner="a", session=session, borders=borders))
    list(generation.chunks(lambda: None))
    assert generation.finish
    [choice] = generation.choices
    return dict(choice.top), generation.finish


def distance(one: Logprobs, other: Logprobs) -> float:
    """The largest difference between two, over the tokens that both name; infinite where those are few."""
    both = one.keys() & other.keys()
    return max(abs(one[piece] - other[piece]) for piece in both) if len(both) > 25 else float("inf")


@pytest.fixture(scope="module", params=["tiny", "gemma"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "gemma":
        return Model(gemma3(), 512, 3)
    return Model(write_window_model(tmp_path_factory.mktemp("window") / "window.gguf", window=64), 64, 8)


@pytest.fixture
def start(model: Model) -> Iterator[Open]:
    """Starts engines of the model."""
    made: list[Engine] = []

    def start_one(store: StateStore | None = None, **settings: object) -> Engine:
        made.append(Engine.open(replace(model.settings, **settings), store))  # type: ignore[arg-type]
        return made[-1]

    yield start_one
    for engine in made:
        engine.close()


def test_an_edit_after_a_state_came_back_from_memory(model: Model, start: Open) -> None:
    for edited in (model.late, model.early):
        engine = start()
        ask(engine, model.long, "1")
        ask(engine, model.other, "2")
        model.check(engine, edited, "1", model.last_step(edited))


def test_an_edit_after_a_restart(model: Model, start: Open, tmp_path: Path) -> None:
    for name, edited in (("late", model.late), ("early", model.early)):
        store = StateStore(tmp_path / name, 100 * MB, 1000 * MB).start()
        engine = start(store)
        ask(engine, model.long, "1")
        engine.stop()
        store.close()
        again = StateStore(tmp_path / name, 100 * MB, 1000 * MB).start()
        model.check(start(again), edited, "1", model.last_step(edited))
        again.close()


def test_an_edit_of_what_another_conversation_has_on_its_slot(model: Model, start: Open) -> None:
    for edited in (model.late, model.early):
        engine = start(n_parallel=2)
        ask(engine, model.long, "1")
        model.check(engine, edited, "2", model.last_step(edited))


def test_what_goes_on_from_the_end_of_a_state_is_not_read_anew(model: Model, start: Open, tmp_path: Path) -> None:
    store = StateStore(tmp_path, 100 * MB, 1000 * MB).start()
    engine = start(store)
    ask(engine, model.long, "1")
    ask(engine, model.other, "2")
    model.check(engine, model.longer, "1", len(model.long))
    ask(engine, model.other, "2")
    model.check(engine, model.longer, "1", len(model.longer) - 1)
    engine.stop()
    store.close()
    again = StateStore(tmp_path, 100 * MB, 1000 * MB).start()
    model.check(start(again), model.longer, "1", len(model.longer) - 1)
    again.close()


def test_a_slot_that_kept_every_cell_is_cut_anywhere(model: Model, start: Open) -> None:
    engine = start()
    ask(engine, model.long, "1")
    model.check(engine, model.late, "1", len(model.long) - 20)
    model.check(engine, model.early, "1", len(model.long) // 2)


def test_without_swa_full_a_slot_is_cut_only_where_it_has_the_cells(model: Model, start: Open) -> None:
    # So that the window's cache is smaller than what is read into it.
    engine = start(swa_full=False, n_batch=32, n_ubatch=32)
    for n, edited in enumerate((model.early, model.late)):
        ask(engine, model.long, str(n))
        said, _ = ask(engine, edited, str(n))
        assert distance(said, model.cold[edited]) <= 2 * model.noise
        model.check(engine, edited, str(n), len(edited) - 1)


def test_what_was_read_ahead_from_a_restored_state(model: Model, start: Open) -> None:
    engine = start()
    ask(engine, model.long, "1")
    ask(engine, model.other, "2")
    engine.prefetch(PrefetchRequest(model.early[:-1], "a", "1"))
    deadline = time.monotonic() + 60
    while not engine._inbox.empty() or engine._steps.prefetch_queue:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    model.check(engine, model.early, "1", len(model.early) - 1)
