"""Trials of a chat template: what it can do, by what it writes.

Templates differ in how they want tool calls, results, thoughts and system messages, and many drop what they do not know
without a word. Their text does not tell; whether certain words appear in what they write does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from services.prompts.abilities import (
    CHUNKS,
    UNKNOWN,
    Abilities,
    CallContent,
    CallForm,
    Ids,
    Message,
    ToolForm,
    call_of,
    calling,
    typed,
    with_thought,
)

# Renders a conversation within tight limits; returns "" if the template fails or refuses.
Render = Callable[[dict[str, Any]], str]
# The variables that switch thinking on; with them, templates show the thoughts of earlier messages if they ever do.
THINKING = {"enable_thinking": True, "thinking": True}

_SYSTEM, _SECOND, _USER, _OTHER, _ANSWER, _RESULT, _RESULT_2, _THOUGHT, _TEXT = (
    f"Probe{word}Word" for word in ("System", "Second", "User", "Other", "Answer", "Result", "Double", "Thought", "Text")
)
_NAME, _NAME_2, _KEY, _VALUE = "probe_lookup", "probe_other", "probe_key", "ProbeValueWord"
_IDS: dict[Ids, tuple[str, str]] = {
    "any": ("call_0123456789abcdef01234567", "call_0123456789abcdef01234568"),
    "short": ("abcdefgh1", "abcdefgh2"),
    "named": (f"functions.{_NAME}:0", f"functions.{_NAME_2}:1"),
}
# A content that is no text, written as the data that it is.
_AS_JSON = re.compile(rf"""['"]thinking['"]\s*:\s*['"]{_THOUGHT}""")
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", CHUNKS)


def abilities_of(render: Render, source: str) -> Abilities:
    """Try out a template. `source` is its text: it tells only which words the template does not even contain."""
    return _Trial(render, source).abilities()


class _Trial:
    """The attempts with one template. What is found is used in those that follow."""

    def __init__(self, render: Render, source: str) -> None:
        self._render = render
        self._source = source
        self._none_tools = True
        self._typed = False

    def abilities(self) -> Abilities:
        if not self._try_plain():
            return UNKNOWN
        calls, tools = self._call_form(), self._tool_form()
        thoughts = self._thoughts(calls)
        return Abilities(
            works=True,
            none_tools=self._none_tools,
            typed_content=self._typed,
            system=self._shows([_said("system", _SYSTEM), _said("user", _USER)], _SYSTEM),
            systems=self._shows(
                [_said("system", _SYSTEM), _said("system", _SECOND), _said("user", _USER)], _SYSTEM, _SECOND
            ),
            late_system=self._shows_late_system(),
            system_alone=self._shows_system_alone(tools),
            system_kept=self._keeps_system(calls),
            developer="developer" in self._source
            and self._shows([_said("developer", _SYSTEM), _said("user", _USER)], _SYSTEM, _USER),
            runs=self._shows([_said("user", _USER), _said("user", _OTHER)], _USER, _OTHER),
            assistant_first=self._shows_assistant_first(calls),
            assistant_empty=self._shows(
                [_said("user", _USER), _said("assistant", ""), _said("user", _OTHER)], _USER, _OTHER
            ),
            assistant_last=self._shows_assistant_last(calls),
            tools=tools,
            tool_definitions=not tools
            or self._shows([_said("user", _USER)], *_OFFER_WORDS, "probe_field", **_offer(tools, _DEFINING)),
            calls=calls,
            parallel=calls is not None and self._shows_parallel(calls),
            call_beside_text=calls is not None and _is_right(self._write_call(calls, _TEXT)),
            results=self._shows_results(calls),
            lone_results=self._shows([_said("user", _USER), _result(calls or CallForm(), 0, _RESULT)], _USER, _RESULT),
            thoughts=thoughts,
            thought_and_text=calls is not None and self._shows_thought_and_text(calls, thoughts),
        )

    def _write(self, messages: Sequence[Message], reply: bool = True, **values: Any) -> str:
        if self._typed:
            messages = [typed(message) for message in messages]
        if self._none_tools:
            values = {"tools": None, **values}
        return self._render({"messages": list(messages), "add_generation_prompt": reply, **values})

    def _shows(self, messages: Sequence[Message], *words: str, **values: Any) -> bool:
        text = self._write(messages, **values)
        return all(word in text for word in words)

    def _try_plain(self) -> bool:
        """Find out how the simplest conversation is written; return whether it is written at all."""
        for self._typed, self._none_tools in product((False, True), (True, False)):
            if self._shows([_said("user", _USER)], _USER):
                return True
        self._typed, self._none_tools = False, True
        return False

    def _shows_late_system(self) -> bool:
        talk = [_said("user", _USER), _said("assistant", _ANSWER), _said("system", _SECOND), _said("user", _OTHER)]
        return self._shows([_said("system", _SYSTEM), *talk], _SYSTEM, _SECOND, _OTHER) and self._shows(talk[:-1], _SECOND)

    def _shows_system_alone(self, tools: ToolForm) -> bool:
        return self._shows([_said("system", _SYSTEM)], _SYSTEM) and (
            not tools or self._shows([_said("system", _SYSTEM)], _SYSTEM, *_OFFER_WORDS, **_offer(tools))
        )

    def _tool_form(self) -> ToolForm:
        forms: tuple[ToolForm, ...] = ("wrapped", "bare", "text")
        return next((form for form in forms if self._shows([_said("user", _USER)], *_OFFER_WORDS, **_offer(form))), "")

    def _call_form(self) -> CallForm | None:
        """The best form of calls: with the arguments' text if it is written as the object is: it is the model's own."""
        if "tool_calls" not in self._source:
            return None
        for is_bare, ids in product((False, True), _IDS):
            made = {form: text for form in _call_forms(is_bare, ids) if _is_right(text := self._write_call(form))}
            as_object, as_text = _shortest(made, "object"), _shortest(made, "text")
            if as_object and as_text:
                return as_text if _squeezed(made[as_text]) == _squeezed(made[as_object]) else as_object
            if as_object or as_text:
                return as_object or as_text
        return None

    def _write_call(self, form: CallForm, text: str = "") -> str:
        call = _calling(form, _call(form, _NAME, 0))
        talk = [_said("user", _USER), {**call, "content": text} if text else call, _result(form, 0, _RESULT)]
        # The tool that is offered is another, whose names are not mistaken for the call's.
        return self._write(talk, tools=[_OFFERED])

    def _keeps_system(self, form: CallForm | None) -> bool:
        talk = [_said("system", _SYSTEM), _said("user", _USER)]
        call = [_calling(form, _call(form, _NAME, 0)), _result(form, 0, _RESULT)] if form else []
        return self._shows([*talk, _said("assistant", _ANSWER)], _SYSTEM) and self._shows([*talk, *call], _SYSTEM)

    def _shows_assistant_first(self, form: CallForm | None) -> bool:
        if not self._shows([_said("assistant", _ANSWER), _said("user", _USER)], _ANSWER, _USER):
            return False
        # Llama 3's template takes the first message for the user's, if there are tools.
        talk = [_calling(form, _call(form, _NAME, 0)), _result(form, 0, _RESULT), _said("user", _USER)] if form else []
        return not form or _is_right(self._write(talk, tools=[_OFFERED]))

    def _shows_assistant_last(self, form: CallForm | None) -> bool:
        if not self._shows([_said("user", _USER), _said("assistant", _ANSWER)], _ANSWER):
            return False
        return not form or _is_right(self._write([_said("user", _USER), _calling(form, _call(form, _NAME, 0))]))

    def _shows_parallel(self, form: CallForm) -> bool:
        calls = [_call(form, _NAME, 0), _call(form, _NAME_2, 1)]
        talk = [
            _said("user", _USER),
            _calling(form, *calls),
            _result(form, 0, _RESULT),
            _result(form, 1, _RESULT_2, _NAME_2),
        ]
        return self._shows(talk, _NAME, _NAME_2, _RESULT, _RESULT_2)

    def _shows_results(self, form: CallForm | None) -> bool:
        call = _calling(form, _call(form, _NAME, 0)) if form else _said("assistant", _ANSWER)
        pending = [_said("user", _USER), call, _result(form or CallForm(), 0, _RESULT)]
        done = [*pending, _said("assistant", _TEXT), _said("user", _OTHER)]
        return all(self._shows(talk, _RESULT, tools=[_OFFERED]) for talk in (pending, done))

    def _thoughts(self, form: CallForm | None) -> str:
        for field in _FIELDS:
            for talk, reply in self._thinking_talks(form, field):
                if _THOUGHT in (text := self._write(talk, reply, **THINKING)) and not _AS_JSON.search(text):
                    return field
        return ""

    def _thinking_talks(self, form: CallForm | None, field: str) -> Iterator[tuple[list[Message], bool]]:
        """Conversations in which thoughts are shown: many templates show only those behind the last user message."""
        if field not in self._source or (field == CHUNKS and "thinking" not in self._source):
            return
        answer = with_thought(_said("assistant", _ANSWER), _THOUGHT, field)
        yield [_said("user", _USER), answer], False
        if form:
            call = with_thought(_calling(form, _call(form, _NAME, 0)), _THOUGHT, field)
            yield [_said("user", _USER), call, _result(form, 0, _RESULT)], True

    def _shows_thought_and_text(self, form: CallForm, field: str) -> bool:
        call = {**_calling(form, _call(form, _NAME, 0)), "content": _TEXT}
        talk = [_said("user", _USER), with_thought(call, _THOUGHT, field) if field else call, _result(form, 0, _RESULT)]
        return self._shows(talk, _TEXT, **THINKING)


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _tool(name: str, key: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": "A key."}}
    parameters = {"type": "object", "properties": properties, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": "Looks up.", "parameters": parameters}}


_OFFER_WORDS = ("probe_offer", "probe_parameter")
_OFFERED = _tool(*_OFFER_WORDS)


# One whose parameter refers to a definition.
_DEFINING = _tool(*_OFFER_WORDS)
_DEFINING["function"]["parameters"] |= {
    "properties": {_OFFER_WORDS[1]: {"$ref": "#/$defs/Shape"}},
    "$defs": {"Shape": {"type": "object", "properties": {"probe_field": {"type": "string"}}}},
}


def _offer(form: ToolForm, tool: Message = _OFFERED) -> dict[str, Any]:
    """The variables with a tool in a form of `Abilities.tools`."""
    if form == "text":
        return {"functions": json.dumps([tool["function"]])}
    return {"tools": [tool if form == "wrapped" else tool["function"]]}


def _call(form: CallForm, name: str, number: int) -> dict[str, Any]:
    arguments = {_KEY: _VALUE} if form.arguments == "object" else f'{{"{_KEY}": "{_VALUE}"}}'
    return call_of(form, name, arguments, _IDS[form.ids][number])


def _calling(form: CallForm, *calls: Message) -> dict[str, Any]:
    return calling({"role": "assistant"}, calls, form)


def _result(form: CallForm, number: int, text: str, name: str = _NAME) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": _IDS[form.ids][number], "name": name}


def _call_forms(is_bare: bool, ids: Ids) -> list[CallForm]:
    contents: tuple[CallContent, ...] = ("empty", "none", "absent")
    return [CallForm("object", each, is_bare, ids) for each in contents] + [
        CallForm("text", each, is_bare, ids) for each in contents
    ]


def _is_right(text: str) -> bool:
    """Return whether a call is written, and its arguments neither as Python's dict nor as JSON within JSON."""
    return all(word in text for word in (_NAME, _KEY, _VALUE)) and f"'{_KEY}':" not in text and f'\\"{_KEY}' not in text


def _shortest(made: Mapping[CallForm, str], arguments: str) -> CallForm | None:
    """The form without an empty message beside the call, or a content written as "None"."""
    forms = [form for form in made if form.arguments == arguments]
    return min(forms, key=lambda form: len(made[form])) if forms else None


def _squeezed(text: str) -> str:
    return "".join(text.split())
