"""From the bodies of OpenAI's API to the requests of the answers' service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.answers.request import AnswerRequest, ThinkingWish
from services.api.openai.messages import ChatMessage
from services.api.openai.sampling_fields import UNLIMITED
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating, prompts_of
from services.api.openai.thinking_fields import ThinkingFields
from services.api.openai.tool_fields import FunctionOfTool, chosen
from services.backend.types import Infill
from services.errors import InvalidRequest
from services.prompts.chat import words_of

# OpenAI's default for a completion's length.
DEFAULT_COMPLETION_TOKENS = 16


def chat_requests(body: ChatRequest) -> list[AnswerRequest]:
    """Return a request for each answer that is wanted. Raises InvalidRequest."""
    messages = plain_messages(body.messages)
    words = words_of(messages)
    _check_messages(body, messages, words)
    tool_choice, tools = callable_tools(body)
    request = AnswerRequest(
        words,
        model=body.model,
        session_id=body.session_id,
        memory_k=body.memory_k if body.session_id is not None else 0,
        max_tokens=body.longest(UNLIMITED),
        stop=_stop(body),
        stop_tokens=tuple(body.stop_token_ids or ()),
        keeps_stop=body.keeps_stop,
        sampling=body.sampling(),
        messages=tuple(messages),
        files=body.all_files(id_ for message in body.messages for id_ in message.files),
        collections=body.collections,
        tools=tuple(tools),
        tool_choice=tool_choice,
        # The older form of a call has room for one.
        parallel_tool_calls=body.parallel_tool_calls is not False and body.functions is None,
        thinking=_thinking(body),
        template_kwargs=body.chat_template_kwargs or {},
        continues=body.continues,
        generation_prompt=body.add_generation_prompt is not False and not body.continues,
        constraint=body.constraint,
        logit_bias=body.biases(),
        n_top=body.n_told,
        prompt_logprobs=body.prompt_logprobs is not None,
    )
    return _several(request, body.n_answers)


def completion_requests(body: CompletionRequest) -> list[AnswerRequest]:
    """Return, for each prompt, a request for each text that is wanted. Raises InvalidRequest."""
    requests: list[AnswerRequest] = []
    for prompt in prompts_of(body.prompt, body.parses_special, body.add_special_tokens is not False):
        request = AnswerRequest(
            prompt.text,
            model=body.model,
            memory_k=0,
            max_tokens=body.longest(DEFAULT_COMPLETION_TOKENS),
            stop=_stop(body),
            stop_tokens=tuple(body.stop_token_ids or ()),
            keeps_stop=body.keeps_stop,
            sampling=body.sampling(),
            text=None if body.suffix else prompt,
            infill=Infill(prompt.text, body.suffix) if body.suffix else None,
            trims=False,
            constraint=body.constraint,
            logit_bias=body.biases(),
            n_top=body.n_told,
            prompt_logprobs=bool(body.echo and body.n_top is not None) or body.prompt_logprobs is not None,
            shows_specials=body.skip_special_tokens is False,
        )
        requests += _several(request, body.n_answers)
    return requests


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return messages as chat templates take them; in OpenAI's older form a function's result follows its call by place."""
    plain = [message.plain() for message in messages]
    for n, message in enumerate(messages):
        if message.function_call:
            plain[n]["tool_calls"][-1]["id"] = f"call_{n}"
        if message.role == "function" and message.tool_call_id is None:
            plain[n]["tool_call_id"] = f"call_{n - 1}"
    return plain


def callable_tools(body: ChatRequest) -> tuple[str, list[dict[str, Any]]]:
    """Return the choice ("none", "auto", "required" or a tool's name), and the tools that the model may call."""
    functions: Sequence[FunctionOfTool] = body.own_functions or body.functions or ()
    choice, names = chosen(body.tool_choice if body.functions is None else body.function_call)
    if choice == "none":
        return choice, []
    # A tool that has to be called is shown among the others: they may belong to the conversation.
    shown = functions if choice in names else [each for each in functions if not names or each.name in names]
    return choice, [{"type": "function", "function": each.model_dump(exclude_none=True)} for each in shown]


def _check_messages(body: ChatRequest, messages: Sequence[dict[str, Any]], words: str) -> None:
    last = body.messages[-1]
    # As with OpenAI, "" is a content, unlike null and []; but a session goes on with words.
    if last.role == "user" and (last.content in (None, []) or (body.session_id is not None and not words.strip())):
        raise InvalidRequest("messages: the last message of the user is empty", param="messages")
    if body.session_id is None:
        return
    if body.n_answers > 1:
        raise InvalidRequest("n: a session can be answered once at a time", param="n")
    if not any(message["role"] == "user" for message in messages):
        what = "messages: a session goes on with what its user says, and there is no message of the user"
        raise InvalidRequest(what, param="messages")
    if body.continues:
        what = "messages: a session keeps its own answers: the last message cannot be the assistant's"
        raise InvalidRequest(what, param="messages")


def _thinking(body: ThinkingFields) -> ThinkingWish:
    return ThinkingWish(body.thinks, body.effort, body.budget, body.thinking_field)


def _several(request: AnswerRequest, n: int) -> list[AnswerRequest]:
    """Return the request `n` times, with seeds of their own where one is given: else all answers would be alike."""
    seed = request.sampling.get("seed")
    if seed is None:
        return [request] * n
    return [replace(request, sampling={**request.sampling, "seed": (int(seed) + i) % (2**32 - 1)}) for i in range(n)]


def _stop(body: Generating) -> tuple[str, ...] | None:
    return None if body.stop is None else tuple(body.stop)
