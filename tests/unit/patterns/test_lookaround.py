"""Patterns with lookaround match what Python's re finds with them, once they are written without."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import InvalidRequest
from services.patterns.patterns import (
    NothingFits,
    PatternError,
    all_searched,
    matched,
    not_searched,
    searched,
)
from tests.support.walks import SMALL, fits, writer

# The patterns of zod 4 and pydantic that have lookaround, and others in wide use.
CLIENTS = {
    "zod email": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    "zod duration": r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$",
    "zod hostname": r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?)*\.?$",
    "zod iban": r"^[A-Z]{2}(?!00|01|99)\d{2}[A-Z0-9]{11,30}$",
    "pydantic Decimal": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    "pydantic Decimal, bounded": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)",
    "password": r"^(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?=.*[@$!%*?&])[A-Za-z\d@$!%*?&]{8,64}$",
    "social security": r"^(?!000|666)[0-8]\d{2}-(?!00)\d{2}-(?!0000)\d{4}$",
    "label": r"^(?!-)[a-z0-9-]{1,63}(?<!-)$",
    "tempered": r"^(?:(?!foo|bar)[a-z ])*$",
    "words": r"^(?!.*\b(?:cat|dog)\b).+$",
    "names": r"^(?!(?:con|prn|aux|nul)(?:\.[a-z]*)?$)[a-z.]+(?<!\.)$",
    "cases": r"(?i)^(?!admin$)[a-z]{3,}$",
}


def matches(patterns: list[str], text: str) -> bool:
    return all(compiled(pattern).fullmatch(text) for pattern in patterns)


@functools.lru_cache(maxsize=100)
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as Python's re writes it."""
    return re.compile(re.sub(r"\\x\{([0-9A-F]+)\}", _escape, pattern))


# Hypothesis asks for each text.
kept = functools.cache(all_searched)


def _escape(match: re.Match[str]) -> str:
    return f"\\U{int(match[1], 16):08X}"


def changed(text: str, rng: random.Random) -> str:
    """The text with a character or two left out, doubled, replaced or swapped."""
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(text) + 1)
        other = rng.choice("aZ0.-+@WT9 b" + text)
        text = rng.choice([text[:at] + text[at + 1 :], text[:at] + other + text[at:], text[:at] + other + text[at + 1 :]])
    return text


@pytest.mark.parametrize("pattern", CLIENTS.values(), ids=CLIENTS)
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_patterns_of_clients_are_kept(pattern: str, data: Any) -> None:
    patterns = kept(pattern)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    rest = re.sub(r"\(\?(?:<?[=!])[^()]*(?:\([^()]*\)[^()]*)*\)", "", pattern)
    text = data.draw(st.from_regex(re.compile(rest, re.ASCII)))
    for each in (text, *(changed(text, rng) for _ in range(12))):
        if each.isascii() and "\n" not in each and "\r" not in each:
            assert matches(patterns, each) == bool(re.search(pattern, each)), each


def random_pattern(rng: random.Random, depth: int) -> str:
    return "|".join("".join(_part(rng, depth) for _ in range(rng.randrange(4))) for _ in range(rng.choice([1, 1, 1, 2])))


