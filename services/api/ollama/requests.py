"""From the bodies of Ollama's API to the requests of the answers' service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.answers.request import AnswerRequest, ThinkingWish
from services.api.ollama.schemas import OllamaChat, OllamaGenerate
from services.backend.types import Constraint, Infill, Prompt
from services.errors import InvalidRequest
from services.prompts.chat import words_of

_ANY_OBJECT = {"type": "object"}


def chat_request(body: OllamaChat) -> AnswerRequest:
    """Return the request for an answer to a chat that has messages. Raises InvalidRequest."""
    messages = [message.plain() for message in body.messages or ()]
    # As with OpenAI's API: the assistant's last message is continued, unless it calls tools.
    continues = messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]
    if body.session_id is not None and (continues or not any(each["role"] == "user" for each in messages)):
        what = "messages: a session goes on with what its user says, and keeps its own answers"
        raise InvalidRequest(what, param="messages")
    tools = tuple(
        {"type": "function", "function": function.model_dump(exclude_none=True)} for function in body.own_functions
    )
    return _request(body, words_of(messages), messages, tools=tools, continues=continues, generation_prompt=not continues)


def prompt_request(body: OllamaGenerate) -> AnswerRequest:
    """Return the request for an answer to a prompt that is there."""
    prompt = body.prompt or ""
    if body.suffix:
        return _request(body, prompt, (), infill=Infill(prompt, body.suffix), trims=False)
    if body.raw:
        return _request(body, prompt, (), text=Prompt(prompt), trims=False)
    messages = [{"role": "system", "content": body.system}] if body.system else []
    return _request(body, prompt, [*messages, {"role": "user", "content": prompt}])


def _request(
    body: OllamaChat | OllamaGenerate, words: str, messages: Sequence[Mapping[str, Any]], **fields: Any
) -> AnswerRequest:
    options, think = body.sampling_fields, body.think
    thinking = ThinkingWish(
        think if isinstance(think, bool) else None, think if isinstance(think, str) else None, param="think"
    )
    return AnswerRequest(
        words,
        model=body.model,
        session_id=body.session_id,
        memory_k=body.memory_k if body.session_id is not None else 0,
        max_tokens=options.most_tokens(),
        stop=None if options.stop is None else tuple(options.stop),
        stop_tokens=tuple(options.stop_token_ids or ()),
        keeps_stop=options.keeps_stop,
        sampling=options.sampling(),
        logit_bias=options.biases(),
        messages=tuple(messages),
        thinking=thinking,
        constraint=_constraint(body.format),
        context=lambda _profile, n_ctx: _context(options.num_ctx, n_ctx),
        n_top=body.n_top,
        **fields,
    )


def _context(wanted: int | None, n_ctx: int) -> int:
    """Return the tokens of context: a larger one than is loaded is not to be had, and clients ask for one unseen."""
    return min(wanted or n_ctx, n_ctx)


def _constraint(wanted: str | dict[str, Any] | None) -> Constraint | None:
    if wanted is None:
        return None
    return Constraint("json_schema", json.dumps(_ANY_OBJECT if wanted in ("json", {}) else wanted))
