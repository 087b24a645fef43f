"""Writers of OpenAI's replies: for chats and for completions, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from typing_extensions import override

from services.answers.stream import Answer
from services.api.http import sse
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating
from services.api.openai.shapes import (
    Shape,
    calls_delta,
    chat_logprobs,
    completion_logprobs,
    message_of,
    window_of,
)
from services.replies.tools import CallWatch, read_calls


class Writer(Protocol):
    """Writes the answers to one request."""

    kind: str
    """The `object` of a whole reply; `chunk_kind` is a chunk's, and `prefix` begins their ids."""
    chunk_kind: str
    prefix: str

    def choice(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        """Return a whole answer, of which `text` is the text, as one of the reply's choices."""
        ...

    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        """Return the shaper of a streamed answer, whose chunks have this shape."""
        ...


class ChatWriter(Writer):
    """Writes the answers to a chat."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatRequest) -> None:
        self._names = [tool.function.name for tool in body.tools or ()] if body.tool_choice != "none" else []
        self._logprobs = bool(body.logprobs)

    @override
    def choice(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        text, calls = read_calls(text, self._names)
        return {
            "index": index,
            "message": message_of(text, calls),
            "logprobs": chat_logprobs(answer.choices) if self._logprobs else None,
            "finish_reason": "tool_calls" if calls else _reason(answer),
        }

    @override
    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        return _ChatShaper(index, answer, shape, self._names, self._logprobs)


class CompletionWriter(Writer):
    """Writes the texts of a completion."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, body: CompletionRequest) -> None:
        self._logprobs = body.logprobs is not None
        prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
        # Where it is echoed, each prompt is a text, as the schema sees to.
        self._echoed = [str(prompt) for prompt in prompts for _ in range(body.n or 1)] if body.echo else None

    @override
    def choice(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        logprobs = completion_logprobs(answer.choices, 0) if self._logprobs else None
        return _text_choice(index, self._echo(index) + text, logprobs, _reason(answer))

    @override
    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        return _CompletionShaper(index, answer, shape, self._echo(index), self._logprobs)

    def _echo(self, index: int) -> str:
        return self._echoed[index] if self._echoed else ""


def whole_reply(writer: Writer, body: Generating, answers: Sequence[Answer]) -> dict[str, Any]:
    """Wait for all answers, and return the reply to a request that does not stream. Raises as `Answer.chunks` does."""
    shape = Shape(writer.kind, writer.prefix, answers[0].model, body.n or 1)
    choices = [writer.choice(index, answer, "".join(answer.chunks())) for index, answer in enumerate(answers)]
    return shape.whole(choices, answers)


def streamed_reply(writer: Writer, body: Generating, answers: Sequence[Answer]) -> Iterator[str]:
    """Return the events of a stream that has all answers, one after the other."""
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    shape = Shape(writer.chunk_kind, writer.prefix, answers[0].model, body.n or 1, with_usage)
    shapers = [writer.shaper(index, answer, shape) for index, answer in enumerate(answers)]
    return sse.written(shapers, lambda: [shape.usage(answers)] if with_usage else [])


class _ChatShaper(sse.Shaper):
    """Shapes one answer of a chat as chunks."""

    def __init__(self, index: int, answer: Answer, shape: Shape, names: Sequence[str], logprobs: bool) -> None:
        """`names` are those of the tools that the model may call."""
        self.answer = answer
        self._index = index
        self._shape = shape
        self._names = names
        self._logprobs = logprobs
        self._watch = CallWatch() if names else None
        self._text = ""
        self._n_told = 0
        """How many tokens' logprobs have been sent."""

    @override
    def begin(self) -> Iterable[sse.Data]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        self._text += chunk
        shown = self._watch.add(chunk) if self._watch else chunk
        if shown:
            new, self._n_told = self.answer.choices[self._n_told :], len(self.answer.choices)
            yield self._chunk({"content": shown}, chat_logprobs(new) if self._logprobs else None)

    @override
    def end(self) -> Iterable[sse.Data]:
        _, calls = read_calls(self._text, self._names)
        if calls:
            yield self._chunk(calls_delta(calls))
        elif self._watch and self._watch.rest():
            yield self._chunk({"content": self._watch.rest()})
        # Of tokens that have come to no text of their own, too: those of a stop string, or of a call.
        left = self.answer.choices[self._n_told :]
        logprobs = chat_logprobs(left) if self._logprobs and left else None
        reason = "tool_calls" if calls else _reason(self.answer)
        yield {**self._chunk({}, logprobs, reason), **window_of(self.answer)}

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> sse.Data:
        return self._shape.chunk({"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})


class _CompletionShaper(sse.Shaper):
    """Shapes one text of a completion as chunks."""

    def __init__(self, index: int, answer: Answer, shape: Shape, echo: str, logprobs: bool) -> None:
        """`echo` is the prompt that comes before the text; "": none does."""
        self.answer = answer
        self._index = index
        self._shape = shape
        self._echo = echo
        self._logprobs = logprobs
        self._n_told = 0
        """How many tokens' logprobs have been sent."""
        self._offset = 0
        """How many characters of text have been sent."""

    @override
    def begin(self) -> Iterable[sse.Data]:
        if self._echo:
            yield self._chunk(self._echo)

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        new, self._n_told = self.answer.choices[self._n_told :], len(self.answer.choices)
        yield self._chunk(chunk, completion_logprobs(new, self._offset) if self._logprobs else None)
        self._offset += len(chunk)

    @override
    def end(self) -> Iterable[sse.Data]:
        left = self.answer.choices[self._n_told :]
        logprobs = completion_logprobs(left, self._offset) if self._logprobs and left else None
        yield {**self._chunk("", logprobs, _reason(self.answer)), **window_of(self.answer)}

    def _chunk(self, text: str, logprobs: Any = None, reason: str | None = None) -> sse.Data:
        return self._shape.chunk(_text_choice(self._index, text, logprobs, reason))


def _text_choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's words: one that was stopped is not whole."""
    reason = answer.finish.reason
    return "length" if reason == "cancelled" else reason
