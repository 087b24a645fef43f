"""POST /answer/ID/draft: what a person has written so far is read ahead, and nothing of it is kept."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import PrefetchRequest, draft_of
from tests.support.fake_backend import FakeBackend, Piece
from tests.support.in_process import Client
from tests.support.tiny import GUIDE

WORDS = "The quick brown fox jumps over the lazy dog and runs away from"
Open = Callable[..., Client]


def drafts(backend: FakeBackend) -> list[PrefetchRequest]:
    return [each for each in backend.prefetches if each.is_draft]


def text_of(backend: FakeBackend, request: PrefetchRequest) -> str:
    return "".join(backend.vocabulary.texts(request.tokens))


def test_the_next_prompt_is_read_up_to_the_last_whole_word(client: Client, backend: FakeBackend) -> None:
    client.ask("Count to 3.", session_id=5)
    before = client.get("/answer/5").json()
    reply = client.post("/answer/5/draft", {"prompt": f"{WORDS} hom"})
    (request,) = drafts(backend)
    assert (request.owner, request.session, request.conversation) == ("0", "5", "~draft 5")
    assert reply.json() == {"drafted": True, "tokens": len(request.tokens), "charged_tokens": len(WORDS.split())}
    prompt = client.get("/answer/5/prompt", params={"prompt": f"{WORDS} home"}).json()
    assert prompt["tokens"][: len(request.tokens)] == list(request.tokens)
    read = text_of(backend, request)
    assert "Count to 3." in read
    assert read.endswith("runs away from")
    assert client.get("/answer/5").json() == before


def test_every_field_that_shapes_the_prompt_shapes_the_draft(client: Client, backend: FakeBackend) -> None:
    client.ask("Count to 3.", session_id=5)
    client.ask("Count to 4.", session_id=5)
    fields: dict[str, Any] = {
        "model": "guide.gguf",
        "system_prompt": "You are a bird.",
        "memory_k": 1,
        "keep": 2,
        "max_tokens": 9,
    }
    client.post("/answer/5/draft", {"prompt": WORDS, **fields})
    assert client.ask(WORDS, session_id=5, **fields)["result"]
    (request,) = drafts(backend)
    asked = backend.models()[-1].requests[-1].tokens
    assert len(request.tokens) >= len(asked) - 6
    assert asked[: len(request.tokens)] == request.tokens


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": WORDS, "session_id": 5}, "session_id"),
        ({"prompt": WORDS, "temperature": 1}, "temperature"),
        ({"prompt": WORDS, "stream": True}, "stream"),
        ({"prompt": WORDS, "memory_k": -1}, "memory_k"),
        ({"prompt": WORDS, "keep": 2}, "keep"),
        ({"prompt": WORDS, "think": True, "reasoning_effort": "none"}, "reasoning_effort"),
    ],
)
def test_a_bad_field_is_named(client: Client, backend: FakeBackend, body: dict[str, object], param: str) -> None:
    reply = client.post("/answer/5/draft", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert not drafts(backend)


def test_a_model_that_does_not_exist_is_an_error_as_for_an_answer(client: Client) -> None:
    fields = {"prompt": WORDS, "model": "none-such"}
    draft, answer = client.post("/answer/5/draft", fields), client.post("/answer", {**fields, "session_id": 5})
    assert (draft.status_code, draft.json()) == (answer.status_code, answer.json())
    assert draft.status_code == 404


def test_what_is_no_session_number_has_no_draft(client: Client) -> None:
    for name in ("x", "-1", "9" * 30):
        assert client.post(f"/answer/{name}/draft", {"prompt": WORDS}).status_code == 404
        assert client.delete(f"/answer/{name}/draft").status_code == 404


def test_a_session_may_begin_with_a_draft_which_does_not_make_it(client: Client, backend: FakeBackend) -> None:
    assert client.post("/answer/77/draft", {"prompt": WORDS}).json()["drafted"]
    assert client.get("/answer/77").status_code == 404
    assert client.get("/answer").json() == {}
    client.ask(WORDS, session_id=77)
    assert backend.models()[0].requests[-1].tokens[: len(drafts(backend)[0].tokens)] == drafts(backend)[0].tokens


def test_a_session_that_is_answered_waits_for_its_draft(open_client: Open) -> None:
    go_on = threading.Event()

    def script(_: str) -> Iterable[Piece]:
        yield "One"
        yield go_on
        yield " two."

    backend = FakeBackend(script)
    client = open_client(backend=backend)
    stream = client.stream("Count.", session_id=5)
    stream.next()
    reply = client.post("/answer/5/draft", {"prompt": WORDS})
    assert reply.status_code == 200
    assert (reply.json()["drafted"], "is being answered" in reply.json()["reason"]) == (False, True)
    assert client.post("/answer/6/draft", {"prompt": WORDS}).json()["drafted"], "another session does not mind"
    go_on.set()
    stream.rest()
    assert client.post("/answer/5/draft", {"prompt": WORDS}).json()["drafted"]
    assert [each.session for each in drafts(backend)] == ["6", "5"]


def test_a_prompt_that_does_not_fit_is_not_read(client: Client, backend: FakeBackend) -> None:
    reply = client.post("/answer/5/draft", {"prompt": "word " * 5000})
    assert reply.status_code == 200
    assert not reply.json()["drafted"]
    assert "too long" in reply.json()["reason"]
    assert not drafts(backend)


def test_no_model_is_loaded_for_a_draft(open_client: Open, backend: FakeBackend, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("guide.gguf", "other.gguf"):
        shutil.copy(GUIDE, models / name)
    client = open_client(backend=backend, models=models)
    reply = client.post("/answer/5/draft", {"prompt": WORDS, "model": "other.gguf"}).json()
    assert reply == {"drafted": False, "reason": "the model is not loaded"}
    assert len(backend.models()) == 1
    client.ask("Count to 3.", model="other.gguf")
    assert client.post("/answer/5/draft", {"prompt": WORDS, "model": "other.gguf"}).json()["drafted"]


def test_an_empty_prompt_and_delete_forget_the_draft(client: Client, backend: FakeBackend) -> None:
    charged = client.post("/answer/5/draft", {"prompt": WORDS}).json()["charged_tokens"]
    reply = client.post("/answer/5/draft", {"prompt": " \n"})
    assert reply.json() == {"drafted": False, "reason": "the prompt is empty"}
    assert backend.forgotten == [("0", draft_of("5"))]
    assert client.post("/answer/5/draft", {"prompt": WORDS}).json()["charged_tokens"] == charged
    assert client.delete("/answer/5/draft").json() == {"deleted": True}
    assert backend.forgotten == [("0", draft_of("5"))] * 2
    assert client.post("/answer/5/draft", {"prompt": WORDS}).json()["charged_tokens"] == charged


def test_a_key_is_charged_for_each_token_once(client: Client) -> None:
    key, id_ = client.mint()

    def used() -> tuple[int, int]:
        row = next((each for each in client.get("/auth/usage", key=key).json()["usage"] if each["key"] == id_), None)
        return (row["requests"], row["prompt_tokens"]) if row else (0, 0)

    words = WORDS.split()
    n_charged = [
        client.post("/answer/5/draft", {"prompt": f"{' '.join(words[:n])} "}, key=key).json()["charged_tokens"]
        for n in (4, 9, 9, 3)
    ]
    assert n_charged == [4, 5, 0, 0]
    # A draft is no request.
    assert used() == (0, 9)
    usage = client.ask(WORDS, key=key, session_id=5)["usage"]
    assert used() == (1, 9 + usage["prompt_tokens"])


def test_a_key_without_tokens_left_gets_an_answers_error(client: Client, backend: FakeBackend) -> None:
    key, _ = client.mint(limits={"tokens_per_minute": 8})
    for path, body in (("/answer/5/draft", {}), ("/answer", {"session_id": 5})):
        reply = client.post(path, {"prompt": WORDS, **body}, key=key)
        assert (reply.status_code, reply.json()["error"]["param"]) == (429, "tokens_per_minute")
        assert int(reply.headers["Retry-After"]) > 0
    assert not drafts(backend)


def test_a_key_without_requests_left_drafts_no_more(client: Client) -> None:
    key, _ = client.mint(limits={"requests_per_minute": 2})
    for n in range(3):
        assert client.post("/answer/5/draft", {"prompt": WORDS[: 20 + n]}, key=key).status_code == 200
    for _ in range(2):
        client.ask("Count to 3.", key=key)
    reply = client.post("/answer/5/draft", {"prompt": WORDS}, key=key)
    assert (reply.status_code, reply.json()["error"]["param"]) == (429, "requests_per_minute")


def test_a_key_sends_so_many_drafts_a_second(client: Client) -> None:
    key, _ = client.mint()
    other, _ = client.mint()
    statuses = list(iter(lambda: client.post("/answer/5/draft", {"prompt": WORDS}, key=key).status_code, 429))
    assert len(statuses) >= 5
    assert set(statuses) == {200}
    refused = client.delete("/answer/5/draft", key=key)
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["error"]["param"]) == (429, "1", "drafts")
    assert client.post("/answer/5/draft", {"prompt": WORDS}, key=other).status_code == 200
    # It may again within the second.
    deadline = time.monotonic() + 10
    while client.post("/answer/5/draft", {"prompt": WORDS}, key=key).status_code == 429:
        assert time.monotonic() < deadline


def test_a_key_drafts_in_its_own_sessions_and_with_its_profiles(client: Client, backend: FakeBackend) -> None:
    key, id_ = client.mint(profiles=["Guide"])
    client.ask("Count to 3.", session_id=5)
    client.post("/answer/5/draft", {"prompt": WORDS}, key=key)
    (request,) = drafts(backend)
    assert request.owner == id_
    assert "Count to 3" not in text_of(backend, request)
    assert client.post("/answer/5/draft", {"prompt": WORDS, "model": "Pirate"}, key=key).status_code == 403
    bare, _ = client.mint(scopes=["models:read"])
    assert client.post("/answer/5/draft", {"prompt": WORDS}, key=bare).status_code == 403


def test_a_draft_that_nothing_reads_says_so(client: Client, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.fake_backend.FakeModel.prefetch", lambda *_: False)
    reply = client.post("/answer/5/draft", {"prompt": WORDS}).json()
    assert (reply["drafted"], "reads ahead" in reply["reason"]) == (False, True)
    assert client.get("/auth/usage").json()["usage"] == []
