"""From the bodies of Anthropic's API to the requests of the answers' service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from services.answers.request import AnswerRequest, ThinkingWish
from services.api.anthropic.blocks import Block, MessageOfChat, words_of
from services.api.anthropic.schemas import CountTokensRequest, MessagesRequest, ToolOfClient
from services.backend.types import Constraint
from services.errors import InvalidRequest
from services.prompts.chat import words_of as last_words_of

# A line that changes with each request and says nothing to the model: with it, no request would begin as the last one did.
_BILLING = "x-anthropic-billing-header:"


def message_request(body: MessagesRequest) -> AnswerRequest:
    """Return the request for an answer. Raises InvalidRequest."""
    messages = chat_messages(body)
    words = last_words_of(messages)
    if body.session_id is not None:
        _check_session(messages, words)
    sampling = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    choice, tools, parallel = callable_tools(body)
    return AnswerRequest(
        words,
        model=body.model,
        session_id=body.session_id,
        memory_k=body.memory_k if body.session_id is not None else 0,
        max_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences or ()) or None,
        sampling={name: value for name, value in sampling.items() if value is not None},
        messages=tuple(messages),
        files=body.all_files(id_ for message in body.messages for id_ in message.files),
        collections=body.collections,
        tools=tuple(tools),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        thinking=thinking_of(body),
        continues=_continues(body),
        generation_prompt=not _continues(body),
        constraint=Constraint("json_schema", json.dumps(body.format.schema_)) if body.format else None,
    )


def counted_request(body: CountTokensRequest) -> AnswerRequest:
    """Return a request whose prompt is counted, and not answered."""
    messages = chat_messages(body)
    choice, tools, _ = callable_tools(body)
    return AnswerRequest(
        last_words_of(messages),
        model=body.model,
        memory_k=0,
        max_tokens=0,
        messages=tuple(messages),
        files=body.all_files(id_ for message in body.messages for id_ in message.files),
        collections=body.collections,
        tools=tuple(tools),
        tool_choice=choice,
        thinking=thinking_of(body),
        continues=_continues(body),
        generation_prompt=not _continues(body),
    )


def chat_messages(body: MessagesRequest | CountTokensRequest) -> list[dict[str, Any]]:
    """Return the messages of a body as chat templates take them, the system prompt first. Raises InvalidRequest."""
    messages = [{"role": "system", "content": system}] if (system := _system(body.system)) else []
    for message in body.messages:
        messages += _plain(message)
    if not messages:
        raise InvalidRequest("messages: there is no text in them", param="messages")
    return messages


def callable_tools(body: MessagesRequest | CountTokensRequest) -> tuple[str, list[dict[str, Any]], bool]:
    """Return the choice, the tools that the model may call, and whether an answer may hold several calls.

    The choice is "none", "auto", "required" or a tool's name, as in `AnswerRequest`.
    """
    choice = body.tool_choice
    if choice is None:
        return "auto", list(map(_described, body.own_tools)), True
    parallel = not choice.disable_parallel_tool_use
    if choice.type == "none":
        return "none", [], parallel
    # A tool that has to be called is shown among the others: they may belong to the conversation.
    wish = choice.name or ("required" if choice.type == "any" else "auto")
    return wish, list(map(_described, body.own_tools)), parallel


def thinking_of(body: MessagesRequest | CountTokensRequest) -> ThinkingWish:
    """Return how the model is to think. A budget is a limit, which a model without thoughts keeps."""
    effort = body.output_config.effort if body.output_config else None
    thinking = body.thinking
    if thinking is None:
        return ThinkingWish(effort=effort, param="output_config.effort", is_optional=True)
    enabled = {"enabled": True, "disabled": False}.get(thinking.type)
    return ThinkingWish(enabled, effort, thinking.budget_tokens, "thinking", is_optional=True)


def _continues(body: MessagesRequest | CountTokensRequest) -> bool:
    last = body.messages[-1]
    return last.role == "assistant" and all(block.type != "tool_use" for block in last.blocks)


def _check_session(messages: list[dict[str, Any]], words: str) -> None:
    if not any(message["role"] == "user" for message in messages) or not words.strip():
        what = "messages: a session goes on with what its user says, and there is no message of the user"
        raise InvalidRequest(what, param="messages")
    if messages[-1]["role"] == "assistant":
        what = "messages: a session keeps its own answers: the last message cannot be the assistant's"
        raise InvalidRequest(what, param="messages")


def _system(content: str | list[Block] | None) -> str:
    """Return a system prompt without lines for billing."""
    text = words_of(content)
    if _BILLING not in text:
        return text
    return "\n".join(line for line in text.split("\n") if not line.startswith(_BILLING)).lstrip("\n")


def _plain(message: MessageOfChat) -> Iterator[dict[str, Any]]:
    """Yield a message as chat templates take it: results of tools are messages of their own."""
    if message.role == "system":
        if text := _system(message.content):
            yield {"role": "system", "content": text}
    elif message.role == "assistant":
        yield _of_assistant(message.blocks)
    else:
        yield from _of_user(message.blocks)


def _of_assistant(blocks: list[Block]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": words_of(blocks)}
    if thoughts := _joined(block.thinking for block in blocks):
        message["reasoning_content"] = thoughts
    if calls := [block.call() for block in blocks if block.type == "tool_use"]:
        message["tool_calls"] = calls
    return message


def _of_user(blocks: list[Block]) -> Iterator[dict[str, Any]]:
    text: list[Block] = []
    for block in blocks:
        if block.type != "tool_result":
            text.append(block)
            continue
        if text:
            yield {"role": "user", "content": words_of(text)}
        text = []
        yield {"role": "tool", "content": block.result(), "tool_call_id": block.tool_use_id}
    if text or not blocks:
        yield {"role": "user", "content": words_of(text)}


def _joined(texts: Iterable[str | None]) -> str:
    return "\n".join(text for text in texts if text)


def _described(tool: ToolOfClient) -> dict[str, Any]:
    about = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **about, "parameters": tool.input_schema}}
