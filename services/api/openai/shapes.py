"""The parts of replies and chunks, as OpenAI's API writes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from services.answers.stream import Answer
from services.api.openai.custom_tools import text_of
from services.api.openai.offsets import Offsets
from services.backend.types import TokenChoice
from services.replies.events import CallArguments, CallBegun, Reply, ToolCall

# Minus infinity is no JSON; OpenAI's reference has this number for tokens that are as good as impossible.
LEAST = -9999.0


class Shape:
    """The shape of one reply, or of a stream's chunks, which have their id, model and time in common."""

    def __init__(self, kind: str, prefix: str, model: str, n: int = 1, with_usage: bool = False) -> None:
        """`n` is how many answers each prompt has; `with_usage`: a stream's last chunk tells the usage."""
        self._n = n
        self._with_usage = with_usage
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}

    def whole(self, choices: list[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the reply to a request that does not stream."""
        return {**self._head, "choices": choices, "usage": usage_of(answers, self._n), **window_of(answers[0])}

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return a stream's chunk with a piece of an answer."""
        return {**self._head, "choices": [choice], **({"usage": None} if self._with_usage else {})}

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return a stream's chunk with the usage."""
        return {**self._head, "choices": [], "usage": usage_of(answers, self._n)}


def cited_of(answer: Answer) -> dict[str, Any]:
    """Return the passages that an answer cites: as `citations`, and as annotations of its marks; {} without files.

    OpenAI's chats know annotations of the kind `url_citation` alone.
    """
    if answer.given is None:
        return {}
    annotations = []
    for mark in answer.given.marks(answer.reply.content):
        file, page = (passage := answer.given.passages[mark.number - 1]).file, passage.page
        url = f"/files/{file.id}/content{f'#page={page}' if page else ''}"
        about = {"start_index": mark.start, "end_index": mark.end, "title": file.name, "url": url}
        annotations.append({"type": "url_citation", "url_citation": about})
    return {"annotations": annotations, "citations": answer.summary["citations"]}


def window_of(answer: Answer) -> dict[str, int]:
    """Return how many of a session's messages the prompt held and left out; {} where the client sends all messages."""
    if answer.summary.get("session_id") is None:
        return {}
    return {name: answer.summary[name] for name in ("messages_in_prompt", "messages_left_out")}


def usage_of(answers: Sequence[Answer], n: int = 1) -> dict[str, Any]:
    """Return the counts of tokens of all answers, `n` to each prompt, which counts once."""
    read = sum(answer.finish.prompt_tokens for answer in answers[::n])
    written = sum(answer.finish.completion_tokens for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(answer.finish.cached_tokens for answer in answers[::n])},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.finish.reasoning_tokens for answer in answers)},
    }


def message_of(
    reply: Reply,
    with_thoughts: bool = True,
    is_older: bool = False,
    most_calls: int | None = None,
    custom: Collection[str] = (),
) -> dict[str, Any]:
    """Return the assistant's message. Its content is None where there are calls alone.

    `is_older`: the client knows one call, as `function_call`. `most_calls`: how many it may have; None: all. `custom` are
    the names of custom tools.
    """
    message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
    if with_thoughts and reply.reasoning:
        message |= thoughts_of(reply.reasoning)
    if reply.calls:
        message["content"] = reply.content or None
        calls = [_called(call, custom) for call in reply.calls[:most_calls]]
        message |= {"function_call": calls[0]["function"]} if is_older else {"tool_calls": calls}
    return message


def thoughts_of(text: str) -> dict[str, Any]:
    """Return thoughts, or a piece of them, under both names by which clients know them."""
    return {"reasoning_content": text, "reasoning": text}


def _called(call: ToolCall, custom: Collection[str]) -> dict[str, Any]:
    if call.name not in custom:
        return call.described()
    return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": text_of(call.arguments)}}


def call_delta(event: CallBegun | CallArguments, is_older: bool = False) -> dict[str, Any]:
    """Return a call's beginning, or a piece of its arguments, as a piece of a streamed message."""
    if isinstance(event, CallArguments):
        piece = {"arguments": event.text}
        return {"function_call": piece} if is_older else {"tool_calls": [{"index": event.index, "function": piece}]}
    function = {"name": event.name, "arguments": ""}
    if is_older:
        return {"function_call": function}
    return {"tool_calls": [{"index": event.index, "id": event.id, "type": "function", "function": function}]}


def with_top(choices: Iterable[TokenChoice], n_top: int) -> list[TokenChoice]:
    """Return the choices with so many likeliest tokens each, of which more may be computed than are wanted."""
    return [replace(choice, top=choice.top[:n_top]) for choice in choices]


def vllm_prompt_logprobs(choices: Iterable[TokenChoice], n_top: int) -> list[dict[str, Any] | None]:
    """Return `prompt_logprobs` as vLLM has it (its protocol.py): of each token but the first, and those likeliest there.

    The rank is None for a token that is not among these.
    """
    return [None, *(_ranked(choice, n_top) for choice in choices)]


def _ranked(choice: TokenChoice, n_top: int) -> dict[str, Any]:
    token, *others = choice.ids
    ranks = {each: rank for rank, each in enumerate(others, start=1)}
    tokens = {token: (choice.piece, choice.logprob)}
    tokens |= {each: told for each, told in zip(others[:n_top], choice.top, strict=False) if each != token}
    return {
        str(each): {"logprob": max(logprob, LEAST), "rank": ranks.get(each), "decoded_token": _text(piece)}
        for each, (piece, logprob) in tokens.items()
    }


def chat_logprobs(choices: Iterable[TokenChoice]) -> dict[str, Any]:
    """Return a chat's `logprobs`."""
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


def completion_logprobs(choices: Iterable[TokenChoice], offsets: Offsets) -> dict[str, Any]:
    """Return a completion's `logprobs`; `offsets` says where each token begins in the text, in characters."""
    tokens = list(choices)
    return {
        "tokens": [_text(choice.piece) for choice in tokens],
        "token_logprobs": [max(choice.logprob, LEAST) for choice in tokens],
        "top_logprobs": [_top(choice) for choice in tokens],
        "text_offset": [offsets.next(choice.piece) for choice in tokens],
    }


def prompt_logprobs(first: bytes, choices: Iterable[TokenChoice], text: str) -> dict[str, Any]:
    """Return the `logprobs` of an echoed prompt of this text: its first token, which follows nothing, has none."""
    offsets = Offsets()
    offsets.add(text)
    at = offsets.next(first)
    others = completion_logprobs(choices, offsets)
    begun = {"tokens": _text(first), "token_logprobs": None, "top_logprobs": None, "text_offset": at}
    return {name: [begun[name], *values] for name, values in others.items()}


def _top(choice: TokenChoice) -> dict[str, float]:
    """Return the likeliest tokens by their texts, and the chosen one; of those that are alike as text, the likeliest."""
    told: dict[str, float] = {}
    for piece, logprob in (*choice.top, (choice.piece, choice.logprob)) if choice.top else ():
        told.setdefault(_text(piece), max(logprob, LEAST))
    return told


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": max(logprob, LEAST), "bytes": list(piece)}


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
