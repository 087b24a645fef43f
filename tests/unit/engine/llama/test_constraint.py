"""Regular expressions and grammars, and matchers of all kinds, with real vocabularies and no model."""

from __future__ import annotations

import random
import re
import threading
import time

import numpy as np
import pytest

from services.backend.types import Constraint
from services.engine.llama.constraint import MOST_KEPT, Constraints, check_constraint
from services.errors import InvalidRequest
from tests.support.walks import BPE, SMALL, Kind, check_mask, writer

SENTENCEPIECE = "llama-spm"
JSON = """
root ::= object
value ::= object | string | number
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
string ::= "\\"" [^"\\\\\\x00-\\x1F]* "\\"" ws
number ::= "-"? [0-9]+ ws
ws ::= [ \\n]{0,3}
"""


def accepts(kind: Kind, source: str, text: str, name: str = BPE) -> bool:
    return writer(name).accepts(writer(name).matcher(kind, source), text)


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        ("yes|no", ["yes", "no"], ["maybe", "yes!", ""]),
        ("^[0-9]{3}-[a-c]+$", ["123-ab"], ["12-ab", "123-"]),
        (r"\d+(\.\d+)?", ["1", "1.5"], ["1.", "\u0661"]),
        (r"(?i)hello \w+", ["HeLLo x"], ["hello "]),
        (r"[^\W\d]+", ["ab"], ["a1"]),
        (r"\S\s\S", ["a b"], ["a  b"]),
        ("é{2}|\\u{1F600}", ["éé", "\U0001f600"], ["é"]),
        ("[a&&b~~c]{4}", ["a&b~"], ["d&b~"]),
        (r"[\]\-x]+", ["]-x"], ["\\"]),
        ("a.c", ["abc"], ["a\nc"]),
    ],
)
@pytest.mark.parametrize("name", [BPE, SENTENCEPIECE])
def test_a_regular_expression_matches_the_whole_answer(pattern: str, right: list[str], wrong: list[str], name: str) -> None:
    for text in right:
        assert accepts("regex", pattern, text, name), text
        assert re.fullmatch(pattern.replace("\\u{1F600}", "\U0001f600").replace("&&", "&").replace("~~", "~"), text)
    for text in wrong:
        assert not accepts("regex", pattern, text, name), text


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", r"(.)\1", r"a\bx", "(", "[z-a]", "a{2,1}", "*", "[]a]", r"\p{Nothing}", "a++", "x^"]
)
def test_a_regular_expression_that_cannot_be_kept_to_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        writer().matcher("regex", pattern)
    assert (caught.value.param, caught.value.code) == ("regex", "bad_grammar")
    with pytest.raises(InvalidRequest):
        check_constraint(Constraint("regex", pattern))


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ('root ::= "a" [0-9]{2,3} ("x" | "yz")+', ["a12x", "a123yzx"], ["a1x", "a12"]),
        ('root ::= [a-z]* "end"', ["end", "sendend"], ["en", "endx"]),
        (
            'root ::= (expr "=" num "\\n")+\nexpr ::= num ([-+] num | "(" expr ")")*\nnum ::= [0-9]+ ws\nws ::= [ \\n]*',
            ["1+2=3\n"],
            ["1+"],
        ),
        ('# a list\nroot ::= item+ # items\n\nitem ::= "- " [^\\n]+ "\\n"', ["- a\n- b\n"], ["- \n", "a"]),
        ('root ::= a | "(" root ")" |\n  "x"\na ::= "y"?', ["((y))", "x", "()", ""], ["(", "xx"]),
        ('root ::= "\\U0001F600" [\\u3041-\\u309f] "\\"\\\\"', ['\U0001f600ぁ"\\'], ["ぁ"]),
        ('root ::= ("a"?){900}', ["aaa", ""], ["b"]),
        ('root ::= root "a" | "b"', ["baa"], ["a"]),
        (JSON, ['{"a": {"b":-1}, "c":"x"}', "{}"], ['{"a"}', "[]"]),
    ],
)
def test_gbnf_is_read_as_llama_cpp_reads_it(grammar: str, right: list[str], wrong: list[str]) -> None:
    for text in right:
        assert accepts("gbnf", grammar, text), text
    for text in wrong:
        assert not accepts("gbnf", grammar, text), text


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("", "no rule root"),
        ('a ::= "x"', "no rule root"),
        ("root ::= foo", "foo"),
        ('root = "a"', "line 1"),
        ('root ::= "a', "ends within"),
        ('root ::= "\\q"', "escape"),
        ('root ::= "a"{2,1}', "wrong way round"),
        ('root ::= ("a"', "expected )"),
        ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "too deeply"),
    ],
)
def test_gbnf_that_is_wrong_is_refused(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)) as caught:
        writer().matcher("gbnf", grammar)
    assert caught.value.param == "grammar"


