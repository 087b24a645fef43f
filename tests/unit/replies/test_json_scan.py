import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replies.json_scan import JsonScan, is_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    ["1e999", "-0.5E+3", '"\\ud800"', '{"a": 1, "a": 2}', " { } ", "[ ]", '{"a":[{},[],""]}', "true", '"\\u00e9\\n"'],
)
def test_json_is_known(text: str) -> None:
    assert is_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "01",
        "1.",
        ".5",
        "+1",
        "NaN",
        "tru",
        "'a'",
        '"\\x"',
        '"\\u12g4"',
        "{,}",
        "[1,]",
        '{"a":1,}',
        "{1:2}",
        "[1 2]",
        "}",
        '{"a" 1}',
        '{"a":}',
        "1 2",
        '"a',
        "[1}",
        "truefalse",
        "--1",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_json(text)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_python_writes_is_json(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert is_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent))


@given(st.text('{}[]",:\\u0123456789truefalsn.-+eE \n', max_size=12))
def test_it_agrees_with_python(text: str) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, strict=False, parse_constant=refuse)
    except ValueError:
        assert not is_json(text)
    else:
        assert is_json(text)


@given(VALUES, st.data())
def test_a_value_is_followed_however_it_is_split(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    scan, found, held = JsonScan(), "", ""
    rest = text + " behind"
    while rest and not scan.is_done:
        size = data.draw(st.integers(1, 4))
        held, rest = held + rest[:size], rest[size:]
        piece, end = scan.read(held, 0)
        found, held = found + piece, held[end:]
    assert not scan.is_wrong
    assert found == text


def test_control_characters_in_strings_are_escaped() -> None:
    scan = JsonScan()
    text, _ = scan.read('{"code": "a\n\tb\x01"}', 0)
    assert json.loads(text) == {"code": "a\n\tb\x01"}


def test_a_number_without_end_is_refused() -> None:
    scan = JsonScan()
    scan.read("1" * 100_000, 0)
    assert scan.is_wrong


def test_deep_nesting_is_no_trouble() -> None:
    assert is_json("[" * 50_000 + "]" * 50_000)
