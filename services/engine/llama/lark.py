"""Lark grammars in llguidance's dialect (its docs/syntax.md), made ready for one vocabulary.

A special token is named by its text, as `<|tool_call|>`; where the vocabulary has no such token, its text is meant. A text
in a rule that holds special tokens' texts may be written with them or without. Schemas in `%json` are simplified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from services.engine.llama.schemas.errors import SchemaError
from services.engine.llama.schemas.simplify import simplified

LONGEST_GRAMMAR = 2**20

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
# What llguidance would need to go back for, or leave to the sampler.
_REFUSED = re.compile(r"\b(temperature|stop|stop_capture)\s*=")

# Control characters in a schema's text, or in its patterns, that only \u can write.
_CONTROL = re.compile(r"\\u00(?:0[0-7be-f]|1)|\\x\{(?:[0-7BEF]|1[0-9A-F]|7F)\}|\x7f")

# Between two parts of a JSON text: little enough that it comes to an end.
WHITE_SPACE = r"[ ]{1,2}|\n[ ]{0,64}|\n\t{1,16}"
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": True,
    "whitespace_pattern": WHITE_SPACE,
    # Without \u each text is written in one way.
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": False,
    "lenient": False,
}


class GrammarError(ValueError):
    """A grammar that cannot be kept to; the message says why."""


def prepared(source: str, specials: Mapping[str, int]) -> str:
    """Return a Lark grammar for a vocabulary with these special tokens. Raises GrammarError, SchemaError."""
    if len(source) > LONGEST_GRAMMAR:
        raise GrammarError(f"the grammar is larger than {LONGEST_GRAMMAR} characters")
    return "".join(_parts(source, specials))


def schema_text(text: str) -> str:
    """Return the text of a simplified schema with llguidance's options in it."""
    schema = json.loads(text)
    whole = schema if isinstance(schema, dict) else {"allOf": [schema]}
    options = dict(JSON_OPTIONS)
    if _CONTROL.search(text):
        options["json_allowed_escapes"] += "u"
    return json.dumps({**whole, "x-guidance": options}, ensure_ascii=False)


def _parts(source: str, specials: Mapping[str, int]) -> Iterator[str]:
    marks = _marks(specials)
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
            text, at = _command(match["command"], source, at)
            yield text
        elif match["special"]:
            yield _special(match["special"], specials)
        elif match["string"] and is_rule and not match["flag"] and marks:
            yield _marked(match["string"], marks, specials)
        else:
            yield match[0]


def _command(name: str, source: str, at: int) -> tuple[str, int]:
    """A command with the JSON behind it, and where it ends."""
    if name not in ("%json", "%llguidance"):
        return name, at
    start = at + len(source[at:]) - len(source[at:].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(source, start)
    except ValueError as error:
        raise GrammarError(f"the JSON behind {name} is wrong: {error}") from None
    if name == "%json":
        found = simplified(json.dumps(value, ensure_ascii=False))
        return f"%json {schema_text(found.text)}", end
    for option in value if isinstance(value, dict) else ():
        if option not in _OPTIONS:
            raise GrammarError(f"the option {option} of %llguidance cannot be set")
    return f"%llguidance {json.dumps(value)}", end


def _special(name: str, specials: Mapping[str, int]) -> str:
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
    try:
        text = json.loads(literal)
    except ValueError:
        return literal
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


__all__ = ["JSON_OPTIONS", "GrammarError", "SchemaError", "prepared", "schema_text"]
