"""Tool calls and their results in the form that a chat template takes, or in words if it takes them in none."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from services.prompts.abilities import Abilities, CallForm, Ids, call_of, calling
from services.replies.events import ToolCall
from services.replies.wording import call_in_words, result_in_words
from services.storage.json_text import DEEPEST, is_deeper

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class CallShaper:
    """Shapes the calls and results of one conversation, in their order. Owned by one rendering."""

    def __init__(self, abilities: Abilities) -> None:
        self._form = abilities.calls
        self._takes_results = abilities.results
        self._takes_lone_results = abilities.lone_results
        self._worded: set[str] = set()
        """The ids of calls that the template takes in general, but that are in words: their results are too."""
        self._ids: dict[str, str] = {}
        """The ids of calls, and those that the template takes instead."""
        self._pending: set[str] = set()
        """The ids of the calls that the results which follow may be of."""
        self._n_calls = 0

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with its calls as the template takes them."""
        calls = message.get("tool_calls")
        self._pending = {str(call.get("id")) for call in calls or ()}
        if not calls:
            return message
        if self._form and (shaped := self._shaped(calls, self._form)):
            return calling(message, shaped, self._form)
        if self._form:
            self._worded |= {str(call.get("id")) for call in calls}
        words = [call_in_words(_tool_call(call)) for call in calls]
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        return {**rest, "content": _with_words(message["content"], "\n".join(words))}

    def result(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a result as the template takes it: of the role tool, or the user's in words."""
        call_id = str(message.get("tool_call_id"))
        is_lone = call_id not in self._pending and self._form is not None
        if not self._takes_results or call_id in self._worded or (is_lone and not self._takes_lone_results):
            return {"role": "user", "content": result_in_words(str(message.get("name", "")), message["content"])}
        if "tool_call_id" not in message:
            return message
        is_short = self._form is not None and self._form.ids == "short"
        return {**message, "tool_call_id": self._ids.get(call_id) or (_short_id(call_id) if is_short else call_id)}

    def _shaped(self, calls: Sequence[dict[str, Any]], form: CallForm) -> list[dict[str, Any]]:
        """Calls as the template takes them; [] if it cannot take one of them."""
        arguments = [_arguments(call, form) for call in calls]
        if None in arguments:
            return []
        return [
            call_of(form, _function_of(call)["name"], value, self._id(call, form.ids))
            for call, value in zip(calls, arguments, strict=True)
        ]

    def _id(self, call: dict[str, Any], ids: Ids) -> str:
        own, number = str(call.get("id") or ""), self._n_calls
        self._n_calls += 1
        made = own
        if ids == "short":
            made = _short_id(own)
        elif ids == "named" and not own.startswith(named := f"functions.{_function_of(call)['name']}:"):
            made = f"{named}{number}"
        self._ids[own] = made
        return made


def named_results(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with an id in each call, and the call's id and the function's name in each result.

    Some templates write them, and clients leave them out. A result without an id is that of the first call before it that
    has no result yet.
    """
    made: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    pending: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            call_id = str(message.get("tool_call_id") or "") or next(iter(pending), "")
            pending = [each for each in pending if each != call_id]
            known = {"name": names[call_id]} if call_id in names else {}
            own = {name: value for name, value in message.items() if value or name != "tool_call_id"}
            made.append({**({"tool_call_id": call_id} if call_id else {}), **known, **own})
            continue
        if message.get("tool_calls"):
            calls = [
                {**call, "id": str(call.get("id") or f"call_{len(names) + n}")}
                for n, call in enumerate(message["tool_calls"])
            ]
            message = {**message, "tool_calls": calls}
            names |= {call["id"]: _function_of(call)["name"] for call in calls}
            pending = [call["id"] for call in calls]
        made.append(message)
    return made


def content_text(content: Any) -> Any:
    """Return a message's content as one text if it is one; parts that are no text stay as they are."""
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return "" if content is None else content


def _arguments(call: dict[str, Any], form: CallForm) -> Any:
    """The arguments of a call in the form that a template takes; None if they are no JSON object, and have to be one."""
    arguments = _function_of(call).get("arguments") or "{}"
    if form.arguments == "object":
        return _object(arguments)
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _object(arguments: Any) -> dict[str, Any] | None:
    """The arguments' object; None if they are no JSON object, or none that can be written as JSON again."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            return None
    return arguments if isinstance(arguments, dict) and not is_deeper(arguments, DEEPEST) and _is_exact(arguments) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a name twice, of which one value would be lost. Raises ValueError if there is one."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _is_exact(value: Any) -> bool:
    """Return whether a value is written as JSON again: no number too large, and no half of a character."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, dict):
        return all(_is_exact(each) for each in (*value, *value.values()))
    return all(_is_exact(each) for each in value) if isinstance(value, list) else True


def _function_of(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else call


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = _function_of(call)
    arguments = function.get("arguments") or "{}"
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(function["name"], written, str(call.get("id") or ""))


def _with_words(content: Any, words: str) -> Any:
    """A content with words behind it."""
    if isinstance(content, list):
        return [*content, {"type": "text", "text": words}]
    return f"{content}\n\n{words}" if content else words


def _short_id(call_id: str) -> str:
    """Nine letters and digits for an id, always the same ones; an id that is so stays."""
    if len(call_id) == 9 and call_id.isalnum() and call_id.isascii():
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "replace")).digest()[:8], "big")
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_LETTERS))
        digits.append(_LETTERS[digit])
    return "".join(digits)
