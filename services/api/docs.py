"""/openapi.json, complete, and /docs, which shows it: from files of our own, so that it works without a network."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from flask import Response, json
from flask_restful import Resource
from pydantic import RootModel

from auth.access import PUBLIC
from services.api.http.idempotency import IDEMPOTENCY_KEY, MAX_NAME
from services.api.http.schemas import replies, spec
from services.api.http.static import StaticFiles
from services.api.route import ALWAYS, Route

SHELL = "docs.html"
FILES = ("docs.js", "swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css")
# Nothing comes from elsewhere, but for icons that Swagger UI draws from data: addresses.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
_ABOUT = (
    "A local LLM API server for CPUs. Every request needs a key, but for those without a lock: `Authorization: KEY`, "
    "`Authorization: Bearer KEY` or `X-Api-Key: KEY`. Every error has one shape; `error.param` names the field at fault."
)
_EVENTS = {"schema": {"type": "string", "description": "Server-sent events, each a line `data: …` and an empty one."}}
_HEADER = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
    "description": (
        "A name of the request's. Sent again under it, the request is not computed again; another request under it is "
        "refused (422). What came of it is kept for a day."
    ),
}
_CONVERTER = re.compile(r"<(?:\w+:)?(\w+)>")


class OpenApi(RootModel[dict[str, Any]]):
    """A document of OpenAPI 3.1."""


class ApiDocument:
    """The document of an application's routes. Any thread may read it; `_lock` is held while it is written."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._lock = threading.Lock()
        self._written = b""

    def read(self) -> bytes:
        """Return the document as JSON. It is written once, while the application serves: thousands may ask for it."""
        with self._lock:
            self._written = self._written or json.dumps(complete(spec.spec, self._routes)).encode()
            return self._written


class DocumentResource(Resource):
    """The API's document."""

    def __init__(self, document: ApiDocument) -> None:
        self._document = document

    @spec.validate(resp=replies(OpenApi))
    def get(self) -> Any:
        """Describe the API: this document."""
        return Response(self._document.read(), mimetype="application/json")


class DocsResource(Resource):
    """The page that shows the document."""

    def __init__(self, files: StaticFiles) -> None:
        self._files = files

    @spec.validate(resp=replies(None, text="text/html"))
    def get(self) -> Any:
        """Show this document as a page."""
        response = self._files.response(SHELL)
        response.headers["Content-Security-Policy"] = _POLICY
        return response


def complete(document: dict[str, Any], routes: Sequence[Route]) -> dict[str, Any]:
    """Return what SpecTree publishes with the facts of the table of routes: tags, streams, and who needs no key.

    Routes without a tag are left out.
    """
    by_path = {_CONVERTER.sub(r"{\1}", path): route for route in routes for path in route.paths if route.tag}
    tags = dict.fromkeys(route.tag for route in routes if route.tag)
    return {
        **document,
        "info": {**document["info"], "description": _ABOUT},
        "tags": [{"name": tag.name, "description": tag.description} for tag in tags],
        "paths": {
            path: {method: _completed(operation, by_path[path]) for method, operation in operations.items()}
            for path, operations in document["paths"].items()
            if path in by_path
        },
    }


def _completed(operation: dict[str, Any], route: Route) -> dict[str, Any]:
    whole = deepcopy(operation)
    assert route.tag
    whole["tags"] = [route.tag.name]
    if route.needs == PUBLIC:
        whole["security"] = []
        for status in ("400", "401"):
            whole["responses"].pop(status, None)
    if "requestBody" not in whole:
        return whole
    if route.once_by == IDEMPOTENCY_KEY:
        whole["parameters"].append(_HEADER)
    if route.streams != "never":
        content = whole["responses"]["200"]["content"]
        if route.streams == ALWAYS:
            content.clear()
        content |= dict.fromkeys(route.stream_types, _EVENTS)
    return whole
