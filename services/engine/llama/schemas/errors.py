"""What is wrong with a JSON schema, and in which of its keywords."""

from __future__ import annotations


class SchemaError(ValueError):
    """A schema that cannot be kept to: `where` is the JSON pointer of the keyword at fault."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


def inside(where: str, *names: str | int) -> str:
    """Return the JSON pointer of a part of the value at `where` (RFC 6901)."""
    return where + "".join(f"/{str(name).replace('~', '~0').replace('/', '~1')}" for name in names)
