from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from services.backend.types import Constraint, Finish, GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.llama.runner import Runner
from services.engine.loop import engine as engine_module
from services.engine.loop.engine import Engine
from services.errors import BadModelFile, EngineFailure, InvalidRequest, Unavailable
from tests.support.tiny import GUIDE

HEAD = "You are the guide of this server.\n\n\nHuman: "
QUESTIONS = [
    "What is the capital of France?",
    "What is 7 plus 5?",
    "Count to 9.",
    "How do I mint a key?",
    "Who wrote Don Quixote?",
]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine.open(LoadSettings(GUIDE, 2048))
    yield made
    made.close()


@pytest.fixture
def endless(random_model: Path) -> Iterator[Engine]:
    # Beside other processes a second thread would mostly wait for the first one.
    made = Engine.open(LoadSettings(random_model, 4096, n_threads=1))
    yield made
    made.close()


@pytest.fixture
def single(random_model: Path) -> Iterator[Engine]:
    """One that computes one answer at a time, so that one which is not cancelled holds up the next."""
    made = Engine.open(LoadSettings(random_model, 4096, n_parallel=1, n_threads=1))
    yield made
    made.close()


def request(
    engine: Engine, text: str, max_tokens: int = 200, sampling: Sampling = GREEDY, **fields: Any
) -> GenerationRequest:
    return GenerationRequest(tuple(engine.tokenize(Prompt(text))), max_tokens, sampling, **fields)


def run(engine: Engine, text: str, **fields: Any) -> tuple[str, Finish]:
    generation = engine.submit(request(engine, text, **fields))
    said = "".join(generation.chunks(lambda: None))
    assert generation.finish
    return said, generation.finish


def test_greedy_answers_are_those_of_llama_cpp_python(engine: Engine) -> None:
    plain = llama_cpp.Llama(str(GUIDE), n_ctx=2048, verbose=False, flash_attn=True)
    for question in QUESTIONS:
        prompt = f"{HEAD}{question}\nAI:"
        theirs = plain.create_completion(prompt, max_tokens=200, temperature=0, repeat_penalty=1.0)
        assert run(engine, prompt)[0] == theirs["choices"][0]["text"]
    plain.close()


def test_a_crowd_of_eight_is_answered_as_each_alone(engine: Engine) -> None:
    prompts = [f"{HEAD}{question}\nAI:" for question in [*QUESTIONS, "Count to 5.", "What can you do?", "Say red fox."]]
    alone = [run(engine, prompt, owner=str(n))[0] for n, prompt in enumerate(prompts)]
    together: dict[int, str] = {}

    def ask(n: int) -> None:
        together[n] = run(engine, prompts[n], owner=f"again {n}")[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[n] for n in range(8)] == alone


def test_counts_reasons_and_times(engine: Engine) -> None:
    prompt = f"{HEAD}Count to 9.\nAI:"
    said, finish = run(engine, prompt, owner="counting")
    n_prompt = len(engine.tokenize(Prompt(prompt)))
    assert (said, finish.reason, finish.prompt_tokens, finish.cached_tokens) == (
        " 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "stop",
        n_prompt,
        0,
    )
    assert 0 < finish.timings["first_token_ms"] <= finish.timings["total_ms"]
    cut, finish = run(engine, prompt, max_tokens=4, owner="counting")
    assert said.startswith(cut)
    assert (finish.reason, finish.completion_tokens) == ("length", 4)
    # That slot now holds little but the prompt.
    assert run(engine, prompt, max_tokens=4, owner="counting")[1].cached_tokens == n_prompt - 1
    cut, finish = run(engine, prompt, stop=(" 5",), owner="counting")
    assert (cut, finish.reason) == (" 1, 2, 3, 4,", "stop")


def test_computed_state_is_not_shared_between_owners(engine: Engine) -> None:
    assert run(engine, f"{HEAD}Say apple.\nAI:", owner="a")[1].cached_tokens == 0
    assert run(engine, f"{HEAD}Say apple.\nAI:", owner="b")[1].cached_tokens == 0
    assert run(engine, f"{HEAD}Say apple.\nAI:", owner="b")[1].cached_tokens > 0


@pytest.mark.parametrize("temperature", [1e-38, 1e-5, 5e-5])
def test_a_temperature_close_to_0_is_0(engine: Engine, temperature: float) -> None:
    prompt = f"{HEAD}Count to 9.\nAI:"
    said: dict[float, list[tuple[str, list[int]]]] = {}
    for each in (0.0, temperature):
        plain = Sampling(temperature=each, top_k=0, top_p=1.0, seed=1, n_top=5)
        # A penalty and a schema take other ways through the samplers.
        for sampling in (
            plain,
            replace(plain, repeat_penalty=1.1),
            replace(plain, constraint=Constraint("json_schema", '{"type": "integer"}')),
        ):
            generation = engine.submit(request(engine, prompt, 12, sampling))
            text = "".join(generation.chunks(lambda: None))
            logprobs = [choice.logprob for choice in generation.choices]
            assert logprobs
            assert all(math.isfinite(logprob) for logprob in logprobs)
            said.setdefault(each, []).append((text, generation.tokens))
    assert said[temperature] == said[0.0]


