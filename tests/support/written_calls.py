"""Tool calls, and what chat templates write of them: it is what their models would write."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

from tests.support.llama_replies import rendered

_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "a city"}, "days": {"type": "integer", "description": "n"}},
    "required": ["city"],
}
_DEEP = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"type": "string"}, "description": "some"},
        "options": {
            "type": "object",
            "properties": {"strict": {"type": "boolean"}, "factor": {"type": "number"}},
            "description": "settings",
            "additionalProperties": False,
        },
        "on": {"type": "boolean", "description": "whether"},
        "ratio": {"type": "number", "description": "a ratio"},
    },
    "required": ["items"],
}
_CODE = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "description": "code"},
        "note": {"type": ["string", "integer"], "description": "a note"},
    },
    "required": ["code"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"does {name}", "parameters": schema}}
    for name, schema in {
        "get_weather": _CITY,
        "set_deep": _DEEP,
        "run": _CODE,
        "ping": {"type": "object", "properties": {}},
    }.items()
]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("get_weather", {"city": "Paris", "days": 3}),
    "text like a number": ("get_weather", {"city": "75001"}),
    "letters": ("get_weather", {"city": "Zürich 上海 🎉"}),
    "nothing": ("ping", {}),
    "lists and objects": (
        "set_deep",
        {"items": ["a", "b c"], "options": {"strict": True, "factor": 0.5}, "on": False, "ratio": -2.5},
    ),
    "empty values": ("set_deep", {"items": [], "options": {}, "on": True}),
    "quotes": ("run", {"code": 'print("hi") # <b>&amp;</b> {"a": [1]}'}),
    "lines": ("run", {"code": "def f(x):\n    return x\n\nf(1)", "note": 7}),
    "a text that is JSON": ("run", {"code": '{"a": 1}', "note": "seven"}),
}


def written(template: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Return what a template writes of an assistant's message with these calls, without the turn around it."""
    for content, as_text in itertools.product(("", None), (False, True)):
        asked = [
            {"id": f"call0000{n}", "type": "function", "function": {"name": name, "arguments": _form(arguments, as_text)}}
            for n, (name, arguments) in enumerate(calls)
        ]
        try:
            found = _behind_prompt(template, {"role": "assistant", "content": content, "tool_calls": asked})
        except TypeError:
            continue
        if calls[0][0] in found:
            # Command R+ repeats its instructions behind the conversation.
            return found.removesuffix(_turn_end(template)).partition("<|START_OF_TURN_TOKEN|>")[0].rstrip()
    raise AssertionError(f"{template} does not write the call")


def _form(arguments: dict[str, Any], as_text: bool) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if as_text else arguments


def _behind_prompt(template: str, reply: dict[str, Any]) -> str:
    """Return what comes behind the prompt, with its thoughts on, or off where it opens one that the history has not."""
    user = {"role": "user", "content": "Go."}
    for thinks in (True, False):
        prompt = rendered(template, [user], TOOLS, True, thinks)
        whole = rendered(template, [user, reply], TOOLS, False, thinks)
        if whole.startswith(prompt):
            return whole.removeprefix(prompt)
    common = _common(whole, prompt)
    return whole[common.rfind("<") if ">" not in common[common.rfind("<") :] else len(common) :]


def _common(one: str, other: str) -> str:
    """Return the beginning that two texts share."""
    return one[: next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))]


@cache
def _turn_end(template: str) -> str:
    """Return what a template writes behind every message of an assistant."""
    user = {"role": "user", "content": "Go."}
    texts = [
        rendered(template, [user, {"role": "assistant", "content": text}], TOOLS, False)[::-1] for text in ("abc", "xyz")
    ]
    return _common(*texts)[::-1]
