"""The fields that hold an answer to a form, as OpenAI, llama-server, vLLM and SGLang call them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from services.api.http.nulls import without_nulls
from services.api.http.open_body import Open, undeclared
from services.backend.types import Constraint
from services.storage.json_text import read_json_text

Grammar = Annotated[str, Field(min_length=1, max_length=2**18)]
Choices = Annotated[list[str], Field(min_length=1, max_length=1024)]
Syntax = Literal["gbnf", "lark"]
Schema = dict[str, Any] | bool
# JSON mode: any object.
_ANY_OBJECT: Schema = {"type": "object"}


class SchemaOfFormat(Open):
    """A JSON schema, and its name. Without a schema any object fits."""

    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    def stray_fields(self) -> list[str]:
        """Return the names of fields that belong elsewhere, as those of a schema without its frame."""
        return [str(path[0]) for path, _ in undeclared(self) if path != ("description",)][:4]


class ResponseFormat(Open):
    """The form that the answer has to have. llama-server's clients put the `schema` beside either type of JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaOfFormat | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise ValueError("json_schema is missing: it holds the schema")
        if self.type != "json_schema" and self.json_schema is not None:
            raise ValueError('json_schema goes with the type "json_schema"')
        if self.type == "text" and self.schema_ is not None:
            raise ValueError('schema goes with the type "json_schema"')
        if self.json_schema and self.schema_ is not None:
            raise ValueError("schema is given within json_schema already")
        if self.json_schema and self.json_schema.schema_ is None and (stray := self.json_schema.stray_fields()):
            raise ValueError(
                f'json_schema holds no "schema", but {", ".join(stray)}: the schema belongs into json_schema.schema'
            )
        return self

    def schema_given(self) -> Schema | None:
        """Return the schema; None for any text."""
        if self.type == "text":
            return None
        return (self.json_schema.schema_ if self.json_schema else self.schema_) or _ANY_OBJECT


class StructuredOutputs(Open):
    """vLLM's form of a constraint: one of these fields."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Grammar | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None

    @field_validator("json_")
    @classmethod
    def _is_schema(cls, given: Any) -> Any:
        return schema_of(given)


class ConstraintFields(Protocol):
    """The fields of a body that may hold an answer to a form."""

    response_format: ResponseFormat | None
    json_schema: Schema | str | None
    grammar: str | None
    grammar_syntax: Syntax | None
    ebnf: str | None
    regex: str | None
    guided_json: Schema | str | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None
    structured_outputs: StructuredOutputs | None


def schema_of(given: Any) -> Any:
    """Return a schema, which may come as JSON text. Raises ValueError if it is none."""
    if not isinstance(given, str):
        return given
    schema = read_json_text(given)
    if not isinstance(schema, dict | bool):
        raise ValueError("should be a JSON schema, or the text of one")
    return schema


def constraints_of(body: ConstraintFields) -> Iterator[tuple[str, Constraint]]:
    """Yield the constraints that a body asks for, and the field of each."""
    if body.response_format and (schema := body.response_format.schema_given()) is not None:
        yield "response_format", _json(schema)
    if body.json_schema is not None:
        yield "json_schema", _json(body.json_schema)
    if body.grammar:
        yield "grammar", _grammar(body.grammar, body.grammar_syntax)
    if body.ebnf:
        yield "ebnf", Constraint("gbnf", body.ebnf)
    if body.regex:
        yield "regex", Constraint("regex", body.regex)
    yield from _guided(body)
    if body.structured_outputs:
        yield from (("structured_outputs", each) for each in _structured(body.structured_outputs))


def _guided(body: ConstraintFields) -> Iterator[tuple[str, Constraint]]:
    if body.guided_json is not None:
        yield "guided_json", _json(body.guided_json)
    if body.guided_regex:
        yield "guided_regex", Constraint("regex", body.guided_regex)
    if body.guided_choice:
        yield "guided_choice", _choice(body.guided_choice)
    if body.guided_grammar:
        yield "guided_grammar", _either_grammar(body.guided_grammar)


def _structured(wish: StructuredOutputs) -> Iterator[Constraint]:
    if wish.json_ is not None:
        yield _json(wish.json_)
    if wish.json_object:
        yield _json(_ANY_OBJECT)
    if wish.regex:
        yield Constraint("regex", wish.regex)
    if wish.choice:
        yield _choice(wish.choice)
    if wish.grammar:
        yield _either_grammar(wish.grammar)


def _json(schema: Schema | str) -> Constraint:
    # An empty schema is JSON mode, as in llama-server.
    return Constraint("json_schema", json.dumps(_ANY_OBJECT if schema == {} else without_nulls(schema)))


def _choice(texts: list[str]) -> Constraint:
    return Constraint("regex", "|".join(f"(?:{re.escape(text)})" for text in texts))


def _grammar(text: str, syntax: Syntax | None) -> Constraint:
    return Constraint(syntax or ("lark" if text.lstrip().startswith("%llguidance") else "gbnf"), text)


def _either_grammar(text: str) -> Constraint:
    """Return a grammar in either syntax, which vLLM's clients do not name: only GBNF's rules have `::=`."""
    return Constraint("gbnf" if "::=" in text else "lark", text)