def test_a_seed_repeats_the_draw(engine: Engine) -> None:
    prompt = f"{HEAD}Tell me about yourself.\nAI:"

    def drawn(seed: int) -> str:
        return run(engine, prompt, max_tokens=40, sampling=Sampling(temperature=2, top_k=0, top_p=1.0, seed=seed))[0]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_a_prompts_tokens_are_as_likely_as_when_they_were_the_answer(engine: Engine) -> None:
    prompt = f"{HEAD}Count to 9.\nAI:"
    first = engine.submit(request(engine, prompt, 12, replace(GREEDY, n_top=1)))
    list(first.chunks(lambda: None))
    again = request(engine, prompt, 0, replace(GREEDY, n_top=1), prompt_logprobs=True)
    again = replace(again, tokens=(*again.tokens, *first.tokens))
    echo = engine.submit(again)
    assert list(echo.chunks(lambda: None)) == []
    assert len(echo.prompt_choices) == len(again.tokens) - 1
    told = echo.prompt_choices[-len(first.tokens) :]
    assert [choice.piece for choice in told] == [choice.piece for choice in first.choices]
    assert [choice.logprob for choice in told] == pytest.approx([choice.logprob for choice in first.choices], abs=0.02)


def test_the_repeat_penalty_counts_the_prompt(engine: Engine) -> None:
    prompt = f"{HEAD}Repeat after me: apple apple\nAI:"
    assert run(engine, prompt)[0] == " Apple apple."
    assert (
        "apple apple"
        not in run(engine, prompt, sampling=Sampling(temperature=0, repeat_penalty=10.0), max_tokens=20)[0].lower()
    )


def test_cancelling_while_decoding_frees_the_engine(single: Engine) -> None:
    generation = single.submit(request(single, "Go on", max_tokens=4000))
    chunks = generation.chunks(lambda: None)
    next(chunks)
    generation.cancel()
    generation.cancel()
    assert run(single, "Hi", max_tokens=2)[1].timings["queued_ms"] < 1000
    assert generation.finish is None


def test_cancelling_while_reading_a_prompt_frees_the_engine(single: Engine) -> None:
    reading = single.submit(request(single, "Go on and on. " * 500, max_tokens=10))
    time.sleep(0.1)
    reading.cancel()
    finish = run(single, "Hi", max_tokens=2)[1]
    # Reading it all takes seconds; one chunk of it is waited for.
    assert finish.timings["queued_ms"] < 1000


def test_cancelling_in_the_queue(single: Engine) -> None:
    first = single.submit(request(single, "Go on", max_tokens=60))
    second = single.submit(request(single, "Go on", max_tokens=4000))
    second.cancel()
    assert len(list(first.chunks(lambda: None))) > 0
    assert first.finish
    assert first.finish.completion_tokens == 60
    assert run(single, "Hi", max_tokens=2)[1].timings["queued_ms"] < 1000


def test_requests_join_and_leave_between_steps(endless: Engine) -> None:
    """A short answer that comes later is done long before the long one that decodes beside it."""
    long = endless.submit(request(endless, "Go on", max_tokens=2000, owner="a"))
    chunks = long.chunks(lambda: None)
    next(chunks)
    assert run(endless, "Hi", max_tokens=5, owner="b")[1].completion_tokens == 5
    assert long.finish is None
    long.cancel()


def test_a_long_prompt_is_read_beside_a_stream(endless: Engine) -> None:
    """The stream goes on while the prompt is read, a chunk a step."""
    stream = endless.submit(request(endless, "Go on", max_tokens=3000, owner="a"))
    chunks = stream.chunks(lambda: None)
    next(chunks)
    reading = endless.submit(request(endless, "Go on and on. " * 150, max_tokens=1, owner="b"))
    before = stream.sequence.n_generated
    list(reading.chunks(lambda: None))
    assert reading.finish
    assert stream.sequence.n_generated - before >= reading.finish.prompt_tokens // 128
    stream.cancel()


