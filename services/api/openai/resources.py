"""/v1: OpenAI's API for chats, completions and models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.api.http.disconnect import disconnect_poll
from services.api.http.idempotency import idempotent
from services.api.http.schemas import replies, spec
from services.api.openai.replies import ChatCompletion, Completion, OpenAIModel, OpenAIModels
from services.api.openai.requests import ask_chat, ask_completions
from services.api.openai.schemas import ChatRequest, CompletionRequest
from services.api.openai.shapes import Shape, calls_delta, chat_logprobs, completion_logprobs, message_of, window_of
from services.errors import InvalidRequest, NotFound, PromptTooLong
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.replies.tools import CallWatch, read_calls

# The code by which OpenAI's clients know it.
TOO_LONG = "context_length_exceeded"


class ChatCompletionsResource(Resource):
    """Chats."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ChatRequest, resp=replies(ChatCompletion, 400, 404, 413, 422, 500, 503))
    @idempotent
    def post(self, json: ChatRequest) -> Any:
        """Answer a chat, by the model's own chat template.

        Beyond OpenAI's reference: `session_id` keeps the conversation on the server, so that only new messages are sent;
        `top_k`, `min_p`, `repeat_penalty` and `memory_k` are as for /answer, and the reply then says how many messages of
        the session the prompt held and left out. With `stream` true the reply is
        text/event-stream: chunks, then `data: [DONE]`; an error on the way is an event of its own, and the last.
        """
        return _reply(self._answers, ask_chat(json), _ChatWriter(json), bool(json.stream), _wants_usage(json))


