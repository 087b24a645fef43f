"""How many schemas llguidance joins into one, where all of them hold for the same value."""

from __future__ import annotations

from typing import Any

from services.engine.llama.schemas.errors import SchemaError

# llguidance follows each way to a schema anew, for about a microsecond.
MOST_JOINED = 20_000


def check_joined(schema: dict[str, Any]) -> None:
    """Raise SchemaError for a simplified schema in which too many schemas hold for the same value."""
    definitions = schema["$defs"]
    counts: dict[str, int] = {}

    def joined(node: Any) -> int:
        if not isinstance(node, dict):
            return 1
        n = 1 + sum(joined(each) for each in node.get("allOf", ()))
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            if name not in counts:
                # A reference to itself adds nothing.
                counts[name] = 0
                counts[name] = joined(definitions[name])
            n += counts[name]
        if n > MOST_JOINED:
            raise SchemaError("#", f"more than {MOST_JOINED} schemas hold for the same value by its allOf and $ref")
        return n

    joined(schema)
    for each in definitions.values():
        joined(each)
