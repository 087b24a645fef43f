"""Writers of responses: whole, or as the events of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from typing_extensions import override

from services.answers.grounding import Given
from services.answers.stream import Answer
from services.api.http import sse
from services.api.openai.custom_tools import text_of
from services.api.openai.responses.items import sealed
from services.api.openai.responses.requests import item_id
from services.api.openai.responses.schemas import CreateResponse
from services.api.openai.responses.shapes import Json, failed, usage_of
from services.api.openai.shapes import chat_logprobs
from services.documents.library import Passage
from services.errors import HearthError
from services.replies.events import CallArguments, CallBegun
from services.storage.json_text import read_json_text

FILE_SEARCH_CALL = "file_search_call"


class ResponseWriter:
    """Writes the answer to one request. Owned by the thread that serves it."""

    def __init__(
        self, body: CreateResponse, frame: Json, answer: Answer, words: str, store: Callable[[Json, Answer], None]
    ) -> None:
        """`frame` is the response without its output; `store` is called with the whole one before the client has it.

        `words` are the person's last ones.
        """
        self.answer = answer
        self.frame = frame
        self._store = store
        self.most_calls = 1 if body.parallel_tool_calls is False else None
        """The most calls of an answer; the model writes the others again when it has the first one's result."""
        self.custom = {str(tool.name) for tool in body.own_tools if tool.type == "custom"}
        self.has_logprobs = body.n_top is not None
        self.as_summary = bool(body.reasoning and body.reasoning.summary)
        self.searches = bool(body.collections)
        self.words = words
        """The person's words, for which collections are searched."""
        self.tells_passages = "file_search_call.results" in (body.include or ())
        self.seals = "reasoning.encrypted_content" in (body.include or ())

    def whole(self) -> Json:
        """Wait for the answer, and return the response. Raises as `Answer.events` does."""
        shaper = _ResponseShaper(self)
        for _ in shaper.begin():
            pass
        for event in self.answer.events():
            for _ in sse.shaped(shaper, event):
                pass
        *_, last = shaper.end()
        response: Json = last["response"]
        return response

    def events(self) -> sse.EventStream:
        """Return the events of a stream, which closes the answer."""
        shaper = _ResponseShaper(self)
        written = sse.written([shaper], done="", form=sse.NAMED_EVENTS)
        return sse.EventStream(written, self.answer.close, sse.NAMED_EVENTS, shaper.failure)

    def failed(self, status: int, error: Json) -> Json:
        """Return the response that failed, given an error's HTTP status and its usual body, and store it."""
        response = failed(self.frame, status, error)
        with suppress(HearthError):
            self._store(response, self.answer)
        return response

    def ended(self, output: list[Json]) -> Json:
        """Return the whole response, once the answer has ended, and store it. Raises StorageFailed."""
        finish = self.answer.finish
        is_whole = finish.reason == "stop"
        response = {
            **self.frame,
            "completed_at": int(time.time()),
            "status": "completed" if is_whole else "incomplete",
            # One that was stopped is not whole.
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": output,
            "usage": usage_of(finish),
        }
        self._store(response, self.answer)
        return response


