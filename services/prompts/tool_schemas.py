"""Tools' parameters for templates that write each in words: the schema itself instead of a reference to it.

Such templates know few of JSON Schema's keywords. What clients generate for an optional value, null or something, is the
latter there with `nullable`, as in OpenAPI 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from services.prompts.abilities import Message

_DEFINITIONS = ("$defs", "definitions")
# The values of a schema written out, at most.
_LARGEST = 10_000


def inlined(tools: Sequence[Message]) -> list[Message]:
    """Return tools whose parameters hold what they refer to ("#/…"). Tools whose parameters grow too large stay."""
    made: list[Message] = []
    for tool in tools:
        function = tool["function"]
        parameters = function.get("parameters")
        if isinstance(parameters, dict) and (written := _Inlining(parameters).schema()) is not None:
            tool = {**tool, "function": {**function, "parameters": written}}
        made.append(tool)
    return made


class _Inlining:
    """One schema and the number of values that are left to write."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = _LARGEST

    def schema(self) -> dict[str, Any] | None:
        """The schema without references and definitions; None if it grows too large."""
        try:
            made: dict[str, Any] = self._written(self._root, ())
        except _TooLarge:
            return None
        return {name: value for name, value in made.items() if name not in _DEFINITIONS}

    def _written(self, value: Any, path: tuple[str, ...]) -> Any:
        """A value with what it refers to; `path` holds the references that led to it."""
        self._left -= 1
        if self._left < 0:
            raise _TooLarge
        if isinstance(value, list):
            return [self._written(each, path) for each in value]
        if not isinstance(value, dict):
            return value
        own = _without_null(
            {name: each for name, each in value.items() if name not in _DEFINITIONS or value is not self._root}
        )
        reference = own.get("$ref")
        found = self._found(reference) if isinstance(reference, str) and reference not in path else None
        if found is None and "type" not in own and isinstance(own.get("properties"), dict):
            # The type tells these templates that there are properties.
            own = {"type": "object", **own}
        if found is None:
            return {name: self._written(each, path) for name, each in own.items()}
        rest = {name: each for name, each in own.items() if name != "$ref"}
        target = self._written(found, (*path, str(reference)))
        return {**target, **self._written(rest, path)}

    def _found(self, reference: str) -> dict[str, Any] | None:
        """What a reference within the schema names; None if it is not there, or is the whole schema."""
        found: Any = self._root
        for name in _names(reference):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, dict) and found is not self._root else None


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that is null or something as the latter; others as they are."""
    for keyword in ("anyOf", "oneOf", "type"):
        either = schema.get(keyword)
        if not isinstance(either, list) or len(either) != 2:
            continue
        rest = [each for each in either if each not in ("null", {"type": "null"})]
        if len(rest) == 1 and isinstance(rest[0], str if keyword == "type" else dict):
            made: dict[str, Any] = {"type": rest[0]} if isinstance(rest[0], str) else dict(rest[0])
            made |= {name: each for name, each in schema.items() if name != keyword} | {"nullable": True}
            if isinstance(values := made.get("enum"), list):
                made["enum"] = [each for each in values if each is not None]
            return made
    return schema


class _TooLarge(Exception):
    """The schema grows too large."""


def _names(reference: str) -> Iterator[str]:
    """The names in a JSON pointer (RFC 6901) behind "#"; one that no schema has for other references."""
    if not reference.startswith("#"):
        yield "\0"
    for name in reference.lstrip("#").split("/")[1:]:
        yield unquote(name).replace("~1", "/").replace("~0", "~")
