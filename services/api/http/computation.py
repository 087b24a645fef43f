"""Endpoints that can be computed later: plain functions, which their resources and the runner of jobs call alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from typing_extensions import override

from auth.access import Access
from auth.authentication import check_scope
from auth.identity import MASTER, Identity
from auth.keys import KeyStore
from services.answers.admission import Poll, Slot
from services.answers.client import Client
from services.api.http.errors import ErrorShape, body_of, status_of, unforeseen_body, usual_shape
from services.api.http.schemas import validated
from services.api.http.sse import EventStream, Failure
from services.errors import HearthError, NotAuthenticated, NotFound, Unavailable
from services.jobs.job import Running
from services.jobs.store import JobKey, JobRequest
from services.sessions.table import RequestName
from services.storage.json_text import parse_json

log = logging.getLogger(__name__)

Whole = Mapping[str, Any] | Sequence[Any]
Reply = Whole | EventStream
"""A whole reply's JSON, or a reply that comes as events."""
Compute = Callable[[Any, Client], Reply]
"""Computes the reply to a body that has been checked. It may raise HearthError."""


@dataclass(frozen=True)
class Computation:
    """An endpoint whose POSTs are computed by a function.

    Its path, its access, the model of its body, the function, and the shape of its errors.
    """

    path: str
    access: Access
    body: type[BaseModel]
    compute: Compute
    error_shape: ErrorShape = usual_shape


class JobRunner:
    """Computes jobs by the functions of their endpoints, for the keys that sent them. Any thread may call it."""

    def __init__(self, computations: Iterable[Computation], keys: KeyStore, account: Callable[[Identity], str]) -> None:
        """`account` returns the account of an identity, as `Meter.account` does."""
        self._computations = {each.path: each for each in computations}
        self._keys = keys
        self._account = account

    def __call__(self, key: JobKey, asked: JobRequest, poll: Poll, background: bool) -> Running:
        """Begin to compute a job, as `Perform`. An error becomes the reply that tells it."""
        computation = self._computations.get(asked.path)
        shape = computation.error_shape if computation else usual_shape
        is_master = key.owner == MASTER
        try:
            reply = self._compute(computation, key, asked, poll, background)
            if isinstance(reply, EventStream):
                return _RunningJob(200, {"Content-Type": reply.form.content_type}, reply.guarded(is_master), reply.close)
            return _whole(200, reply)
        except HearthError as error:
            status = status_of(error)
            if status >= 500 and not isinstance(error, Unavailable):
                log.error("POST %s: %s", asked.path, error.message)
            retry_after = error.retry_after if isinstance(error, Unavailable) else None
            return _whole(status, shape(status, body_of(error, is_master)), retry_after)
        except Exception as error:
            log.error("POST %s failed", asked.path, exc_info=error)
            return _whole(500, shape(500, unforeseen_body()))

    def _compute(
        self, computation: Computation | None, key: JobKey, asked: JobRequest, poll: Poll, background: bool
    ) -> Reply:
        identity = self._keys.identity(key.owner)
        if identity is None:
            raise NotAuthenticated("the key that sent this job has been revoked")
        if computation is None:
            # It was stored by a server of another version.
            raise NotFound(f"there is nothing at {asked.path}")
        check_scope(identity, computation.access)
        # A client that follows the job holds a slot of its own; a job in the background takes none.
        slot = Slot(self._account(identity))
        client = Client(identity, poll, slot, background, RequestName(key.id, asked.digest))
        return computation.compute(validated(computation.body, parse_json(asked.body.decode())), client)


def _whole(status: int, body: Whole, retry_after: int | None = None) -> Running:
    """Return a reply of one part, written as Flask writes the resources' replies."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    headers = {"Content-Type": "application/json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return _RunningJob(status, headers, iter([f"{text}\n"]), lambda: None)


class _RunningJob(Running):
    def __init__(self, status: int, headers: Mapping[str, str], parts: Iterator[str], close: Callable[[], None]) -> None:
        self.status = status
        self.headers = headers
        self._parts = parts
        self._close = close
        self._has_failed = False

    @property
    @override
    def has_failed(self) -> bool:
        return self._has_failed

    @override
    def parts(self) -> Iterator[bytes]:
        try:
            for part in self._parts:
                self._has_failed = isinstance(part, Failure)
                yield part.encode()
        finally:
            self._close()
