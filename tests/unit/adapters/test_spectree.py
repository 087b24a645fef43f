"""The undocumented method of SpecTree that services/api/http/spectree_internals.py relies on."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask
from pydantic import BaseModel
from spectree import Response, SpecTree

from services.api.http.spectree_internals import LazySpecTree
from tests.unit.adapters.signatures import check_signatures


class Inner(BaseModel):
    """A part of a body."""

    number: int = 3


class Body(BaseModel):
    """A body with parts."""

    parts: list[Inner]


class Reply(BaseModel):
    """A reply."""

    text: str


def declare(kind: type[SpecTree]) -> tuple[SpecTree, Flask]:
    app = Flask("test")
    spec = kind(backend_name="flask", title="Test", nested_naming_strategy=lambda _parent, child: child)

    @app.post("/parts")
    @spec.validate(json=Body, resp=Response(HTTP_200=Reply))
    def parts(json: Body) -> Any:
        return {"text": str(json.parts[0].number)}

    spec.register(app)
    return spec, app


def document(spec: SpecTree, app: Flask) -> str:
    with app.app_context():
        return json.dumps(spec.spec)


def test_models_are_added_by_one_method() -> None:
    check_signatures(SpecTree, {"_add_model": "(self, model, mode='validation')"})


def test_the_document_is_the_same_and_is_made_when_it_is_read() -> None:
    (plain, plain_app), (lazy, app) = declare(SpecTree), declare(LazySpecTree)
    assert plain.models
    assert not lazy.models
    assert app.test_client().post("/parts", json={"parts": [{}]}).json == {"text": "3"}
    assert not lazy.models
    assert document(lazy, app) == document(plain, plain_app)
    assert document(lazy, app) == document(plain, plain_app)
