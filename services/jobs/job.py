"""One request that is computed once: by one thread, for any number of followers."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.answers.admission import Poll
from services.errors import ClientDisconnected, EngineFailure, NotFound
from services.jobs.store import JobKey, JobRequest, JobState, Reply

# Seconds that a request goes on for after its last caller has hung up, who may be about to send it again.
GRACE = 30.0


class Running(Protocol):
    """A request that is being computed: its reply's head, and the pieces of its body as they come."""

    status: int
    headers: Mapping[str, str]

    def parts(self) -> Iterator[bytes]:
        """The body's pieces."""
        ...

    @property
    def failed(self) -> bool:
        """After the last piece: whether the reply tells of an error."""
        ...


# Computes a request; the bool says whether nobody waits for it.
Perform = Callable[[JobKey, JobRequest, Poll, bool], Running]


@dataclass(frozen=True)
class JobStatus:
    """How a job is getting on. `queue_position` is which in line it is, 0 once it is computed."""

    state: JobState
    queue_position: int
    created: float
    finished: float | None
    reply: Reply | None


class Job:
    """One request, computed by one thread and followed by any number.

    `_changed` protects everything: the computing thread adds, the followers wait for more.
    """

    def __init__(self, key: JobKey, request: JobRequest, waits: bool, created: float) -> None:
        self.key = key
        self.request = request
        self.waits = waits
        """Whether it is computed in its turn, with nobody waiting for it."""
        self.created = created
        self.state: JobState = "queued"
        self._changed = threading.Condition()
        self._head: tuple[int, Mapping[str, str]] | None = None
        self._parts: list[bytes] = []
        self._followers = 0
        self._left = time.monotonic()
        self.is_given_up = False
        """Whether nobody wants it any more, so that it is not computed to the end."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("done", "failed")

    def head(self, poll: Poll) -> tuple[int, Mapping[str, str]]:
        """The reply's status and headers, once they are known.

        Raises NotFound where somebody has stopped it meanwhile, EngineFailure, and what `poll` raises.
        """
        with self._changed:
            while self._head is None and not self.is_over:
                self._changed.wait(0.25)
                poll()
            if self.is_given_up:
                raise NotFound("somebody has stopped this request", code="job_not_found")
            if self._head is None:
                raise EngineFailure("the request could not be computed; the log says why")
            return self._head

    def parts(self, poll: Poll) -> Iterator[bytes]:
        """The reply's pieces, from the first on. Raises what `poll` raises, which is called while waiting."""
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
        """Say that somebody waits for it; False where it is given up already."""
        with self._changed:
            if not self.is_given_up:
                self._followers += 1
            return not self.is_given_up

    def leave(self) -> None:
        """Say that one who waited no longer does."""
        with self._changed:
            self._followers -= 1
            self._left = time.monotonic()

    def cancel(self) -> None:
        """Stop computing it."""
        with self._changed:
            self.is_given_up = True

    def poll(self) -> None:
        """What the computing thread calls while it waits. Raises ClientDisconnected where nobody wants the answer."""
        with self._changed:
            if not self.waits and not self._followers and time.monotonic() - self._left > GRACE:
                self.is_given_up = True
        if self.is_given_up:
            raise ClientDisconnected("nobody waits for this answer any more")

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The reply's head is known."""
        with self._changed:
            self._head = (status, headers)
            self._changed.notify_all()

    def add(self, part: bytes) -> None:
        """The reply's next piece."""
        with self._changed:
            self._parts.append(part)
            self._changed.notify_all()

    def take(self, reply: Reply) -> None:
        """What came of it elsewhere is what comes of it here."""
        self.begin(reply.status, {"Content-Type": reply.content_type})
        self.add(reply.body)
        self.end("done")

    def end(self, state: JobState) -> None:
        """Nothing more comes."""
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def reply(self) -> Reply | None:
        """The whole reply, once it is over."""
        if not self.is_over:
            return None
        status, headers = self._head or (500, {})
        return Reply(status, headers.get("Content-Type", "text/plain"), b"".join(self._parts))
