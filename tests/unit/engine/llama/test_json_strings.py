"""The ways to write a text in JSON."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.llama.json_strings import begins_escape, canonical, may_become

TEXTS = st.text(st.sampled_from('aZ"\\/\n\x01\x1f\x7fé中\u2028\U0001f600u0'), max_size=8)


def written(text: str, rng: random.Random) -> bytes:
    """A text as JSON, each of its characters in one of the ways to write it, without quotation marks."""
    parts = []
    for char in text:
        units = char.encode("utf-16-be").hex()
        escaped = "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))
        ways = [
            json.dumps(char, ensure_ascii=False)[1:-1],
            escaped,
            "\\u".join(part.upper() for part in escaped.split("\\u")),
        ]
        parts.append(rng.choice(ways))
    return "".join(parts).encode()


def usual(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


@given(TEXTS, st.integers(0, 2**32))
def test_every_way_to_write_a_text_has_one_canonical_form(text: str, seed: int) -> None:
    data = written(text, random.Random(seed))
    assert canonical(data) == usual(text)
    assert not begins_escape(data)
    for end in range(len(data) + 1):
        assert usual(text).startswith(canonical(data[:end]))
        assert may_become(b'"' + data[:end], b'"' + usual(text) + b'"')


@given(TEXTS, TEXTS, st.integers(0, 2**32))
def test_a_text_does_not_become_another(text: str, other: str, seed: int) -> None:
    data = b'"' + written(text, random.Random(seed)) + b'"'
    assert may_become(data, b'"' + usual(other) + b'"') == (text == other)


@pytest.mark.parametrize(
    ("part", "is_within"),
    [
        (rb"\u", True),
        (rb"a\u00e", True),
        (rb"\u00e9", False),
        (rb"\\u", False),
        (rb"\\\u0", True),
        # The second half of a pair is still to come.
        (rb"\ud83d", True),
        (rb"\ud83d\ude0", True),
        (rb"\ud83d\ude00", False),
        (rb"\ude00", False),
    ],
)
def test_the_middle_of_an_escape_is_known(part: bytes, is_within: bool) -> None:
    assert begins_escape(part) is is_within
