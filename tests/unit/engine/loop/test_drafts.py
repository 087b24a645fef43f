"""Drafts in the engine: their order among the prefetches, and their states beside those of the sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from services.backend.types import Finish, GenerationRequest, LoadSettings, PrefetchRequest, Prompt, Sampling, draft_of
from services.engine.loop.engine import Engine
from services.engine.loop.prefetch import MAX_PREFETCHES, PrefetchQueue
from tests.support.tiny import GUIDE

GREEDY = Sampling(temperature=0)
HISTORY = "You are the guide of this server.\n\n" + "".join(
    f"Human: What is {i} plus {i}?\nAI: {i} plus {i} is {2 * i}.\n" for i in range(12)
)
WORDS = "Human: " + " ".join(f"My {thing} is {number}." for number, thing in enumerate(["cat", "dog", "hat", "car"] * 6))


def request(owner: str, session: str, *, is_draft: bool = False, account: str = "") -> PrefetchRequest:
    return PrefetchRequest((1, 2, 3), owner, session, account, is_draft)


def read_all(queue: PrefetchQueue) -> list[tuple[str, str, bool]]:
    """Take the requests as the engine does; return them in order."""
    order = []
    while each := queue.first():
        order.append((each.owner, each.session, each.is_draft))
        queue.complete(each)
    return order


def test_drafts_go_first_the_newest_before_the_others() -> None:
    queue = PrefetchQueue()
    for each in (request("a", "1"), request("b", "1"), request("c", "1", is_draft=True), request("d", "1", is_draft=True)):
        queue.add(each)
    assert [owner for owner, *_ in read_all(queue)] == ["d", "c", "a", "b"]


def test_a_draft_replaces_that_of_its_session_alone() -> None:
    queue = PrefetchQueue()
    first, last = request("a", "1", is_draft=True), request("a", "1", is_draft=True)
    for each in (first, request("a", "1"), request("a", "2", is_draft=True), last):
        queue.add(each)
    assert len(queue) == 3
    assert queue.first() is last
    queue.drop("a", "1")
    assert read_all(queue) == [("a", "2", True)]


def test_an_account_that_floods_drafts_starves_nobody() -> None:
    queue = PrefetchQueue()
    queue.add(request("b", "1"))
    queue.add(request("c", "1", is_draft=True))
    order = []
    for n in range(6):
        queue.add(request(f"a{n}", "1", is_draft=True, account="a"))
        if each := queue.first():
            order.append(each.owner)
            queue.complete(each)
    # One of its drafts, and then everybody else's requests before the next one.
    assert order == ["a0", "c", "b", "a3", "a4", "a5"]


def test_the_queue_has_an_end() -> None:
    queue = PrefetchQueue()
    for n in range(MAX_PREFETCHES + 10):
        queue.add(request("a", str(n), is_draft=True))
    assert len(queue) == MAX_PREFETCHES
    assert len(read_all(queue)) == MAX_PREFETCHES


@pytest.fixture(scope="module", params=[1, 3])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine.open(LoadSettings(GUIDE, 2048, n_parallel=request.param, n_threads=1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    made = Engine.open(LoadSettings(GUIDE, 2048, n_parallel=1, n_threads=1), prefetches=False)
    yield made
    made.close()


def run(engine: Engine, text: str, owner: str, session: str = "1") -> tuple[str, Finish]:
    tokens = tuple(engine.tokenize(Prompt(text)))
    generation = engine.submit(GenerationRequest(tokens, 12, GREEDY, ("\nHuman:",), owner, session))
    said = "".join(generation.chunks(lambda: None))
    assert generation.finish
    return said, generation.finish


def draft(engine: Engine, text: str, owner: str, session: str = "1") -> int:
    """Have a draft read, and wait until it is; return how many tokens it has."""
    tokens = tuple(engine.tokenize(Prompt(text)))
    assert engine.prefetch(PrefetchRequest(tokens, owner, session, is_draft=True))
    deadline = time.monotonic() + 60
    while not engine._inbox.empty() or engine._steps.prefetch_queue:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return len(tokens)


def conversations(engine: Engine, owner: str) -> list[str]:
    """The conversations of an owner whose states are on slots or in RAM."""
    on_slots = [slot.key for slot in engine._steps.slots._slots if slot.tokens]
    return sorted({key.session for key in (*on_slots, *engine._store._ram) if key.owner == owner})


def test_an_answer_goes_on_from_its_draft(engine: Engine, plain: Engine) -> None:
    prompt = f"{HISTORY}{WORDS}\nAI:"
    n_read = engine.counts.draft_tokens
    n_draft = draft(engine, HISTORY + WORDS, "a")
    assert engine.counts.draft_tokens - n_read >= n_draft - 16
    said, finish = run(engine, prompt, "a")
    assert said == run(plain, prompt, "p")[0]
    assert finish.cached_tokens >= n_draft - 1
    assert conversations(engine, "a") == ["1"], "and the draft is gone"


def test_a_longer_draft_reads_what_is_new(engine: Engine, plain: Engine) -> None:
    half = WORDS[: len(WORDS) // 2].rpartition(" ")[0]
    n_half = draft(engine, HISTORY + half, "b")
    n_read = engine.counts.draft_tokens
    n_whole = draft(engine, HISTORY + WORDS, "b")
    assert engine.counts.draft_tokens - n_read <= n_whole - n_half + 2
    said, finish = run(engine, f"{HISTORY}{WORDS}\nAI:", "b")
    assert (said, finish.cached_tokens >= n_whole - 1) == (run(plain, f"{HISTORY}{WORDS}\nAI:", "p")[0], True)


def test_a_draft_leaves_the_session_as_it_is(engine: Engine, plain: Engine) -> None:
    """A person who edits an early message, and then does not, loses nothing of the conversation."""
    first = run(engine, f"{HISTORY}Human: Count to 3.\nAI:", "c")[1]
    draft(engine, HISTORY[: len(HISTORY) // 4] + WORDS, "c")
    assert conversations(engine, "c") == ["1", draft_of("1")]
    other = f"{HISTORY}Human: Count to 4.\nAI:"
    said, finish = run(engine, other, "c")
    assert said == run(plain, other, "p")[0]
    assert finish.cached_tokens >= first.prompt_tokens - 10
    assert conversations(engine, "c") == ["1"]


def test_a_draft_is_forgotten_alone(engine: Engine) -> None:
    n_history = run(engine, f"{HISTORY}Human: Count to 3.\nAI:", "d")[1].prompt_tokens
    draft(engine, f"{HISTORY}{WORDS}", "d")
    engine.forget("d", draft_of("1"))
    engine._store.forget("d", draft_of("1"))
    assert conversations(engine, "d") == ["1"]
    assert n_history - 10 <= run(engine, f"{HISTORY}{WORDS}\nAI:", "d")[1].cached_tokens <= n_history


def test_drafts_stay_their_owners(engine: Engine) -> None:
    draft(engine, HISTORY + WORDS, "e")
    assert run(engine, f"{HISTORY}{WORDS}\nAI:", "f")[1].cached_tokens == 0


def test_an_engine_that_does_not_prefetch_says_so(plain: Engine) -> None:
    assert not plain.prefetch(request("a", "1", is_draft=True))
