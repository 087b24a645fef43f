"""/openapi.json, complete, and /docs, which shows it: from files of our own, so that it works without a network."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from flask import Flask, Response, json

from services.api.http.idempotency import HEADER
from services.api.http.schemas import spec
from services.api.http.static import StaticFiles

_FILES = ("docs.js", "swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css")
# Nothing comes from elsewhere, but for icons that Swagger UI draws from data: addresses.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
_ABOUT = (
    "A local LLM API server for CPUs. Every request needs a key, but for those without a lock: `Authorization: KEY`, "
    "`Authorization: Bearer KEY` or `X-Api-Key: KEY`. Every error has one shape; `error.param` names the field at fault."
)
_TAGS = (
    ("Answers", "Prompts, sessions and streams.", ("/answer", "/sessions")),
    ("OpenAI", "What OpenAI's clients ask for.", ("/v1", "/tokenize", "/detokenize")),
    ("Other clients", "Langformers', API Host's and ProtoLLM's ways.", ("/api", "/generate", "/chat_completion", "/jobs")),
    ("Models", "The model files, and switching between them.", ("/models",)),
    ("Keys", "Who may ask.", ("/auth",)),
    (
        "Server",
        "How it is, and this document.",
        ("/health", "/healthz", "/readyz", "/status", "/cluster", "/metrics", "/openapi.json", "/docs"),
    ),
)
# Replies that are server-sent events where `stream` is true, and those that always are.
_MAY_STREAM = ("/answer", "/v1/chat/completions", "/v1/completions")
_STREAM = ("/api/generate", "/models/pull")
# Requests that are computed once by their Idempotency-Key.
_ONCE = (*_MAY_STREAM, "/v1/embeddings", "/api/generate", "/api")
# What is asked for behind a question mark.
_QUERIES = {
    "/sessions": {"q": "Words that the session's name, or one of its messages, has."},
    "/auth/usage": {
        "from": "The first day (UTC), like 2026-11-01.",
        "to": "The last day.",
        "key": "A key's id; for the master key.",
        "format": "json or csv.",
    },
}
# Replies that are, or may be, plain text.
_TEXTS = {"/metrics": "text/plain", "/auth/usage": "text/csv"}
_PUBLIC = ("/health", "/healthz", "/readyz", "/openapi.json", "/docs")
_EVENTS = {"schema": {"type": "string", "description": "Server-sent events, each a line `data: …` and an empty one."}}
_METHODS = ("get", "post", "delete", "patch", "put")


def add_docs(app: Flask) -> None:
    """Give `app` /openapi.json, /docs and what that loads."""
    document = b""

    def openapi() -> Response:
        nonlocal document
        # Thousands may ask for it: it is written once, and they read the same bytes.
        document = document or json.dumps(complete(spec.spec)).encode()
        return Response(document, mimetype="application/json")

    shell, files = StaticFiles(["docs.html"]), StaticFiles(_FILES)

    def docs() -> Response:
        response = shell.response("docs.html")
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    app.add_url_rule("/openapi.json", "openapi", openapi)
    app.add_url_rule("/docs", "docs", docs)
    app.add_url_rule("/docs/<path:name>", "docs_file", files.response)


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """What SpecTree publishes, with what it does not know: streams, headers, who needs no key, and this page."""
    whole = deepcopy(document)
    whole["info"]["description"] = _ABOUT
    whole["tags"] = [{"name": name, "description": about} for name, about, _ in _TAGS]
    # What the page loads is no part of the API.
    for path in ("/", "/docs/{name}", "/page/{name}"):
        whole["paths"].pop(path, None)
    whole["paths"] |= _own_paths()
    for path, operations in whole["paths"].items():
        for operation in (operations[method] for method in _METHODS if method in operations):
            _complete_operation(path, operation)
    return whole


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    operation["tags"] = [next(name for name, _, begins in _TAGS if path.startswith(begins))]
    responses = operation["responses"]
    posts = "requestBody" in operation
    if path in _PUBLIC:
        operation["security"] = []
        for status in ("400", "401"):
            responses.pop(status, None)
    if posts and path in _ONCE:
        operation.setdefault("parameters", []).append(_once_header())
    for name, about in _QUERIES.get(path, {}).items():
        asked = {"name": name, "in": "query", "schema": {"type": "string"}, "description": about}
        operation.setdefault("parameters", []).append(asked)
    content = responses.get("200", {}).get("content", {})
    if posts and path in _MAY_STREAM:
        content["text/event-stream"] = _EVENTS
    if posts and path in _STREAM:
        content.clear()
        content["text/event-stream"] = _EVENTS
    if path in _TEXTS:
        content[_TEXTS[path]] = {"schema": {"type": "string"}}
    if path == "/metrics":
        content.pop("application/json")
    if "503" in responses:
        about = "Seconds after which it may be worth asking again."
        responses["503"]["headers"] = {"Retry-After": {"description": about, "schema": {"type": "integer"}}}


def _once_header() -> dict[str, Any]:
    about = (
        "A name of the request's. Sent again under it, the request is not computed again; another request under it is "
        "refused (422). What came of it is kept for a day."
    )
    schema = {"type": "string", "minLength": 1, "maxLength": 256}
    return {"name": HEADER, "in": "header", "required": False, "schema": schema, "description": about}


def _own_paths() -> dict[str, Any]:
    def shown(summary: str, kind: str) -> dict[str, Any]:
        replies = {"200": {"description": "OK", "content": {kind: {"schema": {"type": "string"}}}}}
        return {"get": {"summary": summary, "responses": replies}}

    document = shown("Describe the API: this document.", "application/json")
    document["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "object"}
    return {"/openapi.json": document, "/docs": shown("Show this document as a page.", "text/html")}
