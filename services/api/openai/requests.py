"""From the bodies of OpenAI's API to the requests of the answers' service."""

from __future__ import annotations

from dataclasses import replace

from services.answers.request import AnswerRequest, sampling_of
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating, NamedTool, prompts_of
from services.errors import InvalidRequest
from services.prompts.chat import words_of
from services.replies.tools import begins_call, call_schema, read_calls


def chat_requests(body: ChatRequest) -> list[AnswerRequest]:
    """Return a request for each answer that is wanted. Raises InvalidRequest."""
    if body.session_id is not None and (body.n or 1) > 1:
        raise InvalidRequest("n: a session can be answered once at a time", param="n")
    messages = [message.plain() for message in body.messages]
    words = words_of(messages)
    if messages[-1]["role"] == "user" and not words.strip():
        raise InvalidRequest("messages: the last message of the user is empty", param="messages")
    if body.session_id is not None and not any(message["role"] == "user" for message in messages):
        what = "messages: a session goes on with what its user says, and there is no message of the user"
        raise InvalidRequest(what, param="messages")
    tools = [] if body.tool_choice == "none" else [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    schema = body.response_format.schema_text() if body.response_format else ""
    if isinstance(body.tool_choice, NamedTool):
        schema = call_schema(tools, body.tool_choice.function.name)
    elif body.tool_choice == "required":
        schema = call_schema(tools)
    request = AnswerRequest(
        words,
        model=body.model,
        session_id=body.session_id,
        memory_k=body.memory_k if body.session_id is not None else 0,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stop(body),
        sampling=sampling_of(body),
        messages=tuple(messages),
        tools=tuple(tools),
        json_schema=schema,
        logit_bias=_biases(body),
        n_top=(body.top_logprobs or 0) if body.logprobs else None,
        # An exchange ends in words: a call of a tool, and what that returns, come again with the client's next messages.
        stores=lambda text, is_whole: not read_calls(text, names)[1] and (is_whole or not names or not begins_call(text)),
    )
    return _several(request, body.n or 1)


def completion_requests(body: CompletionRequest) -> list[AnswerRequest]:
    """Return, for each prompt, a request for each text that is wanted. Raises InvalidRequest."""
    requests: list[AnswerRequest] = []
    for prompt in prompts_of(body.prompt, body.parse_special is not False):
        request = AnswerRequest(
            prompt.text,
            model=body.model,
            memory_k=0,
            max_tokens=body.max_tokens or 16,
            stop=_stop(body),
            sampling=sampling_of(body),
            text=prompt,
            trims=False,
            logit_bias=_biases(body),
            n_top=body.logprobs,
        )
        requests += _several(request, body.n or 1)
    return requests


def _several(request: AnswerRequest, n: int) -> list[AnswerRequest]:
    """Return the request `n` times, with seeds of their own where one is given: else all answers would be alike."""
    seed = request.sampling.get("seed")
    if seed is None:
        return [request] * n
    return [replace(request, sampling={**request.sampling, "seed": (int(seed) + i) % (2**32 - 1)}) for i in range(n)]


def _stop(body: Generating) -> tuple[str, ...] | None:
    return None if body.stop is None else tuple(body.stop)


def _biases(body: Generating) -> tuple[tuple[int, float], ...]:
    return tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items())
