"""The tools of a request, in OpenAI's form, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Toolset:
    """The tools that may be called: the JSON schema of each one's arguments by its name."""

    schemas: Mapping[str, Any]

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> Toolset:
        """Take tools as OpenAI's API has them (`{"type": "function", "function": {"name", "parameters", …}}`)."""
        functions = [tool.get("function", tool) for tool in tools]
        return cls({str(each["name"]): _schema(each.get("parameters")) for each in functions if each.get("name")})

    def only(self, choice: str) -> Toolset:
        """Return the tools among which `choice` lets the model choose: "auto", "required" (all of them), or a name."""
        if choice in ("auto", "required"):
            return self
        return Toolset({name: schema for name, schema in self.schemas.items() if name == choice})

    def parameter(self, name: str, parameter: str) -> Any:
        """Return the schema of a tool's parameter; {} if the tool does not declare it."""
        schema = self.schemas.get(name)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        return properties.get(parameter, {}) if isinstance(properties, Mapping) else {}


def _schema(parameters: Any) -> Any:
    return ANY_OBJECT if parameters is None or parameters == {} else parameters


def grouped(names: Iterable[str], most: int = 8) -> dict[str, list[str]]:
    """Return names by what they begin with: all of each, or less, so that there are `most` groups.

    No group's beginning is another's.
    """
    ordered = sorted(names)
    for length in range(max(map(len, ordered), default=0), -1, -1):
        found: dict[str, list[str]] = {}
        for name in ordered:
            begins = next((each for each in found if name.startswith(each)), name[:length])
            found.setdefault(begins, []).append(name)
        if len(found) <= most:
            break
    return found
