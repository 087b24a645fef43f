"""Lark grammars in llguidance's dialect (its docs/syntax.md), made ready for one vocabulary.

A special token is named by its text, as `<|tool_call|>`; where the vocabulary has no such token, its text is meant. A text
in a rule that holds special tokens' texts may be written with them or without. Schemas in `%json` are simplified.

Marks of our own, which llguidance never sees, stand around a list no two of whose items may be the same text:
`<~list> "[" <~item> ITEM <~end> ("," <~item> ITEM <~end>)* "]" <~end>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.engine.llama.schemas.errors import SchemaError
from services.engine.llama.schemas.simplify import Simplified, simplified

LONGEST_GRAMMAR = 2**20
LIST_MARKS = ("<~list>", "<~item>", "<~end>")

_TOKEN = re.compile(
    r"""(?P<remark>(?:\#|//)[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*")(?P<flag>i?)
    |(?P<regex>/(?:\\.|[^/\\\n])+/[imslux]*)
    |(?P<special>!?<[^<>\s]+>)
    |(?P<command>%[a-z]+)
    |(?P<name>[!?_]*[A-Za-z][\w\-]*)
    |(?P<other>\s+|.)""",
    re.VERBOSE | re.DOTALL,
)
_DEFINITION = re.compile(r"[!?_]*([A-Za-z])[\w\-]*(?:::_)?(?:\.-?\d+)?\s*(\[[^\]\n]*\])?\s*:(?!:)")
_IDS = re.compile(r"<\[[\d\-,^*]+\]>")
_OPTIONS = {"no_forcing", "ignore_once", "allow_initial_skip"}
_NOTE = re.compile(r"""[ \t]*//! (\w+)(?: ("(?:\\.|[^"\\\n])*"))?(?: (#[^\s]*))?[^\n]*""")
# What llguidance would need to go back for, or leave to the sampler.
_REFUSED = re.compile(r"\b(temperature|stop|stop_capture)\s*=")

# Between two parts of a JSON text: little enough that it comes to an end.
WHITE_SPACE = r"[ ]{1,2}|\n[ ]{0,64}|\n\t{1,16}"
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": True,
    "whitespace_pattern": WHITE_SPACE,
    "json_allowed_escapes": 'nrbtf\\"u',
    # Any character by \u, in strings that no pattern is for.
    "json_allow_general_unicode_escapes": True,
    "coerce_one_of": False,
    "lenient": False,
}


class GrammarError(ValueError):
    """A grammar that cannot be kept to; the message says why."""


class EmbeddedError(ValueError):
    """A schema within a grammar that cannot be kept to. `note` says where it is from, if that is known."""

    def __init__(self, error: SchemaError, note: Note | None) -> None:
        where = (note.where if note else "#") + error.where.removeprefix("#")
        super().__init__(f"{where}: {error.reason}")
        self.note = note


class LarkSource:
    """A grammar in Lark as a client or a format of replies wrote it, whose schemas are simplified."""

    def __init__(self, source: str) -> None:
        """Raises GrammarError; EmbeddedError for a schema."""
        if len(source) > LONGEST_GRAMMAR:
            raise GrammarError(f"the grammar is larger than {LONGEST_GRAMMAR} characters")
        self._parts = list(_parts(source))
        self.has_marks = any(isinstance(part, _Special) and part.text in LIST_MARKS for part in self._parts)
        """True if there are lists whose items are compared."""
        self.schemas = [part for part in self._parts if isinstance(part, Embedded)]
        """The schemas behind `%json`, in their order."""

    def text(self, specials: Mapping[str, int]) -> str:
        """Return the grammar for a vocabulary with these special tokens."""
        marks = _marks(specials)
        return "".join(_written(part, specials, marks) for part in self._parts)

    def framed(
        self, specials: Mapping[str, int], around: Callable[[int], tuple[str, str]], list_marks: Mapping[str, str]
    ) -> str:
        """Return the grammar with more around its schemas: `around` gives the expressions to put around the n-th.

        `list_marks` are the expressions for the marks of lists.

        Raises GrammarError if it names tokens by their numbers, which a frame has other ones for.
        """
        marks = _marks(specials)
        written, n = [], 0
        for part in self._parts:
            text = _written(part, specials, marks)
            if isinstance(part, Embedded):
                begin, end = around(n)
                text, n = f"({begin} {text} {end})" if begin else text, n + 1
            elif isinstance(part, _Special) and part.text in list_marks:
                text = list_marks[part.text]
            elif isinstance(part, _Special) and (part.text.startswith("!") or _IDS.fullmatch(part.text)):
                raise GrammarError(
                    f"{part.text}: beside schemas whose names or items are compared, a token is named by its text only"
                )
            written.append(text)
        return "".join(written)

    def names(self, specials: Iterable[str]) -> list[str]:
        """Return those special tokens that occur in the grammar."""
        literals = "".join(json.loads(part.text) for part in self._parts if isinstance(part, _Literal))
        named = {part.text for part in self._parts if isinstance(part, _Special)}
        return [text for text in specials if text in named or text in literals]


@dataclass(frozen=True)
class Embedded:
    """A schema behind `%json`, and the remark behind it: see `Note`."""

    schema: Simplified
    source: str
    note: Note | None = None

    @property
    def text(self) -> str:
        """The expression for llguidance."""
        return f"%json {schema_text(self.schema.text)}"


@dataclass(frozen=True)
class Note:
    """The source of a schema in a grammar that services/replies made: the request's field, a tool's name, a JSON pointer.

    It is written behind the schema as a remark: `//! tools "get_weather" #/properties/city`.
    """

    param: str
    name: str = ""
    where: str = "#"


@dataclass(frozen=True)
class _Special:
    """A special token by its text, or by its number."""

    text: str


@dataclass(frozen=True)
class _Literal:
    """A text in a rule, as JSON."""

    text: str


def schema_text(text: str) -> str:
    """Return the text of a simplified schema with llguidance's options in it."""
    schema = json.loads(text)
    whole = schema if isinstance(schema, dict) else {"allOf": [schema]}
    return json.dumps({**whole, "x-guidance": JSON_OPTIONS}, ensure_ascii=False)


def _parts(source: str) -> Iterator[str | Embedded | _Special | _Literal]:
    at, is_rule, is_line_start = 0, False, True
    while at < len(source):
        if is_line_start and (definition := _DEFINITION.match(source, at)):
            if found := _REFUSED.search(definition[2] or ""):
                raise GrammarError(f"{found[1]}= cannot be kept to")
            is_rule, is_line_start = definition[1].islower(), False
            yield definition[0]
            at = definition.end()
            continue
        match = _TOKEN.match(source, at)
        assert match is not None
        at = match.end()
        is_line_start = (match[0].isspace() and ("\n" in match[0] or is_line_start)) or match.lastgroup == "remark"
        if match["command"]:
            part, at = _command(match["command"], source, at)
            yield part
        elif match["special"]:
            yield _Special(match["special"])
        elif match["string"] and is_rule and not match["flag"] and _is_json(match["string"]):
            yield _Literal(match["string"])
        else:
            yield match[0]


def _command(name: str, source: str, at: int) -> tuple[str | Embedded, int]:
    """A command with the JSON behind it, and where it ends."""
    if name not in ("%json", "%llguidance"):
        return name, at
    start = at + len(source[at:]) - len(source[at:].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(source, start)
    except ValueError as error:
        raise GrammarError(f"the JSON behind {name} is wrong: {error}") from None
    if name == "%json":
        remark = _NOTE.match(source, end)
        note = Note(remark[1], json.loads(remark[2] or '""'), remark[3] or "#") if remark else None
        text = json.dumps(value, ensure_ascii=False)
        try:
            return Embedded(simplified(text), text, note), remark.end() if remark else end
        except SchemaError as error:
            raise EmbeddedError(error, note) from None
    for option in value if isinstance(value, dict) else ():
        if option not in _OPTIONS:
            raise GrammarError(f"the option {option} of %llguidance cannot be set")
    return f"%llguidance {json.dumps(value)}", end


def _is_json(literal: str) -> bool:
    try:
        json.loads(literal)
    except ValueError:
        return False
    return True


def _written(part: str | Embedded | _Special | _Literal, specials: Mapping[str, int], marks: re.Pattern[str] | None) -> str:
    if isinstance(part, _Special):
        return _special(part.text, specials)
    if isinstance(part, _Literal):
        return _marked(part.text, marks, specials) if marks else part.text
    return part.text if isinstance(part, Embedded) else part


def _special(name: str, specials: Mapping[str, int]) -> str:
    if name in LIST_MARKS:
        return ""
    if name.startswith("!"):
        # GBNF's: any token but this one.
        return f"<[^{specials[name[1:]]}]>" if name[1:] in specials else "<[*]>"
    if _IDS.fullmatch(name):
        return name
    return f"<[{specials[name]}]>" if name in specials else json.dumps(name, ensure_ascii=False)


def _marks(specials: Mapping[str, int]) -> re.Pattern[str] | None:
    if not specials:
        return None
    return re.compile("|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)))


def _marked(literal: str, marks: re.Pattern[str], specials: Mapping[str, int]) -> str:
    """A text of a rule; where it holds special tokens' texts, the choice between those tokens and plain text."""
    text = json.loads(literal)
    parts, at = [], 0
    for match in marks.finditer(text):
        if match.start() > at:
            parts.append(json.dumps(text[at : match.start()], ensure_ascii=False))
        parts.append(f"<[{specials[match[0]]}]>")
        at = match.end()
    if not parts:
        return literal
    if at < len(text):
        parts.append(json.dumps(text[at:], ensure_ascii=False))
    return f"({' '.join(parts)} | {literal})"
