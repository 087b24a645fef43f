"""Writers of OpenAI's replies: for chats and for completions, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from typing_extensions import override

from services.answers.stream import Answer
from services.api.http import sse
from services.api.openai.custom_tools import text_of
from services.api.openai.echo import Echo
from services.api.openai.offsets import Offsets
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating
from services.api.openai.shapes import (
    Shape,
    call_delta,
    chat_logprobs,
    cited_of,
    completion_logprobs,
    message_of,
    thoughts_of,
    vllm_prompt_logprobs,
    window_of,
    with_top,
)
from services.backend.types import TokenChoice
from services.replies.events import CallArguments, CallBegun
from services.storage.json_text import read_json_text


class Writer(Protocol):
    """Writes the answers to one request."""

    kind: str
    """The `object` of a whole reply; `chunk_kind` is a chunk's, and `prefix` begins their ids."""
    chunk_kind: str
    prefix: str

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return an answer that has come to its end as one of the reply's choices."""
        ...

    def beside(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return what a whole reply has beside its choices."""
        return {}

    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        """Return the shaper of a streamed answer, whose chunks have this shape."""
        ...


class ChatWriter(Writer):
    """Writes the answers to a chat."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatRequest) -> None:
        self.logprobs = body.n_top is not None
        self._n_top = body.n_top or 0
        self._n_prompt_top = body.prompt_logprobs
        self.shows_thoughts = body.shows_thoughts
        self.is_older = body.functions is not None
        """True if the client knows one call only, as `function_call`."""
        self.custom = body.custom_names
        """The names of the tools whose calls have a text instead of arguments."""
        self.most_calls = 1 if self.is_older or body.parallel_tool_calls is False else None
        """How many calls an answer may have; the model writes the others again when it has the first one's result."""

    @override
    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = message_of(answer.reply, self.shows_thoughts, self.is_older, self.most_calls, self.custom)
        return {
            "index": index,
            "message": {**message, **cited_of(answer)},
            "logprobs": chat_logprobs(with_top(answer.choices, self._n_top)) if self.logprobs else None,
            "finish_reason": self.reason(answer),
        }

    @override
    def beside(self, answers: Sequence[Answer]) -> dict[str, Any]:
        if self._n_prompt_top is None:
            return {}
        return {"prompt_logprobs": vllm_prompt_logprobs(answers[0].prompt_choices, self._n_prompt_top)}

    @override
    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        return _ChatShaper(index, answer, shape, self)

    def reason(self, answer: Answer) -> str:
        """Return why an answer ended: for calls, unless it was cut, so that a call may be missing."""
        reason = _reason(answer)
        if reason != "stop" or not answer.reply.calls:
            return reason
        return "function_call" if self.is_older else "tool_calls"


class CompletionWriter(Writer):
    """Writes the texts of a completion."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, body: CompletionRequest, echoes: Sequence[Echo] = ()) -> None:
        """`echoes` are the prompts of all answers, where they come before the texts."""
        self._logprobs = body.n_top is not None
        self._n_top = body.n_top or 0
        self._n_prompt_top = body.prompt_logprobs
        self._echoes = echoes

    @override
    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        echo = self._echo(index)
        before, text, logprobs = echo.text if echo else "", answer.reply.content, None
        if self._logprobs:
            offsets = Offsets(len(before))
            offsets.add(text)
            logprobs = completion_logprobs(with_top(answer.choices, self._n_top), offsets)
            if echo:
                told = echo.logprobs(answer, self._n_top)
                logprobs = {name: told[name] + values for name, values in logprobs.items()}
        choice = _text_choice(index, before + text, logprobs, _reason(answer))
        if self._n_prompt_top is None:
            return choice
        return {**choice, "prompt_logprobs": vllm_prompt_logprobs(answer.prompt_choices, self._n_prompt_top)}

    @override
    def shaper(self, index: int, answer: Answer, shape: Shape) -> sse.Shaper:
        return _CompletionShaper(index, answer, shape, self._echo(index), self._n_top if self._logprobs else None)

    def _echo(self, index: int) -> Echo | None:
        return self._echoes[index] if self._echoes else None


def whole_reply(writer: Writer, body: Generating, answers: Sequence[Answer]) -> dict[str, Any]:
    """Wait for all answers, and return the reply to a request that does not stream. Raises as `Answer.events` does."""
    shape = Shape(writer.kind, writer.prefix, answers[0].model, body.n_answers)
    for answer in answers:
        for _ in answer.events():
            pass
    choices = [writer.choice(index, answer) for index, answer in enumerate(answers)]
    return {**shape.whole(choices, answers), **writer.beside(answers)}


def streamed_reply(writer: Writer, body: Generating, answers: Sequence[Answer]) -> Iterator[str]:
    """Return the events of a stream that has all answers, one after the other."""
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    shape = Shape(writer.chunk_kind, writer.prefix, answers[0].model, body.n_answers, with_usage)
    shapers = [writer.shaper(index, answer, shape) for index, answer in enumerate(answers)]
    return sse.written(shapers, lambda: [shape.usage(answers)] if with_usage else [])


class _NewChoices:
    """The choices of tokens that no chunk has told yet. Owned by the thread that streams."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._n_told = 0

    def take(self) -> list[TokenChoice]:
        """Return them; they are told now."""
        new = self._answer.choices_from(self._n_told)
        self._n_told += len(new)
        return new


class _ChatShaper(sse.Shaper):
    """Shapes one answer of a chat as chunks."""

    def __init__(self, index: int, answer: Answer, shape: Shape, writer: ChatWriter) -> None:
        self.answer = answer
        self._index = index
        self._shape = shape
        self._writer = writer
        self._choices = _NewChoices(answer)
        self._custom: tuple[CallBegun, list[str]] | None = None
        """The custom tool's call that is being written, and its arguments so far."""

    @override
    def begin(self) -> Iterable[sse.Data]:
        yield self._shape.chunk(self._choice({"role": "assistant", "content": "", "refusal": None}))

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        yield from self._custom_text()
        yield self._piece({"content": chunk})

    @override
    def reasoning(self, chunk: str) -> Iterable[sse.Data]:
        if self._writer.shows_thoughts:
            yield self._piece(thoughts_of(chunk))

    @override
    def call(self, event: CallBegun | CallArguments) -> Iterable[sse.Data]:
        if self._writer.most_calls is not None and event.index >= self._writer.most_calls:
            return
        if isinstance(event, CallArguments) and self._custom:
            self._custom[1].append(event.text)
            return
        if isinstance(event, CallBegun):
            yield from self._custom_text()
            if event.name in self._writer.custom:
                self._custom = event, []
                return
        yield self._piece(call_delta(event, self._writer.is_older))

    @override
    def end(self) -> Iterable[sse.Data]:
        yield from self._custom_text()
        if cited := cited_of(self.answer):
            yield self._piece(cited)
        # Of tokens that have come to no text of their own, too: those of a stop string, or of a call's end.
        choice = self._choice({}, self._logprobs(), self._writer.reason(self.answer))
        yield {**self._shape.chunk(choice), **window_of(self.answer)}

    def _custom_text(self) -> Iterable[sse.Data]:
        """A custom tool's call, in one piece: before its arguments are whole, clients would take its text for whole."""
        custom, self._custom = self._custom, None
        if custom and read_json_text(arguments := "".join(custom[1])) is not None:
            begun = custom[0]
            called = {"name": begun.name, "input": text_of(arguments)}
            yield self._piece({"tool_calls": [{"index": begun.index, "id": begun.id, "type": "custom", "custom": called}]})

    def _piece(self, delta: dict[str, Any]) -> sse.Data:
        return self._shape.chunk(self._choice(delta, self._logprobs()))

    def _logprobs(self) -> Any:
        new = self._choices.take() if self._writer.logprobs else []
        return chat_logprobs(new) if new else None

    def _choice(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class _CompletionShaper(sse.Shaper):
    """Shapes one text of a completion as chunks."""

    def __init__(self, index: int, answer: Answer, shape: Shape, echo: Echo | None, n_top: int | None) -> None:
        """`echo` is the prompt that comes before the text; `n_top` is how many likeliest tokens are told, None: nothing."""
        self.answer = answer
        self._index = index
        self._shape = shape
        self._echo = echo
        """None once it is told."""
        self._n_top = n_top or 0
        self._choices = _NewChoices(answer) if n_top is not None else None
        self._offsets = Offsets(len(echo.text) if echo else 0)

    @override
    def begin(self) -> Iterable[sse.Data]:
        if not self._choices:
            yield from self._prompt()

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        yield from self._prompt()
        self._offsets.add(chunk)
        yield self._chunk(chunk, self._logprobs())

    @override
    def end(self) -> Iterable[sse.Data]:
        yield from self._prompt()
        yield {**self._chunk("", self._logprobs(), _reason(self.answer)), **window_of(self.answer)}

    def _prompt(self) -> Iterable[sse.Data]:
        """The chunk that has the prompt, once: how likely its tokens were is known when the text begins."""
        echo, self._echo = self._echo, None
        if echo:
            yield self._chunk(echo.text, echo.logprobs(self.answer, self._n_top) if self._choices else None)

    def _logprobs(self) -> Any:
        new = self._choices.take() if self._choices else []
        return completion_logprobs(new, self._offsets) if new else None

    def _chunk(self, text: str, logprobs: Any = None, reason: str | None = None) -> sse.Data:
        return self._shape.chunk(_text_choice(self._index, text, logprobs, reason))


def _text_choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's words: one that was stopped is not whole."""
    reason = answer.finish.reason
    return "length" if reason == "cancelled" else reason
