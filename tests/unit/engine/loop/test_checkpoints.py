"""States that cannot be cut anywhere: what goes on from a checkpoint is what would be computed cold, wherever it lay."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import GenerationRequest, LoadSettings, PrefetchRequest, Prompt, Sampling
from services.engine.kv.checkpoints import STEP, TAIL, Checkpoint, checkpoint_positions, message_borders, thinned
from services.engine.kv.store import StateStore
from services.engine.llama.runner import Interrupted
from services.engine.llama.vocabulary_file import load_vocabulary
from services.engine.loop.engine import Engine
from services.prompts.fit import common_beginning
from tests.support.real_models import gemma3
from tests.support.serving import ROOT
from tests.support.tiny import (
    write_hybrid_model,
    write_long_hybrid_model,
    write_random_model,
    write_recurrent_model,
    write_window_model,
)
from tests.unit.engine.loop.test_sliding_window import Logprobs, ask, distance

MB = 10**6
# How each kind is made, and how its contexts are.
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "plain": (lambda path: write_random_model(path, dim=128, layers=2, ffn=256), {}),
    "window": (write_window_model, {"n_batch": 32, "swa_full": False}),
    "whole window": (write_window_model, {"swa_full": True}),
    "recurrent": (lambda path: write_recurrent_model(path, dim=128, state=16, layers=2), {}),
    "hybrid": (write_long_hybrid_model, {}),
    "short hybrid": (write_hybrid_model, {}),
    "gemma": (lambda path: gemma3(), {"swa_full": False}),
}


@dataclass(frozen=True)
class Fork:
    """A prompt that has `n_common` tokens in common with the conversation's; `border` is the last one before these end."""

    tokens: tuple[int, ...]
    n_common: int
    border: int


class Talk:
    """A conversation of messages between special tokens, prompts that fork from it, and what each gives when cold."""

    def __init__(self, file: Path, **settings: Any) -> None:
        # Of tiny models a second thread would do little but wait.
        self.settings = LoadSettings(file, 2048, n_parallel=1, n_threads=1, **settings)
        vocabulary = load_vocabulary(file)
        text = Prompt((ROOT / "LICENSE").read_text(encoding="utf-8"), bos=False)
        words = (token for token in vocabulary.tokenize(text) if token not in vocabulary.marks)
        mark = min(vocabulary.marks)

        def message(n: int) -> tuple[int, ...]:
            return (mark, *itertools.islice(words, n - 1))

        messages = [message(n) for n in (560, 70, 40, 30, 50, 30)]
        asks = message(4)
        flat = [token for each in messages for token in each]
        self.long = (*flat, *asks)
        self.other = (*message(80), *asks)
        n_last, n_edit = len(self.long) - 4, sum(len(each) for each in messages[:4])
        self.answered = (*self.long, *message(30)[1:])

        def fork(tokens: tuple[int, ...], border: int) -> Fork:
            pairs = enumerate(zip(tokens, self.long, strict=False))
            return Fork(tokens, next((n for n, (a, b) in pairs if a != b), len(self.long) - 1), border)

        self.forks = {
            "again": fork(self.long, n_last),
            "edit": fork((*flat[: n_edit + 20], *message(25)[1:], *messages[5], *asks), n_edit),
            # The answer's thoughts are left out, so that the conversation goes on behind the prompt's last border.
            "on": fork((*self.long[:-2], *message(25)[1:], *message(30), *asks), n_last),
            "early": fork((*self.long[:530], *message(25)[1:]), STEP),
        }
        # The last token alone is computed by other kernels than a batch.
        shapes = [self._alone(n_batch, n_ahead) for n_batch, n_ahead in ((128, 0), (17, 0), (128, 1))]
        self.cold = shapes[0]
        self.noise = max(distance(self.cold[name], other[name]) for other in shapes[1:] for name in self.forks)

    def _alone(self, n_batch: int, n_ahead: int) -> dict[str, Logprobs]:
        """What each fork gives in an engine that has only read all but its last `n_ahead` tokens before."""
        engine, said = Engine.open(replace(self.settings, n_batch=n_batch)), {}
        for name, fork in self.forks.items():
            if n_ahead:
                read_ahead(engine, fork.tokens[:-n_ahead], name)
            said[name], finish = ask(engine, fork.tokens, name)
            assert finish.cached_tokens == (len(fork.tokens) - n_ahead if n_ahead else 0)
            engine.forget("a", name)
        engine.close()
        return said

    def converse(self, engine: Engine) -> None:
        """Have the conversation in as many sessions as there are forks."""
        for name in self.forks:
            ask(engine, self.long, name)

    @property
    def most(self) -> float:
        """The most that an answer may differ: llama.cpp's noise, of which a few batch shapes show not quite the most."""
        return 3 * self.noise

    def check(self, engine: Engine, name: str, session: str) -> None:
        said, finish = ask(engine, self.forks[name].tokens, session)
        self.compare(name, said, finish.cached_tokens)

    def compare(self, name: str, said: Logprobs, n_cached: int) -> None:
        fork = self.forks[name]
        assert fork.border <= n_cached <= fork.n_common, f"{name}: {n_cached} of {fork.n_common} tokens"
        assert distance(said, self.cold[name]) <= self.most, name


