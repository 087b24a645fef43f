"""Following JSON as it comes in, character by character, to know where a value ends and whether it is JSON at all.

The grammar is RFC 8259's. Control characters within strings, which models write unescaped, are let through and escaped.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from typing_extensions import override

_SPACE = re.compile(r"[ \t\r\n]+")
_PLAIN = re.compile(r'(?:[^"\\\x00-\x1f]+|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})+')
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_CONTROL = re.compile(r"[\x00-\x1f]+")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_IS_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LONGEST_SCALAR = 4096
_PLAIN_SINGLE = re.compile(r"""(?:[^"'\\\x00-\x1f]+|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})+""")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_PYTHON_WORD = re.compile("|".join(_PYTHON_WORDS))
# The white space between a comma and a closing bracket: the comma is left out; of more, it is waited for no bracket.
_BEHIND_COMMA = re.compile(r",([ \t\r\n]*)(?=[}\]])")
_LONGEST_SPACE = 256


class _Wants(Enum):
    VALUE = auto()
    ITEM_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


class JsonScan:
    """Follows one JSON value. Give `read` the text from behind what it has consumed so far."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._wants = _Wants.VALUE
        self._in_string = False
        self._is_key = False
        self._scalar = ""
        # True if what comes next cannot be read before more text is there.
        self._waits = False
        self.is_wrong = False

    @property
    def is_done(self) -> bool:
        """True if the value is whole."""
        return self._wants is _Wants.NOTHING and not self._in_string and not self._scalar

    @property
    def is_in_text(self) -> bool:
        """True within the quotes of a string."""
        return self._in_string

    def read(self, text: str, at: int, is_last: bool = False) -> tuple[str, int]:
        """Read on from `at`; return the JSON read (escaped where it had to be), and the position behind it.

        It stops at the value's end, at what cannot belong to it (`is_wrong`), or where more text is needed. `is_last`: no
        more text comes.
        """
        pieces: list[str] = []
        self._waits = False
        while at < len(text) and not self.is_wrong and not self.is_done and not self._waits:
            if self._in_string:
                piece, end = self._string(text, at)
            elif self._scalar or (_SCALAR.match(text, at) and self._wants in (_Wants.VALUE, _Wants.ITEM_OR_END)):
                piece, end = self._read_scalar(text, at)
            else:
                piece, end = self._structure(text, at, is_last)
            pieces.append(piece)
            at = end
        if is_last and self._scalar and at == len(text):
            self._end_scalar()
        return "".join(pieces), at

    def _string(self, text: str, at: int) -> tuple[str, int]:
        if found := _PLAIN.match(text, at):
            return found[0], found.end()
        if text[at] == '"':
            self._in_string = False
            self._wants = _Wants.COLON if self._is_key else self._behind_value()
            return '"', at + 1
        if found := _CONTROL.match(text, at):
            return "".join(_escaped(each) for each in found[0]), found.end()
        self._waits = bool(_HALF_ESCAPE.match(text, at))
        self.is_wrong = not self._waits
        return "", at

    def _read_scalar(self, text: str, at: int) -> tuple[str, int]:
        found = _SCALAR.match(text, at)
        if not found:
            self._end_scalar()
            return "", at
        piece = found[0][: _LONGEST_SCALAR + 1 - len(self._scalar)]
        self._scalar += piece
        self.is_wrong = len(self._scalar) > _LONGEST_SCALAR
        return piece, at + len(piece)

    def _end_scalar(self) -> None:
        self.is_wrong = not _IS_SCALAR.fullmatch(self._scalar)
        self._scalar = ""
        self._wants = self._behind_value()

    def _structure(self, text: str, at: int, is_last: bool) -> tuple[str, int]:
        if found := _SPACE.match(text, at):
            return found[0], found.end()
        letter = text[at]
        if letter in "}]":
            self._close(letter)
        elif letter == '"':
            self._begin_string()
        elif letter in "{[":
            self._begin_group(letter)
        elif letter == "," and self._wants is _Wants.COMMA_OR_END:
            self._wants = _Wants.KEY if self._open[-1] == "}" else _Wants.VALUE
        elif letter == ":" and self._wants is _Wants.COLON:
            self._wants = _Wants.VALUE
        else:
            self.is_wrong = True
        return ("", at) if self.is_wrong else (letter, at + 1)

    def _close(self, letter: str) -> None:
        may_end = self._wants in (_Wants.COMMA_OR_END, _Wants.ITEM_OR_END, _Wants.KEY_OR_END)
        self.is_wrong = not may_end or self._open[-1] != letter
        if not self.is_wrong:
            self._open.pop()
            self._wants = self._behind_value()

    def _begin_string(self) -> None:
        self._is_key = self._wants in (_Wants.KEY, _Wants.KEY_OR_END)
        self._in_string = self._is_key or self._wants in (_Wants.VALUE, _Wants.ITEM_OR_END)
        self.is_wrong = not self._in_string

    def _begin_group(self, letter: str) -> None:
        self.is_wrong = self._wants not in (_Wants.VALUE, _Wants.ITEM_OR_END)
        if not self.is_wrong:
            self._open.append("}" if letter == "{" else "]")
            self._wants = _Wants.KEY_OR_END if letter == "{" else _Wants.ITEM_OR_END

    def _behind_value(self) -> _Wants:
        return _Wants.COMMA_OR_END if self._open else _Wants.NOTHING


class LenientScan(JsonScan):
    """Also takes what models write in Python's manner, and puts it into JSON.

    That is single quotes, `True`, `False` and `None`, and a comma behind the last member.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_single = False

    @override
    def _string(self, text: str, at: int) -> tuple[str, int]:
        if not self._is_single:
            return super()._string(text, at)
        if found := _PLAIN_SINGLE.match(text, at):
            return found[0], found.end()
        if text[at] == "'":
            self._is_single = False
            piece, _ = super()._string('"', 0)
            return piece, at + 1
        if text[at] == '"':
            return '\\"', at + 1
        return ("'", at + 2) if text.startswith("\\'", at) else super()._string(text, at)

    @override
    def _structure(self, text: str, at: int, is_last: bool) -> tuple[str, int]:
        if text[at] == "'":
            self._begin_string()
            self._is_single = not self.is_wrong
            return ('"', at + 1) if self._is_single else ("", at)
        if text[at] == "," and self._wants is _Wants.COMMA_OR_END:
            if found := _BEHIND_COMMA.match(text, at):
                return found[1], found.end()
            self._waits = not is_last and not text[at + 1 :].strip() and len(text) - at < _LONGEST_SPACE
            if self._waits:
                return "", at
        return super()._structure(text, at, is_last)

    @override
    def _read_scalar(self, text: str, at: int) -> tuple[str, int]:
        if self._scalar or text[at] not in "TFN":
            return super()._read_scalar(text, at)
        if found := _PYTHON_WORD.match(text, at):
            self._scalar = ""
            self._wants = self._behind_value()
            return _PYTHON_WORDS[found[0]], found.end()
        self._waits = any(word.startswith(text[at:]) for word in _PYTHON_WORDS)
        return ("", at) if self._waits else super()._read_scalar(text, at)


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value."""
    scan = JsonScan()
    _, end = scan.read(text, 0, is_last=True)
    return scan.is_done and not scan.is_wrong and not text[end:].strip(" \t\r\n")


def _escaped(letter: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(letter, f"\\u{ord(letter):04x}")
