"""Writers of Anthropic's replies: content blocks, whole or as events.

Source of the events and their order: Anthropic's reference, "Streaming messages", and the types of its `anthropic` package.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import override

from services.answers.stream import Answer
from services.api.anthropic.citations import cited_of
from services.api.anthropic.schemas import MessagesRequest
from services.api.http import sse
from services.replies.events import CallArguments, CallBegun
from services.storage.json_text import parse_json

# Clients send a thought back only with its signature. Nobody checks this one.
SIGNATURE = "aGVhcnRo"
Block = dict[str, Any]


class MessageWriter:
    """Writes the answer to one request. Owned by the thread that serves it."""

    def __init__(self, body: MessagesRequest, answer: Answer) -> None:
        self.answer = answer
        self._stops = body.stop_sequences or ()
        choice = body.tool_choice
        self.most_calls = 1 if choice and choice.disable_parallel_tool_use else None
        """The most calls of an answer; the model writes the others again when it has the first one's result."""
        # Clients that do not ask for thoughts take them for a mistake, or lose the text beside them.
        wish = body.thinking
        self.shows_thoughts = wish is not None and wish.type != "disabled" and wish.display != "omitted"

    def whole(self) -> dict[str, Any]:
        """Wait for the answer, and return the reply. Raises as `Answer.events` does."""
        shaper = _BlockShaper(self)
        blocks: list[Block] = []
        for event in self.answer.events():
            _put(blocks, sse.shaped(shaper, event))
        _put(blocks, shaper.end())
        inputs = {call.id: parse_json(call.arguments) for call in self.answer.reply.calls}
        # A call that was cut is left out: what there is of its arguments is no JSON.
        known = [block for block in blocks if block["type"] != "tool_use" or block["id"] in inputs]
        content = [{**block, "input": inputs[block["id"]]} if "input" in block else block for block in known]
        return {**self.message(content), **self.ending(), "usage": self.usage()}

    def message(self, content: list[Block]) -> dict[str, Any]:
        """Return a message with this content, before its end is known."""
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": self.answer.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def ending(self) -> dict[str, Any]:
        """Return why the answer ended."""
        finish = self.answer.finish
        # One that was stopped is not whole.
        if finish.reason != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self.answer.reply.calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if finish.stop_string in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop_string}
        return {"stop_reason": "end_turn", "stop_sequence": None}

    def usage(self) -> dict[str, Any]:
        """Return the counts of tokens; those of the prompt that were computed already are counted apart."""
        finish = self.answer.finish
        return {
            "input_tokens": finish.prompt_tokens - finish.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": finish.cached_tokens,
            "output_tokens": finish.completion_tokens,
            "output_tokens_details": {"thinking_tokens": finish.reasoning_tokens},
        }

    def events(self) -> Iterator[str]:
        """Return the events of a stream. Raises as `Answer.events` does."""
        return sse.written([_StreamShaper(self)], done="", form=sse.NAMED_EVENTS)


class _BlockShaper(sse.Shaper):
    """Shapes an answer as the events of its content blocks."""

    def __init__(self, writer: MessageWriter) -> None:
        self.answer = writer.answer
        self._writer = writer
        self._n_blocks = 0
        self._open: tuple[str, int] | None = None
        """The open block's type, and the number of its call."""
        self._blank = ""
        """White space with which a text would begin, if it goes on."""

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        if self._open != ("text", 0):
            # A line end between calls is no text: clients could not send it back.
            chunk = self._blank + chunk
            self._blank = "" if chunk.strip() else chunk
            if self._blank:
                return
            yield from self._begin("text", 0, {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": chunk})

    @override
    def reasoning(self, chunk: str) -> Iterable[sse.Data]:
        if not self._writer.shows_thoughts:
            return
        if self._open != ("thinking", 0):
            yield from self._begin("thinking", 0, {"type": "thinking", "thinking": "", "signature": ""})
        yield self._delta({"type": "thinking_delta", "thinking": chunk})

    @override
    def call(self, event: CallBegun | CallArguments) -> Iterable[sse.Data]:
        most = self._writer.most_calls
        if most is not None and event.index >= most:
            return
        if isinstance(event, CallBegun):
            block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            yield from self._begin("tool_use", event.index, block)
        elif event.text:
            yield self._delta({"type": "input_json_delta", "partial_json": event.text})

    @override
    def end(self) -> Iterable[sse.Data]:
        return self.close(is_last=True)

    def close(self, is_last: bool = False) -> Iterator[sse.Data]:
        """Yield the events that end the open block; `is_last`: the answer has ended, so that what it cites is known."""
        if self._open is None:
            return
        if is_last and self._open[0] == "text":
            yield from (self._delta({"type": "citations_delta", "citation": each}) for each in cited_of(self.answer))
        if self._open[0] == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        yield {"type": "content_block_stop", "index": self._n_blocks - 1}
        self._open = None

    def _begin(self, kind: str, number: int, block: Block) -> Iterator[sse.Data]:
        yield from self.close()
        self._open, self._blank = (kind, number), ""
        self._n_blocks += 1
        yield {"type": "content_block_start", "index": self._n_blocks - 1, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> sse.Data:
        return {"type": "content_block_delta", "index": self._n_blocks - 1, "delta": delta}


class _StreamShaper(_BlockShaper):
    """Shapes an answer as all events of a stream."""

    @override
    def begin(self) -> Iterable[sse.Data]:
        # How many of the prompt's tokens were computed already is known at the end.
        usage = {
            "input_tokens": self.answer.n_prompt,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        yield {"type": "message_start", "message": {**self._writer.message([]), "usage": usage}}
        yield {"type": "ping"}

    @override
    def end(self) -> Iterable[sse.Data]:
        yield from self.close(is_last=True)
        yield {"type": "message_delta", "delta": self._writer.ending(), "usage": self._writer.usage()}
        yield {"type": "message_stop"}


def _put(blocks: list[Block], events: Iterable[sse.Data]) -> None:
    """Add what a stream's events tell to the content of a whole reply, but for calls' arguments."""
    for data in events:
        if data["type"] == "content_block_start":
            blocks.append({**data["content_block"]})
        elif data["type"] == "content_block_delta":
            if "citation" in data["delta"]:
                blocks[-1].setdefault("citations", []).append(data["delta"]["citation"])
            for name in ("text", "thinking", "signature"):
                if name in data["delta"]:
                    blocks[-1][name] += data["delta"][name]
