"""The progress of an upload as events, while a thread works on it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from services.api.http import sse
from services.documents.uploads import Poll, Progress
from services.errors import ClientDisconnected

# Seconds of silence after which a comment shows that the server is there.
_SILENCE = 10.0


class UploadEvents:
    """The events of one upload. Owned by the thread that streams them; the work runs on a thread of its own."""

    def __init__(self, work: Callable[[Progress, Poll], dict[str, Any]]) -> None:
        """`work` is called with what to tell its progress to, and with what to call meanwhile; it returns the reply."""
        self._work = work
        self._events: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def first(self) -> dict[str, Any]:
        """Begin the work, and return its first event. Raises what the work raises before that."""
        self._thread.start()
        event = self._next()
        assert event
        return event

    def written(self, first: dict[str, Any]) -> Iterator[str]:
        """Yield all events. Raises what the work raises."""
        event: dict[str, Any] | None = first
        while event is None or "id" not in event:
            yield sse.WAITING if event is None else sse.event(event)
            event = self._next(_SILENCE)
        yield sse.event(event)
        yield sse.DONE

    def close(self) -> None:
        """End the work where it is, and wait for that."""
        self._is_closed.set()
        self._thread.join()

    def _next(self, seconds: float | None = None) -> dict[str, Any] | None:
        """Return the next event; None after so many seconds without one."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def _run(self) -> None:
        def progress(state: str, done: int, of: int) -> None:
            self._events.put({"state": state, "done": done, "of": of})

        def poll() -> None:
            if self._is_closed.is_set():
                raise ClientDisconnected("the client hung up")

        try:
            self._events.put(self._work(progress, poll))
        except BaseException as error:
            self._events.put(error)
