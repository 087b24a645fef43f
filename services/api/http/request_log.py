"""What every request and reply has: an id, headers that keep browsers careful, the limits, and its lines in the logs."""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextlib import suppress

from flask import Flask, Response, g, request

from auth.audit import AuditLog
from auth.authentication import ACTIONS, SCOPE_OF, caller_or_none
from auth.rate_limits import Meter
from services.api.metrics import Metrics
from services.errors import HearthError
from services.logs import request_id

log = logging.getLogger("hearth.requests")

ID_HEADER = "X-Request-Id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")
_REFUSED = (401, 403, 421, 429)
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_UNLESS_SET = {
    # The pages have policies of their own; nothing else here is to be shown as one.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # An answer is the caller's alone.
    "Cache-Control": "no-store",
}


def log_requests(app: Flask, meter: Meter, audit: AuditLog, metrics: Metrics, is_tls: bool = False) -> None:
    """Give every reply of `app` its headers, and write down who did what, and who was refused."""
    safe = {**_SAFE, **({"Strict-Transport-Security": "max-age=31536000"} if is_tls else {})}

    @app.before_request
    def begin() -> None:
        given = request.headers.get(ID_HEADER, "")
        request_id.set(given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8))
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[ID_HEADER] = request_id.get()
        response.headers.extend(safe)
        for name, value in _UNLESS_SET.items():
            response.headers.setdefault(name, value)
        who = caller_or_none()
        if who and request.endpoint and request.method == "POST" and SCOPE_OF.get(request.endpoint) == "answer":
            # The answer is there, and stored: it goes out without them where they cannot be had.
            with suppress(HearthError):
                response.headers.extend(meter.headers(who.id))
        _note(audit, metrics, response)
        return response


def _route() -> str:
    """The route that is asked for, as it is declared: what stands in its place may be private."""
    return request.url_rule.rule if request.url_rule else "none"


def _note(audit: AuditLog, metrics: Metrics, response: Response) -> None:
    who = caller_or_none()
    key, status, route = who.id if who else None, response.status_code, _route()
    account = who.account if who else ""
    what = {"status": status, "address": request.remote_addr, "request_id": request_id.get()}
    if status in _REFUSED:
        # What a client invents is not worth a line.
        method = request.method if len(request.method) < 10 else "other"
        audit.note_refusal(key, account, method=method, route=route, **what)
    elif action := ACTIONS.get((request.endpoint or "", request.method)):
        audit.note(action, key, account, **g.get("audited", {}), **what)
    seconds = round(time.perf_counter() - g.get("began", time.perf_counter()), 4)
    metrics.note_request(route, status, seconds)
    told = {"method": request.method, "route": route, "key": key, "status": status, "seconds": seconds}
    log.info("%s %s %d", request.method, route, status, extra=told)
