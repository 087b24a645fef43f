"""The shape of errors that Anthropic's clients read: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from __future__ import annotations

from typing import Any

from flask import request

from services.logs import request_id

VERSION_HEADER = "anthropic-version"
# The code of a request that would have the server keep the conversation.
NO_THREADS = "thread_unsupported_request"
# Source: Anthropic's reference, "Errors".
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_shape(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return Anthropic's body of an error, given its HTTP status and the usual body."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    error: dict[str, Any] = {"type": kind, "message": body["message"]}
    if body["error"]["code"] == NO_THREADS:
        # Read by Anthropic's package, which then sends the whole conversation.
        error["details"] = {"error_code": NO_THREADS}
    return {"type": "error", "error": error, "request_id": request_id.get()}


def shape_by_client(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of an error of an endpoint that OpenAI's clients call as well as Anthropic's."""
    return anthropic_shape(status, body) if is_anthropic() else body


def is_anthropic() -> bool:
    """Return whether the request that is being served comes from a client of Anthropic's API."""
    return VERSION_HEADER in request.headers