class _ResponseShaper(sse.Shaper):
    """Shapes an answer as a response's events, and collects its items."""

    def __init__(self, writer: ResponseWriter) -> None:
        self.answer = writer.answer
        self._writer = writer
        self._n_events = 0
        self._output: list[Json] = []
        self._open: _OpenItem | None = None
        self._n_choices = 0
        self.n_begun = 0
        """The number of items that were begun."""
        self._blank = ""
        """White space with which a text would begin, if it goes on."""

    @override
    def begin(self) -> Iterable[sse.Data]:
        yield self.event("response.created", response=self._writer.frame)
        yield self.event("response.in_progress", response=self._writer.frame)
        yield from self._search()

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        if not isinstance(self._open, _Message):
            # A line end between calls is no text.
            chunk = self._blank + chunk
            self._blank = "" if chunk.strip() else chunk
            if self._blank:
                return
            yield from self._begin(_Message(self, "msg"))
        assert isinstance(self._open, _Message)
        yield from self._open.add(chunk, self._logprobs(chunk))

    @override
    def reasoning(self, chunk: str) -> Iterable[sse.Data]:
        self._n_choices = self.answer.n_choices
        if not isinstance(self._open, _Reasoning):
            yield from self._begin(_Reasoning(self, "rs", self._writer.as_summary, self._writer.seals))
        assert isinstance(self._open, _Reasoning)
        yield from self._open.add(chunk)

    @override
    def call(self, event: CallBegun | CallArguments) -> Iterable[sse.Data]:
        most = self._writer.most_calls
        self._n_choices = self.answer.n_choices
        if most is not None and event.index >= most:
            return
        if isinstance(event, CallBegun):
            kind = _CustomCall if event.name in self._writer.custom else _FunctionCall
            yield from self._begin(kind(self, event))
        elif isinstance(self._open, _FunctionCall):
            yield from self._open.add(event.text)

    @override
    def end(self) -> Iterable[sse.Data]:
        if not any(item["type"] != FILE_SEARCH_CALL for item in self._output) and self._open is None:
            # As clients expect: a message, if an empty one.
            yield from self._begin(_Message(self, "msg"))
        reply = self.answer.reply
        is_cut = self.answer.finish.reason != "stop"
        if isinstance(self._open, _FunctionCall):
            is_cut = self._open.call_id not in {call.id for call in reply.calls}
        yield from self._close(is_cut)
        response = self._writer.ended(self._output)
        yield self.event(f"response.{response['status']}", response=response)

    def event(self, kind: str, **fields: Any) -> sse.Data:
        """Return the next event."""
        number, self._n_events = self._n_events, self._n_events + 1
        return {"type": kind, "sequence_number": number, **fields}

    def failure(self, status: int, error: Json) -> Json:
        """Return the event that ends a stream which failed."""
        return self.event("response.failed", response=self._writer.failed(status, error))

    def annotations(self, text: str) -> list[Json]:
        """Return the marks in a message's text that cite passages; [] where nothing was searched."""
        given = self.answer.given
        files = [(mark, given.passages[mark.number - 1].file) for mark in given.marks(text)] if given else []
        return [
            {"type": "file_citation", "file_id": file.id, "filename": file.name, "index": mark.start}
            for mark, file in files
        ]

    @property
    def response_id(self) -> str:
        """The response's id."""
        return str(self._writer.frame["id"])

    def _search(self) -> Iterator[sse.Data]:
        """The events of the search in collections, whose passages are in the prompt by now."""
        if self.answer.given and self._writer.searches:
            yield from self._begin(_FileSearch(self, self._writer.words, self.answer.given, self._writer.tells_passages))
            yield from self._close()

    def _begin(self, item: _OpenItem) -> Iterator[sse.Data]:
        yield from self._close()
        self._open, self._blank = item, ""
        self.n_begun += 1
        yield from item.begin()

    def _close(self, is_cut: bool = False) -> Iterator[sse.Data]:
        if self._open is None:
            return
        yield from self._open.end(is_cut)
        # A call that was cut is left out: clients would run it.
        if not (isinstance(self._open, _FunctionCall) and self._open.is_cut):
            self._output.append(self._open.item)
        self._open = None

    def _logprobs(self, chunk: str) -> list[Json]:
        """The choices of the tokens that are new; those of thoughts and calls are not told."""
        if not self._writer.has_logprobs:
            return []
        new = self.answer.choices_from(self._n_choices)
        self._n_choices += len(new)
        if isinstance(self._open, _Message) and self._open.is_fresh:
            # The marks that end a thought, or a call, come with the first text behind it.
            wanted = chunk.strip().encode()
            while wanted and wanted in b"".join(choice.piece for choice in new[1:]):
                new = new[1:]
        content: list[Json] = chat_logprobs(new)["content"]
        return content


class _OpenItem:
    """An item of the output that is being written."""

    def __init__(self, shaper: _ResponseShaper, prefix: str) -> None:
        self._shaper = shaper
        self._index = shaper.n_begun
        self.id = item_id(prefix, shaper.response_id, self._index)
        self.item: Json = {}
        """The item as far as it has come."""

    def begin(self) -> Iterator[sse.Data]:
        """Yield the events that begin it."""
        yield self._event("output_item.added", item={**self.item})

    def end(self, is_cut: bool) -> Iterator[sse.Data]:
        """Yield the events that end it; `is_cut`: the reply ended within it."""
        self.item["status"] = "incomplete" if is_cut else "completed"
        yield self._event("output_item.done", item=self.item)

    def _event(self, kind: str, **fields: Any) -> sse.Data:
        return self._shaper.event(f"response.{kind}", output_index=self._index, **fields)

    def _part_event(self, kind: str, **fields: Any) -> sse.Data:
        return self._event(kind, item_id=self.id, content_index=0, **fields)


class _FileSearch(_OpenItem):
    """A search in collections."""

    def __init__(self, shaper: _ResponseShaper, words: str, given: Given, tells: bool) -> None:
        """`words` are what was searched for; `tells`: the item has the passages that were found."""
        super().__init__(shaper, "fs")
        self._results = [_result(given.passages[n - 1]) for n in given.likely] if tells else None
        self.item = {"id": self.id, "type": FILE_SEARCH_CALL, "status": "in_progress", "queries": [words], "results": None}

    @override
    def begin(self) -> Iterator[sse.Data]:
        yield from super().begin()
        for state in ("in_progress", "searching", "completed"):
            yield self._event(f"{FILE_SEARCH_CALL}.{state}", item_id=self.id)

    @override
    def end(self, is_cut: bool) -> Iterator[sse.Data]:
        self.item["results"] = self._results
        yield from super().end(is_cut)


def _result(passage: Passage) -> Json:
    file = passage.file
    return {
        "file_id": file.id,
        "filename": file.name,
        "score": round(passage.score, 4),
        "text": passage.text,
        "attributes": {},
    }


