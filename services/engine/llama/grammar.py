"""From a JSON schema to llama.cpp's grammar (GBNF), by llama-cpp-python's converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llama_cpp import llama_grammar

from services.engine.llama.json_pattern import rule_of
from services.errors import InvalidRequest

LONGEST_SCHEMA = 2**16
LONGEST_GRAMMAR = 2**20
# llama.cpp refuses a rule that is repeated more than 2,000 times, and the converter writes each repetition out.
MOST_REPEATED = 1_000
# Whole numbers between two bounds are written out, up to so many; the converter knows no bounds.
MOST_NUMBERS = 1_000
# A character of a JSON text (RFC 8259, section 7): the library's rule lets control characters through.
_CHAR = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])'
_ESCAPES = {"\\": r"\\", '"': r"\"", "\x7f": r"\x7F"}
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
# What holds schemas by name, in a list, and alone.
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = ("items", "additionalProperties", "not")


@lru_cache(maxsize=64)
def grammar_of(schema: str) -> str:
    """GBNF for the texts that fit a schema, itself given as JSON. Raises InvalidRequest where it cannot be made."""
    if len(schema) > LONGEST_SCHEMA:
        raise _refused(f"it is larger than {LONGEST_SCHEMA} bytes")
    try:
        grammar = _Converter.convert(json.loads(schema))
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    except (ValueError, AssertionError) as error:
        raise _refused(str(error) or "it is no schema") from None
    except Exception as error:
        # The converter raises whatever it stumbles over.
        raise _refused(f"a part of it is not supported ({type(error).__name__}: {error})") from None
    if len(grammar) > LONGEST_GRAMMAR:
        raise _refused("it is too large")
    return grammar


class _Converter(llama_grammar.SchemaConverter):  # type: ignore[misc, unused-ignore]
    """llama-cpp-python's converter, mended where what it lets through is no JSON, or not what the schema says."""

    _ref_rules: dict[str, str]
    _begun: bool

    @classmethod
    def convert(cls, schema: Any) -> str:
        """GBNF for a schema."""
        converter = cls(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        converter._ref_rules = {}
        converter._begun = False
        schema = converter.resolve_refs(_plain(_rooted(schema), "schema"), "schema")
        converter.visit(schema, "")
        if "char" in converter._rules:
            converter._rules["char"] = _CHAR
        return str(converter.format_grammar())

    def visit(self, schema: Any, name: str) -> Any:
        """See the library. The rule of a property without a name must not be the root's."""
        name = name or ("" if not self._begun else "empty")
        self._begun = True
        return super().visit(schema, name)

    def _format_literal(self, literal: str) -> str:
        """A JSON value as it is to be written; backslashes in it are its own, and no escapes of the grammar."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'

    def _visit_pattern(self, pattern: str, name: str) -> Any:
        return self._add_rule(name, f'"\\"" ({rule_of(pattern)}) "\\"" space')

    def _resolve_ref(self, ref: str) -> Any:
        """The rule of a reference. The library names it by the reference's end, which two may have in common."""
        if ref not in self._ref_rules:
            self._ref_rules[ref] = f"ref-{len(self._ref_rules)}"
            self._ref_rules[ref] = self.visit(self._refs[ref], self._ref_rules[ref])
        return self._ref_rules[ref]


def _rooted(schema: Any) -> Any:
    """The schema with what its root refers to in the root's place: the converter looks for no reference there."""
    seen: set[str] = set()
    while isinstance(schema, dict) and isinstance(ref := schema.get("$ref"), str) and ref.startswith("#/"):
        if ref in seen:
            raise ValueError(f"{ref} refers to itself")
        seen.add(ref)
        target: Any = schema
        for part in ref[2:].split("/"):
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise ValueError(f"{ref} refers to nothing")
        kept = {name: value for name, value in schema.items() if name in ("$defs", "definitions")}
        schema = {**kept, **target}
    return schema


def _plain(schema: Any, where: str) -> Any:
    """The schema in words that the converter knows. Raises ValueError, naming the part, where that cannot be."""
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} should be an object" if schema is not False else f"{where} is false: nothing fits that")
    ref = schema.get("$ref")
    if ref is not None and not (isinstance(ref, str) and ref.startswith("#/")):
        raise ValueError(f"{where}.$ref should begin with #/: nothing is fetched from elsewhere")
    plain = {**schema}
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, Mapping):
            plain[name] = {key: _plain(each, f"{where}.{name}.{key}") for key, each in value.items()}
        elif name in _LISTED and isinstance(value, list):
            plain[name] = [_plain(each, f"{where}.{name}.{n}") for n, each in enumerate(value)]
        elif name in _ALONE and not (name == "additionalProperties" and isinstance(value, bool)):
            plain[name] = _plain(value, f"{where}.{name}")
        elif name in _COUNTS:
            plain[name] = _count(value, f"{where}.{name}")
    return _bounded(plain, where)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise ValueError(f"{where} should be a whole number")
    if value > MOST_REPEATED:
        raise ValueError(f"{where} is {int(value)}, and {MOST_REPEATED} is the most that can be kept to")
    return int(value)


def _bounded(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The same, with bounds that the converter does not know put in another way."""
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        if least in schema and most in schema and schema[least] > schema[most]:
            raise ValueError(f"{where}.{least} is more than {most}: nothing fits that")
    if schema.get("maxItems") == 0:
        return {"const": []}
    bounds = schema.get("minimum"), schema.get("maximum")
    if schema.get("type") == "integer" and all(isinstance(bound, int) for bound in bounds):
        low, high = (int(bound or 0) for bound in bounds)
        if high - low < MOST_NUMBERS:
            return {"enum": list(range(low, high + 1))}
    return schema


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be kept to: {reason}", param="response_format", code="bad_schema")
