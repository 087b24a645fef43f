"""One JSON shape for every error: `{"message", "error": {"message", "type", "param", "code"}}`.

The APIs of others whose clients read another have an `ErrorShape` in their route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from auth.authentication import is_of_master
from services import errors
from services.api.http.bodies import too_large
from services.logs import redacted

log = logging.getLogger(__name__)

# Our errors' statuses; a class that is missing has the status of its parent.
STATUSES: dict[type[errors.HearthError], int] = {
    errors.HearthError: 500,
    errors.InvalidRequest: 400,
    errors.TooLarge: 413,
    errors.UnsupportedType: 415,
    errors.Unprocessable: 422,
    errors.NotAuthenticated: 401,
    errors.NotPermitted: 403,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.BadModelFile: 422,
    # Another server, behind this one, is at fault.
    errors.PullFailed: 502,
    # nginx's "client closed request": nobody reads the reply, but the log has its status.
    errors.ClientDisconnected: 499,
    errors.Unavailable: 503,
    errors.RateLimitExceeded: 429,
}

ErrorShape = Callable[[int, dict[str, Any]], dict[str, Any]]
"""Returns an API's own body of an error, given its HTTP status and the usual body."""


def usual_shape(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the usual body: most clients read it."""
    return body


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of an error of this HTTP status."""
    message = redacted(message)
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: errors.HearthError, is_master: bool) -> dict[str, Any]:
    """Return the body of one of our errors, for the master key or for any other sender."""
    return error_body(status_of(error), error.message_for(is_master), error.param, error.code)


def unforeseen_body() -> dict[str, Any]:
    """Return the body of an error that nobody has foreseen."""
    return error_body(500, "something went wrong in the server; its log says what", code="internal_error")


def status_of(error: errors.HearthError) -> int:
    """Return the HTTP status of one of our errors."""
    if isinstance(error, errors.Forbidden):
        return error.status
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def handle_errors(app: Flask, shapes: Mapping[str, ErrorShape]) -> None:
    """Make `app` reply to every error; `shapes` are those of endpoints by their names."""

    def response_of(status: int, body: dict[str, Any]) -> Response:
        response = jsonify(shapes.get(request.endpoint or "", usual_shape)(status, body))
        response.status_code = status
        return response

    @app.errorhandler(errors.HearthError)
    def ours(error: errors.HearthError) -> Response:
        status = status_of(error)
        if status >= 500 and not isinstance(error, errors.Unavailable):
            log.error("%s %s: %s", request.method, request.url_rule, error.message)
        response = response_of(status, body_of(error, is_of_master()))
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, errors.Unavailable) and error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        status = error.code or 500
        code = error.name.lower().replace(" ", "_")
        response = response_of(status, error_body(status, _explain(error), code=code))
        # A 405 says what is allowed, a 3xx where to go.
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unforeseen(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url_rule, exc_info=error)
        return response_of(500, unforeseen_body())


def _explain(error: HTTPException) -> str:
    if isinstance(error, RequestEntityTooLarge):
        return too_large(request.path)
    if error.code == 404:
        return f"there is nothing at {request.path}"
    if error.code == 405:
        return f"{request.method} does not work on {request.path}"
    return str(error.description or error.name)
