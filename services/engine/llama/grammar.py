"""JSON schemas as llama.cpp's grammars (GBNF): checked, simplified, and converted by llama-cpp-python's converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from services.engine.llama.llama_cpp_internals import SchemaConverter
from services.errors import InvalidRequest

LONGEST_SCHEMA = 2**16
LONGEST_GRAMMAR = 2**20
# llama.cpp refuses a rule that is repeated more than 2,000 times, and the converter writes each repetition out.
MOST_REPEATED = 1_000
# The most integers between two bounds that are written out, since the converter knows no bounds.
MOST_NUMBERS = 1_000
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
# Keywords that hold schemas by name, in a list, and one schema.
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = ("items", "additionalProperties", "not")


@lru_cache(maxsize=64)
def grammar_of(schema: str) -> str:
    """Return the GBNF of the texts that fit a schema, given as JSON. Raises InvalidRequest if it cannot be converted."""
    if len(schema) > LONGEST_SCHEMA:
        raise _refused(f"it is larger than {LONGEST_SCHEMA} bytes")
    try:
        grammar = SchemaConverter().convert(_plain(_rooted(json.loads(schema)), "schema"))
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    except (ValueError, AssertionError) as error:
        raise _refused(str(error) or "it is no schema") from None
    except Exception as error:
        # The converter may raise any exception on an unusual schema.
        raise _refused(f"a part of it is not supported ({type(error).__name__}: {error})") from None
    if len(grammar) > LONGEST_GRAMMAR:
        raise _refused("it is too large")
    return grammar


def _rooted(schema: Any) -> Any:
    """The schema with its root's reference resolved: the converter looks for none there. Raises ValueError."""
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
    """The schema in keywords that the converter knows. Raises ValueError, naming the part, if that is impossible."""
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
    """The schema with bounds that the converter does not know expressed by others. Raises ValueError if nothing fits."""
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
