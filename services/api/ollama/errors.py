"""The shape of errors that Ollama's clients read: `{"error": "…"}`."""

from __future__ import annotations

from typing import Any

from flask import has_request_context, request
from werkzeug.exceptions import HTTPException

from services.storage.json_text import read_json_text


def ollama_shape(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return Ollama's body of an error, given its HTTP status and the usual body."""
    return {"error": body["message"]}


def shape_by_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of an error of /api/generate, where a request with a `model` is Ollama's."""
    return ollama_shape(status, body) if _names_model() else body


def _names_model() -> bool:
    """Return whether the body of the request that is being served has a `model`."""
    if not has_request_context():
        return False
    try:
        sent = read_json_text(request.get_data().decode("utf-8", "replace"))
    except HTTPException:
        # Larger than it may be, for one.
        return False
    return isinstance(sent, dict) and "model" in sent
