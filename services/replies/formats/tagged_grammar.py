"""The tags around calls and parameters, as in XML, and the grammar that holds calls to them: see formats/tagged.py."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from services.patterns.patterns import literal
from services.replies.formats.parameters import ANY_NAME, Members, members_grammar, place_of, refused
from services.replies.formats.python_values import literal_grammar
from services.replies.formats.tag_values import value_grammar
from services.replies.formats.text_schema import UnkeptSchema
from services.replies.formats.values import parameter_of, types_in
from services.replies.formats.values_grammar import Place
from services.replies.grammar import SPACE, Lark, any_of, quoted
from services.replies.syntax import Begin, CallSyntax, is_prose
from services.replies.toolset import Toolset, grouped

# With more beginnings of names behind a tag that people write about, the tag alone begins a call.
_MOST_GROUPS = 32
# What stands around a value in CDATA.
DATA, _DATA_ENDS = "<![CDATA[", "]]>"
# What an attribute says of values that are no texts.
_OTHER = {'"true"': '"false"', '"string"': '"object"'}


@dataclass(frozen=True)
class Tags(CallSyntax):
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

    def other_ends(self, schema: Any) -> tuple[str, ...]:
        """Return what also ends a value on lines, whose own end was forgotten: the next parameter, and the call's end."""
        if not self.on_lines:
            return ()
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        names = properties if isinstance(properties, Mapping) else ()
        tags = (*(f"{self.parameter}{name}{self.parameter_named}" for name in names), f"{self.ends}\n{self.closer}")
        return tuple(f"\n{tag}" for tag in tags)

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
        if members.takes_any(schema):
            return members.any_grammar(self._parameter_grammar(lark, tool, schema, ""))

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
        written = lark.text(escaped) if name else ANY_NAME
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
        banned = [f"(?s:.*){literal(end)}(?s:.*)" for end in self.other_ends(schema)] + [
            f"{literal(DATA)}(?s:.*)"
        ] * self.has_data
        part, without = parameter_of(schema, name), "|".join(banned)
        types = types_in(part, schema)
        if not self.string_attribute:
            value = value_grammar(lark, part, schema, ends, place, without)
            if self.has_data and "string" in types:
                data = value_grammar(lark, part, schema, _DATA_ENDS, place)
                value = any_of([value, f"{quoted(DATA)} {data} {SPACE} {lark.text(ends)}"])
            yield "string" in types, value
            return
        if "string" in types:
            yield True, value_grammar(lark, {"allOf": [part], "type": "string"}, schema, ends, place, without)
        if others := types - {"string"}:
            yield False, f"{literal_grammar(lark, part, schema, place, others)} {lark.text(ends)}"

    def _attribute(self, is_text: bool) -> str:
        if not self.string_attribute:
            return ""
        name, _, value = self.string_attribute.partition("=")
        return f" {name}={value}" if is_text else f" {name}={_OTHER[value]}"
