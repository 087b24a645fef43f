"""Uploaded files that a message names by their ids, as the clients of OpenAI and Anthropic do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.in_process import Client

TEXT = "# Bees\n\nBees make honey. The queen lays eggs.\n\n# Wasps\n\nWasps sting often."
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def store(client: Client, key: str | None = None) -> str:
    reply = client.request(
        "POST",
        "/v1/files",
        files={"file": ("bees.md", TEXT.encode())},
        data={"purpose": "user_data"},
        **({"key": key} if key else {}),
    )
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def body(path: str, id_: str, words: str = "Who lays eggs?") -> dict[str, Any]:
    """A request whose message names a file."""
    if path == RESPONSES:
        items = [{"type": "input_file", "file_id": id_}, {"type": "input_text", "text": words}]
        return {"input": [{"role": "user", "content": items}]}
    if path == CHAT:
        parts: list[dict[str, Any]] = [{"type": "file", "file": {"file_id": id_}}, {"type": "text", "text": words}]
        return {"messages": [{"role": "user", "content": parts}]}
    block = {"type": "document", "source": {"type": "file", "file_id": id_}}
    return {"max_tokens": 20, "messages": [{"role": "user", "content": [block, {"type": "text", "text": words}]}]}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_it_is_answered_from_the_file(client: Client, path: str) -> None:
    id_ = store(client)
    reply = client.post(path, body(path, id_))
    assert reply.status_code == 200, reply.text
    assert "X-Hearth-Ignored" not in reply.headers
    named, plain = (reply.json()["usage"], client.post(path, body(path, id_) | unnamed(path)).json()["usage"])
    assert count(named) > count(plain) + 20


def unnamed(path: str) -> dict[str, Any]:
    field = "input" if path == RESPONSES else "messages"
    return {field: [{"role": "user", "content": "Who lays eggs?"}]}


def count(usage: dict[str, int]) -> int:
    return usage.get("prompt_tokens") or usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_file_that_is_not_there_is_not_found(client: Client, path: str) -> None:
    other, _ = client.mint()
    for id_ in ("file-none", store(client, other)):
        reply = client.post(path, body(path, id_))
        assert (reply.status_code, id_ in reply.text) == (404, True), reply.text


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (CHAT, {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}),
        (RESPONSES, {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}),
        (RESPONSES, {"type": "input_file", "file_url": "http://localhost/a.pdf"}),
    ],
)
def test_content_that_is_not_uploaded_is_refused_with_the_way(client: Client, path: str, part: dict[str, Any]) -> None:
    field = "input" if path == RESPONSES else "messages"
    reply = client.post(path, {field: [{"role": "user", "content": [part]}]})
    assert reply.status_code == 400
    assert "POST /v1/files" in reply.json()["message"]
    assert reply.json()["error"]["param"].startswith(f"{field}.0.content.0")


def test_a_response_goes_on_with_the_files_of_those_before(client: Client) -> None:
    id_ = store(client)
    first = client.post(RESPONSES, body(RESPONSES, id_)).json()
    # It was named, and not searched for.
    assert [item["type"] for item in first["output"]] == ["message"]
    second = client.post(RESPONSES, {"input": "And who stings?", "previous_response_id": first["id"]}).json()
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert second["usage"]["input_tokens_details"]["cached_tokens"] > 20
