"""Schemas within grammars, as tools' are: names and items that a grammar cannot compare, and errors that name the tool."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from services.backend.types import Constraint
from services.engine.llama.constraint import check_constraint
from services.engine.llama.matcher import GuidedGrammar, Matcher
from services.errors import InvalidRequest
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format
from tests.support.real_models import chat_templates
from tests.support.replies import reply_of
from tests.support.walks import SMALL, Writer, fits, writer


class Note(BaseModel):
    """As pydantic, and with it most agents' libraries, describe a tool's parameters."""

    tags: set[str]
    extra: dict[str, int] = {}


# A vocabulary with several special tokens.
MARKED = "starcoder"
SCHEMAS: dict[str, Any] = {"note": Note.model_json_schema(), "free": {"type": "object"}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
# What a repetition is made of.
PARTS = [
    "a",
    '"a"',
    '"a',
    '","',
    '"',
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ", ",
    ": ",
    "1",
    '{"',
    '":',
    '"]',
    '"}',
    "note",
    "free",
]


def formats() -> dict[str, str]:
    """Return a template for each format of replies."""
    found: dict[str, str] = {}
    for template in chat_templates():
        found.setdefault(format_of(chat_format(template)).name, template)
    return found


def in_text(template: str) -> ReplyFormat:
    """Return the format of a model whose vocabulary has no special tokens for it."""
    own = chat_format(template)
    return format_of(type(own)(own.template, own.bos, own.eos, ()))


def pushed(here: Writer, matcher: Matcher, rng: random.Random, longest: int = 60) -> str:
    """Write with parts of repetitions wherever they are allowed; return the text, closed if that is possible."""
    parts = [here.spelled[part.encode()] for part in PARTS if part.encode() in here.spelled]
    logits = np.zeros(here.vocabulary.size, np.float32)
    written: list[int] = []
    while len(written) < longest and not matcher.is_over:
        tried = rng.sample(parts, len(parts)) if rng.random() < 0.9 else []
        token = next((token for token in tried if matcher.allows(token)), -1)
        if token < 0:
            logits[:] = 0
            matcher.mask(logits)
            token = int(rng.choice(np.flatnonzero(np.isfinite(logits)).tolist()))
        if here.vocabulary.ends_answer(token) or (matcher.is_complete and rng.random() < 0.3):
            break
        matcher.accept(token)
        written.append(token)
    for token in matcher.closing_tokens() or ():
        matcher.accept(token)
        written.append(token)
    return here.text(written)


@pytest.mark.parametrize("name", formats())
def test_tools_arguments_repeat_nothing_in_any_family_s_form(name: str) -> None:
    reply_format, rng, n_calls = in_text(formats()[name]), random.Random(name), 0
    for choice in ("required", "note", "auto"):
        constraint = reply_format.constraint(TOOLS, choice, True)
        assert constraint is not None
        for _ in range(2):
            text = (constraint.triggers or ("",))[0]
            text += pushed(writer(SMALL), writer(SMALL).matcher("lark", constraint.source), rng)
            reader = reply_format.reader(TOOLS, False)
            for call in reply_of([*reader.add(text), *reader.end()]).calls:
                n_calls += 1
                assert fits(SCHEMAS[call.name], call.arguments), text
    assert n_calls >= 3


JSON = {
    "unique": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "pairs": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "uniqueItems": True},
    "open": {"type": "object", "additionalProperties": {"type": "array", "items": {}}},
    "closed": {"type": "object", "properties": {"a": {"type": "string"}}},
    "scalar": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}]},
}


def grammar(text: str) -> str:
    """A grammar in which `%NAME` stands for a schema of `JSON`."""
    for name, schema in JSON.items():
        text = text.replace(f"%{name}", f"%json {json.dumps(schema)}")
    return text


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        ('start: "x" %unique "y"', ['x["a","b"]y', "x[]y"], ['x["a","a"]y', 'x["a","\\u0061"]y']),
        ("start: %unique", ['["a"]'], ['["a","a"]']),
        (
            'start: (%open ";")+',
            ['{"a":[1,1],"b":[]};{"a":[1]};'],
            ['{"a":[1]};{"a":[1],"a":[]};', '{"a":[],"\\u0061":[]};'],
        ),
        ('start: (%closed | %unique)+ "."', ['{"a":"x"}["x"]["x"].'], ['["x"]{"a":"x"}["x","x"].']),
        # What stands around it looks like JSON.
        ('start: "[[1],[1],{\\"a\\":" %pairs "]"', ['[[1],[1],{"a":[[1],[2]]]'], ['[[1],[1],{"a":[[1],[1]]]']),
        ('start: TEXT "[" %unique "]"\nTEXT: /[^\\[]*/', ['"a","a"[["b"]]'], ['"a"[["b","b"]]']),
        ("start: (%scalar | /[ab]+/)*", ["12a[1,2]b3[1]"], ["12a[1,1]", "a[2]b[3,3]"]),
        # Which schema a text is for shows only behind it.
        ('start: %unique "1" | %json {"type": "array"} "2"', ['["a","a"]2', '["a","b"]1'], ['["a","a"]1', '["a"]3']),
    ],
)
def test_each_schema_in_a_grammar_is_held(source: str, right: list[str], wrong: list[str]) -> None:
    here = writer(SMALL)
    for text in right:
        assert here.accepts(here.matcher("lark", grammar(source)), text), text
    for text in wrong:
        assert not here.accepts(here.matcher("lark", grammar(source)), text), text


def test_special_tokens_stand_around_schemas() -> None:
    here = writer(MARKED)
    source = grammar('start: (<fim_prefix> %unique "<fim_suffix>")+')
    [begin], [end] = (
        [token for token in range(here.vocabulary.size) if here.pieces[token] == text.encode()]
        for text in ("<fim_prefix>", "<fim_suffix>")
    )
    for text, is_fine in (('["a","b"]', True), ('["a","a"]', False)):
        matcher = here.matcher("lark", source)
        for _ in range(2):
            tokens = [begin, *(here.spelled[bytes([byte])] for byte in text.encode()), end]
            taken = []
            for token in tokens:
                if matcher.allows(token):
                    matcher.accept(token)
                    taken.append(token)
            assert (taken == tokens) is is_fine
            if not is_fine:
                break
        assert matcher.is_complete is is_fine


@pytest.mark.parametrize("name", JSON)
def test_the_mask_forbids_what_the_check_does(name: str) -> None:
    here, rng = writer(SMALL), random.Random(name)
    telling = np.array([b'"' in piece or b"," in piece or len(piece) < 2 for piece in here.pieces])
    for _ in range(4):
        matcher = here.matcher("lark", grammar(f'start: "x" (%{name} ",")+'))
        logits = np.zeros(here.vocabulary.size, np.float32)
        for _ in range(30):
            logits[:] = 0
            matcher.mask(logits)
            if not np.isfinite(logits).any():
                # That a list within a list repeats another one shows only behind it, where nothing fits any more.
                assert name == "pairs"
                break
            some = np.flatnonzero(np.isfinite(logits) & telling).tolist()
            for token in rng.sample(some, min(len(some), 60)):
                assert matcher.allows(token), here.pieces[token]
            parts = [here.spelled[part.encode()] for part in PARTS if part.encode() in here.spelled]
            token = rng.choice([token for token in parts if np.isfinite(logits[token])] or [int(logits.argmax())])
            if here.vocabulary.ends_answer(token):
                break
            matcher.accept(token)


def test_schemas_that_need_no_comparing_cost_nothing() -> None:
    matcher = writer(SMALL).matcher("lark", grammar('start: "x" %closed'))
    assert isinstance(matcher._grammar, GuidedGrammar)
    assert not isinstance(writer(SMALL).matcher("lark", grammar('start: "x" %open'))._grammar, GuidedGrammar)


def test_tokens_by_their_numbers_beside_such_schemas_are_refused() -> None:
    for source in ("start: <[5]> %unique", "start: <[*]> %open"):
        with pytest.raises(InvalidRequest, match="named by its text only"):
            writer(SMALL).matcher("lark", grammar(source))
    writer(SMALL).matcher("lark", grammar("start: <[5]> %closed"))


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"format": "iri"}}}, "#/properties/a/format"),
        # These are found by llguidance.
        ({"properties": {"b": {"pattern": r"\p{Nothing}"}}}, "#/properties/b/pattern"),
        ({"patternProperties": {"a": {}, "b": {}}}, "#/patternProperties"),
    ],
)
def test_an_error_names_the_tool_and_the_place_in_its_parameters(schema: Any, where: str) -> None:
    noted = 'start: "a" one | two\none: %json {} //! tools "fine"\ntwo: %json ' + json.dumps(schema)
    for source, param, words in (
        (f'{noted} //! tools "get \\"x\\""\n', "tools", f'tool "get \\"x\\"" cannot be kept to: {where}: '),
        (
            f'{noted} //! tools "get" #/properties/c\n',
            "tools",
            f'tool "get" cannot be kept to: #/properties/c{where[1:]}: ',
        ),
        (f"{noted} //! response_format\n", "response_format", f"JSON schema cannot be kept to: {where}: "),
        (f"{noted} // a remark\n", "grammar", f"grammar cannot be kept to: {where}: "),
    ):
        for check in (check_constraint, writer(SMALL).constraints.matcher):
            with pytest.raises(InvalidRequest) as caught:
                check(Constraint("lark", source))
            assert caught.value.param == param
            assert words in caught.value.message


TEXT = '<~item> "\'" /[a-z]*/ "\'" <~end>'
NUMBER = "<~item> /[0-9]+/ <~end>"
CHOICE = '<~item> ("red" | "redder" | "blue") <~end>'
INNER = f'<~item> <~list> "(" ({NUMBER} ("," {NUMBER})*)? ")" <~end> <~end>'
NAMED = '"<" <~item> /[a-z]+/ <~end> ">" %unique ";"'


def listed(item: str, comma: str = '","') -> str:
    return f'"x[" <~list> ({item} ({comma} {item})*)? <~end> "]"'


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        (listed(TEXT), ["x['a','b','ab']", "x[]", "x['']"], ["x['a','a']", "x['','a','']"]),
        (listed(NUMBER), ["x[1,12,2]", "x[1,11]"], ["x[1,1]", "x[12,1,12]"]),
        (listed(NUMBER, '", "'), ["x[1, 11, 2]"], ["x[1, 1]", "x[7, 7]"]),
        (listed(CHOICE), ["x[red,blue,redder]"], ["x[red,red]", "x[redder,redder]"]),
        (listed(INNER), ["x[(1),(1,2),(2,1)]"], ["x[(1,2),(1,2)]", "x[(1,1)]", "x[(),()]"]),
        (f"({listed(TEXT)})+", ["x['a']x['a']"], ["x['a']x['a','a']"]),
        # Names of parameters, with JSON between them.
        (f"<~list> ({NAMED})+ <~end>", ['<a>["x"];<b>["x"];'], ['<a>["x","x"];', "<a>[];<a>[];"]),
    ],
)
def test_marked_lists_have_no_item_twice(source: str, right: list[str], wrong: list[str]) -> None:
    here = writer(SMALL)
    for text in right:
        assert here.accepts(here.matcher("lark", grammar(f"start: {source}")), text), text
    for text in wrong:
        assert not here.accepts(here.matcher("lark", grammar(f"start: {source}")), text), text


@pytest.mark.parametrize("item", [TEXT, NUMBER, CHOICE, INNER], ids=["text", "number", "choice", "list"])
def test_the_mask_keeps_marked_lists_apart(item: str) -> None:
    here, rng = writer(SMALL), random.Random(item)
    parts = [here.spelled[part] for part in (b"a", b"b", b"'", b"','", b"1", b"2", b",", b"(", b")", b"red", b"]")]
    for _ in range(5):
        matcher = here.matcher("lark", f"start: {listed(item)}")
        written, logits = b"", np.zeros(here.vocabulary.size, np.float32)
        while len(written) < 40 and not matcher.is_over:
            logits[:] = 0
            matcher.mask(logits)
            assert (logits == 0).any(), written
            token = rng.choice([token for token in parts if logits[token] == 0] or np.flatnonzero(logits == 0).tolist())
            if here.vocabulary.ends_answer(token):
                break
            matcher.accept(token)
            written += here.pieces[token]
        items = written.decode().removeprefix("x[").removesuffix("]").split("),(" if item == INNER else ",")
        assert not matcher.is_complete or len(items) == len(set(items)), written