def ids(text: str) -> list[int]:
    vocabulary = writer().vocabulary
    found = [token for token in range(vocabulary.size) if writer().pieces[token] == text.encode()]
    return found if len(found) == 1 else pytest.fail(f"{text} is no token")


def taken(kind: Kind, source: str, tokens: list[int]) -> bool:
    matcher = writer().matcher(kind, source)
    for token in tokens:
        if not matcher.allows(token):
            return False
        matcher.accept(token)
    return matcher.is_complete


@pytest.mark.parametrize("kind", ["lark", "gbnf"])
def test_special_tokens_are_named_by_their_text_or_number(kind: Kind) -> None:
    [special], [x], [bracket] = ids("<|start_header_id|>"), ids("x"), ids("<")
    head = "start:" if kind == "lark" else "root ::="
    for named in ("<|start_header_id|>", f"<[{special}]>"):
        assert taken(kind, f'{head} {named} "x"', [special, x])
        assert not taken(kind, f'{head} {named} "x"', [x])
    assert not writer().matcher(kind, f"{head} <|start_header_id|>").allows(bracket)
    # The vocabulary has no such token, so it is text.
    assert accepts(kind, f'{head} <|no_such_token|> "x"', "<|no_such_token|>x")


def test_a_text_in_lark_may_be_written_with_special_tokens() -> None:
    [special], [x] = ids("<|start_header_id|>"), ids("x")
    grammar = (
        'start: "x<|start_header_id|>x" end // "<|start_header_id|>"\nend: "<|eot_id|>"?\nUNUSED: "<|start_header_id|>"'
    )
    assert taken("lark", grammar, [x, special, x])
    assert accepts("lark", grammar, "x<|start_header_id|>x")


def test_special_tokens_are_no_text() -> None:
    [special] = ids("<|start_header_id|>")
    kinds: list[tuple[Kind, str]] = [("regex", "(?s:.*)"), ("json_schema", '{"type": "string"}'), ("gbnf", "root ::= .*")]
    for kind, source in kinds:
        matcher = writer().matcher(kind, source)
        if kind == "json_schema":
            matcher.accept(ids('"')[0])
        assert not matcher.allows(special)
        logits = np.zeros(writer().vocabulary.size, np.float32)
        matcher.mask(logits)
        assert np.isneginf(logits[special])


def test_schemas_in_lark_are_held_to_the_same_rules() -> None:
    grammar = 'start: "call " %json {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x|y$"}}} "!"'
    assert accepts("lark", grammar, 'call {"a": "xz"}!')
    assert not accepts("lark", grammar, 'call {"a": "z"}!')
    for bad in ('{"format": "iri"}', '{"type": "string", "pattern": "(?=a)b"}', "{"):
        with pytest.raises(InvalidRequest):
            writer().matcher("lark", f"start: %json {bad}")


@pytest.mark.parametrize(
    "grammar",
    [
        'start[temperature=0.5]: "a"',
        'start[stop="x"]: /.*/',
        '%llguidance {"allow_invalid_utf8": true}\nstart: "a"',
        "start: foo",
        "",
        '{"grammars": []}',
    ],
)
def test_lark_that_cannot_be_kept_to_is_refused(grammar: str) -> None:
    for check in (check_constraint, writer().constraints.matcher):
        with pytest.raises(InvalidRequest) as caught:
            check(Constraint("lark", grammar))
        assert caught.value.param == "grammar"


def test_a_matcher_tells_when_the_text_may_and_has_to_end() -> None:
    matcher = writer().matcher("regex", "ab?")
    assert (matcher.is_complete, matcher.is_over) == (False, False)
    matcher.accept(ids("a")[0])
    assert (matcher.is_complete, matcher.is_over) == (True, False)
    [end] = [token for token in range(writer().vocabulary.size) if writer().pieces[token] == b"<|eot_id|>"]
    assert matcher.allows(end)
    assert matcher.closing_token() is not None
    assert writer().vocabulary.ends_answer(matcher.closing_token() or 0)
    matcher.accept(ids("b")[0])
    assert (matcher.is_complete, matcher.is_over) == (True, True)
    logits = np.zeros(writer().vocabulary.size, np.float32)
    matcher.mask(logits)
    assert all(writer().vocabulary.ends_answer(int(token)) for token in np.flatnonzero(np.isfinite(logits)))
    with pytest.raises(ValueError, match="does not allow"):
        matcher.accept(ids("b")[0])


