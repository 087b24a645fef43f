"""Writers of Ollama's replies: one object, or lines of them. Durations are nanoseconds.

Source of the fields: Ollama's reference (docs/api.md) and the types of its `ollama` package.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

from typing_extensions import override

from services.answers.stream import Answer
from services.api.http import sse
from services.api.openai.shapes import chat_logprobs
from services.replies.events import ToolCall
from services.storage.json_text import parse_json

_MILLISECOND = 10**6


def now() -> str:
    """Return the time as RFC 3339 writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class OllamaWriter(sse.Shaper):
    """Writes one answer. Owned by the thread that serves its request."""

    def __init__(self, model: str, answer: Answer, n_top: int | None) -> None:
        """`model` is the name by which the client knows it; `n_top` None: logprobs are not told."""
        self.answer = answer
        self._model = model
        self._n_top = n_top
        self._n_told = 0

    def whole(self) -> dict[str, Any]:
        """Wait for the answer, and return the reply as one object. Raises as `Answer.events` does."""
        for _ in self.answer.events():
            pass
        reply = self.answer.reply
        return {**self._part(reply.content, reply.reasoning, reply.calls), **self._ending(), **self._logprobs()}

    def lines(self) -> Iterator[str]:
        """Return the lines of a stream. Raises as `Answer.events` does."""
        return sse.written([self], done="", form=sse.LINES)

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        yield {**self._part(chunk), "done": False, **self._logprobs()}

    @override
    def reasoning(self, chunk: str) -> Iterable[sse.Data]:
        yield {**self._part("", chunk), "done": False, **self._logprobs()}

    @override
    def end(self) -> Iterable[sse.Data]:
        # Ollama's clients know whole calls only.
        if calls := self.answer.reply.calls:
            yield {**self._part("", calls=calls), "done": False}
        yield {**self._part(""), **self._ending(), **self._logprobs()}

    @abstractmethod
    def content(self, text: str, thinking: str, calls: Iterable[ToolCall]) -> dict[str, Any]:
        """Return a piece of the answer in the fields of the endpoint's reply."""
        ...

    def _part(self, text: str, thinking: str = "", calls: Iterable[ToolCall] = ()) -> dict[str, Any]:
        return {"model": self._model, "created_at": now(), **self.content(text, thinking, calls)}

    def _logprobs(self) -> dict[str, Any]:
        if self._n_top is None:
            return {}
        new = self.answer.choices_from(self._n_told)
        self._n_told += len(new)
        return {"logprobs": chat_logprobs(new)["content"]} if new else {}

    def _ending(self) -> dict[str, Any]:
        finish = self.answer.finish
        spans = {
            name: round(finish.timings.get(f"{name}_ms", 0) * _MILLISECOND) for name in ("total", "prompt", "generation")
        }
        return {
            "done": True,
            # One that was stopped is not whole.
            "done_reason": "stop" if finish.reason == "stop" else "length",
            "total_duration": spans["total"],
            "load_duration": 0,
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": spans["prompt"],
            "eval_count": finish.completion_tokens,
            "eval_duration": spans["generation"],
        }


class OllamaChatWriter(OllamaWriter):
    """Writes an answer to a chat."""

    @override
    def content(self, text: str, thinking: str, calls: Iterable[ToolCall]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if called := [_called(index, call) for index, call in enumerate(calls)]:
            message["tool_calls"] = called
        return {"message": message}


class OllamaPromptWriter(OllamaWriter):
    """Writes an answer to a prompt."""

    @override
    def content(self, text: str, thinking: str, calls: Iterable[ToolCall]) -> dict[str, Any]:
        return {"response": text, **({"thinking": thinking} if thinking else {})}


def _called(index: int, call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": parse_json(call.arguments)}}
