from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask

from services import errors
from services.api.http.errors import handle_errors, status_of
from services.api.routes import ROUTES
from tests.support.in_process import Client


def all_errors() -> list[type[errors.HearthError]]:
    found, left = [], [errors.HearthError]
    while left:
        found.append(left.pop())
        left += found[-1].__subclasses__()
    return found


def test_the_tree_is_drawn_whole() -> None:
    assert errors.__doc__
    for kind in all_errors():
        assert kind.__name__ in errors.__doc__
        assert status_of(kind.__new__(kind)) in (400, 401, 403, 404, 413, 415, 422, 429, 499, 500, 502, 503)


def test_an_unforeseen_error_tells_the_caller_nothing_and_the_log_all(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("test")
    handle_errors(app, {})

    @app.get("/")
    def fail() -> str:
        raise ZeroDivisionError("secret")

    reply = app.test_client().get("/")
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/answer", 405),
        ("POST", "/health", 405),
        ("DELETE", "/models/", 405),
        ("GET", "/models/model", 405),
    ],
)
def test_flasks_own_errors_have_the_one_shape(client: Client, method: str, path: str, status: int) -> None:
    reply = client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()) == {"message", "error"}
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert status != 405 or "Allow" in reply.headers


def test_the_openapi_document_names_every_route(client: Client) -> None:
    document: dict[str, Any] = client.get("/openapi.json").json()
    paths = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path) for route in ROUTES if route.tag for path in route.paths}
    assert set(document["paths"]) == paths
    assert all(operation["tags"] for path in document["paths"].values() for operation in path.values())
    assert "text/event-stream" in document["paths"]["/api/generate"]["post"]["responses"]["200"]["content"]
    named = [each["name"] for each in document["paths"]["/v1/completions"]["post"]["parameters"]]
    assert named == ["Idempotency-Key"]
    assert document["paths"]["/health"]["get"]["security"] == []
    answer = document["paths"]["/answer"]["post"]
    assert {"200", "400", "401", "413", "503"} <= set(answer["responses"])
    assert "query" in document["components"]["schemas"]["SearchBody"]["required"]
