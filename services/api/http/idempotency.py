"""Idempotency: requests that are computed once, however often sent, by their Idempotency-Key or job_id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from flask import Response, request
from pydantic import BaseModel

from services.answers.deadline import Deadline
from services.answers.service import Answers
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.computation import Computation
from services.api.http.schemas import read_json
from services.errors import InvalidRequest
from services.jobs.job import Job
from services.jobs.jobs import Jobs
from services.jobs.store import JobKey, JobRequest, Reply

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
MAX_NAME = 256
"""Characters that an Idempotency-Key may have."""

Respond = Callable[[Any], Any]
"""Returns the reply to a body that has been checked, as a resource's method returns it."""


class Idempotency:
    """Replies to the requests of endpoints that can be computed later. Any thread may call it."""

    def __init__(self, jobs: Jobs, answers: Answers) -> None:
        self._jobs = jobs
        self._answers = answers

    def respond_by(self, computation: Computation) -> Respond:
        """Return the function by which the endpoint's resource replies."""
        return partial(self._respond, computation)

    def _respond(self, computation: Computation, body: BaseModel) -> Any:
        """Reply to the request that is being served: at once, or by the job of its name.

        The thread is held meanwhile, as by any answer; the thread that computes a job is none of the server's.
        """
        client, name = current_client(), request_name(body)
        # A guest has no name to keep a job by.
        if not name or client.identity.is_guest:
            reply = computation.compute(body, client)
            return sse.respond(reply) if isinstance(reply, sse.EventStream) else reply
        key = JobKey(client.identity.id, name)
        asked = current_job(computation.path, body, computation.access.key_in_body)
        with ExitStack() as stack:
            # First of all: a request that is refused is not computed either.
            deadline = stack.enter_context(self._answers.admit(client))
            return _follow(self._jobs.follow(key, asked), deadline, stack)


def current_job(path: str, checked: BaseModel, key_in_body: bool = False) -> JobRequest:
    """Return the request that is being served, whose body is `checked`, as a job for `path`.

    Bodies that say the same have one digest. `key_in_body`: the body's `token` is left out.
    """
    asked = read_json(request)
    if isinstance(asked, dict) and key_in_body:
        # Keys are kept as hashes only.
        asked.pop("token", None)
    body = json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()
    session = getattr(checked, "session_id", None)
    digest = hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
    return JobRequest(path, body, digest, "" if session is None else str(session))


def request_name(body: BaseModel) -> str:
    """Return the name by which the request is computed once; "" for none. Raises InvalidRequest for a bad header."""
    if job_id := getattr(body, "job_id", None):
        return f"job:{job_id}"
    name = request.headers.get(IDEMPOTENCY_KEY)
    if name is None:
        return ""
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY} should be from 1 to {MAX_NAME} characters long", param=IDEMPOTENCY_KEY)
    return f"key:{name}"


def _follow(job: Job | Reply, deadline: Deadline, stack: ExitStack) -> Response:
    """Return the reply of a job: at once where it is known, else as it comes. A stream takes over what `stack` holds.

    Before it begins it may have to give way, and `deadline` raises Unavailable; the job goes on for whoever asks again.
    """
    if isinstance(job, Reply):
        response = Response(job.body, job.status, content_type=job.content_type)
        response.headers["Idempotent-Replayed"] = "true"
        return response
    stack.callback(job.leave)
    status, headers = job.head(deadline.check)
    deadline.slot.begin()
    if form := sse.FORMS.get(headers.get("Content-Type", "")):
        events = map(bytes.decode, job.parts(deadline.check))
        return sse.respond(sse.EventStream(events, stack.pop_all().close, form))
    return Response(b"".join(job.parts(deadline.check)), status, headers=dict(headers))
