"""Replies and events as OpenAI's API writes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from services.answer import Answer
from services.backend import TokenChoice
from services.tools import ToolCall


class Shape:
    """What all parts of one reply have in common."""

    def __init__(self, kind: str, prefix: str, model: str) -> None:
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}

    def whole(self, choices: list[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        return {**self._head, "choices": choices, "usage": usage_of(answers)}

    def part(self, choice: dict[str, Any], with_usage: bool) -> dict[str, Any]:
        """An event of a stream."""
        return {**self._head, "choices": [choice], **({"usage": None} if with_usage else {})}

    def end(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The event that tells the usage."""
        return {**self._head, "choices": [], "usage": usage_of(answers)}


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """The tokens of several answers to one prompt, which counts once."""
    first, written = answers[0].finish, sum(answer.finish.completion_tokens for answer in answers)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": first.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
    }


def message_of(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The assistant's message."""
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    return {**message, "tool_calls": [call.described() for call in calls]} if calls else message


def calls_delta(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The calls as a piece of a streamed message."""
    return {"tool_calls": [{"index": index, **call.described()} for index, call in enumerate(calls)]}


def chat_logprobs(choices: Iterable[TokenChoice]) -> dict[str, Any]:
    """A chat's `logprobs`."""
    return {
        "content": [
            {
                **_token(choice.piece, choice.logprob),
                "top_logprobs": [_token(piece, logprob) for piece, logprob in choice.top],
            }
            for choice in choices
        ],
        "refusal": None,
    }


def completion_logprobs(choices: Iterable[TokenChoice], offset: int) -> dict[str, Any]:
    """A completion's `logprobs`; its first token stands at `offset` (in characters)."""
    tokens, offsets = [], []
    for choice in choices:
        tokens.append(choice)
        offsets.append(offset)
        offset += len(_text(choice.piece))
    return {
        "tokens": [_text(choice.piece) for choice in tokens],
        "token_logprobs": [choice.logprob for choice in tokens],
        "top_logprobs": [{_text(piece): logprob for piece, logprob in choice.top} for choice in tokens],
        "text_offset": offsets,
    }


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    # Minus infinity is no JSON; OpenAI's own reference says -9999 for what is as good as impossible.
    return {"token": _text(piece), "logprob": max(logprob, -9999.0), "bytes": list(piece)}


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
