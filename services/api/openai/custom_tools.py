"""Custom tools: a call has one text instead of JSON. Models know them as functions with one parameter."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from services.api.http.open_body import Open
from services.storage.json_text import read_json_text

# The parameter that holds the text.
INPUT = "input"
_OWN = ("function", "custom")


class ToolOfClient(Open):
    """A tool of a request. One that is neither a function nor a custom tool would be the server's."""

    run_here: ClassVar[tuple[str, ...]] = ()
    """The types of the tools that this server runs."""

    type: Annotated[str, Field(min_length=1, max_length=128)]

    @model_validator(mode="before")
    @classmethod
    def _has_its_own_fields(cls, data: Any) -> Any:
        """Leave out the fields of a tool that is not the client's: whatever they are, they are not used."""
        if isinstance(data, dict) and isinstance(data.get("type"), str) and data["type"] not in (*_OWN, *cls.run_here):
            return {"type": data["type"]}
        return data

    @property
    def is_own(self) -> bool:
        """True if the client runs it."""
        return self.type in _OWN

    @property
    def is_left_out(self) -> bool:
        """True if nobody runs it."""
        return not self.is_own and self.type not in self.run_here


class GrammarOfTool(Open):
    """A grammar."""

    syntax: Literal["lark", "regex"]
    definition: str


class CustomFormat(Open):
    """The format of a custom tool's text; a grammar stands within it or, in chats, in an object of its own."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None
    grammar: GrammarOfTool | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> CustomFormat:
        if self.type == "grammar" and not self.grammar and (self.syntax is None or self.definition is None):
            raise ValueError("grammar is missing: its syntax and its definition")
        return self

    @property
    def rule(self) -> GrammarOfTool | None:
        """The grammar; None: any text."""
        if self.type == "text":
            return None
        return self.grammar or GrammarOfTool.model_validate({"syntax": self.syntax, "definition": self.definition})

    @property
    def is_kept(self) -> bool:
        """True if the model is held to it. A grammar in Lark is shown to the model alone: its text is within JSON."""
        return self.rule is None or self.rule.syntax == "regex"


def function_of(name: str, description: str | None, form: CustomFormat | None) -> dict[str, Any]:
    """Return a custom tool as the function that the model knows."""
    rule, text = form.rule if form else None, {"type": "string"}
    about = description or ""
    if rule and rule.syntax == "regex":
        text["pattern"] = f"^(?:{rule.definition})$"
    elif rule:
        about = f"{about}\n\n`{INPUT}` is a text by this grammar (Lark):\n{rule.definition}".lstrip()
    parameters = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    return {"name": name, **({"description": about} if about else {}), "parameters": parameters}


def arguments_of(text: str) -> str:
    """Return the arguments of the function that stand for a custom tool's text."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def text_of(arguments: str) -> str:
    """Return the text of a call by its arguments; these themselves where they hold none."""
    read = read_json_text(arguments)
    text = read.get(INPUT) if isinstance(read, dict) else None
    return text if isinstance(text, str) else arguments
