"""Grammars of values as Python's or JSON's literals, by a JSON schema: `True`, `null`, `'text'`, lists and dictionaries.

One grammar has both. A grammar of JSON beside one of Python would not do: llguidance's lexer takes the longest text,
whichever of them it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.replies.formats.nested import DEEPEST, list_grammar, resolved, shapes
from services.replies.formats.parameters import Members, members_grammar
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import Types, parameter_of, types_in
from services.replies.formats.values_grammar import Place, json_grammar
from services.replies.grammar import Lark, all_unlike, any_of, quoted, unlike

# The white space of JSON in services/engine.
_SPACE = r"(/[ ]{1,2}|\n[ ]{0,64}|\n\t{1,16}/)?"
_COMMA, _COLON = f'{_SPACE} "," {_SPACE}', f'{_SPACE} ":" {_SPACE}'
_WORDS = {"boolean": '("True" | "False" | "true" | "false")', "null": '("None" | "null")'}
# Without escapes, equal names have the same text between the quotes.
_NAME = unlike(r"""/[^'"<\\\n]{1,64}/""")
_KEY = f"""("'" {_NAME} "'" | "\\"" {_NAME} "\\"")"""
# The keywords of texts that only JSON is held to.
_OF_TEXTS = ("minLength", "maxLength", "pattern", "format")
_UNKEPT = ("not", "if", "oneOf")


@dataclass(frozen=True)
class Literals:
    """Makes the expressions for the values of one parameter. `root` is the document of the schema's references."""

    lark: Lark
    root: Any
    place: Place
    in_tags: bool = False
    """True if a text in single quotes must not hold what might be a tag."""

    def grammar(self, part: Any, depth: int = 0) -> str:
        """Return the expression for what fits a part of the schema. Raises UnkeptSchema if JSON alone keeps to it."""
        if depth > DEEPEST:
            raise UnkeptSchema("", "it is nested too deeply")
        schema = resolved(part, self.root)
        if not schema:
            return self._any()
        for keyword in _UNKEPT:
            if keyword in schema:
                raise UnkeptSchema(keyword, "it is kept to in JSON alone")
        if "anyOf" in schema:
            return self._choice(schema, depth)
        if "const" in schema or schema.get("enum"):
            return _listed(schema)
        return self.lark.rule("literal", any_of(self._by_types(schema, depth)))

    def _by_types(self, schema: Mapping[str, Any], depth: int) -> list[str]:
        types = types_in(schema, self.root)
        each = [_WORDS[kind] for kind in sorted(_WORDS) if kind in types]
        if numbers := types & {"number", "integer"}:
            each.append(json_grammar(self.lark, schema, self.root, "", self.place, numbers))
        if "string" in types:
            each.append(json_grammar(self.lark, schema, self.root, "", self.place, frozenset(("string",))))
            each += [] if any(keyword in schema for keyword in _OF_TEXTS) else [self._quoted]
        for shape in shapes(schema, self.root) if types & {"array", "object"} else ():
            inner = self._dict if shape.kind == "object" else self._list
            each.append(inner(shape.schema, depth))
        return each

    def _choice(self, schema: Mapping[str, Any], depth: int) -> str:
        beside = {key: value for key, value in schema.items() if key != "anyOf"}
        found: dict[str, None] = {}
        for each in schema["anyOf"]:
            try:
                found[self.grammar({"allOf": [beside, each]}, depth + 1)] = None
            except UnkeptSchema as error:
                # A choice of another type fits nothing here.
                if error.keyword != "type":
                    raise
        if not found:
            raise UnkeptSchema("anyOf", "nothing fits it")
        return any_of(found)

    def _list(self, schema: Mapping[str, Any], depth: int) -> str:
        if schema.get("uniqueItems") is True:
            raise UnkeptSchema("uniqueItems", "Python has several spellings for the same item")
        items = schema if "items" in schema else {**schema, "items": {}}
        listed = list_grammar(self.lark, items, self.root, lambda part: self.grammar(part, depth + 1), _COMMA)
        return f'"[" {_SPACE} {listed} {_SPACE} "]"'

    def _dict(self, schema: Mapping[str, Any], depth: int) -> str:
        members = Members.of(schema, self.root)
        if members.takes_any(schema):
            value = self.grammar(schema.get("additionalProperties", {}), depth + 1)
            listed = members.any_grammar(f"{_KEY} {_COLON} {value}", _COMMA)
        else:
            listed = members_grammar(self.lark, members, lambda name: self._member(schema, name, depth), _COMMA)
        return f'"{{" {_SPACE} {listed} {_SPACE} "}}"'

    def _member(self, schema: Mapping[str, Any], name: str, depth: int) -> str:
        value = self.grammar(parameter_of(schema, name, self.root), depth + 1)
        return f"{any_of(map(quoted, _spelled(name)))} {_COLON} {value}"

    def _any(self) -> str:
        """Return the expression for any literal."""
        rule, rules = "any_literal", self.lark.rules
        if rule not in rules:
            listed = f"({rule} ({_COMMA} {rule})*)?"
            member = f"{_KEY} {_COLON} {rule}"
            pairs = all_unlike(f"({member} ({_COMMA} {member})*)?")
            scalar = f'{self._quoted} | %json {{"type": ["string", "number"]}} | {_WORDS["boolean"]} | {_WORDS["null"]}'
            rules[rule] = f'{scalar} | "[" {_SPACE} {listed} {_SPACE} "]" | "{{" {_SPACE} {pairs} {_SPACE} "}}"'
        return rule

    @property
    def _quoted(self) -> str:
        """The expression for a text in single quotes, as Python writes it."""
        return r"""/'([^'%s\\\n]|\\['"\\nrt])*'/""" % ("<" if self.in_tags else "")


def literal_grammar(lark: Lark, part: Any, root: Any, place: Place, types: Types) -> str:
    """Return the expression for a value between tags, of one of these types, which are no texts."""
    try:
        return Literals(lark, root, place, in_tags=True).grammar({"allOf": [part], "type": sorted(types)})
    except UnkeptSchema:
        return json_grammar(lark, part, root, "", place, types)


def _listed(schema: Mapping[str, Any]) -> str:
    """Return the expression for the only values that a schema allows."""
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if set(schema) - {"enum", "const", "type"} or any(isinstance(value, list | dict) for value in values):
        raise UnkeptSchema("enum", "it is kept to in JSON alone")
    if "const" in schema and schema["const"] not in schema.get("enum", values):
        raise UnkeptSchema("type", "nothing fits it")
    types = types_in({"type": schema["type"]}, {}) if "type" in schema else None
    kept = [value for value in values if types is None or _is_of(value, types)]
    if not kept:
        raise UnkeptSchema("type", "nothing fits it")
    return any_of(dict.fromkeys(quoted(each) for value in kept for each in _spelled(value)))


def _is_of(value: Any, types: Types) -> bool:
    own = types_in({"const": value}, {})
    return bool(own & types) or (own == {"integer"} and "number" in types)


def _spelled(value: Any) -> list[str]:
    """Return the spellings of a scalar."""
    own = json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return [str(value), own]
    return [own, f"'{value}'"] if isinstance(value, str) and not set(value) & set("'\\\n\r\t\"<") else [own]
