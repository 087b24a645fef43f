"""Tool calls: the JSON schema that holds a model to one, and the reader of calls in what a model writes.

Calls that a model writes unforced are read in the forms that chat templates teach: `<tool_call>{…}</tool_call>` (Hermes,
Qwen), `<function=NAME>{…}</function>` and bare JSON (Llama, Mistral).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.storage.json_text import read_json_text

_OPENINGS = ("<tool_call>", "<function=", "[TOOL_CALLS]")
_TAGGED = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|$)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>]+)>\s*(\{.*?\})\s*(?:</function>|$)", re.DOTALL)


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called. `arguments` are JSON, as the model wrote them."""

    name: str
    arguments: str
    id: str = ""

    def described(self) -> dict[str, Any]:
        """Return the call as OpenAI's API writes it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def call_schema(tools: Sequence[Mapping[str, Any]], name: str | None = None) -> str:
    """Return the JSON schema of a call of one of the tools, or of the tool called `name`."""
    wanted = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    # Each tool's parameters are a document of their own, whose references begin at their root.
    documents = {
        f"tool{n}": _moved(function.get("parameters") or {"type": "object"}, f"#/$defs/tool{n}")
        for n, function in enumerate(wanted)
    }
    schemas = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/tool{n}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for n, function in enumerate(wanted)
    ]
    return json.dumps({**(schemas[0] if len(schemas) == 1 else {"anyOf": schemas}), "$defs": documents})


def _moved(schema: Any, root: str) -> Any:
    """Return a schema with `root` instead of its own root in references."""
    if isinstance(schema, list):
        return [_moved(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, root) for name, value in schema.items()}
    ref = schema.get("$ref")
    return {**moved, "$ref": root + ref[1:]} if isinstance(ref, str) and ref.startswith("#") else moved


def read_calls(text: str, names: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """Return the text beside the calls, and the calls of tools in `names`; without a call, the text as it is."""
    found = [*((None, body) for body in _TAGGED.findall(text)), *_FUNCTION.findall(text)]
    calls = [call for name, body in found for call in _calls_in(body, names, name)]
    if calls:
        return _FUNCTION.sub("", _TAGGED.sub("", text)).strip(), calls
    calls = _calls_in(text.replace("[TOOL_CALLS]", "").replace("<|python_tag|>", "").strip(), names)
    return ("", calls) if calls else (text, [])


class CallWatch:
    """Separates, as a text streams in, what is surely no part of a call. Owned by the thread that streams."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._calls = False

    def add(self, chunk: str) -> str:
        """Add a piece of the text; return the text that may be shown now."""
        self._held += chunk
        if not self._begun and self._held.strip():
            self._begun, self._calls = True, self._held.lstrip()[0] in "{["
        if not self._begun or self._calls:
            return ""
        at = min((at for opening in _OPENINGS if (at := self._held.find(opening)) >= 0), default=-1)
        self._calls = at >= 0
        if not self._calls:
            at = len(self._held) - max(_overlap(self._held, opening) for opening in _OPENINGS)
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """Return the text that was held back."""
        return self._held


def begins_call(text: str) -> bool:
    """Return whether a call begins in a text, complete or not."""
    return any(opening in text for opening in _OPENINGS) or text.lstrip().startswith(("{", "["))


def _overlap(text: str, opening: str) -> int:
    """Return how many characters at the text's end may begin `opening`."""
    return next((n for n in range(min(len(opening) - 1, len(text)), 0, -1) if text.endswith(opening[:n])), 0)


def _calls_in(text: str, names: Sequence[str], name: str | None = None) -> list[ToolCall]:
    """Return the calls that a JSON text holds: one, or a list of them; [] where it is anything else."""
    data = read_json_text(text)
    if data is None:
        return []
    if name is not None:
        data = {"name": name, "arguments": data}
    calls = []
    for entry in data if isinstance(data, list) else [data]:
        arguments = entry.get("arguments", entry.get("parameters", {})) if isinstance(entry, dict) else None
        if not isinstance(arguments, dict | str) or entry.get("name") not in names:
            return []
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(entry["name"], written, f"call_{secrets.token_hex(12)}"))
    return calls
