"""Values that are almost JSON, as families write them, put into JSON as they come: Python's literals, and Gemma's.

Python's: `'text'`, `True`, `None`, `(1, 2)`. Gemma's: texts between `<|"|>`, names without quotes. Both may hold JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from services.replies.source import Cut, Source, Unreadable, Waiting

_DEEPEST = 64
# Integers that are not decimal may have so many digits, and no more than Python converts.
_LONGEST = 1000
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_PYTHON_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|[0-9][0-9_]*)")
_PYTHON_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
_PLAIN_ESCAPES = frozenset("\\'\"/")

T = TypeVar("T")
# Yields pieces of JSON, and None where more text is needed; its value is what it read.
Pieces = Generator[str | None, None, T]


@dataclass(frozen=True)
class Dialect:
    """How a family writes values: the marks around texts, the longest first, and whether `\\` escapes within them."""

    quotes: tuple[str, ...]
    escapes: bool


PYTHON = Dialect(('"""', "'''", '"', "'"), escapes=True)
GEMMA = Dialect(('<|"|>', '"'), escapes=False)


def read_value(source: Source, dialect: Dialect, depth: int = 0) -> Pieces[None]:
    """Read one value; yield its JSON. Raises Unreadable where it is none, Cut if the reply ends within it."""
    if depth > _DEEPEST:
        raise Unreadable
    yield from source.space()
    if quote := (yield from source.follows(*dialect.quotes)):
        yield '"'
        yield from _text(source, quote, dialect)
        yield '"'
    elif opening := (yield from source.follows("{", "[", "(")):
        yield from _group(source, dialect, opening, depth)
    else:
        yield (yield from _word(source))


def read_key(source: Source, dialect: Dialect, ends: str) -> Waiting[str]:
    """Read a name, with or without quotes, and the sign `ends` behind it; return the name."""
    yield from source.space()
    if quote := (yield from source.follows(*dialect.quotes)):
        pieces = []
        for piece in _text(source, quote, dialect):
            if piece is None:
                yield None
            else:
                pieces.append(piece)
        yield from source.space()
        yield from source.expect(ends)
        return str(json.loads('"' + "".join(pieces) + '"'))
    name, sign = yield from source.text_before(ends, "{", "}", "[", "]", "(", ")", "\n")
    if sign != ends or not name.strip():
        raise Unreadable
    return name.strip()


def as_json(text: str, dialect: Dialect) -> str | None:
    """Return the JSON of a whole value, None if the text is none."""
    source = Source(())
    source.add(text)
    source.close()
    try:
        pieces = [piece for piece in read_value(source, dialect) if piece is not None]
    except Unreadable:
        return None
    rest = source.take(len(text))
    return None if rest.strip() else "".join(pieces)


def in_json(text: str) -> str:
    """Return a text as it stands between the quotes of a JSON string."""
    halves = any("\ud800" <= letter <= "\udfff" for letter in text)
    return json.dumps(text, ensure_ascii=halves)[1:-1]


def _text(source: Source, quote: str, dialect: Dialect) -> Pieces[None]:
    """Read a text from behind its opening quote."""
    marks = (quote, "\\") if dialect.escapes else (quote,)
    while True:
        text, mark = yield from source.find(marks)
        if text:
            yield in_json(text)
        elif mark == quote:
            return
        elif mark:
            yield (yield from _escape(source))
        else:
            raise Cut


def _escape(source: Source) -> Waiting[str]:
    """Read an escape from behind its backslash; return its JSON. An unknown one stands for itself, as in Python."""
    letter = yield from _letter(source)
    if letter in _HEX:
        digits = ""
        while len(digits) < _HEX[letter]:
            digits += yield from _letter(source)
        try:
            code = int(digits, 16)
            return f"\\u{code:04x}" if code < 0x10000 else in_json(chr(code))
        except (ValueError, OverflowError):
            return in_json("\\" + letter + digits)
    if letter in _ESCAPES:
        return in_json(_ESCAPES[letter])
    return in_json(letter if letter in _PLAIN_ESCAPES else "\\" + letter)


def _letter(source: Source) -> Waiting[str]:
    if not (yield from source.peek()):
        raise Cut
    return source.take(1)


def _group(source: Source, dialect: Dialect, opening: str, depth: int) -> Pieces[None]:
    """Read an object, a list or a tuple from behind its opening."""
    closing = {"{": "}", "[": "]", "(": ")"}[opening]
    yield "{" if opening == "{" else "["
    is_first = True
    while True:
        yield from source.space()
        if (yield from source.follows(closing)):
            yield "}" if opening == "{" else "]"
            return
        if not is_first:
            yield ", "
        if opening == "{":
            name = yield from read_key(source, dialect, ":")
            yield f'"{in_json(name)}": '
        yield from read_value(source, dialect, depth + 1)
        is_first = False
        yield from source.space()
        if (yield from source.peek()) != closing:
            yield from source.expect(",")


def _word(source: Source) -> Waiting[str]:
    """Read what stands without quotes, up to the sign that ends it; return its JSON: what is no literal becomes a text."""
    letters: list[str] = []
    while (letter := (yield from source.peek())) and letter not in ",]})":
        letters.append(source.take(1))
    # At the end of the reply the sign may be missing because it is a whole value's text, or because it was cut.
    word = "".join(letters).strip()
    if not word or any(sign in word for sign in "([{"):
        raise Unreadable if letter else Cut
    return _literal(word) or f'"{in_json(word)}"'


def _literal(word: str) -> str | None:
    """Return the JSON of a name or number without quotes, None if it is none."""
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word):
        return word
    if _PYTHON_INTEGER.fullmatch(word):
        return _integer(word)
    if _PYTHON_FLOAT.fullmatch(word):
        number = json.dumps(float(word.replace("_", "")))
        return number if _NUMBER.fullmatch(number) else None
    return None


def _integer(word: str) -> str:
    sign, digits = "-" if word[0] == "-" else "", word.lstrip("+-").replace("_", "")
    if digits[1:2].isalpha():
        return f"{sign}{int(digits[:_LONGEST], 0)}"
    return sign + (digits.lstrip("0") or "0")
