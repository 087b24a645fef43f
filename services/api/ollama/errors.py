"""The shape of errors that Ollama's clients read: `{"error": "…"}`."""

from __future__ import annotations

from typing import Any

from flask import has_request_context, request


def ollama_shape(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return Ollama's body of an error, given its HTTP status and the usual body."""
    return {"error": body["message"]}


def shape_by_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of an error of /api/generate, where a request with a `model` is Ollama's."""
    sent = request.get_json(silent=True) if has_request_context() else None
    return ollama_shape(status, body) if isinstance(sent, dict) and "model" in sent else body
