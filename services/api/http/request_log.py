"""Every request's id, rate limit headers, and lines in the request log, the audit log and the metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from flask import Flask, Response, g, request

from auth.access import Access, access_of
from auth.audit import AuditLog
from auth.authentication import caller_or_none
from auth.rate_limits import Meter
from services.errors import HearthError
from services.logs import request_id

log = logging.getLogger("hearth.requests")

ID_HEADER = "X-Request-Id"
# As Anthropic's clients read it.
ANTHROPIC_ID_HEADER = "Request-Id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")
_REFUSED = (401, 403, 421, 429)


def log_requests(
    app: Flask,
    access: Mapping[str, Access],
    meter: Meter,
    audit: AuditLog,
    note_request: Callable[[str, int, float], None],
) -> None:
    """Give every reply of `app` its headers, and log it; `access` is by the endpoint's name.

    `note_request` is called with the route, the status and the seconds of each request.
    """

    @app.before_request
    def begin() -> None:
        given = request.headers.get(ID_HEADER, "")
        request_id.set(given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8))
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[ID_HEADER] = response.headers[ANTHROPIC_ID_HEADER] = request_id.get()
        declared = access_of(request.endpoint, access)
        identity = caller_or_none()
        if identity and request.method == "POST" and declared.needs == "answer":
            # The answer is there, and stored: it goes out without them where they cannot be had.
            with suppress(HearthError):
                response.headers.extend(meter.headers(identity.id))
        _log(declared, audit, note_request, response)
        return response


def _route() -> str:
    """Return the rule of the requested route: the path itself may be private."""
    return request.url_rule.rule if request.url_rule else "none"


def _log(declared: Access, audit: AuditLog, note_request: Callable[[str, int, float], None], response: Response) -> None:
    identity = caller_or_none()
    key, status, route = identity.id if identity else None, response.status_code, _route()
    account = identity.account if identity else ""
    what = {"status": status, "address": request.remote_addr, "request_id": request_id.get()}
    if status in _REFUSED:
        # A method that a client invents may be of any length.
        method = request.method if len(request.method) < 10 else "other"
        audit.note_refusal(key, account, method=method, route=route, **what)
    elif action := declared.audited.get(request.method):
        audit.note(action, key, account, **g.get("audited", {}), **what)
    seconds = round(time.perf_counter() - g.get("began", time.perf_counter()), 4)
    note_request(route, status, seconds)
    fields = {"method": request.method, "route": route, "key": key, "status": status, "seconds": seconds}
    log.info("%s %s %d", request.method, route, status, extra=fields)