class CompletionsResource(Resource):
    """Plain texts to go on with."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=CompletionRequest, resp=replies(Completion, 400, 404, 413, 422, 500, 503))
    @idempotent
    def post(self, json: CompletionRequest) -> Any:
        """Go on with a text, as it stands: no template is put around it."""
        return _reply(self._answers, ask_completions(json), _TextWriter(json), bool(json.stream), _wants_usage(json))


class OpenAIModelsResource(Resource):
    """What `model` may name."""

    def __init__(self, files: ModelFiles, profiles: Profiles) -> None:
        self._files = files
        self._profiles = profiles

    @spec.validate(resp=replies(OpenAIModels))
    def get(self) -> Any:
        """List the profiles that have their model file, the selected one first, and the files."""
        return {"object": "list", "data": [_model(name, created) for name, created in self._names().items()]}

    def _names(self) -> dict[str, int]:
        config = self._profiles.config()
        files = {file.name: file.stamp[0] // 10**9 for file in self._files.list() if file.info and not file.info.adapter}
        usable = {name: files[profile.model] for name, profile in config.profiles.items() if profile.model in files}
        first = {config.selected: usable[config.selected]} if config.selected in usable else {}
        return {name: created for name, created in {**first, **usable, **files}.items() if caller().may_use(name)}


class OpenAIModelResource(OpenAIModelsResource):
    """One of them."""

    @spec.validate(resp=replies(OpenAIModel, 404))
    def get(self, name: str) -> Any:
        """Describe one."""
        names = self._names()
        if name not in names:
            raise NotFound(f'there is no model "{name}"', param="model", code="model_not_found")
        return _model(name, names[name])


class _ChatWriter:
    """Writes one chat's answers."""

    kind, part_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatRequest) -> None:
        self.n = body.n or 1
        self._format = "response_format" if body.response_format and body.tool_choice in (None, "auto", "none") else "tools"
        self._names = [tool.function.name for tool in body.tools or ()] if body.tool_choice != "none" else []
        self._logprobs = bool(body.logprobs)

    def explain(self, error: InvalidRequest) -> None:
        """Name the field at fault, and the code, as OpenAI's clients know them."""
        if isinstance(error, PromptTooLong):
            error.code, error.param = TOO_LONG, "messages"
        elif error.param == "response_format":
            error.param = self._format

    def choice(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        text, calls = read_calls(text, self._names)
        return {
            "index": index,
            "message": message_of(text, calls),
            "logprobs": chat_logprobs(answer.choices) if self._logprobs else None,
            "finish_reason": "tool_calls" if calls else _reason(answer),
        }

    def parts(self, index: int, answer: Answer) -> Iterator[dict[str, Any] | str]:
        yield self._part(index, {"role": "assistant", "content": "", "refusal": None})
        watch = CallWatch() if self._names else None
        text, told = "", 0
        for chunk in answer.chunks():
            if not chunk:
                yield ""
                continue
            text += chunk
            shown = watch.add(chunk) if watch else chunk
            if shown:
                new, told = answer.choices[told:], len(answer.choices)
                yield self._part(index, {"content": shown}, chat_logprobs(new) if self._logprobs else None)
        _, calls = read_calls(text, self._names)
        if calls:
            yield self._part(index, calls_delta(calls))
        elif watch and watch.rest():
            yield self._part(index, {"content": watch.rest()})
        # Of tokens that have come to no text of their own, too: those of a stop string, or of a call.
        left = answer.choices[told:]
        logprobs = chat_logprobs(left) if self._logprobs and left else None
        yield self._part(index, {}, logprobs, "tool_calls" if calls else _reason(answer))

    def _part(self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class _TextWriter:
    """Writes one completion's texts."""

    kind, part_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, body: CompletionRequest) -> None:
        self.n = body.n or 1
        self._logprobs = body.logprobs is not None
        prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
        # Where it is echoed, each prompt is a text, as the schema sees to.
        self._echoed = [str(prompt) for prompt in prompts for _ in range(body.n or 1)] if body.echo else None

    def explain(self, error: InvalidRequest) -> None:
        """See `_ChatWriter.explain`."""
        if isinstance(error, PromptTooLong):
            error.code = TOO_LONG

    def choice(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        logprobs = completion_logprobs(answer.choices, 0) if self._logprobs else None
        return self._part(index, self._echo(index) + text, logprobs, _reason(answer))

    def parts(self, index: int, answer: Answer) -> Iterator[dict[str, Any] | str]:
        told = offset = 0
        if echo := self._echo(index):
            yield self._part(index, echo)
        for chunk in answer.chunks():
            if not chunk:
                yield ""
                continue
            new, told = answer.choices[told:], len(answer.choices)
            yield self._part(index, chunk, completion_logprobs(new, offset) if self._logprobs else None)
            offset += len(chunk)
        left = answer.choices[told:]
        yield self._part(index, "", completion_logprobs(left, offset) if self._logprobs and left else None, _reason(answer))

    def _echo(self, index: int) -> str:
        return self._echoed[index] if self._echoed else ""

    def _part(self, index: int, text: str, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(answer: Answer) -> str:
    """Why it ended, in OpenAI's words: what was stopped is not whole."""
    reason = answer.finish.reason
    return "length" if reason == "cancelled" else reason


def _reply(
    answers: Answers, asks: Sequence[AnswerRequest], writer: _ChatWriter | _TextWriter, streams: bool, with_usage: bool
) -> Any:
    """Open an answer for each, so that all are computed together, and write them one after the other."""
    with ExitStack() as stack:
        try:
            opened = answers.open_all(caller().id, asks, disconnect_poll())
        except InvalidRequest as error:
            writer.explain(error)
            raise
        for answer in opened:
            stack.callback(answer.close)
        shape = Shape(writer.part_kind if streams else writer.kind, writer.prefix, opened[0].model, writer.n)
        if streams:
            close = stack.pop_all().close
            return sse.stream(_events(opened, writer, shape, with_usage), close)
        choices = [writer.choice(index, answer, "".join(answer.chunks())) for index, answer in enumerate(opened)]
        return shape.whole(choices, opened)


def _events(answers: Sequence[Answer], writer: _ChatWriter | _TextWriter, shape: Shape, with_usage: bool) -> Iterator[str]:
    silences = sse.Silences()
    for index, answer in enumerate(answers):
        for part in writer.parts(index, answer):
            if isinstance(part, dict):
                window = window_of(answer) if part["finish_reason"] else {}
                yield sse.event({**shape.part(part, with_usage), **window})
            elif comment := silences.comment(answer.queue_position):
                yield comment
    if with_usage:
        yield sse.event(shape.end(answers))
    yield sse.DONE


def _wants_usage(body: ChatRequest | CompletionRequest) -> bool:
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "hearth"}
