"""Schemas that cannot be kept to, over /v1 with the real engine: the field, the tool and the keyword at fault are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from services.engine.pool import EnginePool
from tests.support.in_process import Client
from tests.support.openai_api import refused

GOOD = {"type": "object", "properties": {"a": {"type": "string"}}}
# No form of this name is known to the engine.
BAD = {"type": "object", "properties": {"a": {"type": "string"}, "b c/d": {"type": "string", "format": "idn-email"}}}
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    backend = EnginePool()
    made = Client(tmp_path_factory.mktemp("schemas") / "data", backend)
    yield made
    made.close()
    backend.close()


def tools(**schemas: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": each}} for name, each in schemas.items()]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": tools(first=GOOD, wrong=BAD)}, "tools"),
        ({"tools": tools(first=GOOD, wrong=BAD), "tool_choice": "required"}, "tools"),
        ({"tools": tools(first=GOOD, wrong=BAD), "response_format": form(GOOD)}, "tools"),
        ({"functions": [tools(wrong=BAD)[0]["function"]]}, "functions"),
        ({"tools": tools(first=GOOD), "response_format": form(BAD)}, "response_format"),
        ({"response_format": form(BAD)}, "response_format"),
        ({"json_schema": BAD}, "json_schema"),
        ({"structured_outputs": {"json": BAD}}, "structured_outputs"),
    ],
)
def test_the_schema_at_fault_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    error = refused(client, messages=[USER], **fields)
    assert (error["param"], error["code"]) == (param, "bad_schema")
    assert "idn-email" in error["message"]
    assert "#/properties/b" in error["message"]
    assert ('tool "wrong"' in error["message"]) == (param in ("tools", "functions"))


@pytest.mark.parametrize("misplaced", [GOOD, {"name": "x", "shema": GOOD}])
def test_a_schema_in_the_wrong_place_is_refused(client: Client, misplaced: dict[str, Any]) -> None:
    error = refused(client, messages=[USER], response_format={"type": "json_schema", "json_schema": misplaced})
    assert error["param"] == "response_format"
    assert "json_schema.schema" in error["message"]
