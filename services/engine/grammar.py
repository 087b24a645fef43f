"""From a JSON schema to llama.cpp's grammar (GBNF), by llama-cpp-python's converter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from llama_cpp import llama_grammar

from services.errors import InvalidRequest

LONGEST_SCHEMA = 2**16
LONGEST_GRAMMAR = 2**20
# llama.cpp refuses a rule that is repeated more than 2,000 times, and the converter writes each repetition out.
MOST_REPEATED = 1_000
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")


@lru_cache(maxsize=64)
def grammar_of(schema: str) -> str:
    """GBNF for the texts that fit a schema, itself given as JSON. Raises InvalidRequest where it cannot be made."""
    if len(schema) > LONGEST_SCHEMA:
        raise _refused(f"it is larger than {LONGEST_SCHEMA} bytes")
    for where, count in _counts(json.loads(schema), "schema"):
        if count > MOST_REPEATED:
            raise _refused(f"{where} is {count}, and {MOST_REPEATED} is the most that can be kept to")
    try:
        grammar = str(llama_grammar.json_schema_to_gbnf(schema))
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    except Exception as error:
        # The converter raises whatever it stumbles over.
        raise _refused(f"{type(error).__name__}: {error}") from None
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