def _part(rng: random.Random, depth: int) -> str:
    kind, atom = rng.random(), rng.choice(["a", "b", "-", "1", r"\.", "[ab]", "[^a]", ".", r"\d", r"[\w-]", r"\s"])
    if depth and kind < 0.25:
        return f"(?:{random_pattern(rng, depth - 1)}){rng.choice(['', '', '*', '+', '?', '{0,2}', '{2}'])}"
    if depth and kind < 0.5:
        return f"(?{rng.choice('=!')}{random_pattern(rng, depth - 1)})"
    if kind < 0.57:
        return f"(?<{rng.choice('=!')}{atom})"
    return rng.choice("^$") if kind < 0.64 else atom + rng.choice(["", "", "", "*", "?", "+", "{1,2}"])


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns_match_what_python_matches(seed: int) -> None:
    rng, n_kept, n_refused, n_true = random.Random(seed), 0, 0, 0
    for _ in range(120):
        pattern = rng.choice(["", "^", "(?i)^"]) + random_pattern(rng, 3) + rng.choice(["", "$"])
        expected = re.compile(pattern)
        texts = ["".join(rng.choices("abB-.1 ", k=rng.randrange(7))) for _ in range(40)]
        for read in (searched, all_searched, matched, not_searched):
            try:
                found = read(pattern)
            except NothingFits:
                found = "(?!)"
            except PatternError:
                n_refused += 1
                continue
            patterns, n_kept = [found] if isinstance(found, str) else found, n_kept + 1
            if any(r"\p{" in each for each in patterns):
                continue
            for text in texts:
                is_found = bool(expected.fullmatch(text) if "matched" in read.__name__ else expected.search(text))
                n_true += is_found
                assert matches(patterns, text) == (is_found != (read is not_searched)), (pattern, text, read.__name__)
    assert n_kept > 10 * n_refused
    assert n_true > 3_000


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        # What is a digit or a word's character in one of the languages only is taken for neither.
        (r"^(?!\d).$", ["a", "é"], ["1", "\u0663"]),
        (r"^(?=\d).$", ["1"], ["\u0663"]),
        (r"^(?!\w).$", ["-"], ["a", "é"]),
        (r"^.\b.$", ["a-", "-a"], ["aa", "--", "é-", "aé"]),
        (r"^.\B.$", ["aa", "--"], ["a-", "éa"]),
        (r"(?i)^(?!k).$", ["a"], ["k", "K", "\u212a"]),
        (r"^(?!.*x)[\s\S]*$", ["a\nb"], ["x", "\rx"]),
        (r"^(?!a$)[\s\S]+$", ["b\n"], ["a", "a\n"]),
        (r"^(?=[\s\S]*\p{L})[\p{L}\p{N}]+$", ["é1"], ["11"]),
        (r"^[ab]*(?<!ab)$", ["ba", ""], ["ab", "aab"]),
        (r"[abx]*(?<=ab)c", ["abc", "xabc"], ["bc", "ac"]),
        (r"^x(?:,(?!y)[a-z])*$", ["x,a,b"], ["x,a,y"]),
    ],
)
def test_languages_that_differ_are_all_kept_to(pattern: str, right: list[str], wrong: list[str]) -> None:
    here, schema = writer(SMALL), {"type": "string", "pattern": pattern}
    for text, is_right in [*((text, True) for text in right), *((text, False) for text in wrong)]:
        written = '"' + text.replace("\n", "\\n").replace("\r", "\\r") + '"'
        assert here.accepts(here.matcher("json_schema", schema), written) == is_right, text
    assert here.accepts(here.matcher("regex", pattern), right[0])


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": "string", "pattern": pattern} for pattern in CLIENTS.values()),
        {"type": "string", "not": {"pattern": CLIENTS["zod email"]}},
        {"type": "string", "not": {"pattern": r"\d"}, "pattern": "[ab]"},
        {"oneOf": [{"type": "string", "pattern": r"^\d+$"}, {"type": "string", "pattern": "^[a-f0-9]{4}$"}]},
        {"type": "string", "if": {"pattern": "^a"}, "then": {"pattern": "b$"}, "else": {"maxLength": 3}},
        {"type": "object", "propertyNames": {"pattern": "^(?!x)[a-z]+$"}, "minProperties": 1},
        {"type": "object", "patternProperties": {"^(?!x)": {"type": "integer"}}, "additionalProperties": False},
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_what_is_written_fits(schema: Any) -> None:
    here, rng = writer(SMALL), random.Random(3)
    for _ in range(4):
        text, is_complete = here.write(here.matcher("json_schema", schema), rng, longest=30)
        assert not is_complete or fits(schema, text), text


def test_opposites_tell_alternatives_apart() -> None:
    here = writer(SMALL)
    schema = {"oneOf": [{"type": "string", "pattern": r"^\d+$"}, {"type": "string", "pattern": "^[a-f0-9]{4}$"}]}
    for text, is_right in (("12345", True), ("12ab", True), ("1234", False), ("x", False)):
        assert here.accepts(here.matcher("json_schema", schema), f'"{text}"') == is_right


HOSTILE = [
    r"^(?!.*a.{40}b.{40}c).*$",
    "^(?!(?:a?){300}b)x",
    "^(?!.*(?:a|b).{12}c.{12})(?!.{300}).*(?=x)y?",
    "^(?!(?:(?:(?:a?b?){30}){40}){50})",
    r"^(?!.*(\d{3,9}[a-z]{4,8}){9})",
    "^(?!.{100000})",
    "^(?!" + "".join(f"[\\d\\w{chr(1000 + 2 * n)}]?(?=x)" for n in range(200)) + ")",
    "^" + "(?!.*a.{9}b)" * 300,
    "(?=" * 400 + "a" + ")" * 400,
    "^(?!" + "(?:" * 300 + "a" + ")*" * 300 + "b)",
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:30])
def test_hostile_patterns_are_refused_in_time(pattern: str) -> None:
    for read in (searched, all_searched, not_searched):
        started = time.process_time()
        with contextlib.suppress(PatternError):
            found = read(pattern)
            assert sum(map(len, [found] if isinstance(found, str) else found)) < 200_000
        assert time.process_time() - started < 0.5, read.__name__


def test_a_schema_of_many_hostile_patterns_is_refused_in_time() -> None:
    names = {f"p{n}": {"type": "string", "pattern": f"^(?!.*[a{n}].{{2}}b)x"} for n in range(2_000)}
    started = time.process_time()
    with pytest.raises(InvalidRequest, match=r"#/properties/p[1-9]\d+/pattern: its lookaround"):
        writer(SMALL).matcher("json_schema", {"type": "object", "properties": names})
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"^(.)\1$", "escape"),
        ("(?<=ab)c(?=de)", "lookbehind"),
        ("(?=a)*b", "repeated"),
        ("(?=a)b", "no text fits it"),
        ("(?>a)b", "of this kind"),
        ("(?=a", "not closed"),
    ],
)
def test_what_is_not_regular_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        searched(pattern)
