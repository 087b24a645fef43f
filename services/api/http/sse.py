"""Server-sent events, as the HTML standard defines them: `data: …` and an empty line for each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask import Response

from services.api.http.errors import body_of, unforeseen_body
from services.errors import ClientDisconnected, HearthError

log = logging.getLogger(__name__)

# A comment: it shows that the server is there, and clients pass it over.
WAITING = ": waiting\n\n"
QUEUED = ": queued {}\n\n"
MIMETYPE = "text/event-stream"
DONE = "data: [DONE]\n\n"


def event(data: dict[str, Any]) -> str:
    """One event that carries a JSON object on one line."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class Failure(str):
    """The event that ends a stream which failed."""


class Silences:
    """What to tell the reader of one stream while there is no text. Owned by the thread that streams."""

    def __init__(self) -> None:
        self._count = 0
        self._told: int | None = None

    def comment(self, queue_position: int | None) -> str:
        """A comment, or "", for a quarter of a second without text; `queue_position` is which in line the answer is."""
        count, self._count = self._count, self._count + 1
        if queue_position is not None and queue_position != (self._told or 0):
            self._told = queue_position
            return QUEUED.format(queue_position)
        # At once, so that the headers leave, and then every ten seconds.
        return WAITING if count % 40 == 0 else ""


def stream(events: Iterable[str] | Iterable[bytes], close: Callable[[], None]) -> Response:
    """A response that sends events as they come; where one cannot be had, one that tells the error is the last.

    `close` is called at its end, however it ends, even if never begun.
    """
    response = Response(_guarded(events), mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-cache"
    # nginx would collect the events.
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(close)
    return response


def _guarded(events: Iterable[str] | Iterable[bytes]) -> Iterator[Any]:
    try:
        yield from events
    except ClientDisconnected:
        return
    except HearthError as error:
        yield Failure(event(body_of(error)))
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield Failure(event(unforeseen_body()))
