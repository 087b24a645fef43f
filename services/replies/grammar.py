"""Parts of grammars in Lark, llguidance's dialect (its docs/syntax.md), that hold what a model writes to a call's form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.backend.types import Constraint

_NAMED = re.compile(r"<[^<>\s\[][^<>\s]*>")

# White space between the parts of a call, as much as models write.
SPACE = "/[ \\n]{1,4}/?"


@dataclass
class Lark:
    """Collects the rules of a grammar. `tokens` are the model's special tokens.

    Expressions are Lark's; each method returns one, to be put into a rule.
    """

    tokens: frozenset[str] = frozenset()
    rules: dict[str, str] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Return the expression for a text in which special tokens of the model may stand.

        Special tokens that look like `<…>` are named, as in llguidance. The engine puts others into the literals itself.
        """
        named = [token for token in self.tokens if token in text and _NAMED.fullmatch(token)]
        named.sort(key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, named))})", text) if named else [text]
        return " ".join(part if part in named else quoted(part) for part in parts if part)

    def json(self, schema: Any, tool: str, where: str = "#") -> str:
        """Return the expression for JSON by a schema, which is a document of its own.

        The engine names its source, should it refuse it: the tool, and the place (a JSON pointer) in the tool's schema.
        """
        return self.rule("json", f"%json {json.dumps(schema)} //! tools {json_text(tool)} {where}")

    def content(self, constraint: Constraint) -> str:
        """Return the expression for what a constraint by a schema or a regular expression allows."""
        if constraint.kind == "json_schema":
            return self.rule("content", f"%json {constraint.source}")
        escaped = re.sub(r"\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], constraint.source, flags=re.DOTALL)
        return self.rule("content", f"/{escaped}/" if escaped else '""')

    def rule(self, name: str, expression: str) -> str:
        """Add a rule under a name of its own that begins with `name` (lower case), and return that name."""
        for known, same in self.rules.items():
            if same == expression and known.startswith(name):
                return known
        unique = f"{name}_{len(self.rules)}"
        self.rules[unique] = expression
        return unique

    def source(self, start: str) -> str:
        """Return the grammar whose first rule is `start`."""
        return "\n".join([f"start: {start}", *(f"{name}: {expression}" for name, expression in self.rules.items()), ""])


def json_text(text: str) -> str:
    """Return a text as models write it in JSON."""
    return json.dumps(text, ensure_ascii=False)


def quoted(text: str) -> str:
    """Return a text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def any_of(expressions: Iterable[str]) -> str:
    """Return the expression for one of several."""
    return "(" + " | ".join(expressions) + ")"


def repeated(first: str, further: str, least: int, most: int | None) -> str:
    """Return the expression for so many items; `further` is the one of those behind the first."""
    if most == 0:
        return ""
    more = f"({further}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    return f"{first} {more}" if least else f"({first} {more})?"


def all_unlike(items: str) -> str:
    """Return the expression in which no two of the parts by `unlike` have the same text: marks for services/engine."""
    return f"<~list> {items} <~end>"


def unlike(item: str) -> str:
    """Return the expression of a part whose text is compared, as `all_unlike` says."""
    return f"<~item> {item} <~end>"
