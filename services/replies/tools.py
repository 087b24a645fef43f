"""Tools: telling a model of functions that it may call, and reading its calls out of what it writes.

Chat templates know tools in ways of their own. A model is held to a call by a JSON schema, whatever its template; what it
writes of its own accord is read in the forms that templates teach: `<tool_call>{…}</tool_call>` (Hermes, Qwen),
`<function=NAME>{…}</function>` and bare JSON (Llama, Mistral).
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
        """As OpenAI's API tells it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def call_schema(tools: Sequence[Mapping[str, Any]], name: str | None = None) -> str:
    """The JSON schema of a call of one of the tools, or of the one called `name`."""
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
    """A schema whose references to its own root lead to `root` instead."""
    if isinstance(schema, list):
        return [_moved(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, root) for name, value in schema.items()}
    ref = schema.get("$ref")
    return {**moved, "$ref": root + ref[1:]} if isinstance(ref, str) and ref.startswith("#") else moved


def read_calls(text: str, names: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """The text beside the calls, and the calls of tools called one of `names`; without any, the text is all there is."""
    found = [*((None, body) for body in _TAGGED.findall(text)), *_FUNCTION.findall(text)]
    calls = [call for name, body in found for call in _calls_in(body, names, name)]
    if calls:
        return _FUNCTION.sub("", _TAGGED.sub("", text)).strip(), calls
    calls = _calls_in(text.replace("[TOOL_CALLS]", "").replace("<|python_tag|>", "").strip(), names)
    return ("", calls) if calls else (text, [])


class CallWatch:
    """Tells, as a text streams in, what of it is surely no call. Owned by the thread that streams."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._calls = False

    def add(self, chunk: str) -> str:
        """Take a piece; return what may be shown."""
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
        """What was held back."""
        return self._held


def begins_call(text: str) -> bool:
    """Whether a call begins in a text, whether or not it ends there."""
    return any(opening in text for opening in _OPENINGS) or text.lstrip().startswith(("{", "["))


def _overlap(text: str, opening: str) -> int:
    return next((n for n in range(min(len(opening) - 1, len(text)), 0, -1) if text.endswith(opening[:n])), 0)


def _calls_in(text: str, names: Sequence[str], name: str | None = None) -> list[ToolCall]:
    """The calls that a JSON text is: one, or a list of some; [] where it is anything else."""
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
