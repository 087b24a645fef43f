"""Calls that are JSON objects within tags: Hermes, Qwen, SmolLM3, Granite, Nemotron, and the generic form.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.replies.calls import Calls
from services.replies.grammar import SPACE, Lark, any_of, json_text, quoted
from services.replies.json_scan import is_json
from services.replies.source import Cut, Parsing, Source, Unreadable, Waiting
from services.replies.syntax import Begin, CallSyntax, is_prose
from services.replies.toolset import Toolset

NAMES = ("name", "tool_name", "function")
ARGUMENTS = ("arguments", "parameters")
IDS = ("id", "tool_call_id")
# The beginnings of code fences in which models put JSON.
FENCES = ("```json", "```tool_call", "```")
# What stands between a tag and the JSON behind it, and how that begins.
_SPACES = ("", "\n", " ", "\n\n")
_BEGUN = '{"'
# The ids that Mistral's models write behind arguments.
CALL_ID = r'/"[a-zA-Z0-9]{9}"/'


@dataclass(frozen=True)
class TaggedJson(CallSyntax):
    """One JSON object a call, or a list of them, behind an opener. Without `closer` the JSON's end is the call's."""

    closer: str = ""
    inner: str = SPACE
    """The expression of the text between the tags and the JSON."""
    before_name: str = '{"name": '
    before_arguments: str = ', "arguments": '
    id_name: str = ""
    """The name of the id that the model writes behind the arguments, if it does."""
    stray: tuple[str, ...] = ()
    """Closers that are left out if they stand behind a call, though nothing was opened."""
    list_spaces: tuple[str, ...] = ("",)
    """The white space between a list's bracket and its first object."""
    list_ends: str = '"]"'
    """The expression for the end of a list."""

    @override
    def read(self, source: Source, calls: Calls, opener: str) -> Parsing[None]:
        yield from source.space()
        if (yield from source.follows(*FENCES)):
            yield from source.space()
        yield from source.follows("[")
        yield from self.objects(source, calls)
        # Models write a bracket too many at times.
        while (yield from source.closing("]", "}", "```")):
            yield from source.space()
        if self.closer or self.stray:
            yield from source.closing(*filter(None, (self.closer, *self.stray)))

    def objects(self, source: Source, calls: Calls) -> Parsing[None]:
        """Read objects with commas, semicolons or white space between them, and the white space behind the last."""
        separator = ""
        while True:
            yield from source.space()
            if (yield from source.peek()) != "{" and not separator:
                raise Unreadable
            yield from source.expect("{")
            yield from JsonCall(source, calls, waits_for_id=bool(self.id_name)).read()
            calls.end()
            yield from source.space()
            separator = yield from source.follows(",", ";")
            if not separator and (yield from source.peek()) != "{":
                return

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        begins = f'{self.inner} "["' if self.is_list else self.inner
        return f"{begins} {self.rest_grammar(lark, tools, many, '', self.is_list)}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        if sure := tuple(opener for opener in self.openers if not is_prose(opener)):
            yield Begin(sure, lambda lark: self.grammar(lark, tools, many))
        if prose := tuple(opener for opener in self.openers if is_prose(opener)):
            texts = tuple(f"{opener}{space}" for opener in prose for space in _SPACES)
            yield Begin(
                tuple(f"{text}{_BEGUN}" for text in texts), lambda lark: self.rest_grammar(lark, tools, many, _BEGUN, False)
            )
            lists = tuple(f"{text}[{space}{_BEGUN}" for text in texts for space in self.list_spaces)
            yield Begin(lists, lambda lark: self.rest_grammar(lark, tools, many, _BEGUN, True))

    def rest_grammar(self, lark: Lark, tools: Toolset, many: bool, begun: str, in_list: bool) -> str:
        """Return the expression for one object or several behind the beginning of the first, up to the closer."""
        first = self.objects_grammar(lark, tools, begun)
        more = self.more_grammar(lark, tools) if many and in_list else ""
        ends = f"{self.inner} {lark.text(self.closer)}" if self.closer else ""
        return f"{first} {more} {self.list_ends if in_list else ''} {ends}"

    def objects_grammar(self, lark: Lark, tools: Toolset, begun: str = "") -> str:
        """Return the expression for a call's object, of which `begun` is written already."""
        each = any_of(self.object_grammar(lark, name, schema, begun) for name, schema in tools.schemas.items())
        return lark.rule("object", each)

    def more_grammar(self, lark: Lark, tools: Toolset) -> str:
        """Return the expression for further objects of a list."""
        return f'(", " {self.objects_grammar(lark, tools)})*'

    def object_grammar(self, lark: Lark, name: str, schema: Any, begun: str = "") -> str:
        """Return the expression for the JSON object of a call of one tool, of which `begun` is written already."""
        head = quoted(f"{self.before_name}{json_text(name)}{self.before_arguments}".removeprefix(begun))
        if not self.id_name:
            return f'{head} {lark.json(schema, name)} "}}"'
        return f'{head} {lark.json(schema, name)} {quoted(f", {json_text(self.id_name)}: ")} {CALL_ID} "}}"'