class _Message(_OpenItem):
    """A message, which has one part of text."""

    def __init__(self, shaper: _ResponseShaper, prefix: str) -> None:
        super().__init__(shaper, prefix)
        self._texts: list[str] = []
        self._logprobs: list[Json] = []
        self._annotations: list[Json] = []
        self.item = {"id": self.id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}

    @override
    def begin(self) -> Iterator[sse.Data]:
        yield from super().begin()
        yield self._part_event("content_part.added", part=self._part())

    @property
    def is_fresh(self) -> bool:
        """True if it has no text yet."""
        return not self._texts

    def add(self, text: str, logprobs: list[Json]) -> Iterator[sse.Data]:
        """Yield the events for a piece of its text."""
        self._texts.append(text)
        self._logprobs += logprobs
        yield self._part_event("output_text.delta", delta=text, logprobs=logprobs)

    @override
    def end(self, is_cut: bool) -> Iterator[sse.Data]:
        self._annotations = self._shaper.annotations("".join(self._texts))
        for n, annotation in enumerate(self._annotations):
            yield self._part_event("output_text.annotation.added", annotation_index=n, annotation=annotation)
        part = self._part()
        yield self._part_event("output_text.done", text=part["text"], logprobs=self._logprobs)
        yield self._part_event("content_part.done", part=part)
        self.item["content"] = [part]
        yield from super().end(is_cut)

    def _part(self) -> Json:
        text = "".join(self._texts)
        return {"type": "output_text", "annotations": self._annotations, "logprobs": self._logprobs, "text": text}


class _Reasoning(_OpenItem):
    """Thoughts, as a summary or as they are."""

    def __init__(self, shaper: _ResponseShaper, prefix: str, as_summary: bool, seals: bool) -> None:
        super().__init__(shaper, prefix)
        self._as_summary = as_summary
        self._seals = seals
        self._texts: list[str] = []
        self.item = {"id": self.id, "type": "reasoning", "summary": [], "status": "in_progress"}

    @override
    def begin(self) -> Iterator[sse.Data]:
        yield from super().begin()
        yield self._told("part.added", part=self._part())

    def add(self, text: str) -> Iterator[sse.Data]:
        """Yield the events for a piece of it."""
        self._texts.append(text)
        yield self._told("text.delta", delta=text)

    @override
    def end(self, is_cut: bool) -> Iterator[sse.Data]:
        part = self._part()
        yield self._told("text.done", text=part["text"])
        yield self._told("part.done", part=part)
        self.item["summary" if self._as_summary else "content"] = [part]
        if self._seals:
            self.item["encrypted_content"] = sealed(part["text"])
        yield from super().end(is_cut)

    def _part(self) -> Json:
        return {"type": "summary_text" if self._as_summary else "reasoning_text", "text": "".join(self._texts)}

    def _told(self, kind: str, **fields: Any) -> sse.Data:
        if self._as_summary:
            return self._event(f"reasoning_summary_{kind}", item_id=self.id, summary_index=0, **fields)
        prefix = "content" if kind.startswith("part") else "reasoning"
        return self._part_event(f"{prefix}_{kind}", **fields)


class _FunctionCall(_OpenItem):
    """A call of a function."""

    kind, prefix, field = "function_call", "fc", "arguments"

    def __init__(self, shaper: _ResponseShaper, begun: CallBegun) -> None:
        super().__init__(shaper, self.prefix)
        self.call_id = begun.id
        self.is_cut = False
        self._texts: list[str] = []
        call = {"call_id": begun.id, "name": begun.name, self.field: ""}
        self.item = {"id": self.id, "type": self.kind, "status": "in_progress", **call}

    def add(self, text: str) -> Iterator[sse.Data]:
        """Yield the events for a piece of its arguments."""
        self._texts.append(text)
        if text:
            yield self._event("function_call_arguments.delta", item_id=self.id, delta=text)

    @override
    def end(self, is_cut: bool) -> Iterator[sse.Data]:
        self.is_cut = is_cut or read_json_text("".join(self._texts)) is None
        if not self.is_cut:
            yield from self._whole("".join(self._texts))
        yield from super().end(self.is_cut)

    def _whole(self, arguments: str) -> Iterator[sse.Data]:
        self.item["arguments"] = arguments
        yield self._event("function_call_arguments.done", item_id=self.id, name=self.item["name"], arguments=arguments)


class _CustomCall(_FunctionCall):
    """A call of a custom tool, whose text is known when its arguments are whole."""

    kind, prefix, field = "custom_tool_call", "ctc", "input"

    @override
    def add(self, text: str) -> Iterator[sse.Data]:
        self._texts.append(text)
        yield from ()

    @override
    def _whole(self, arguments: str) -> Iterator[sse.Data]:
        text = text_of(arguments)
        self.item["input"] = text
        yield self._event("custom_tool_call_input.delta", item_id=self.id, delta=text)
        yield self._event("custom_tool_call_input.done", item_id=self.id, input=text)
