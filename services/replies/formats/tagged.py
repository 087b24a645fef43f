"""Calls whose parameters stand between tags, as in XML: Qwen3-Coder, Seed-OSS, GLM, MiniMax, DeepSeek V3.2 and others.

    <tool_call>                      opener
    <function=get_weather>           call, name, named
    <parameter=city>                 parameter, name, parameter_named
    Paris
    </parameter>                     value_ends
    </function>                      ends
    </tool_call>                     closer

Values have no quotes; the tool's schema says what they are (formats/values.py). The arguments are given as JSON.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats.literals import in_json
from services.replies.formats.values import Types, types_of, value_json
from services.replies.formats.values_grammar import text_to, value_grammar
from services.replies.grammar import SPACE, Lark, any_of
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import CallSyntax
from services.replies.toolset import Toolset

_CDATA = "<![CDATA["
_STRING: Types = frozenset(("string",))


@dataclass(frozen=True)
class Tagged(CallSyntax):
    """The tags of a family. White space may stand between them, and before a value with `value_begins`."""

    call: str = ""
    named: str = ""
    """The text behind a call's name; "": the name ends with its line, or where a parameter or the call's end begins."""
    parameter: str = ""
    parameter_named: str = ""
    value_begins: str = ""
    value_ends: str = ""
    ends: str = ""
    closer: str = ""
    on_lines: bool = False
    """True if a value stands on lines of its own, whose line breaks are no part of it."""
    string_attribute: str = ""
    """The attribute behind a parameter's name that says whether it is a text, as `string="true"` or `type="string"`."""
    is_escaped: bool = False
    """True if parameters' names are written as in HTML."""
    has_data: bool = False
    """True if a value may stand in CDATA."""
    json_tags: tuple[str, str] = ("", "")
    """The tags around arguments that are one JSON object instead of parameters."""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        if opener != self.call:
            yield from source.space()
            yield from source.expect(self.call)
        while True:
            is_closed = yield from self._read_call(source, calls)
            yield from source.space()
            if is_closed or (self.closer and (yield from source.closing(self.closer))):
                return
            if not (yield from source.follows(self.call)):
                return

    def _read_call(self, source: Source, calls: Calls) -> Parsing[bool]:
        """Read a call from behind `call`; return whether the closer was read with it."""
        name, tag = yield from self._read_name(source, calls)
        yield calls.begin(name)
        is_first = True
        while (tag := tag or (yield from self._next_tag(source))) == self.parameter:
            yield calls.arguments("{" if is_first else ", ")
            yield from self._read_parameter(source, calls, name)
            tag, is_first = "", False
        if is_first and tag == self.json_tags[0]:
            yield from calls.json_arguments()
            yield from source.text_before(self.ends)
            return False
        yield calls.arguments("{}" if is_first else "}")
        calls.end()
        return tag == self.closer

    def _read_parameter(self, source: Source, calls: Calls, call: str) -> Parsing[None]:
        """Read a parameter from behind its tag's beginning."""
        header = yield from self._line_before(source, self.parameter_named)
        name, attributes = _taken_apart(header, self.parameter)
        name = html.unescape(name) if self.is_escaped else name
        if self.value_begins:
            yield from source.space()
            yield from source.expect(self.value_begins)
        yield calls.arguments(f'"{in_json(name)}": ')
        yield from self._read_value(source, calls, self._types(calls.tools.schemas[call], name, attributes))

    def _read_name(self, source: Source, calls: Calls) -> Waiting[tuple[str, str]]:
        """Read a call's name; return it, and the tag that was read with it, if one was."""
        yield from source.space()
        name = yield from calls.known_name()
        if not self.named:
            yield from source.space()
            return name, (yield from source.expect(self.parameter, self.ends))
        rest = yield from self._line_before(source, self.named)
        if rest.strip() if not self.call.endswith('"') else not rest.startswith('"'):
            raise Unreadable
        return name, ""

    def _line_before(self, source: Source, marker: str) -> Waiting[str]:
        """Read the rest of a tag, which has no line breaks, so that prose about tags is soon known for what it is."""
        text, found = yield from source.text_before(marker, "\n")
        if found != marker:
            raise Unreadable
        return text

    def _next_tag(self, source: Source) -> Waiting[str]:
        """Return the next tag of a call; what stands between tags means nothing."""
        tags = tuple(tag for tag in (self.parameter, self.ends, self.closer, self.json_tags[0]) if tag)
        while True:
            text, tag = yield from source.find(tags)
            if tag:
                return tag
            if not text:
                raise Cut

    def _types(self, schema: Any, parameter: str, attributes: str) -> Types:
        types = types_of(schema if isinstance(schema, Mapping) else {}, parameter)
        if self.string_attribute and attributes:
            is_text = self.string_attribute in attributes
            return _STRING if is_text else (types - _STRING or types_of({}, parameter) - _STRING)
        return types

    def _read_value(self, source: Source, calls: Calls, types: Types) -> Parsing[None]:
        if self.on_lines:
            yield from source.follows("\n")
        ends = (f"\n{self.value_ends}", self.value_ends) if self.on_lines else (self.value_ends,)
        is_data = self.has_data and (yield from source.follows(_CDATA))
        if is_data:
            ends = ("]]>",)
        if types == _STRING:
            yield calls.arguments('"')
            while text := (yield from self._text(source, ends)):
                yield calls.arguments(in_json(text))
            yield calls.arguments('"')
        else:
            text, _ = yield from source.text_before(*ends)
            yield calls.arguments(value_json(text, types))
        if is_data:
            yield from source.space()
            yield from source.expect(self.value_ends)

    def _text(self, source: Source, ends: tuple[str, ...]) -> Waiting[str]:
        """Return the next piece of a value, "" at its end."""
        text, found = yield from source.find(ends)
        if not text and not found:
            raise Cut
        return text

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool) -> str:
        begins = f"{SPACE} {lark.text(self.call)}" if self.trigger != self.call else ""
        call = lark.rule("tagged", f"{begins} {any_of(self._call_grammar(lark, *tool) for tool in tools.schemas.items())}")
        several = f"{call}+" if many and self.is_list else call
        return f"{several} {SPACE} {lark.text(self.closer)}" if self.closer else several

    def _call_grammar(self, lark: Lark, name: str, schema: Any) -> str:
        quote = '"' if self.call.endswith('"') else ""
        begins = lark.text(f"{name}{quote}{self.named}")
        return f"{begins} {' '.join(self._parameter_grammars(lark, schema))} {SPACE} {lark.text(self.ends)}"

    def _parameter_grammars(self, lark: Lark, schema: Any) -> list[str]:
        """Return an expression for each parameter, in the schema's order; any at all if the schema names none."""
        schema = schema if isinstance(schema, Mapping) else {}
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            is_closed = schema.get("additionalProperties") is False or isinstance(properties, Mapping)
            return [] if is_closed else [f"({self._parameter_grammar(lark, {}, '')})*"]
        required = schema.get("required") or ()
        parts = ((name, self._parameter_grammar(lark, schema, name)) for name in properties)
        return [part if name in required else f"({part})?" for name, part in parts]

    def _parameter_grammar(self, lark: Lark, schema: Mapping[str, Any], name: str) -> str:
        quote = '"' if self.parameter.endswith('"') else ""
        escaped = html.escape(name).replace("&#x27;", "'") if self.is_escaped else name
        written = lark.text(escaped) if name else "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
        header = f"{SPACE} {lark.text(self.parameter)} {written}"
        begins = f"{SPACE} {lark.text(self.value_begins)}" if self.value_begins else ""
        line = '"\\n"' if self.on_lines else ""
        choices = []
        for is_text, value in self._values(lark, schema, name):
            attribute = f"{quote}{self._attribute(is_text)}{self.parameter_named}"
            choices.append(f"{lark.text(attribute)} {begins} {line} {value}")
        return f"{header} {any_of(choices)}"

    def _values(self, lark: Lark, schema: Mapping[str, Any], name: str) -> list[tuple[bool, str]]:
        """Return the expressions for a parameter's value and what ends it, each with whether it is a text."""
        ends = f"\n{self.value_ends}" if self.on_lines else self.value_ends
        if not name:
            return [(True, text_to(lark, ends))]
        types = types_of(schema, name)
        if not self.string_attribute or types == _STRING:
            return [("string" in types, value_grammar(lark, schema, name, ends))]
        text = [(True, text_to(lark, ends))] if "string" in types else []
        return [*text, (False, value_grammar(lark, schema, name, ends, as_json=True))]

    def _attribute(self, is_text: bool) -> str:
        if not self.string_attribute:
            return ""
        name, _, value = self.string_attribute.partition("=")
        return f" {name}={value}" if is_text else f" {name}={_OTHER[value]}"


# What an attribute says of values that are no texts.
_OTHER = {'"true"': '"false"', '"string"': '"object"'}


def _taken_apart(header: str, begins: str) -> tuple[str, str]:
    """Return the name in the rest of a tag, and the attributes behind it."""
    if not begins.endswith('"'):
        return header.strip(), ""
    name, _, attributes = header.partition('"')
    return name, attributes