@pytest.mark.parametrize("name", [BPE, SENTENCEPIECE])
def test_mask_and_check_agree(name: str) -> None:
    items = '{"type": "array", "items": {"enum": ["a", 1, null]}, "uniqueItems": true}'
    schema = f'{{"type": "object", "additionalProperties": {items}}}'
    check_mask(writer(name), writer(name).matcher("json_schema", schema), random.Random(5), steps=60)


@pytest.mark.parametrize(
    ("source", "begun"),
    [
        (
            '{"properties": {"a": {"type": "array", "items": {"type": "number"}, "minItems": 2}}, "required": ["a"]}',
            '{"a": [1.5e',
        ),
        ('{"type": "string", "minLength": 20}', '"abc'),
        (
            '{"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]}',
            "[[[[",
        ),
        ('{"enum": ["abcdef", "abcxyz"]}', '"ab'),
        ('{"type": "string", "format": "date-time"}', '"2024-0'),
        (
            '{"type": "object", "properties": {"a": {}, "b": {"const": {"x": [1, true]}}}, "required": ["a", "b"]}',
            '{"a": {"k": [',
        ),
    ],
)
def test_a_text_is_closed_soon(source: str, begun: str) -> None:
    here = writer()
    matcher = here.matcher("json_schema", source)
    for byte in begun.encode():
        matcher.accept(here.spelled[bytes([byte])])
    tokens = matcher.closing_tokens()
    assert tokens
    for token in tokens:
        assert token == matcher.closing_token()
        matcher.accept(token)
    assert matcher.is_complete
    assert len(tokens) < 40


def test_a_constraint_is_compiled_once_and_its_matchers_are_apart() -> None:
    constraints, spelled = Constraints(writer(SMALL).vocabulary), writer(SMALL).spelled
    constraint = Constraint("regex", "(a|b)c")
    first, second = constraints.matcher(constraint), constraints.matcher(constraint)
    first.accept(spelled[b"a"])
    assert not second.allows(spelled[b"c"])
    assert first.allows(spelled[b"c"])
    assert len(constraints._compiled) == 1
    for n in range(MOST_KEPT):
        constraints.matcher(Constraint("regex", f"x{n}"))
    assert len(constraints._compiled) == MOST_KEPT


def test_any_thread_may_ask() -> None:
    constraints = Constraints(writer(SMALL).vocabulary)
    found: list[bool] = []

    def ask(n: int) -> None:
        matcher = constraints.matcher(Constraint("regex", f"a{{{n % 3 + 1}}}"))
        found.append(matcher.allows(writer(SMALL).spelled[b"a"]))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a?){900}"),
        ("regex", "(a|aa|aaa)*" * 20),
        ("regex", "(.*a.*b){20}"),
        ("regex", "(a{1,200}){1,200}"),
        ("regex", "(" * 3_000 + "a" + ")" * 3_000),
        ("gbnf", 'root ::= ("a" | "aa" | root)*'),
        ("gbnf", "root ::= " + "[a-z]? " * 200),
        ("gbnf", 'root ::= ((""*)*)* "x"'),
        ("lark", 'start: a*\na: a a | "x" |'),
        ("lark", 'start: x{1,100000}\nx: "a" | "b"'),
        ("json_schema", '{"type": "array", "minItems": 9000, "items": {"type": "array", "minItems": 9000}}'),
        ("json_schema", '{"type": "string", "pattern": "^(?:.{0,1000}a){50}$"}'),
        (
            "json_schema",
            '{"allOf": [' + ",".join(['{"anyOf": [{"minimum": 1}, {"minLength": 2}, {"minItems": 3}]}'] * 12) + "]}",
        ),
    ],
)
def test_nothing_holds_the_others_up(kind: Kind, source: str) -> None:
    """A constraint is refused, or each of its steps is short: all other answers wait meanwhile."""
    here, rng = writer(), random.Random(3)
    logits = np.zeros(here.vocabulary.size, np.float32)
    started = time.thread_time()
    try:
        matcher = here.matcher(kind, source)
    except InvalidRequest:
        assert time.thread_time() - started < 5
        return
    assert time.thread_time() - started < 5
    for _ in range(20):
        logits[:] = 0
        started = time.thread_time()
        matcher.mask(logits)
        assert time.thread_time() - started < 1
        allowed = [
            int(token) for token in np.flatnonzero(np.isfinite(logits)) if not here.vocabulary.ends_answer(int(token))
        ]
        if not allowed:
            break
        started = time.thread_time()
        matcher.accept(rng.choice(allowed))
        assert time.thread_time() - started < 1
