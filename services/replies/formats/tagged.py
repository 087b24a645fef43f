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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.formats.literals import in_json
from services.replies.formats.parameters import Members, members_grammar, place_of, refused
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import Types, parameter_of, types_in, types_of, value_json
from services.replies.formats.values_grammar import Place, json_grammar, value_grammar
from services.replies.grammar import SPACE, Lark, any_of
from services.replies.json_scan import JsonScan
from services.replies.patterns import literal
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import Begin, CallSyntax, is_prose
from services.replies.toolset import Toolset, grouped

_CDATA = "<![CDATA["
# With more beginnings of names behind a tag that people write about, the tag alone begins a call.
_MOST_GROUPS = 32
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
        yield from source.space()
        if (yield from source.peek()) == "{" and (closer := self.closer or self.ends):
            # In Hermes' form, which many models have seen as well.
            yield from TaggedJson(closer=closer).read(source, calls, opener)
            return
        if opener != self.call:
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
        yield from source.space()
        if not tag and (yield from source.peek()) == "{":
            # The arguments as one object, without tags.
            yield from calls.json_arguments()
            yield from source.space()
            yield from source.closing(self.ends)
            return False
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
        schema = calls.tools.schemas[call]
        yield from self._read_value(source, calls, self._types(schema, name, attributes), self._other_ends(schema))

    def _read_name(self, source: Source, calls: Calls) -> Waiting[tuple[str, str]]:
        """Read a call's name; return it, and the tag that was read with it, if one was."""
        yield from source.space()
        quote = "" if self.call.endswith('"') else (yield from source.follows('"', "'"))
        name = yield from calls.known_name()
        if not self.named:
            yield from source.space()
            if (yield from source.peek()) == "{":
                return name, ""
            return name, (yield from source.expect(self.parameter, self.ends))
        rest = yield from self._line_before(source, self.named)
        if rest.strip(f" {quote}") if not self.call.endswith('"') else not rest.startswith('"'):
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

    def _other_ends(self, schema: Any) -> tuple[str, ...]:
        """Return what also ends a value on lines, whose own end was forgotten: the next parameter, and the call's end."""
        if not self.on_lines:
            return ()
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        names = properties if isinstance(properties, Mapping) else ()
        tags = (*(f"{self.parameter}{name}{self.parameter_named}" for name in names), f"{self.ends}\n{self.closer}")
        return tuple(f"\n{tag}" for tag in tags)

    def _read_value(self, source: Source, calls: Calls, types: Types, others: tuple[str, ...]) -> Parsing[None]:
        breaks = ("\r\n", "\n") if self.on_lines else ()
        yield from source.follows(*breaks)
        ends = (*(f"{each}{self.value_ends}" for each in breaks), self.value_ends, *others)
        is_data = self.has_data and (yield from source.follows(_CDATA))
        if is_data:
            ends = ("]]>",)
        if types == _STRING:
            yield calls.arguments('"')
            end = ""
            while not end:
                text, end = yield from source.find(ends)
                if not text and not end:
                    raise Cut
                yield calls.arguments(in_json(text))
            yield calls.arguments('"')
        else:
            text, end = yield from source.text_before(*ends)
            while _is_within_text(text):
                # The tag stands in a text of the JSON.
                more, next_end = yield from source.text_before(*ends)
                text, end = f"{text}{end}{more}", next_end
            yield calls.arguments(value_json(text, types))
        if end in others:
            source.put_back(end)
        if is_data:
            yield from source.space()
            yield from source.expect(self.value_ends)

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        call = lark.rule("tagged", any_of(self._call_grammar(lark, name, tools) for name in tools.schemas))
        is_outer = (opener or self.trigger) != self.call
        begins = f"{SPACE} {lark.text(self.call)}"
        more = f"({begins} {call})*" if many and self.is_list else ""
        ends = f"{SPACE} {lark.text(self.closer)}" if self.closer else ""
        return f"{begins if is_outer else ''} {call} {more} {ends if is_outer or not ends else f'({ends})?'}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        if sure := tuple(opener for opener in self.openers if opener != self.call and not is_prose(opener)):
            yield Begin(sure, lambda lark: self.grammar(lark, tools, many))
        # A tag around the calls is nothing before a call begins, and then its end is the model's own affair.
        spaces = ("", "\n") if is_prose(self.call) else ("",)
        for begun, names in grouped(tools.schemas, _MOST_GROUPS if is_prose(self.call) else 1).items():
            texts = tuple(f"{self.call}{space}{begun}" for space in spaces)
            yield Begin(texts, partial(self._begun, tools=tools, names=names, begun=begun))

    def _begun(self, lark: Lark, tools: Toolset, names: Sequence[str], begun: str) -> str:
        """Return the expression for the rest of a call of one of these tools, whose name has begun so."""
        call = any_of(self._call_grammar(lark, name, tools, begun) for name in names)
        return f"{call} ({SPACE} {lark.text(self.closer)})?" if self.closer else call

    def _call_grammar(self, lark: Lark, name: str, tools: Toolset, begun: str = "") -> str:
        quote = '"' if self.call.endswith('"') else ""
        begins = lark.text(f"{name.removeprefix(begun)}{quote}{self.named}")
        try:
            parameters = self._parameters_grammar(lark, name, tools.schemas[name])
        except UnkeptSchema as error:
            raise refused(Place(name), error) from None
        return f"{begins} {parameters} {SPACE} {lark.text(self.ends)}"

    def _parameters_grammar(self, lark: Lark, tool: str, schema: Any) -> str:
        """Return the expression for a call's parameters; any at all if the schema names none."""
        schema = schema if isinstance(schema, Mapping) else {}
        members = Members.of(schema, schema)
        if not members.names:
            return f"({self._parameter_grammar(lark, tool, schema, '')})*" if members.is_open and _takes_any(schema) else ""

        def parameter(name: str) -> str:
            try:
                return self._parameter_grammar(lark, tool, schema, name)
            except UnkeptSchema as error:
                raise refused(place_of(tool, name), error) from None

        return members_grammar(lark, members, parameter)

    def _parameter_grammar(self, lark: Lark, tool: str, schema: Mapping[str, Any], name: str) -> str:
        """Return the expression for a parameter; `name` "": any that the schema does not name."""
        quote = '"' if self.parameter.endswith('"') else ""
        escaped = html.escape(name).replace("&#x27;", "'") if self.is_escaped else name
        written = lark.text(escaped) if name else "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
        header = f"{SPACE} {lark.text(self.parameter)} {written}"
        begins = f"{SPACE} {lark.text(self.value_begins)}" if self.value_begins else ""
        line = '"\\n"' if self.on_lines else ""
        choices = []
        for is_text, value in self._values(lark, schema, name, place_of(tool, name)):
            attribute = f"{quote}{self._attribute(is_text)}{self.parameter_named}"
            choices.append(f"{lark.text(attribute)} {begins} {line} {value}")
        return f"{header} {any_of(choices)}"

    def _values(self, lark: Lark, schema: Mapping[str, Any], name: str, place: Place) -> Iterator[tuple[bool, str]]:
        """Yield the expressions for a parameter's value and what ends it, each with whether it is a text."""
        ends = f"\n{self.value_ends}" if self.on_lines else self.value_ends
        banned = [f"(?s:.*){literal(end)}(?s:.*)" for end in self._other_ends(schema)] + [_DATA] * self.has_data
        part, without = parameter_of(schema, name), "|".join(banned)
        types = types_in(part, schema)
        if not self.string_attribute:
            yield "string" in types, value_grammar(lark, part, schema, ends, place, without)
            return
        if "string" in types:
            yield True, value_grammar(lark, {"allOf": [part], "type": "string"}, schema, ends, place, without)
        if others := types - _STRING:
            yield False, json_grammar(lark, part, schema, ends, place, others)

    def _attribute(self, is_text: bool) -> str:
        if not self.string_attribute:
            return ""
        name, _, value = self.string_attribute.partition("=")
        return f" {name}={value}" if is_text else f" {name}={_OTHER[value]}"


# The beginning of a value that stands in CDATA, as a regular expression.
_DATA = r"<!\[CDATA\[(?s:.*)"
# What an attribute says of values that are no texts.
_OTHER = {'"true"': '"false"', '"string"': '"object"'}


def _is_within_text(value: str) -> bool:
    """Return whether a value is the beginning of an object or a list in JSON, up to somewhere in a text in quotes."""
    value = value.strip()
    if value[:1] not in ("{", "["):
        return False
    scan = JsonScan()
    scan.read(value, 0)
    return scan.is_in_text and not scan.is_wrong


def _takes_any(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema without named parameters takes any: one with an empty list of them takes none."""
    return not isinstance(schema.get("properties"), Mapping)


def _taken_apart(header: str, begins: str) -> tuple[str, str]:
    """Return the name in the rest of a tag, and the attributes behind it."""
    if not begins.endswith('"'):
        return header.strip().strip("\"'"), ""
    name, _, attributes = header.partition('"')
    return name, attributes
