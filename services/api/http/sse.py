"""Replies that come as events, one writer for all APIs.

Most are server-sent events, as the HTML standard defines them: `data: …` and an empty line for each. Ollama's are lines of
JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Response

from auth.authentication import is_of_master
from services.answers.stream import Answer
from services.api.http.errors import ErrorShape, body_of, status_of, unforeseen_body, usual_shape
from services.errors import ClientDisconnected, HearthError
from services.replies.events import CallArguments, CallBegun, Content, Event, Reasoning

log = logging.getLogger(__name__)

# A comment: it shows that the server is there, and clients pass it over.
WAITING = ": waiting\n\n"
QUEUED = ": queued {}\n\n"
MIMETYPE = "text/event-stream"
CONTENT_TYPE = f"{MIMETYPE}; charset=utf-8"
DONE = "data: [DONE]\n\n"
# Seconds of silence after which a comment shows that the server is there.
_SILENCE = 10.0

# Made once: json.dumps makes another encoder for each event.
_encode = json.JSONEncoder(ensure_ascii=False).encode

Data = dict[str, Any]
"""One event's JSON object."""


@dataclass(frozen=True)
class StreamForm:
    """The form of a stream: its Content-Type, how one event is written, and whether comments may stand between events."""

    content_type: str
    write: Callable[[Data], str]
    has_comments: bool = True


def event(data: Data) -> str:
    """Return one event that carries a JSON object on one line."""
    return f"data: {_encode(data)}\n\n"


def named_event(data: Data) -> str:
    """Return the same as an event that is called as its object's `type` is."""
    return f"event: {data['type']}\n{event(data)}"


def line(data: Data) -> str:
    """Return a JSON object as a line."""
    return f"{_encode(data)}\n"


EVENTS = StreamForm(CONTENT_TYPE, event)
NAMED_EVENTS = StreamForm(CONTENT_TYPE, named_event)
LINES = StreamForm("application/x-ndjson", line, has_comments=False)
# The forms by their Content-Type; those of one type differ in how they name events.
FORMS = {form.content_type: form for form in (EVENTS, LINES)}


class Shaper(Protocol):
    """Shapes one answer as the events of a client's API. Owned by the thread that streams."""

    answer: Answer

    def begin(self) -> Iterable[Data]:
        """Return the events before the answer's first text."""
        return ()

    def queued(self, queue_position: int) -> Iterable[Data]:
        """Return the events that tell a new position in the queue, beside the comment; 0: the answer has its slot."""
        return ()

    def reading(self, n_read: int, of: int) -> Iterable[Data]:
        """Return the events that tell how much of the prompt is read, if the client wants to know; both are in tokens."""
        return ()

    def text(self, chunk: str) -> Iterable[Data]:
        """Return the events for a piece of the content."""
        ...

    def reasoning(self, chunk: str) -> Iterable[Data]:
        """Return the events for a piece of the model's thoughts; clients that know no thoughts get none."""
        return ()

    def call(self, event: CallBegun | CallArguments) -> Iterable[Data]:
        """Return the events for a tool call's beginning, or for a piece of its arguments."""
        return ()

    def end(self) -> Iterable[Data]:
        """Return the events after the answer's last text."""
        ...


@dataclass(frozen=True)
class EventStream:
    """A reply that comes as events. `close` is due at its end, however it ends, even if it never begins."""

    events: Iterable[str]
    close: Callable[[], None]
    form: StreamForm = EVENTS
    error_shape: ErrorShape = usual_shape

    def guarded(self, is_master: bool) -> Iterator[str]:
        """Yield the events; where one cannot be had, the last is a `Failure` that tells the error.

        `is_master`: they are for the master key.
        """
        try:
            yield from self.events
        except ClientDisconnected:
            return
        except HearthError as error:
            yield self._failure(status_of(error), body_of(error, is_master))
        except Exception as error:
            log.error("a stream failed", exc_info=error)
            yield self._failure(500, unforeseen_body())

    def _failure(self, status: int, body: Data) -> Failure:
        return Failure(self.form.write(self.error_shape(status, body)))


class Failure(str):
    """The event that ends a stream which failed."""


def written(
    shapers: Iterable[Shaper],
    ending: Callable[[], Iterable[Data]] = tuple,
    done: str = DONE,
    form: StreamForm = EVENTS,
) -> Iterator[str]:
    """Write the answers of `shapers`, one after the other, as events, with comments in their silences.

    The data of `ending` come after the last answer, then `done`.
    """
    write = form.write
    silences = _Silences()
    for shaper in shapers:
        yield from map(write, shaper.begin())
        for read in shaper.answer.events():
            if told := [write(data) for data in shaped(shaper, read)]:
                silences.interrupt()
                yield from told
                continue
            # There is nothing yet, or nothing that the client knows.
            queue_position = shaper.answer.queue_position
            if comment := silences.comment(queue_position):
                if form.has_comments:
                    yield comment
                yield from map(write, shaper.queued(queue_position or 0))
            if n_read := shaper.answer.n_read:
                yield from map(write, shaper.reading(n_read, shaper.answer.n_prompt))
        yield from map(write, shaper.end())
    yield from map(write, ending())
    if done:
        yield done


def shaped(shaper: Shaper, read: Event | None) -> Iterable[Data]:
    """Return the events for a piece of an answer."""
    if isinstance(read, Content):
        return shaper.text(read.text)
    if isinstance(read, Reasoning):
        return shaper.reasoning(read.text)
    return () if read is None else shaper.call(read)


class _Silences:
    """The comments for the reader of one stream while there is nothing to tell. Owned by the thread that streams."""

    def __init__(self) -> None:
        self._quiet_since: float | None = None
        self._told: int | None = None

    def interrupt(self) -> None:
        """Note that something was sent."""
        self._quiet_since = time.monotonic()

    def comment(self, queue_position: int | None) -> str:
        """Return a comment, or "", now that there is nothing to tell, and the answer has this queue position."""
        now = time.monotonic()
        if queue_position is not None and queue_position != (self._told or 0):
            self._told, self._quiet_since = queue_position, now
            return QUEUED.format(queue_position)
        # At once, so that the headers leave, and then after each silence of some seconds.
        if self._quiet_since is None or now - self._quiet_since > _SILENCE:
            self._quiet_since = now
            return WAITING
        return ""


def respond(stream: EventStream) -> Response:
    """Return a response that sends the events of a stream as they come, and an error on the way as the last event."""
    response = Response(stream.guarded(is_of_master()), content_type=stream.form.content_type)
    response.headers["Cache-Control"] = "no-cache"
    # nginx would collect the events.
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(stream.close)
    return response
