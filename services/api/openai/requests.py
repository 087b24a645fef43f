"""From the bodies of OpenAI's API to what is asked of the answers' service."""

from __future__ import annotations

from dataclasses import replace

from services.answers.request import AnswerRequest, Question
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating, NamedTool, prompts_of
from services.errors import InvalidRequest
from services.prompts.chat import words_of
from services.replies.tools import begins_call, call_schema, read_calls


def ask_chat(body: ChatRequest) -> list[AnswerRequest]:
    """As many times as answers are wanted. Raises InvalidRequest."""
    if body.session_id is not None and (body.n or 1) > 1:
        raise InvalidRequest("n: a session can be answered once at a time", param="n")
    messages = [message.plain() for message in body.messages]
    words = words_of(messages)
    if messages[-1]["role"] == "user" and not words.strip():
        raise InvalidRequest("messages: the last message of the user is empty", param="messages")
    if body.session_id is not None and not any(message["role"] == "user" for message in messages):
        what = "messages: a session goes on with what its user says, and there is no message of the user"
        raise InvalidRequest(what, param="messages")
    memory_k = body.memory_k if body.session_id is not None else 0
    question = _question(body, words, body.max_completion_tokens or body.max_tokens, body.session_id, memory_k)
    tools = [] if body.tool_choice == "none" else [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    schema = body.response_format.schema_text() if body.response_format else ""
    if isinstance(body.tool_choice, NamedTool):
        schema = call_schema(tools, body.tool_choice.function.name)
    elif body.tool_choice == "required":
        schema = call_schema(tools)
    ask = AnswerRequest(
        question,
        model=body.model,
        messages=tuple(messages),
        tools=tuple(tools),
        json_schema=schema,
        logit_bias=_biases(body),
        n_top=(body.top_logprobs or 0) if body.logprobs else None,
        # An exchange ends in words: a call of a tool, and what that returns, come again with the client's next messages.
        stores=lambda text, is_whole: not read_calls(text, names)[1] and (is_whole or not names or not begins_call(text)),
    )
    return _several(ask, body.n or 1)


def ask_completions(body: CompletionRequest) -> list[AnswerRequest]:
    """For each prompt as many times as texts are wanted. Raises InvalidRequest."""
    asks: list[AnswerRequest] = []
    for prompt in prompts_of(body.prompt, body.parse_special is not False):
        question = _question(body, prompt.text, body.max_tokens or 16, None, 0)
        ask = AnswerRequest(
            question,
            model=body.model,
            text=prompt,
            trims=False,
            logit_bias=_biases(body),
            n_top=body.logprobs,
        )
        asks += _several(ask, body.n or 1)
    return asks


def _question(
    body: Generating, words: str, max_tokens: int | None, session_id: int | None, memory_k: int | None
) -> Question:
    return Question(
        prompt=words,
        session_id=session_id,
        memory_k=memory_k,
        temperature=body.temperature,
        max_tokens=max_tokens,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repeat_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        stop=body.stop,
        seed=body.seed,
    )


def _several(ask: AnswerRequest, n: int) -> list[AnswerRequest]:
    """The same `n` times, with seeds of their own where one is given: else all would be alike."""
    seed = ask.question.seed
    if seed is None:
        return [ask] * n
    return [replace(ask, question=ask.question.model_copy(update={"seed": (seed + i) % (2**32 - 1)})) for i in range(n)]


def _biases(body: Generating) -> tuple[tuple[int, float], ...]:
    return tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items())
