"""The header that names the fields of a request which nobody knows."""

from __future__ import annotations

from typing import Any

from flask import make_response

from services.api.openai.schemas import Listed

IGNORED = "X-Hearth-Ignored"


def telling_ignored(reply: Any, body: Listed) -> Any:
    """Return a resource's reply to a body, with the header if the body has such fields."""
    if not (names := body.ignored):
        return reply
    response = make_response(reply)
    response.headers[IGNORED] = ", ".join(names)
    return response
