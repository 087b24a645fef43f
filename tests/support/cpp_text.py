"""Reads the little of C++ that llama.cpp's chat tests are written in: tokens with their lines, and values of literals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "'": "'", "\\": "\\"}
_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/|^\#[^\n]*)
    |R"(?P<mark>[^\s()\\]{0,16})\((?P<raw>.*?)\)(?P=mark)"
    |"(?P<text>(?:[^"\\]|\\.)*)"
    |'(?:[^'\\]|\\.)*'
    |(?P<name>[A-Za-z_]\w*)
    |(?P<number>\d[\w.]*)
    |(?P<sign>::|->|.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Token:
    """One token: its kind, its text (a string's value without quotes and escapes), and the line that it stands on."""

    kind: Literal["text", "name", "number", "sign"]
    value: str
    line: int


def tokens_of(source: str) -> list[Token]:
    """Return the tokens of C++ source; comments, directives and white space are left out, characters are numbers."""
    found, at, line = [], 0, 1
    while match := _TOKEN.match(source, at):
        if token := _token(match, line):
            found.append(token)
        line += match.group().count("\n")
        at = match.end()
    return found


def _token(match: re.Match[str], line: int) -> Token | None:
    if match["blank"] is not None:
        return None
    if match["raw"] is not None:
        return Token("text", match["raw"], line)
    if match["text"] is not None:
        return Token("text", _unescaped(match["text"]), line)
    if match["name"] is not None:
        return Token("name", match["name"], line)
    if match["sign"] is not None:
        return Token("sign", match["sign"], line)
    return Token("number", match.group(), line)


def _unescaped(text: str) -> str:
    """Return a string literal's value. Its \\x escapes are bytes of UTF-8."""
    if "\\" not in text:
        return text
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode()
            at += 1
        elif text[at + 1] == "x":
            digits = re.compile(r"[0-9a-fA-F]+").match(text, at + 2)
            assert digits, text
            out.append(int(digits.group(), 16))
            at = digits.end()
        else:
            out += _ESCAPES[text[at + 1]].encode()
            at += 2
    return out.decode()
