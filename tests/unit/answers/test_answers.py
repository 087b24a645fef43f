"""The service over a backend that says what it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from auth.identity import Identity, Terms
from auth.keys import KeyStore
from auth.rate_limits import Meter
from auth.usage import UsageStore
from services.answers.admission import Admission
from services.answers.client import Client
from services.answers.models import Models
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.backend.protocols import Embedder
from services.backend.status import Status
from services.backend.types import (
    ChatFormat,
    Finish,
    GenerationRequest,
    Health,
    LoadSettings,
    PrefetchRequest,
    Prompt,
    Spent,
    TokenChoice,
)
from services.errors import (
    BadModelFile,
    ClientDisconnected,
    EngineFailure,
    NotAuthenticated,
    NotFound,
    StorageFailed,
    Unavailable,
)
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.replies.events import Reply
from services.sessions.history import MASTER, SessionKey
from services.sessions.locks import LocalSessionLocks
from services.sessions.service import Sessions
from tests.support.serving import ROOT


class DummyGeneration:
    def __init__(self, pieces: list[str | Exception]) -> None:
        self.finish: Finish | None = None
        self.cancelled = False
        self.stopped = False
        self.thoughts_over = False
        self.tokens: list[int] = []
        self.choices: list[TokenChoice] = []
        self.n_choices = 0
        self.prompt_choices: Sequence[TokenChoice] = ()
        self.queue_position: int | None = 0
        self.n_read = 0
        self._pieces = pieces

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        for piece in self._pieces:
            poll()
            if isinstance(piece, Exception):
                raise piece
            if self.stopped:
                break
            yield piece
        self.finish = Finish("cancelled" if self.stopped else "stop", 1, 0, len(self._pieces), timings={"total_ms": 1.0})

    @property
    def spent(self) -> Spent:
        return Spent(1, 0, len(self._pieces))

    def stop(self) -> None:
        self.stopped = True

    def stop_thinking(self) -> None:
        self.thoughts_over = True

    def cancel(self) -> None:
        self.cancelled = True


class DummyBackend:
    """Answers "  A B  " to everything; `said` and `refuses` change that."""

    n_ctx = 1000
    chat_format = ChatFormat("", "", "", ())

    def __init__(self) -> None:
        self.said: list[str | Exception] = ["  A", " B", "  "]
        self.refuses: Exception | None = None
        self.leases = 0
        self.seen: list[LoadSettings] = []
        self.requests: list[GenerationRequest] = []
        self.generations: list[DummyGeneration] = []
        self.prefetches: list[PrefetchRequest] = []
        self.forgotten: list[tuple[str, str]] = []

    @contextmanager
    def lease(self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None) -> Iterator[DummyBackend]:
        self.seen.append(settings)
        if self.refuses:
            raise self.refuses
        self.leases += 1
        try:
            yield self
        finally:
            self.leases -= 1

    def tokenize(self, prompt: Prompt) -> list[int]:
        return [len(word) for word in prompt.text.split()]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [b"x" * token for token in tokens]

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [self.tokenize(prompt) for prompt in prompts]

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[DummyGeneration]:
        self.requests += requests
        new = [DummyGeneration(self.said) for _ in requests]
        self.generations += new
        return new

    def prefetch(self, prefetch: PrefetchRequest) -> bool:
        self.prefetches.append(prefetch)
        return True

    def lease_embedder(
        self, settings: LoadSettings, _poll: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Embedder]:
        raise NotImplementedError

    def loaded(self) -> list[Path]:
        return []

    def unload(self, _file: Path) -> bool:
        return False

    def status(self) -> Status:
        raise NotImplementedError

    def forget(self, owner: str, session: str) -> None:
        self.forgotten.append((owner, session))

    def stop(self, _owner: str, _session: str, thinking: bool = False) -> bool:
        return False

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        pass

    def add_restart_listener(self, listener: Callable[[], None]) -> None:
        pass

    def health(self) -> Health:
        return "ready"

    def close(self) -> None:
        pass


@pytest.fixture
def backend() -> DummyBackend:
    return DummyBackend()


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "sessions.json")


@pytest.fixture
def answers(backend: DummyBackend, sessions: Sessions, tmp_path: Path) -> Answers:
    profiles = Profiles(ROOT / "data" / "config.example.json")
    meter = Meter(KeyStore(tmp_path / "api_keys.json"), UsageStore(tmp_path / "hearth.sqlite"))
    models = Models(profiles, ModelFiles(ROOT / "models"), backend)
    return Answers(models, sessions, backend, meter, Admission(2, 4))


def never() -> None:
    pass


def client_of(identity: Identity | None) -> Client:
    assert identity
    return Client(identity, never)


MASTERS = client_of(Identity(MASTER, None))


def ask(answers: Answers, prompt: str = "hi", **fields: Any) -> dict[str, object]:
    answer = answers.open(MASTERS, AnswerRequest(prompt, **fields))
    try:
        list(answer.chunks())
        return answer.summary
    finally:
        answer.close()


def test_an_answer_is_stored_before_it_ends_and_all_is_let_go(
    answers: Answers, backend: DummyBackend, sessions: Sessions
) -> None:
    answer = answers.open(MASTERS, AnswerRequest("hi", session_id=1))
    chunks = answer.chunks()
    assert [next(chunks), next(chunks)] == ["A", " B"]
    assert sessions.names(MASTER) == {}
    assert not any(chunks)
    assert answer.summary["result"] == "A B"
    assert [m["content"] for m in sessions.history(SessionKey(MASTER, 1)).messages] == ["hi", "A B"]
    answer.close()
    answer.close()
    assert backend.leases == 0
    assert cast(LocalSessionLocks, sessions._locks)._locks == {}


def test_what_the_request_sets_goes_before_the_profile(answers: Answers, backend: DummyBackend) -> None:
    ask(answers, sampling={"temperature": 1.5, "top_k": 0, "seed": 3}, stop=(), max_tokens=7)
    ask(answers)
    first, second = backend.requests
    assert (first.sampling.temperature, first.sampling.top_k, first.sampling.seed, first.stop, first.max_tokens) == (
        1.5,
        0,
        3,
        (),
        7,
    )
    assert (second.sampling.temperature, second.sampling.top_k, second.sampling.seed, second.stop) == (
        0,
        40,
        None,
        ("\nHuman:",),
    )


@pytest.mark.parametrize("failure", [EngineFailure("broke"), ClientDisconnected("left")])
def test_a_failure_on_the_way_stores_nothing(
    answers: Answers, backend: DummyBackend, sessions: Sessions, failure: Exception
) -> None:
    backend.said = ["A", failure]
    with pytest.raises(type(failure)):
        ask(answers, session_id=1)
    assert sessions.names(MASTER) == {}
    assert backend.generations[0].cancelled
    assert backend.leases == 0
    backend.said = ["fine"]
    assert ask(answers, session_id=1)["result"] == "fine"


def test_an_exchange_that_cannot_be_stored_is_not_answered(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(StorageFailed, match="cannot be written"):
        ask(answers, session_id=1)
    monkeypatch.undo()
    assert ask(answers, session_id=1)["result"] == "A B"


def test_places_are_counted_and_given_back(answers: Answers, backend: DummyBackend) -> None:
    held = [answers.open(MASTERS, AnswerRequest("hi")) for _ in range(2)]
    for call in (
        lambda: answers.open(MASTERS, AnswerRequest("hi")),
        lambda: answers.forget(MASTERS, SessionKey(MASTER, 1)),
        lambda: answers.switch(MASTERS, "guide.gguf", "Guide"),
    ):
        with pytest.raises(Unavailable, match="too many answers"):
            call()
    for answer in held:
        answer.close()
    assert ask(answers)["result"] == "A B"
    with pytest.raises(NotFound):
        answers.forget(MASTERS, SessionKey(MASTER, 1))


HI = AnswerRequest("hi")
WAITS: dict[str, Callable[[Answers, Client], object]] = {
    "an answer": lambda answers, client: answers.open(client, HI),
    "a session's answer": lambda answers, client: answers.open(client, AnswerRequest("hi", session_id=1)),
    "tokens": lambda answers, client: answers.lease(client, None, 1).__enter__(),
    "a preview": lambda answers, client: answers.preview(client, HI),
    "embeddings": lambda answers, client: answers.lease_embedder(client, None).__enter__(),
    "forgetting": lambda answers, client: answers.forget(client, SessionKey(client.identity.id, 1)),
    "a switch": lambda answers, client: answers.switch(client, "guide.gguf", "Guide"),
    "a reply that is computed once": lambda answers, client: answers.admit(client).__enter__(),
}


@pytest.mark.parametrize("what", WAITS)
def test_nothing_waits_for_a_revoked_key(answers: Answers, tmp_path: Path, what: str) -> None:
    keys = answers._meter._keys
    minted = keys.mint(Terms())
    held = [answers.open(MASTERS, HI) for _ in range(2)]
    for answer in held:
        next(answer.chunks())
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(WAITS[what], answers, client_of(keys.identity(minted.id)))
        while answers.n_open < 3:
            time.sleep(0.01)
        keys.revoke(minted.id)
        with pytest.raises(NotAuthenticated):
            waiting.result(timeout=3)
    assert answers.n_open == 2
    for answer in held:
        answer.close()


def test_nothing_waits_for_a_session_of_a_revoked_key(answers: Answers, sessions: Sessions) -> None:
    keys = answers._meter._keys
    minted = keys.mint(Terms())
    key = SessionKey(minted.id, 1)
    with sessions.lock(key, never), ThreadPoolExecutor() as pool:
        client = client_of(keys.identity(minted.id))
        waiting = [pool.submit(WAITS[what], answers, client) for what in ("a session's answer", "forgetting")]
        time.sleep(0.3)
        keys.revoke(minted.id)
        for each in waiting:
            with pytest.raises(NotAuthenticated):
                each.result(timeout=3)
    assert answers.n_open == 0


def test_a_model_that_cannot_be_loaded_is_told_and_seen(answers: Answers, backend: DummyBackend) -> None:
    assert answers.models.warm_up() is None
    backend.refuses = BadModelFile("no good")
    with pytest.raises(Unavailable, match='"Guide" has no working model: no good'):
        ask(answers)
    assert answers.models.health() == "down"
    backend.refuses = None
    ask(answers)
    assert answers.models.health() == "ready"


def test_the_next_prompt_is_thought_of_once_the_answer_is_out(answers: Answers, backend: DummyBackend) -> None:
    answer = answers.open(MASTERS, AnswerRequest("how are you", session_id=1))
    list(answer.chunks())
    assert not backend.prefetches
    answer.close()
    [prefetch] = backend.prefetches
    ask(answers, prompt="fine", session_id=1)
    expected = backend.requests[-1].tokens
    assert prefetch.tokens == expected[: len(prefetch.tokens)]
    assert len(prefetch.tokens) >= len(expected) - 3
    assert (prefetch.owner, prefetch.session) == (MASTER, "1")
    assert (backend.requests[-1].session, backend.requests[-1].n_head) == ("1", 8)


def test_no_reply_waits_for_the_next_prompt_to_be_thought_of(answers: Answers, backend: DummyBackend) -> None:
    answer = answers.open(MASTERS, AnswerRequest("a" * 25_000, session_id=1))
    with answers._turns.turn("somebody", never):
        began = time.monotonic()
        assert answer.whole() == "A B"
        assert time.monotonic() - began < 0.5
    assert not backend.prefetches
    assert ask(answers, prompt="b" * 25_000, session_id=1)["result"] == "A B"
    assert backend.prefetches


def test_nothing_is_thought_of_where_no_prompt_will_follow(answers: Answers, backend: DummyBackend) -> None:
    ask(answers, memory_k=0)
    assert not backend.prefetches
    ask(answers)
    assert [prefetch.session for prefetch in backend.prefetches] == ["~unsaved"]
    answer = answers.open(MASTERS, AnswerRequest("hi", session_id=1))
    next(answer.chunks())
    answer.close()
    assert len(backend.prefetches) == 1, "an answer that was broken off is no exchange"


def test_a_forgotten_session_takes_its_computed_state_along(answers: Answers, backend: DummyBackend) -> None:
    ask(answers, session_id=3)
    answers.forget(MASTERS, SessionKey(MASTER, 3))
    assert backend.forgotten == [(MASTER, "3")]


def test_thoughts_are_ended_now_or_when_the_answer_begins(answers: Answers, backend: DummyBackend) -> None:
    key = SessionKey(MASTER, 1)
    answer = answers.open(MASTERS, AnswerRequest("hi", session_id=1))
    assert answers.stop(key, thinking=True)
    assert (backend.generations[0].thoughts_over, backend.generations[0].stopped) == (True, False)
    with answers._cancellations.token(key) as waiting:
        assert answers.stop(key, thinking=True)
        late = DummyGeneration([])
        waiting.attach(late)
        assert (late.thoughts_over, late.stopped) == (True, False)
    answer.close()
    assert not answers.stop(key, thinking=True)


def test_an_exchange_that_ends_in_a_call_is_not_stored(answers: Answers, backend: DummyBackend, sessions: Sessions) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    said = ({"role": "user", "content": "hi"},)
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    for text in (call, f"Well. {call}", call[:-14]):
        backend.said = [text]
        ask(answers, session_id=1, messages=said, tools=(tool,))
        assert sessions.names(MASTER) == {}
    backend.said = ["Well."]
    asked: list[tuple[str, bool]] = []

    def stores(reply: Reply, is_whole: bool) -> bool:
        asked.append((reply.content, is_whole))
        return False

    ask(answers, session_id=1, messages=said, stores=stores)
    assert (asked, sessions.names(MASTER)) == ([("Well.", True)], {})
    ask(answers, session_id=1, messages=said, tools=(tool,))
    assert sessions.names(MASTER) == {"1": "hi"}


def test_a_prompt_may_be_read_and_not_answered(answers: Answers, backend: DummyBackend) -> None:
    ask(answers, max_tokens=0)
    assert backend.requests[-1].max_tokens == 0
