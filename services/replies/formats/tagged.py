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
from services.replies.formats.tagged_grammar import DATA, Tags
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.values import Types, types_of, value_json
from services.replies.json_scan import JsonScan
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting

_STRING: Types = frozenset(("string",))


@dataclass(frozen=True)
class Tagged(Tags):
    """Calls between the tags of a family, as they are read."""

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
        yield from self._read_value(source, calls, self._types(schema, name, attributes), self.other_ends(schema))

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

    def _read_value(self, source: Source, calls: Calls, types: Types, others: tuple[str, ...]) -> Parsing[None]:
        breaks = ("\r\n", "\n") if self.on_lines else ()
        yield from source.follows(*breaks)
        ends = (*(f"{each}{self.value_ends}" for each in breaks), self.value_ends, *others)
        is_data = self.has_data and (yield from source.follows(DATA))
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


def _is_within_text(value: str) -> bool:
    """Return whether a value is the beginning of an object or a list in JSON, up to somewhere in a text in quotes."""
    value = value.strip()
    if value[:1] not in ("{", "["):
        return False
    scan = JsonScan()
    scan.read(value, 0)
    return scan.is_in_text and not scan.is_wrong


def _taken_apart(header: str, begins: str) -> tuple[str, str]:
    """Return the name in the rest of a tag, and the attributes behind it."""
    if not begins.endswith('"'):
        return header.strip().strip("\"'"), ""
    name, _, attributes = header.partition('"')
    return name, attributes
