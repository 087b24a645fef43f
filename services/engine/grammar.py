"""From a JSON schema to llama.cpp's grammar (GBNF), by llama-cpp-python's converter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from llama_cpp import llama_grammar

from services.engine.json_pattern import safe_pattern
from services.errors import InvalidRequest

LONGEST_SCHEMA = 2**16
LONGEST_GRAMMAR = 2**20
# llama.cpp refuses a rule that is repeated more than 2,000 times, and the converter writes each repetition out.
MOST_REPEATED = 1_000
# A character of a JSON text (RFC 8259, section 7): the library's rule lets control characters through.
_CHAR = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])'
_ESCAPES = {"\\": r"\\", '"': r"\"", "\x7f": r"\x7F"}
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")


class _Converter(llama_grammar.SchemaConverter):  # type: ignore[misc, unused-ignore]
    """llama-cpp-python's converter, mended where what it lets through is no JSON."""

    @classmethod
    def convert(cls, schema: Any) -> str:
        """GBNF for a schema."""
        converter = cls(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        converter.visit(converter.resolve_refs(schema, "schema"), "")
        if "char" in converter._rules:
            converter._rules["char"] = _CHAR
        return str(converter.format_grammar())

    def _format_literal(self, literal: str) -> str:
        """A JSON value as it is to be written; backslashes in it are its own, and no escapes of the grammar."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'

    def _visit_pattern(self, pattern: str, name: str) -> Any:
        return super()._visit_pattern(safe_pattern(pattern), name)


@lru_cache(maxsize=64)
def grammar_of(schema: str) -> str:
    """GBNF for the texts that fit a schema, itself given as JSON. Raises InvalidRequest where it cannot be made."""
    if len(schema) > LONGEST_SCHEMA:
        raise _refused(f"it is larger than {LONGEST_SCHEMA} bytes")
    for where, count in _counts(json.loads(schema), "schema"):
        if count > MOST_REPEATED:
            raise _refused(f"{where} is {count}, and {MOST_REPEATED} is the most that can be kept to")
    try:
        grammar = _Converter.convert(json.loads(schema))
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    except Exception as error:
        # The converter raises whatever it stumbles over.
        kind = "" if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__}: "
        raise _refused(f"{kind}{error}") from None
    if len(grammar) > LONGEST_GRAMMAR:
        raise _refused("it is too large")
    return grammar


def _counts(value: Any, where: str) -> Iterator[tuple[str, int]]:
    """Every number in a schema that becomes a count of repetitions, and where it stands."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _counts(each, f"{where}.{number}")
    elif isinstance(value, dict):
        for name, each in value.items():
            if name in _COUNTS and isinstance(each, int):
                yield f"{where}.{name}", each
            elif name == "pattern" and isinstance(each, str):
                yield from ((f"{where}.pattern", int(count[:9])) for count in re.findall(r"[{,]\s*(\d+)", each))
            else:
                yield from _counts(each, f"{where}.{name}")


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be kept to: {reason}", param="response_format", code="bad_schema")