class JsonCall:
    """Reads the JSON object of one call, from behind its brace, whatever the order of its members."""

    def __init__(self, source: Source, calls: Calls, waits_for_id: bool = False) -> None:
        self._source = source
        self._calls = calls
        self._waits_for_id = waits_for_id
        self._name = self._id = ""
        # Arguments that came before the name or the id; whether the call is begun, and whether its arguments are given.
        self._held = ""
        self._is_begun = self._is_given = self._has_others = False

    def read(self) -> Parsing[None]:
        """Read to the brace that ends the object, and give the call."""
        try:
            yield from self._members()
        except Cut:
            if self._calls.is_open or not (self._is_given or (self._name and self._held)):
                raise
        if not self._is_given:
            if self._has_others and not self._held:
                # JSON about a tool, and no call.
                raise Unreadable
            yield from self._give(self._held or "{}")

    def _members(self) -> Parsing[None]:
        source = self._source
        while True:
            yield from source.space()
            if (yield from source.follows("}")):
                return
            key = yield from self._string()
            yield from source.space()
            yield from source.expect(":")
            yield from source.space()
            yield from self._member(key)
            yield from source.space()
            if self._is_given and (yield from source.peek()) not in (",", "}", ""):
                # The brace is missing, which ends nothing but the call.
                return
            if (yield from source.expect(",", "}")) == "}":
                return

    def _member(self, key: str) -> Parsing[None]:
        if key in NAMES and (yield from self._source.peek()) in ('"', "'"):
            self._name = self._calls.tool_of((yield from self._string()))
            if self._held and not self._waits_for_id:
                yield from self._give(self._held)
            elif self._id and not self._waits_for_id:
                yield from self._begin()
        elif key == "function":
            yield from self._source.expect("{")
            yield from self._members()
        elif key in ARGUMENTS and not self._is_given:
            yield from self._arguments()
        elif key in IDS:
            self._id = _text((yield from self._source.whole_json()))
        elif key == "type" or self._name:
            self._has_others = self._has_others or (key != "type" and not self._is_given)
            yield from self._source.whole_json()
        else:
            raise Unreadable

    def _arguments(self) -> Parsing[None]:
        first = yield from self._source.peek()
        if first == "{" and self._name and not self._waits_for_id:
            yield from self._begin()
            self._is_given = True
            yield from self._calls.json_arguments()
            return
        self._calls.holds = True
        written = yield from self._source.whole_json()
        self._calls.holds = False
        self._held = written if first == "{" else arguments_in(written)
        if self._name and not self._waits_for_id:
            yield from self._give(self._held)

    def _begin(self) -> Parsing[None]:
        if not self._is_begun:
            self._is_begun = True
            yield self._calls.begin(self._name, self._id)

    def _give(self, arguments: str) -> Parsing[None]:
        yield from self._begin()
        self._is_given = True
        yield self._calls.arguments(arguments)
        self._calls.end()

    def _string(self) -> Waiting[str]:
        if (yield from self._source.peek()) not in ('"', "'", ""):
            raise Unreadable
        return str(json.loads((yield from self._source.whole_json())))


def arguments_in(written: str) -> str:
    """Return the arguments in a JSON value that is not an object: null, or a text that holds them.

    Raises Unreadable if it is anything else.
    """
    if written in ("null", "[]"):
        return "{}"
    inner = json.loads(written) if written.startswith('"') else None
    if not isinstance(inner, str) or (inner.strip() and not (inner.strip().startswith("{") and is_json(inner))):
        raise Unreadable
    return inner.strip() or "{}"


def _text(written: str) -> str:
    value = json.loads(written)
    return value if isinstance(value, str) else written
