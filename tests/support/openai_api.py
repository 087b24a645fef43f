"""Requests to /v1 as OpenAI's clients send them, by hand."""

from __future__ import annotations

from typing import Any

from tests.support.serving import Api, Stream

FRANCE = "What is the capital of France?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def chat(api: Api, words: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The whole reply to a chat, which must succeed."""
    messages = [{"role": "user", "content": words}] if isinstance(words, str) else words
    reply = api.post("/v1/chat/completions", {"messages": messages, **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def said(reply: dict[str, Any]) -> str:
    """The text of a chat's first answer."""
    return str(reply["choices"][0]["message"]["content"])


def stream(api: Api, path: str, **fields: Any) -> list[Any]:
    """All events of a stream."""
    return Stream(api.post(path, {"stream": True, **fields}, stream=True)).rest()


def refused(api: Api, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    """The error of a request that must be refused as a bad one."""
    reply = api.post(path, fields)
    assert reply.status_code == 400, reply.text
    return dict(reply.json()["error"])
