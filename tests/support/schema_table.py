"""The table of JSON Schema's keywords in docs/schemas.md, from what the code does.

`python -m tests.support.schema_table` writes it there.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from services.errors import InvalidRequest
from tests.support.serving import ROOT
from tests.support.walks import SMALL, writer

DOCUMENT = ROOT / "docs" / "schemas.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


_NONE = object()


class Row(NamedTuple):
    """A keyword; a schema with it, a value that fits the schema and one that does not; and what there is to say."""

    keyword: str
    schema: Any
    fits: Any = _NONE
    misfits: Any = _NONE
    remark: str = ""


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OPTIONAL = {"type": "object", "properties": {name: {"type": "integer"} for name in "abc"}}
UNION = {
    "A": {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
    "B": {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
}
TEXT = {"type": "string"}

ROWS = [
    Row("`type`", {"type": "integer"}, 1, "1"),
    Row("`type`, a list", {"type": ["string", "null"], "minLength": 2}, "ab", "a", "with all other keywords"),
    Row("no `type`", {"minimum": 2}, "any text", 1),
    Row("`true`, `{}`", {}, {"a": [None]}, remark="any JSON text fits"),
    Row("`false`", False, remark="nothing fits it"),
    Row("`enum`", {"enum": [1, "a", None, [2], {"b": 3}]}, {"b": 3}, 2),
    Row("`const`", {"const": {"b": [1.5]}}, {"b": [1.5]}, {"b": []}, "names in the order in which they stand there"),
    Row("`nullable` (OpenAPI)", {"type": "string", "nullable": True}, None, 1),
    Row("`properties`", OBJECT, {"a": 1}, {"a": "1"}, "written in this order"),
    Row("`required`", OBJECT, {"a": 1}, {}),
    Row("no `additionalProperties`", OBJECT, {"a": 1}, {"a": 1, "b": 2}, "beside `properties`: no others are written"),
    Row(
        "`additionalProperties`", {**OBJECT, "additionalProperties": TEXT}, {"a": 1, "b": "x"}, {"a": "x"}, "no name twice"
    ),
    Row("`patternProperties`", {"type": "object", "patternProperties": {"^x": TEXT}}, {"x1": "y"}, {"x1": 1}),
    Row(
        "`patternProperties` that overlap",
        {"type": "object", "patternProperties": {"a": TEXT, "b": {"type": "integer"}}},
        remark="patterns that may fit the same name",
    ),
    Row("`propertyNames`", {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, {"ab": 1}, {"A": 1}),
    Row("`minProperties`", {**OPTIONAL, "minProperties": 2}, {"a": 1, "b": 2}, {"a": 1}),
    Row("`maxProperties`", {**OPTIONAL, "maxProperties": 1}, {"a": 1}, {"a": 1, "b": 2}),
    Row("`dependentRequired`", {**OPTIONAL, "dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 2}, {"a": 1}),
    Row("`dependentSchemas`", {**OPTIONAL, "dependentSchemas": {"a": {"required": ["c"]}}}, {"a": 1, "c": 2}, {"a": 1}),
    Row("`dependencies` (draft 7)", {**OPTIONAL, "dependencies": {"a": ["b"]}}, {"a": 1, "b": 2}, {"a": 1}),
    Row(
        "`unevaluatedProperties`",
        {"allOf": [OBJECT], "properties": {"b": TEXT}, "unevaluatedProperties": False},
        {"a": 1, "b": "x"},
        {"a": 1, "b": "x", "c": 1},
    ),
    Row("`items`", {"type": "array", "items": TEXT}, ["a"], [1]),
    Row("`prefixItems`", {"type": "array", "prefixItems": [TEXT], "items": False}, ["a"], ["a", "b"]),
    Row(
        "`items`, a list; `additionalItems` (draft 7)",
        {"type": "array", "items": [TEXT], "additionalItems": False},
        ["a"],
        [1],
    ),
    Row("`minItems`", {"type": "array", "items": TEXT, "minItems": 2}, ["a", "b"], ["a"], "to 10,000"),
    Row("`maxItems`", {"type": "array", "items": TEXT, "maxItems": 1}, ["a"], ["a", "b"], "to 10,000"),
    Row(
        "`uniqueItems`",
        {"type": "array", "items": TEXT, "uniqueItems": True},
        ["a", "b"],
        ["a", "a"],
        "an item that can only become one that is there already ends the answer, as cut",
    ),
    Row("`contains`", {"type": "array", "contains": {"const": 1}}, [1, 2], [2], "what it asks for comes first"),
    Row("`minContains`", {"type": "array", "contains": {"const": 1}, "minContains": 2}, [1, 1], [1]),
    Row("`maxContains`", {"type": "array", "contains": {"const": 1}, "maxContains": 2}),
    Row("`unevaluatedItems`", {"type": "array", "prefixItems": [TEXT], "unevaluatedItems": False}, ["a"], ["a", 1]),
    Row("`unevaluatedItems` beside `allOf` and the like", {"allOf": [{"prefixItems": [TEXT]}], "unevaluatedItems": False}),
    Row("`minLength`, `maxLength`", {"type": "string", "minLength": 2, "maxLength": 90_000}, "ab", "a", "to 1,000,000"),
    Row("`pattern`", {"type": "string", "pattern": "^a|b$"}, "xb", "bx"),
    Row(
        "`pattern` with lookaround, `\\b`",
        {"type": "string", "pattern": r"^(?!\.)(?!.*\.\.)(?=.*\d)[a-z\d.]+\b$"},
        "a.1",
        "a..1",
        "refused if it comes to more than 20,000 characters without them",
    ),
    Row("`pattern` with back-references", {"type": "string", "pattern": r"^(.)\1$"}),
    *(
        Row(f"`format`: {name}", {"type": "string", "format": name}, good, "no such text")
        for name, good in {
            "date-time": "2024-02-29T12:00:00Z",
            "date": "2024-02-29",
            "time": "12:00:00+01:00",
            "duration": "P1DT2H",
            "email": "a@b.org",
            "hostname": "a.org",
            "ipv4": "127.0.0.1",
            "ipv6": "::1",
            "uri": "https://a.org/b?c#d",
            "uuid": "123e4567-e89b-12d3-a456-426614174000",
            "json-pointer": "/a/0",
        }.items()
    ),
    Row("`format`: int32 (OpenAPI)", {"type": "integer", "format": "int32"}, 5, 2**31),
    *(
        Row(f"`format`: {name}", {"type": "string", "format": name})
        for name in ("regex", "iri", "idn-email", "idn-hostname", "uri-template")
    ),
    Row(
        "`format`, any other",
        {"type": "string", "format": "markdown"},
        "any",
        remark="says nothing, as in the specification",
    ),
    Row("`minimum`, `maximum`", {"type": "number", "minimum": -1.5, "maximum": 2}, 0.25, 2.5, "to 2^53"),
    Row("`exclusiveMinimum`, `exclusiveMaximum`", {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3}, 2, 3),
    Row("`exclusiveMinimum: true` (draft 4)", {"type": "integer", "minimum": 1, "exclusiveMinimum": True}, 2, 1),
    Row("`multipleOf`", {"type": "number", "multipleOf": 0.25}, 1.75, 1.8),
    Row("`allOf`", {"allOf": [OBJECT, {"properties": {"b": TEXT}, "required": ["b"]}]}, {"a": 1, "b": "x"}, {"a": 1}),
    Row("`anyOf`", {"anyOf": [{"type": "integer"}, TEXT]}, "x", None),
    Row("`oneOf`", {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": UNION}, {"kind": "b"}, {"kind": "c"}),
    Row(
        "`oneOf` whose schemas overlap",
        {"oneOf": [{"type": "string", "format": "email"}, {"type": "string", "format": "uri"}]},
        remark="kept if their opposites can be described",
    ),
    Row("`not`", {"type": "string", "not": {"enum": ["a", "b"]}}, "c", "a"),
    Row("`not` of `pattern`", {"type": "string", "not": {"pattern": "^a|b$"}}, "ba", "ab"),
    Row("`not` of `format` and the like", {"not": {"type": "string", "format": "email"}}),
    Row(
        "`if`, `then`, `else`",
        {**OPTIONAL, "if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
        {"a": 2, "c": 0},
        {"a": 1, "c": 0},
    ),
    Row("`$ref`, `$defs`, `definitions`", {"$ref": "#/$defs/a~1b", "$defs": {"a/b": TEXT}}, "x", 1),
    Row('`$ref: "#"`', {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"a": {"a": {}}}, {"a": 1}),
    Row("`$id`, `$anchor`", {"$ref": "#x", "$defs": {"a": {"$anchor": "x", "type": "string"}}}, "x", 1),
    Row("`$ref` to elsewhere", {"$ref": "https://json-schema.org/draft/2020-12/schema"}, remark="nothing is fetched"),
    Row("`$dynamicRef`, `$recursiveRef`", {"$dynamicRef": "#x"}),
    Row("a schema that no finite text fits", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
    Row(
        "`title`, `description`, `default`, `examples`, …",
        {"type": "string", "default": 1, "x-guidance": {"lenient": True}},
        "x",
        1,
    ),
]


def table() -> str:
    """Return the table in Markdown. Raises AssertionError where a schema is taken and not kept to."""
    lines = ["| keyword | | |", "|---|---|---|"]
    lines += [f"| {row.keyword} | {outcome(row)} | {row.remark} |" for row in ROWS]
    return "\n".join([*lines, ""]).replace("|  |", "| |")


def outcome(row: Row) -> str:
    """Return whether a row's keyword is kept or refused."""
    found = writer(SMALL).tried(row.schema)
    if isinstance(found, InvalidRequest):
        assert row.fits is _NONE, f"{row.keyword}: {found.message}"
        return "refused"
    assert row.fits is not _NONE, f"{row.keyword} is not refused"
    for value, is_fit in ((row.fits, True), (row.misfits, False)):
        if value is not _NONE:
            text = json.dumps(value, ensure_ascii=False)
            is_allowed = writer(SMALL).accepts(writer(SMALL).matcher("json_schema", row.schema), text)
            assert is_allowed == is_fit, f"{row.keyword}: {text} is {'allowed' if is_allowed else 'not allowed'}"
    return "a remark" if row.misfits is _NONE else "kept"


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
