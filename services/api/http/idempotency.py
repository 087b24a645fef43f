"""Requests that are computed once, by their Idempotency-Key or the job_id in their body, however often they are sent."""

from __future__ import annotations

import hashlib
import json as json_module
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, cast, get_type_hints

from flask import Flask, Response, current_app, g, request

from auth.authentication import KEY_IN_BODY, caller, check_scope
from auth.keys import KeyStore
from services.answers.admission import Poll
from services.answers.replay import named
from services.answers.stream import Deadline
from services.api.http import sse
from services.api.http.disconnect import disconnect_poll
from services.api.http.schemas import read_json
from services.errors import ClientDisconnected, InvalidRequest, NotAuthenticated
from services.jobs.job import Job
from services.jobs.jobs import Jobs
from services.jobs.store import JobKey, JobRequest, Reply
from services.sessions.table import RequestName

HEADER = "Idempotency-Key"
_COMPUTING = "hearth.computing"
_MAX_NAME = 256


def idempotent(view: Callable[..., Any]) -> Callable[..., Any]:
    """A resource's method that computes a request of one name once: the callers that come later get the same reply."""

    @wraps(view)
    def keyed(self: Any, json: Any) -> Any:
        name = f"job:{json.job_id}" if hasattr(json, "job_id") else _header_name()
        # A guest has no name to keep a job by.
        if not name or _COMPUTING in request.environ or caller().is_guest:
            return view(self, json=json)
        key, asked = JobKey(caller().id, name), job_request(request.path.rstrip("/"))
        with ExitStack() as stack:
            # First of all: what is refused is not computed either. A thread is held meanwhile, as by any answer; the
            # thread that computes holds none of the server's.
            answers = current_app.extensions["hearth"]["answers"]
            deadline = stack.enter_context(answers.places.place(caller().id, disconnect_poll()))
            return _follow(current_jobs().once(key, asked), deadline, stack)

    # SpecTree goes by the annotations, and would look the names in them up in this module.
    keyed.__annotations__ = {"json": get_type_hints(view)["json"]}
    return keyed


def current_jobs() -> Jobs:
    """The application's jobs."""
    return cast(Jobs, current_app.extensions["hearth"]["jobs"])


def job_request(path: str) -> JobRequest:
    """The request that is being served, as one to `path`. Bodies that say the same have one digest."""
    asked = read_json(request)
    if isinstance(asked, dict) and request.endpoint in KEY_IN_BODY:
        # Keys are kept as hashes only.
        asked.pop("token", None)
    body = json_module.dumps(asked, sort_keys=True, ensure_ascii=False).encode()
    session = str(asked.get("session_id", "")) if isinstance(asked, dict) else ""
    return JobRequest(path, body, hashlib.sha256(path.encode() + b"\0" + body).hexdigest(), session)


class Performer:
    """Computes jobs by the application's own resources, as their callers. Any thread may call it."""

    def __init__(self, app: Flask, keys: KeyStore) -> None:
        self._app = app
        self._keys = keys

    def __call__(self, key: JobKey, asked: JobRequest, poll: Poll, background: bool) -> _Performed:
        """See `Perform`."""

        def has_left() -> bool:
            try:
                poll()
            except ClientDisconnected:
                return True
            return False

        overrides = {"waitress.client_disconnected": has_left, _COMPUTING: True}
        with self._app.test_request_context(
            asked.path, method="POST", data=asked.body, content_type="application/json", environ_overrides=overrides
        ):
            try:
                g.identity = self._keys.identity(key.owner)
                if g.identity is None:
                    raise NotAuthenticated("the key that sent this job has been revoked")
                check_scope(g.identity)
                name = RequestName(key.id, asked.digest)
                with self._app.extensions["hearth"]["answers"].places.needing_none(background), named(name):
                    response = self._app.make_response(self._app.dispatch_request())
            except Exception as error:
                response = self._app.make_response(self._app.handle_user_exception(error))
        return _Performed(response)


class _Performed:
    """See `Running`."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = {
            name: value for name, value in response.headers.items() if name in ("Content-Type", "Retry-After")
        }
        self.failed = False

    def parts(self) -> Iterator[bytes]:
        try:
            for part in cast(Iterator[str | bytes], self._response.response):
                self.failed = isinstance(part, sse.Failure)
                yield part.encode() if isinstance(part, str) else part
        finally:
            self._response.close()


def _header_name() -> str:
    name = request.headers.get(HEADER)
    if name is None:
        return ""
    if not 1 <= len(name) <= _MAX_NAME:
        raise InvalidRequest(f"{HEADER} should be from 1 to {_MAX_NAME} characters long", param=HEADER)
    return f"key:{name}"


def _follow(job: Job | Reply, deadline: Deadline, stack: ExitStack) -> Response:
    """The reply of a job: at once where it is known, else as it comes. A stream takes over what `stack` holds.

    Before it begins it may have to give way, and `deadline` raises Unavailable; the job goes on for whoever asks again.
    """
    if isinstance(job, Reply):
        response = Response(job.body, job.status, content_type=job.content_type)
        response.headers["Idempotent-Replayed"] = "true"
        return response
    stack.callback(job.leave)
    status, headers = job.head(deadline.look)
    deadline.slot.begin()
    if headers.get("Content-Type", "").startswith(sse.MIMETYPE):
        return sse.stream(job.parts(deadline.look), stack.pop_all().close)
    return Response(b"".join(job.parts(deadline.look)), status, headers=dict(headers))
