"""Computed state in the real engine: on its slot, in RAM, on disk, over a restart, and read ahead."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.backend.types import EVERYBODY, Finish, GenerationRequest, LoadSettings, PrefetchRequest, Prompt, Sampling
from services.engine.kv.store import StateStore
from services.engine.loop.engine import Engine
from tests.support.tiny import GUIDE

HEAD = "You are the guide of this server.\n\n"
GREEDY = Sampling(temperature=0)
MB = 10**6
Open = Callable[..., Engine]


@pytest.fixture
def open_engine() -> Iterator[Open]:
    made: list[Engine] = []

    def open_one(file: Path = GUIDE, store: StateStore | None = None, **settings: int) -> Engine:
        made.append(Engine.open(LoadSettings(file, 2048, n_threads=1, **settings), store))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for engine in made:
        engine.close()


def run(engine: Engine, text: str, max_tokens: int = 40, **fields: str) -> tuple[str, Finish]:
    tokens = tuple(engine.tokenize(Prompt(text)))
    generation = engine.submit(GenerationRequest(tokens, max_tokens, GREEDY, ("\nHuman:",), **fields))  # type: ignore[arg-type]
    said = "".join(generation.chunks(lambda: None))
    assert generation.finish
    return said, generation.finish


def prefetch(engine: Engine, text: str, owner: str, session: str) -> int:
    """Let the engine prefetch, and wait until it has; return how many tokens it prefetched."""
    tokens = tuple(engine.tokenize(Prompt(text)))
    engine.prefetch(PrefetchRequest(tokens, owner, session))
    deadline = time.monotonic() + 60
    while not engine._inbox.empty() or engine._steps.prefetch_queue:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return len(tokens)


def used_cells(engine: Engine) -> list[tuple[bool, int, int]]:
    """For each slot whether it is busy, how many tokens are tracked there, and how many llama.cpp holds."""
    contents = engine._steps.slots.contents()
    return [(busy, n, engine._runner.n_used(slot)) for slot, (busy, n) in enumerate(contents)]


def turns(n: int) -> str:
    return "".join(f"Human: What is {i} plus {i}?\nAI: {i} plus {i} is {2 * i}.\n" for i in range(n))


def test_sessions_that_take_turns_on_one_slot_keep_their_state(open_engine: Open) -> None:
    engine = open_engine(n_parallel=1)
    prompts = {name: f"{HEAD}{turns(n)}Human: Count to {n}.\nAI:" for n, name in ((6, "1"), (7, "2"), (8, "3"))}
    first = {name: run(engine, prompt, owner="a", session=name) for name, prompt in prompts.items()}
    again = {name: run(engine, prompt, owner="a", session=name) for name, prompt in prompts.items()}
    for name, (said, finish) in again.items():
        assert said == first[name][0]
        assert finish.cached_tokens == finish.prompt_tokens - 1


def test_a_restarted_engine_goes_on_with_what_lay_on_disk(open_engine: Open, tmp_path: Path) -> None:
    prompt = f"{HEAD}{turns(9)}Human: Count to 9.\nAI:"
    store = StateStore(tmp_path, MB, 100 * MB).start()
    engine = open_engine(store=store)
    said, _ = run(engine, prompt, owner="a", session="1")
    engine.stop()
    store.close()
    [file] = tmp_path.glob("*.state")
    later = open_engine(store=StateStore(tmp_path, MB, 100 * MB).start())
    assert run(later, prompt, owner="b", session="1")[1].cached_tokens == 0
    again, finish = run(later, prompt, owner="a", session="1")
    assert (again, finish.cached_tokens) == (said, finish.prompt_tokens - 1)
    later.stop()
    # Another context size changes numbers in some models, so its states are others, beside which these stay.
    other_store = StateStore(tmp_path, MB, 100 * MB).start()
    other = Engine.open(LoadSettings(GUIDE, 1024), other_store)
    assert run(other, prompt, owner="a", session="1")[1].cached_tokens == 0
    other.close()
    assert file.exists()
    once_more = open_engine(store=StateStore(tmp_path, MB, 100 * MB).start())
    assert run(once_more, prompt, owner="a", session="1")[1].cached_tokens > 0


def test_damaged_files_never_reach_llama_cpp(open_engine: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = f"{HEAD}{turns(9)}Human: Count to 9.\nAI:"
    store = StateStore(tmp_path, MB, 100 * MB).start()
    engine = open_engine(store=store)
    said, _ = run(engine, prompt, owner="a", session="1")
    engine.stop()
    [file] = tmp_path.glob("*.state")
    whole, rng = file.read_bytes(), random.Random(0)
    later = open_engine(store=StateStore(tmp_path, MB, 100 * MB).start())
    monkeypatch.setattr(later._runner, "restore", lambda slot, data: pytest.fail("a damaged state was restored"))
    content = bytearray(whole)
    content[rng.randrange(len(whole) // 2, len(whole))] ^= 1
    file.write_bytes(content)
    again, finish = run(later, prompt, owner="a", session="1")
    assert (again, finish.cached_tokens) == (said, 0)


def test_an_answer_is_the_same_with_and_without_prefetching(open_engine: Open) -> None:
    """Nine turns under a window of three exchanges, so that it slides."""
    prefetching, plain = open_engine(), open_engine()
    questions = [f"What is {n} plus {n + 3}?" for n in range(9)]
    history: list[str] = []
    n_prefetched = 0
    for question in questions:
        before = HEAD + "\n".join(history[-3:]) + "\nHuman: "
        said, finish = run(prefetching, f"{before}{question}\nAI:", owner="a", session="1")
        assert said == run(plain, f"{before}{question}\nAI:")[0]
        assert finish.cached_tokens >= n_prefetched - 1
        history.append(f"Human: {question}\nAI: {said.strip()}")
        n_prefetched = prefetch(prefetching, HEAD + "\n".join(history[-3:]) + "\nHuman:", "a", "1")
    assert {busy for busy, _, _ in used_cells(prefetching)} == {False}
    assert all(tracked == used for _, tracked, used in used_cells(prefetching))


def test_a_prefetch_yields_to_a_request_within_one_step(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 4096, n_parallel=2, n_batch=2048))
    tokens = tuple(engine.tokenize(Prompt("Go on and on. " * 500)))[:4000]
    run(engine, "Hi", max_tokens=2)
    engine.prefetch(PrefetchRequest(tokens, "a", "1"))
    time.sleep(0.3)
    # Steps of 2,048 tokens take seconds with this model.
    first = run(engine, "Hi", max_tokens=2, owner="b")[1]
    assert first.timings["first_token_ms"] < 1000
    assert engine._steps.prefetch_queue, "and it goes on later"
    engine.forget("a", "1")
    assert not engine._steps.prefetch_queue
    assert all(tracked == used for _, tracked, used in used_cells(engine))
    engine.close()


def test_only_the_template_is_shared_between_owners(open_engine: Open) -> None:
    engine = open_engine()
    long_head = "You are the guide of this server, and you help everybody who asks with all they ask for.\n\n"
    tokens = tuple(engine.tokenize(Prompt(f"{long_head}Human: Say apple and pear and plum.\nAI:")))
    n_head = len(engine.tokenize(Prompt(long_head)))
    assert n_head >= 16

    def cached(owner: str) -> int:
        generation = engine.submit(GenerationRequest(tokens, 4, GREEDY, owner=owner, session="1", n_head=n_head))
        list(generation.chunks(lambda: None))
        assert generation.finish
        return generation.finish.cached_tokens

    assert [cached("a"), cached("b"), cached("c"), cached("a")] == [0, n_head, n_head, len(tokens) - 1]


def test_a_template_that_was_read_ahead_helps_everybody(open_engine: Open) -> None:
    engine = open_engine()
    head = HEAD * 3
    n_head = prefetch(engine, head, EVERYBODY, "")
    for owner in ("a", "b"):
        assert run(engine, f"{head}Human: Hi\nAI:", owner=owner)[1].cached_tokens >= n_head - 1


def test_a_forgotten_session_is_computed_anew(open_engine: Open) -> None:
    engine = open_engine()
    prompt = f"{HEAD}{turns(3)}Human: Hi\nAI:"
    run(engine, prompt, owner="a", session="1")
    engine.forget("a", "1")
    assert run(engine, prompt, owner="a", session="1")[1].cached_tokens == 0


def test_a_session_that_is_forgotten_right_after_hanging_up_leaves_no_state(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 2048, n_parallel=2, n_threads=1))
    tokens = tuple(engine.tokenize(Prompt("Go on and on. " * 40)))
    for _ in range(5):
        generation = engine.submit(GenerationRequest(tokens, 1000, GREEDY, owner="a", session="1"))
        next(generation.chunks(lambda: None))
        generation.cancel()
        engine.forget("a", "1")
        assert [n for _, n, _ in used_cells(engine)] == [0, 0]
    engine.close()


def test_random_arrivals_cancels_prefetches_and_evictions_leave_nothing_behind(open_engine: Open, tmp_path: Path) -> None:
    """The engine as a whole, with states that move between two slots, little RAM and disk."""
    engine = open_engine(store=StateStore(tmp_path, 2 * MB, 10 * MB).start(), n_parallel=2)
    errors: list[BaseException] = []

    def live(person: int) -> None:
        rng = random.Random(person)
        try:
            for turn in range(12):
                text = f"{HEAD}{turns(rng.randrange(1, 8))}Human: Count to {rng.randrange(3, 10)}.\nAI:"
                tokens = tuple(engine.tokenize(Prompt(text)))
                session = str(rng.randrange(3))
                request = GenerationRequest(tokens, 30, GREEDY, owner=f"{person}", session=session)
                generation = engine.submit(request)
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.1)
                    generation.cancel()
                else:
                    list(generation.chunks(lambda: None))
                    assert generation.finish
                if turn % 3 == 0:
                    engine.prefetch(PrefetchRequest(tokens[:-4], f"{person}", session))
                if turn % 5 == 0:
                    engine.forget(f"{person}", session)
        except BaseException as error:
            errors.append(error)

    people = [threading.Thread(target=live, args=(n,)) for n in range(6)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join(timeout=120)
    assert not errors
    assert not any(thread.is_alive() for thread in people)
    deadline = time.monotonic() + 20
    while engine._steps.prefetch_queue or not engine._steps.scheduler.is_idle:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert all(not busy and tracked == used for busy, tracked, used in used_cells(engine))


def test_a_model_that_was_left_and_taken_up_again_finds_its_states_on_disk(open_engine: Open, tmp_path: Path) -> None:
    store = StateStore(tmp_path, MB, 100 * MB).start()
    prompt = f"{HEAD}{turns(9)}Human: Count to 9.\nAI:"
    first = open_engine(store=store)
    run(first, prompt, owner="a", session="1")
    first.stop()
    again = run(open_engine(store=store), prompt, owner="a", session="1")[1]
    assert again.cached_tokens == again.prompt_tokens - 1
    store.close()


def test_what_is_forgotten_while_the_engine_stops_is_not_written_afterwards(open_engine: Open, tmp_path: Path) -> None:
    store = StateStore(tmp_path, MB, 100 * MB).start()
    engine = open_engine(store=store)
    run(engine, f"{HEAD}Human: Hi\nAI:", owner="a", session="1")
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    engine.forget("a", "1")
    store.forget("a", "1")
    stopping.join()
    assert not list(tmp_path.iterdir())
    store.close()