@pytest.fixture(scope="module", params=KINDS)
def talk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    make, settings = KINDS[request.param]
    return Talk(make(tmp_path_factory.mktemp("model") / "model.gguf"), **settings)


@pytest.fixture
def start(talk: Talk) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def start_one(store: StateStore | None = None, **settings: Any) -> Engine:
        made.append(Engine.open(replace(talk.settings, **settings), store))
        return made[-1]

    yield start_one
    for engine in made:
        engine.close()


def read_ahead(engine: Engine, tokens: tuple[int, ...], session: str) -> None:
    engine.prefetch(PrefetchRequest(tokens, "a", session))
    deadline = time.monotonic() + 60
    while not engine._inbox.empty() or engine._steps.prefetch_queue:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_fork_on_its_slot(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start(n_parallel=len(talk.forks))
    talk.converse(engine)
    for name in talk.forks:
        talk.check(engine, name, name)


def test_a_fork_in_memory(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start()
    talk.converse(engine)
    ask(engine, talk.other, "other")
    for name in talk.forks:
        talk.check(engine, name, name)


def test_a_fork_on_disk(talk: Talk, start: Callable[..., Engine], tmp_path: Path) -> None:
    store = StateStore(tmp_path, 1000 * MB, 1000 * MB).start()
    engine = start(store)
    talk.converse(engine)
    engine.stop()
    store.close()
    store = StateStore(tmp_path, 1000 * MB, 1000 * MB).start()
    engine = start(store)
    for name in talk.forks:
        talk.check(engine, name, name)
    engine.stop()
    store.close()


def test_a_fork_by_another_conversation(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start(n_parallel=2)
    ask(engine, talk.long, "1")
    for name in talk.forks:
        talk.check(engine, name, name)


def test_a_fork_that_was_read_ahead(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start()
    talk.converse(engine)
    for name, fork in talk.forks.items():
        read_ahead(engine, fork.tokens[:-1], name)
        said, finish = ask(engine, fork.tokens, name)
        assert finish.cached_tokens == len(fork.tokens) - 1
        assert distance(said, talk.cold[name]) <= talk.most


def test_forks_in_a_crowd(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start(n_parallel=len(talk.forks) + 1)
    talk.converse(engine)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(ask, engine, talk.other, "other")
        asked = {name: pool.submit(ask, engine, fork.tokens, name) for name, fork in talk.forks.items()}
        other.result()
        for name, future in asked.items():
            said, finish = future.result()
            talk.compare(name, said, finish.cached_tokens)


def test_edits_one_after_another_on_one_slot(talk: Talk, start: Callable[..., Engine]) -> None:
    engine = start()
    for _ in range(2):
        ask(engine, talk.answered, "1")
        for name in ("on", "edit", "early"):
            said, finish = ask(engine, talk.forks[name].tokens, "1")
            assert finish.cached_tokens >= STEP
            assert distance(said, talk.cold[name]) <= talk.most


def test_batches_that_were_interrupted_are_read_again(
    talk: Talk, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second batch, of requests and of what is read ahead; what llama.cpp has computed of it is taken back."""
    engine = start()
    decode, calls, n_read = engine._runner.decode, itertools.count(), 0

    def interrupted(runs: Any) -> list[int]:
        nonlocal n_read
        n_read += sum(len(run.tokens) for run in runs)
        last = decode(runs)
        if next(calls) % 2:
            raise Interrupted
        return last

    monkeypatch.setattr(engine._runner, "decode", interrupted)
    for name, fork in talk.forks.items():
        read_ahead(engine, fork.tokens[:-1], name)
        assert n_read <= 2 * len(fork.tokens) + 2 * STEP
        said, _ = ask(engine, fork.tokens, name)
        assert distance(said, talk.cold[name]) <= talk.most
        n_read = 0


def test_whatever_came_before_a_fork_is_computed_as_if_cold(
    talk: Talk, start: Callable[..., Engine], tmp_path: Path
) -> None:
    """Prompts, drafts of them, hang-ups and restarts at random, with little memory, from two people at once."""
    store = StateStore(tmp_path, 3 * MB, 20 * MB).start()
    engine = start(store, n_parallel=2)

    def live(person: int, rng: random.Random) -> None:
        for _ in range(12):
            name, session = rng.choice(list(talk.forks)), f"{person} {rng.choice('12')}"
            tokens = talk.forks[name].tokens
            if rng.random() < 0.3:
                engine.prefetch(PrefetchRequest(tokens[: rng.randrange(1, len(tokens))], "a", session))
                time.sleep(rng.random() * 0.05)
            if rng.random() < 0.3:
                generation = engine.submit(
                    GenerationRequest(tokens, 1, Sampling(temperature=0), owner="a", session=session)
                )
                time.sleep(rng.random() * 0.05)
                generation.cancel()
            said, finish = ask(engine, tokens, session)
            assert finish.cached_tokens < len(tokens)
            assert distance(said, talk.cold[name]) <= talk.most

    for round_number in range(2):
        with ThreadPoolExecutor() as pool:
            lives = [pool.submit(live, person, random.Random(2 * person + round_number)) for person in range(2)]
        for each in lives:
            each.result()
        engine.stop()
        store.close()
        store = StateStore(tmp_path, 3 * MB, 20 * MB).start()
        engine = start(store, n_parallel=2)
    assert store.rooms()[0].used == 0
    store.close()


def test_a_checkpoint_of_another_text_would_be_seen(talk: Talk, start: Callable[..., Engine]) -> None:
    """Else the tests above could not fail."""
    if talk.noise > 0.1:
        pytest.skip("quantized weights make more noise than another text within the window")
    engine = start(n_parallel=2)
    slots = engine._steps.slots._slots
    differences = [0.0]
    for name, fork in talk.forks.items():
        reverse = tuple(reversed(talk.long[1:STEP])) + talk.long[STEP:]
        ask(engine, talk.long, name)
        ask(engine, (talk.long[0], *reverse), f"reverse {name}")
        one, other = (next(slot for slot in slots if slot.key.session == key) for key in (name, f"reverse {name}"))
        assert one.positions == other.positions
        one.checkpoints = other.checkpoints
        differences.append(distance(ask(engine, fork.tokens, name)[0], talk.cold[name]))
    assert max(differences) > talk.most or not slots[0].checkpoints


def test_a_prompt_without_marks_is_gone_on_with_near_its_end(talk: Talk) -> None:
    plain = tuple(token for token in talk.long if token != talk.long[0])
    longer = (*plain, *talk.other[1:40])
    engine = Engine.open(talk.settings)
    cold, _ = ask(engine, longer, "cold")
    engine.forget("a", "cold")
    answer = engine.submit(GenerationRequest(plain, 8, Sampling(temperature=0), owner="a", session="talk"))
    list(answer.chunks(lambda: None))
    assert len(answer.tokens) > 1
    said, finish = ask(engine, longer, "talk")
    engine.close()
    assert len(plain) - TAIL <= finish.cached_tokens <= len(plain)
    assert distance(said, cold) <= talk.most


def test_an_edit_goes_on_at_its_message_in_a_vocabulary_without_marks(talk: Talk) -> None:
    words = [
        f"{person} walked along the river and counted {n} boats." for n, person in enumerate(("Ana", "Bo", "Cy", "Di"))
    ]
    text = "".join(f"Person: {each * 3}\nAnswer: {each}\n" for each in words)
    edited = text.replace("Cy", "Ed")
    starts = [found.end() for found in re.finditer("Person: |Answer: ", text)]
    with closing(Engine.open(talk.settings)) as engine:
        tokens, other = (tuple(engine.tokenize(Prompt(each, ((0, len(each)),)))) for each in (text, edited))
        same = len(common_beginning([tokens, other]))
        cold, _ = ask(engine, other, "cold")
        engine.forget("a", "cold")
        ask(engine, tokens, "talk", borders=(*starts, len(text)))
        said, finish = ask(engine, other, "talk")
        # The space before the name may be a part of its token.
        assert same - 2 <= finish.cached_tokens <= same
    assert distance(said, cold) <= talk.most


def test_borders_are_where_messages_end() -> None:
    # <|im_start|>user\n … <|im_end|>\n<|im_start|>assistant\n …
    message = [1, 50, 51, *[7] * 20, 2, 51]
    assert message_borders(message * 3, {1, 2}) == [23, 48, 73]
    assert message_borders([7] * 100, {1, 2}) == []


def test_reading_pauses_often_near_the_end_and_rarely_before() -> None:
    borders = list(range(20, 1500, 20))
    positions = checkpoint_positions(borders, 1500, 0)
    assert positions[0] == 80
    assert [b - a for a, b in itertools.pairwise(each for each in positions if each > 1000)] == [*[20] * 23, 16]
    assert min(b - a for a, b in itertools.pairwise(each for each in positions if each < 980)) >= 52
    assert checkpoint_positions([], 1500, 0) == [512, 1024, 1496]
    assert checkpoint_positions([], 1500, 500) == [1024, 1496]
    assert checkpoint_positions([90, 1500], 1500, 80) == [512, 1024, 1496]
    assert checkpoint_positions([1490], 1500, 80) == [512, 1024, 1490]
    assert checkpoint_positions([1480], 1500, 80) == [512, 1024, 1480, 1496]
    assert checkpoint_positions([], 20, 0) == [16]
    assert checkpoint_positions([], 19, 0) == []


def test_many_checkpoints_thin_out_towards_the_beginning() -> None:
    made: tuple[Checkpoint, ...] = ()
    for n in range(100, 10_100, 100):
        made = thinned([*made, Checkpoint(n, bytearray(10))], 85)
        assert len(made) == min(n // 100, 8)
        assert made[-1].n_tokens == n
    positions = [0, *(each.n_tokens for each in made)]
    gaps = [b - a for a, b in itertools.pairwise(positions)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 3000
    assert gaps[-1] == 100
    assert thinned(made, 5) == ()