def test_slots_are_as_many_as_memory_holds(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight layers of 512 values for K and V, in f16: 16 KiB a token.
    each = 4096 * 16 * 1024
    monkeypatch.setattr("services.engine.llama.runner.free_memory", lambda: 2 * 3 * each + 60_000_000)
    engine = Engine.open(LoadSettings(random_model, 4096, use_mmap=False))
    assert engine._runner.n_slots == 3
    engine.close()
    monkeypatch.setattr("services.engine.llama.runner.free_memory", lambda: each + 1)
    engine = Engine.open(LoadSettings(random_model, 4096))
    assert engine._runner.n_slots == 1
    engine.close()
    monkeypatch.setattr("services.engine.llama.runner.free_memory", lambda: each - 1)
    with pytest.raises(BadModelFile, match="a context of 4096 tokens takes 67 MB, and 67 MB are free; a smaller n_ctx"):
        Engine.open(LoadSettings(random_model, 4096))


def test_closing_fails_what_is_in_flight_and_what_comes_after(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 4096, n_parallel=1))
    running, waiting = (engine.submit(request(engine, "Go on", max_tokens=4000)) for _ in range(2))
    next(running.chunks(lambda: None))
    late = request(engine, "Hi")
    engine.close()
    for generation in (running, waiting):
        with pytest.raises(Unavailable):
            list(generation.chunks(lambda: None))
    with pytest.raises(Unavailable):
        engine.submit(late)


def test_a_prompt_without_tokens_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit(GenerationRequest((), 5, GREEDY))


def test_a_failing_step_fails_the_running_request_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> list[int]:
        raise ZeroDivisionError("made up")

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "decode", fail)
        with pytest.raises(EngineFailure, match="made up"):
            run(engine, "Hi")
    assert run(engine, f"{HEAD}What is 7 plus 5?\nAI:")[0] == " 7 plus 5 is 12."


def test_an_engine_that_fails_again_and_again_says_that_it_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.open(LoadSettings(GUIDE, 256))

    def fail(*_: Any) -> list[int]:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(Runner, "decode", fail)
    for _ in range(engine_module.MAX_FAILURES):
        with pytest.raises(EngineFailure):
            run(engine, "Hi")
    engine._thread.join()
    assert not engine.is_open
    with pytest.raises(Unavailable):
        run(engine, "Hi")
    engine.close()


@pytest.mark.parametrize("changes", [{"cache_type_v": "q8_0", "flash_attn": False}, {"file": Path("/nowhere.gguf")}])
def test_what_llama_cpp_cannot_load_is_said(changes: dict[str, Any]) -> None:
    with pytest.raises(BadModelFile, match=r"llama\.cpp cannot"):
        Engine.open(LoadSettings(**{"file": GUIDE, "n_ctx": 256, **changes}))


def test_settings_reach_llama_cpp() -> None:
    settings = LoadSettings(
        GUIDE,
        512,
        n_threads=1,
        n_threads_batch=1,
        n_batch=32,
        n_ubatch=16,
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        use_mmap=False,
    )
    engine = Engine.open(settings)
    assert run(engine, f"{HEAD}What is the capital of France?\nAI:")[0] == " The capital of France is Paris."
    assert engine.n_ctx == 512
    engine.close()


def test_a_context_larger_than_the_model_was_trained_for_is_cut() -> None:
    engine = Engine.open(LoadSettings(GUIDE, 4096))
    assert engine.n_ctx == 2048
    engine.close()


def test_waiting_requests_know_their_place_and_too_many_are_refused(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 4096, n_parallel=1), max_waiting=2)
    running, *waiting = (engine.submit(request(engine, "Go on", max_tokens=4000, owner=owner)) for owner in "aab")
    deadline = time.monotonic() + 30
    while [generation.queue_position for generation in (running, *waiting)] != [0, 2, 1]:
        # The other owner's goes before the second of the first one's.
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(Unavailable, match="2 answers wait") as refused:
        engine.submit(request(engine, "Go on", owner="a"))
    assert (refused.value.code, 1 <= (refused.value.retry_after or 0) <= 60) == ("too_busy", True)
    engine.submit(request(engine, "Go on", owner="c"))
    with pytest.raises(Unavailable):
        # Who has a share of the queue gets no more of it.
        engine.submit(request(engine, "Go on", owner="c"))
    running.cancel()
    while waiting[1].queue_position != 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.close()


def test_minted_keys_make_no_larger_share_of_the_queue(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 4096, n_parallel=1), max_waiting=2)
    for owner in "abc":
        engine.submit(replace(request(engine, "Go on", max_tokens=4000, owner=owner), account="parent"))
    with pytest.raises(Unavailable):
        engine.submit(replace(request(engine, "Go on", owner="d"), account="parent"))
    engine.submit(request(engine, "Go on", owner="other"))
    engine.close()


def test_with_no_queue_the_slots_are_still_taken(random_model: Path) -> None:
    engine = Engine.open(LoadSettings(random_model, 4096, n_parallel=2), max_waiting=0)
    for _ in range(2):
        engine.submit(request(engine, "Go on", max_tokens=4000))
    with pytest.raises(Unavailable):
        engine.submit(request(engine, "Go on", max_tokens=4000))
    engine.close()
