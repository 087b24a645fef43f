"""One request that is computed once: by one thread, for any number of followers."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.errors import ClientDisconnected, EngineFailure, NotFound
from services.jobs.store import JobKey, JobRequest, JobState, Reply

# Seconds that a request goes on for after its last client has hung up, which may be about to send it again.
GRACE = 30.0


class Running(Protocol):
    """A request that is being computed: its reply's head, and the parts of its body as they come."""

    status: int
    headers: Mapping[str, str]

    def parts(self) -> Iterator[bytes]:
        """Yield the body's parts."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether the reply tells of an error, after the last part."""
        ...


Poll = Callable[[], None]
"""Called at least every quarter of a second while waiting; raises to give up."""
Perform = Callable[[JobKey, JobRequest, Poll, bool], Running]
"""Begins to compute a request; the bool says whether it is computed in the background."""


@dataclass(frozen=True)
class JobStatus:
    """The state of a job. `queue_position` is 0 once it is computed; `created` and `finished` are seconds since 1970."""

    state: JobState
    queue_position: int
    created: float
    finished: float | None
    reply: Reply | None


class Job:
    """One request, computed by one thread and followed by any number.

    `_changed` protects everything: the computing thread adds, the followers wait for more.
    """

    def __init__(self, key: JobKey, request: JobRequest, background: bool, created: float) -> None:
        """`background`: nobody has to wait for it, and it is computed in its turn. `created` is in seconds since 1970."""
        self.key = key
        self.request = request
        self.created = created
        self._background = background
        self._state: JobState = "queued"
        self._changed = threading.Condition()
        self._head: tuple[int, Mapping[str, str]] | None = None
        self._parts: list[bytes] = []
        self._followers = 0
        self._left = time.monotonic()
        self._is_given_up = False

    @property
    def state(self) -> JobState:
        """The state: queued, running, done or failed."""
        return self._state

    @property
    def background(self) -> bool:
        """Whether nobody has to wait for it."""
        return self._background

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self._state in ("done", "failed")

    @property
    def is_given_up(self) -> bool:
        """Whether nobody wants it any more, so that it is not computed to the end."""
        return self._is_given_up

    def head(self, poll: Poll) -> tuple[int, Mapping[str, str]]:
        """Wait for the reply's status and headers.

        Raises NotFound where somebody has stopped it meanwhile, EngineFailure, and what `poll` raises.
        """
        with self._changed:
            while self._head is None and not self.is_over:
                self._changed.wait(0.25)
                poll()
            if self._is_given_up:
                raise NotFound("somebody has stopped this request", code="job_not_found")
            if self._head is None:
                raise EngineFailure("the request could not be computed; the log says why")
            return self._head

    def parts(self, poll: Poll) -> Iterator[bytes]:
        """Yield the reply's parts, from the first on. Raises what `poll` raises, which is called while waiting."""
        for n in itertools.count():
            with self._changed:
                while n >= len(self._parts) and not self.is_over:
                    self._changed.wait(0.25)
                    poll()
                if n >= len(self._parts):
                    return
                part = self._parts[n]
            yield part

    def follow(self) -> bool:
        """Count a follower, whose `leave` is due; False where the job is given up already."""
        with self._changed:
            if not self._is_given_up:
                self._followers += 1
            return not self._is_given_up

    def leave(self) -> None:
        """Count a follower as gone."""
        with self._changed:
            self._followers -= 1
            self._left = time.monotonic()

    def detach(self) -> None:
        """Compute it to the end though nobody follows it."""
        with self._changed:
            self._background = True

    def cancel(self) -> None:
        """Stop computing it."""
        with self._changed:
            self._is_given_up = True

    def poll(self) -> None:
        """Raise ClientDisconnected where nobody wants the reply; called while the computing thread waits."""
        with self._changed:
            if not self._background and not self._followers and time.monotonic() - self._left > GRACE:
                self._is_given_up = True
        if self._is_given_up:
            raise ClientDisconnected("nobody waits for this answer any more")

    def run(self) -> None:
        """Note that it is being computed."""
        self._state = "running"

    def requeue(self) -> None:
        """Note that it waits again."""
        self._state = "queued"

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Note the reply's head."""
        with self._changed:
            self._head = (status, headers)
            self._changed.notify_all()

    def add(self, part: bytes) -> None:
        """Add the reply's next part."""
        with self._changed:
            self._parts.append(part)
            self._changed.notify_all()

    def take(self, reply: Reply) -> None:
        """Take over a reply that was computed elsewhere."""
        self.begin(reply.status, {"Content-Type": reply.content_type})
        self.add(reply.body)
        self.end("done")

    def end(self, state: JobState) -> None:
        """Note that nothing more comes."""
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def reply(self) -> Reply | None:
        """Return the whole reply, once it is over."""
        if not self.is_over:
            return None
        status, headers = self._head or (500, {})
        return Reply(status, headers.get("Content-Type", "text/plain"), b"".join(self._parts))
