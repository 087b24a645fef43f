"""The interface of the simplifier to the rules of objects and arrays, which it applies."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from services.engine.llama.schemas.references import References
from services.patterns.effort import Effort

# How a schema holds for a value: as the whole of what does ("whole"); beside others that name other properties ("part");
# or beside any others ("open"). Only a whole one may say that there are no further properties.
Mode = Literal["whole", "part", "open"]


class Subschemas(Protocol):
    """Simplifies the schemas within a schema."""

    references: References
    effort: Effort
    """What is left to the document's patterns."""

    def schema(self, schema: Any, where: str, base: str, mode: Mode) -> Any:
        """Return a schema in keywords that are kept to exactly. Raises SchemaError, naming `where`."""
        ...
