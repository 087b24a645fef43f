"""Telling apart, in a rendered chat, what people wrote and what looks like a special token, from the template's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.backend.types import Prompt
from services.errors import InvalidRequest

# Templates look for these in what a model said earlier, so as to leave its thoughts out.
SAID = ("content", "reasoning_content", "reasoning")
THOUGHT = re.compile(r"</?(?:\w+:)?think(?:ing)?>")


class Marks:
    """Marks what looks like a special token in what people wrote, and finds it again in the rendered text.

    The mark is one character that occurs nowhere else, put behind the first letter of each special token's text: so the
    template's own trimming and splitting works as ever.
    """

    def __init__(self, special: re.Pattern[str], firsts: re.Pattern[str], values: Sequence[Any]) -> None:
        """`special` finds the special tokens' texts, `firsts` the characters with which they begin."""
        self._special = special
        self._firsts = firsts
        self.is_strict = False
        """Whether each character with which a special token begins is marked, and not only whole texts of these."""
        used = set("".join(_strings(values)))
        mark = next((letter for number in range(0xE000, 0xF900) if (letter := chr(number)) not in used), None)
        if mark is None:
            raise InvalidRequest("the messages hold every one of the 6,400 characters of private use", param="messages")
        self._mark = mark

    def put(self, value: Any, but: re.Pattern[str] | None = None) -> Any:
        """The same value with marks in all its strings, but for what matches `but`."""
        if isinstance(value, str):
            if self.is_strict:
                return self._firsts.sub(lambda found: found[0] + self._mark, value)
            return self._special.sub(lambda found: self._put_in(found[0], but), value)
        if isinstance(value, Mapping):
            return {self.put(key): self.put(each, but) for key, each in value.items()}
        return [self.put(each, but) for each in value] if isinstance(value, list | tuple) else value

    def _put_in(self, text: str, but: re.Pattern[str] | None) -> str:
        return text if but and but.fullmatch(text) else text[0] + self._mark + text[1:]

    def may_be_joined(self, *values: Any) -> bool:
        """Whether anything was written that could be a part of a special token."""
        return any(self._firsts.search(self._special.sub("", text)) for text in _strings(values))

    def joined(self, prompt: Prompt) -> int:
        """How many special tokens a prompt has that nobody typed as a whole."""
        starts = {start for start, _ in prompt.typed}
        return sum(found.start() not in starts for found in self._special.finditer(prompt.text))

    def harmless(self, value: Any) -> Any:
        """The same messages or tools with letters in the place of what may be a part of a special token."""
        if isinstance(value, str):
            kept = [(found.start(), found.end()) for found in THOUGHT.finditer(value)]
            return self._firsts.sub(lambda found: found[0] if any(a <= found.start() < b for a, b in kept) else "x", value)
        if isinstance(value, Mapping):
            return {key: self.harmless(each) for key, each in value.items()}
        return [self.harmless(each) for each in value] if isinstance(value, list | tuple) else value

    def take(self, text: str) -> Prompt:
        """The text without the marks, and as typed what was marked."""
        first, *rest = text.split(self._mark)
        pieces, typed, at = [first], [], len(first)
        for piece in rest:
            # A template that cut the text in its middle has left no special token.
            if found := self._special.match(pieces[-1][-1:] + piece):
                typed.append((at - 1, at - 1 + len(found[0])))
            pieces.append(piece)
            at += len(piece)
        return Prompt("".join(pieces), tuple(typed))


def _strings(value: Any) -> list[str]:
    """All strings in a value of JSON, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    return [text for each in value for text in _strings(each)] if isinstance(value, list | tuple) else []
